"""PyTorch's files without PyTorch: `.pt`, `.pth` and `.pth.tar` to plain containers and numpy arrays.

Since PyTorch 1.6 a file is a zip archive: `<name>/data.pkl`, a pickle in which each tensor is a call of
`_rebuild_tensor_v2` on a storage that it refers to; `<name>/data/<key>`, the storages; `<name>/byteorder`. Older files
are pickles one after the other (magic number, protocol, system, the object, the storages' keys), then the storages,
each with its length in front.
"""

import io
import pickle
import struct
import zipfile

import numpy as np

from util.errors import UserError, one_line
from util.weights import unpickle
from util.weights.reading import reading

MAGIC = 0x1950A86A20F9469CFC6C
BFLOAT16 = 'bfloat16'
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
UNTYPED = {'uint16': 'u2', 'uint32': 'u4', 'uint64': 'u8'}  # dtypes without a storage class: stored as bytes
OTHER_DTYPES = ('float32', 'float16', BFLOAT16, 'float64', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')


class Storage(unpickle.StandIn):
    """The numbers that tensors are views of. They are read after the tensors."""

    def __init__(self, code):
        self.code, self.array = code, None

    def fill(self, data, count, order):
        """Set `array`, 1-d in native byte order, from at least `count` numbers in bytes of byte order < or >."""
        array = np.frombuffer(data, order + ('u2' if self.code == BFLOAT16 else self.code), count)
        array = array.astype(array.dtype.newbyteorder('='), copy=False)
        self.array = widened(array) if self.code == BFLOAT16 else array

    def value(self):
        if self.array is None:
            return super().value()  # which refuses the file
        return self.array


class View(unpickle.StandIn):
    """A tensor, which is a view of a Storage. offset, shape, strides: in numbers, not in bytes."""

    def __init__(self, storage, offset, shape, strides, dtype=None):
        self.storage, self.offset, self.shape, self.strides, self.dtype = storage, offset, shape, strides, dtype

    def value(self):
        """A contiguous array, which shares the storage's memory where it can.

        Raises UserError for a view that reaches beyond its storage: numpy's own check of that can overflow.
        """
        array = self.storage.value() if self.dtype is None else self.storage.value().view(self.dtype)
        if min((self.offset, *self.shape, *self.strides)) < 0:
            raise UserError('has a tensor of a negative shape or place; not loaded')
        if 0 in self.shape:
            return np.zeros(self.shape, array.dtype)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides))
        if last >= array.size:
            raise UserError(f'has a tensor {list(self.shape)} that reaches beyond its storage; not loaded')
        size = array.itemsize
        strides = [n * size for n in self.strides]
        view = np.ndarray(self.shape, array.dtype, buffer=array, offset=self.offset * size, strides=strides)
        return view if view.flags.c_contiguous else view.copy()


def widened(halves):
    """bfloat16 numbers, read as uint16, as float32: they are its upper halves."""
    return (halves.astype('u4') << 16).view('f4')


def tensor(storage, offset, shape, strides, *_):
    return View(storage, offset, shape, strides)


def tensor_of_bytes(storage, offset, shape, strides, _requires_grad, _hooks, dtype, *_):
    return View(storage, offset, shape, strides, dtype=UNTYPED[dtype])


def first(value, *_):
    return value


NAMES = {
    **unpickle.NAMES,
    **{('torch', f'{name}Storage'): code for name, code in STORAGES.items()},
    **{('torch', name): name for name in (*UNTYPED, *OTHER_DTYPES)},
    ('torch.storage', 'UntypedStorage'): 'u1',
    ('torch', 'Size'): unpickle.Function(first),
    ('torch', 'device'): unpickle.Function(first),
    ('torch._utils', '_rebuild_tensor'): unpickle.Function(tensor),
    ('torch._utils', '_rebuild_tensor_v2'): unpickle.Function(tensor),
    ('torch._utils', '_rebuild_tensor_v3'): unpickle.Function(tensor_of_bytes),
    ('torch._utils', '_rebuild_parameter'): unpickle.Function(first),
    ('torch._utils', '_rebuild_parameter_with_state'): unpickle.Function(first),
}


class Unpickler(unpickle.Unpickler):
    """Reads the pickle with the tensors. storages: {key: (Storage, count)} of those that it refers to, still empty."""

    names = NAMES

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def persistent_load(self, reference):
        kind, code, key, _device, count, *_ = reference
        known = type(key) is str and type(code) is str and (code == BFLOAT16 or code in STORAGES.values())
        if kind != 'storage' or not known or type(count) is not int or count < 0:
            raise UserError('refers to something that is no storage; not loaded')
        storage, _ = self.storages.setdefault(key, (Storage(code), count))
        if storage.code != code:
            raise UserError('has a storage of two types; not loaded')
        return storage


def is_torch_file(path):
    """Whether a file begins as either format does, a zip archive or the magic number; False if it cannot be read."""
    try:
        with open(path, 'rb') as f:
            head = f.read(32)
    except OSError:
        return False
    return head.startswith(b'PK') or (head[:1] == b'\x80' and pickle.encode_long(MAGIC) in head)


def load_file(path, note=None):
    """The object in a file. Tensors, parameters and storages are contiguous arrays (some read-only, some sharing
    memory), bfloat16 as float32; dtypes and devices are their names, a Size is a tuple, a Namespace a dict.

    note: called with a line if there was bfloat16. Raises UserError that names the file: missing, damaged, of another
    kind, or asking for code.
    """
    with reading(path, 'PyTorch file'), open(path, 'rb') as f:
        read = read_zip if f.read(2) == b'PK' else read_legacy
        f.seek(0)
        value, storages = read(f)
        if note and any(storage.code == BFLOAT16 for storage, _ in storages.values()):
            note(f'{path}: what is bfloat16 in it is read as float32')
        return unpickle.finished(value)


def read_zip(file):
    """(object with stand-ins, its filled storages) of an archive."""
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith('/data.pkl')]
        if len(pickles) != 1:
            raise UserError('a zip archive, but not one that PyTorch wrote (has no data.pkl)')
        root = pickles[0][: -len('data.pkl')]
        big = f'{root}byteorder' in archive.namelist() and archive.read(f'{root}byteorder').strip() == b'big'
        unpickler = Unpickler(io.BytesIO(archive.read(pickles[0])))  # read checks the CRC
        value = unpickler.load()
        for key, (storage, count) in unpickler.storages.items():
            storage.fill(archive.read(f'{root}data/{key}'), count, '>' if big else '<')
    return value, unpickler.storages


def read_legacy(file):
    """(object with stand-ins, its filled storages) of a file from before PyTorch 1.6."""
    if unpickle.load(file) != MAGIC:
        raise UserError('not a PyTorch file')
    unpickle.load(file)  # the protocol, always 1001
    unpickle.load(file)  # facts about the system, which are not needed: storages are little-endian on any
    unpickler = Unpickler(file)
    value = unpickler.load()
    for key in unpickle.load(file):
        storage, count = unpickler.storages[key]
        if struct.unpack('<q', file.read(8))[0] != count:
            raise UserError(f'storage {one_line(key)} has another size than its tensors say; not loaded')
        width = 2 if storage.code == BFLOAT16 else np.dtype(storage.code).itemsize
        storage.fill(file.read(count * width), count, '<')
    return value, unpickler.storages
