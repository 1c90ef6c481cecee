"""Reads `.pt`, `.pth` and `.pth.tar` without PyTorch, and converts state dicts between PyTorch's layout and Paddle's.

Since PyTorch 1.6 a file is a zip archive: `<name>/data.pkl`, a pickle in which each tensor is a call of
`_rebuild_tensor_v2` on a storage; `<name>/data/<key>`, the storages; `<name>/byteorder`. Older files are five pickles
(magic number, protocol, system, the object, the keys of the storages), then the storages, each after its length.
"""

import io
import math
import pickle
import struct
import zipfile

import numpy as np

from util import files
from util.errors import UserError, one_line
from util.weights import unpickle

MAGIC = 0x1950A86A20F9469CFC6C
BFLOAT16 = 'bfloat16'
FROM_BFLOAT16 = 'bfloat16 weights, read as float32'  # for the log
STORAGES = {
    'Float': 'f4',
    'Half': 'f2',
    'BFloat16': BFLOAT16,
    'Double': 'f8',
    'ComplexFloat': 'c8',
    'ComplexDouble': 'c16',
    'Bool': 'b1',
    'Long': 'i8',
    'Int': 'i4',
    'Short': 'i2',
    'Char': 'i1',
    'Byte': 'u1',
}
DTYPES = ('float32', 'float16', BFLOAT16, 'float64', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')


# -- files ------------------------------------------------------------------------------------------------------------


class Storage(unpickle.StandIn):
    """The memory that tensors are views of: `array`, 1-d, which is filled after the pickle is read."""

    def __init__(self, code):
        self.code, self.array = code, None

    def fill(self, data, count, order):
        """Set `array` from at least `count` numbers in bytes of byte order < or >."""
        array = np.frombuffer(data, order + ('u2' if self.code == BFLOAT16 else self.code), count)
        array = array.astype(array.dtype.newbyteorder('='), copy=False)
        self.array = bfloat16_to_float32(array) if self.code == BFLOAT16 else array


class Tensor(unpickle.StandIn):
    """A view of a Storage. offset, shape, strides: in numbers, not in bytes."""

    def __init__(self, storage, offset, shape, strides, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def value(self):
        """A contiguous array, which shares the storage's memory where it can.

        Raises UserError for a view that reaches beyond its storage: numpy's own check can overflow.
        """
        array = self.storage.array
        if min((self.offset, *self.shape, *self.strides)) < 0:
            raise UserError('has a tensor of a negative shape, stride or offset; not loaded')
        if 0 in self.shape:
            return np.zeros(self.shape, array.dtype)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides))
        if last >= array.size:
            raise UserError(f'has a tensor {list(self.shape)} that reaches beyond its storage; not loaded')
        size = array.itemsize
        strides = [n * size for n in self.strides]
        view = np.ndarray(self.shape, array.dtype, buffer=array, offset=self.offset * size, strides=strides)
        return view if view.flags.c_contiguous else view.copy()


def bfloat16_to_float32(halves):
    """bfloat16, given as uint16, to float32: a bfloat16 is the upper half of a float32."""
    return (halves.astype('u4') << 16).view('f4')


FIRST = unpickle.Function(lambda value, *_: value)
TENSOR = unpickle.Function(Tensor)
NAMES = {
    **unpickle.NAMES,
    **{('torch', f'{name}Storage'): code for name, code in STORAGES.items()},
    **{('torch', name): name for name in DTYPES},
    ('torch', 'Size'): FIRST,
    ('torch', 'device'): FIRST,
    ('torch._utils', '_rebuild_tensor'): TENSOR,
    ('torch._utils', '_rebuild_tensor_v2'): TENSOR,
    ('torch._utils', '_rebuild_parameter'): FIRST,
    ('torch._utils', '_rebuild_parameter_with_state'): FIRST,
}


class Unpickler(unpickle.Unpickler):
    """Reads the pickle with the tensors. storages: {key: (Storage, count)} for the caller to fill."""

    names = NAMES

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def persistent_load(self, reference):
        if reference[0] == 'module':  # in old files: a class of layers, with its source text
            return reference[1]
        kind, code, key, _device, count, *_ = reference
        if kind != 'storage' or code not in STORAGES.values() or type(count) is not int or count < 0:
            raise UserError(f'refers to something that is no storage ({one_line(code)}); not loaded')
        storage, _ = self.storages.setdefault(key, (Storage(code), count))
        if storage.code != code:
            raise UserError('has a storage of two types; not loaded')
        return storage


def is_torch_file(head):
    """Whether a file that begins with `head` (32 bytes) is a zip archive or has PyTorch's magic number."""
    return head.startswith(b'PK') or (head[:1] == b'\x80' and pickle.encode_long(MAGIC) in head)


def load_file(path, notes=None):
    """The object in a file. Tensors and parameters become contiguous arrays, which may be read-only or share memory;
    bfloat16 becomes float32, a dtype or device its name, a Size a tuple, a Namespace a dict. Objects of other classes
    become placeholders (unpickle.py). notes: a list that gets lines for the log.

    Raises UserError that names the file if it is missing, damaged or of another kind.
    """
    with files.reading(path, 'PyTorch file'), open(path, 'rb') as f:
        read = read_zip if f.read(2) == b'PK' else read_legacy
        f.seek(0)
        value, storages = read(f)
        if notes is not None and any(storage.code == BFLOAT16 for storage, _ in storages.values()):
            notes.append(FROM_BFLOAT16)
        return unpickle.finished(value)


def read_zip(file):
    """(object of an archive, with Tensor objects in it, {key: (Storage, count)}); the storages are filled."""
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith('/data.pkl')]
        if len(pickles) != 1:
            raise UserError(
                'a zip archive, but not one that PyTorch wrote (has no data.pkl); unpack it, and give a file that is '
                'in it'
            )
        root = pickles[0][: -len('data.pkl')]
        big = f'{root}byteorder' in archive.namelist() and archive.read(f'{root}byteorder').strip() == b'big'
        unpickler = Unpickler(io.BytesIO(archive.read(pickles[0])))  # read checks the CRC
        value = unpickler.load()
        for key, (storage, count) in unpickler.storages.items():
            storage.fill(archive.read(f'{root}data/{key}'), count, '>' if big else '<')
    return value, unpickler.storages


def read_legacy(file):
    """The same of a file from before PyTorch 1.6."""
    if unpickle.load(file) != MAGIC:
        raise UserError('not a PyTorch file')
    unpickle.load(file)  # the protocol, always 1001
    unpickle.load(file)  # about the system that wrote it, which does not matter: storages are always little-endian
    unpickler = Unpickler(file)
    value = unpickler.load()
    for key in unpickle.load(file):
        storage, count = unpickler.storages[key]
        if struct.unpack('<q', file.read(8))[0] != count:
            raise UserError(f'storage {one_line(key)} has another size than its tensors say; not loaded')
        width = 2 if storage.code == BFLOAT16 else np.dtype(storage.code).itemsize
        storage.fill(file.read(count * width), count, '<')
    return value, unpickler.storages


# -- layout -----------------------------------------------------------------------------------------------------------
#
#     of a layer      in PyTorch                   in Paddle
#     Linear          weight [out, in]             weight [in, out]
#     BatchNorm       running_mean, running_var    _mean, _variance
#     BatchNorm       num_batches_tracked          none; PyTorch uses it with momentum=None only
#
# A matrix named `weight` is treated as that of a Linear layer, which is right for all models here and in paddle.vision.
# Transposed arrays are views.

TORCH, PADDLE = 'PyTorch', 'Paddle'
STATISTICS = {'running_mean': '_mean', 'running_var': '_variance'}
COUNTER = 'num_batches_tracked'
NOT_LEARNED = (*STATISTICS, *STATISTICS.values(), COUNTER)


def to_paddle(weights):
    """A state dict of PyTorch, {name: array}, in Paddle's layout. The counters are left out."""
    return {
        _renamed(key, STATISTICS): _transposed(key, value)
        for key, value in weights.items()
        if _split(key)[1] != COUNTER
    }


def to_torch(weights):
    """A state dict of Paddle in PyTorch's layout, with counters of 0, which PyTorch's strict loading requires."""
    names = {ours: theirs for theirs, ours in STATISTICS.items()}
    result = {}
    for key, value in weights.items():
        result[_renamed(key, names)] = _transposed(key, value)
        if _split(key)[1] == '_variance':
            result[_split(key)[0] + COUNTER] = np.array(0, 'int64')
    return result


def guess_layout(weights, path):
    """TORCH or PADDLE, for a file that does not say which; PADDLE if it has no layer whose layout differs.

    Found from the names of the statistics, else from which side of a Linear weight is as long as its bias.
    Raises UserError that names `path` if all Linear weights are square or without bias.
    """
    names = {_split(key)[1] for key in weights}
    if names & {*STATISTICS, COUNTER}:
        return TORCH
    if names & {*STATISTICS.values()}:
        return PADDLE
    linears = [key for key, value in weights.items() if _is_linear(key, value)]
    for key in linears:
        rows, columns = weights[key].shape
        bias = weights.get(f'{_split(key)[0]}bias')
        if rows != columns and bias is not None and bias.shape in ((rows,), (columns,)):
            return TORCH if bias.shape == (rows,) else PADDLE
    if linears:
        raise UserError(f"{path}: nothing tells whether {linears[0]} is in PyTorch's layout or in Paddle's")
    return PADDLE


def count_parameters(weights):
    """How many numbers of a state dict are learned: all but statistics and counters."""
    return sum(math.prod(value.shape) for key, value in weights.items() if _split(key)[1] not in NOT_LEARNED)


def _is_linear(key, value):
    return _split(key)[1] == 'weight' and getattr(value, 'ndim', 0) == 2


def _split(key):
    """('blocks.0.attn.qkv.', 'weight')"""
    stem, dot, name = str(key).rpartition('.')
    return stem + dot, name


def _renamed(key, names):
    stem, name = _split(key)
    return stem + names.get(name, name)


def _transposed(key, value):
    return np.asarray(value).T if _is_linear(key, value) else value
