"""PyTorch's files without PyTorch: `.pt`, `.pth` and `.pth.tar` to plain containers and numpy arrays, and back.

Since PyTorch 1.6 a file is a zip archive: `<name>/data.pkl`, a pickle in which each tensor is a call of
`_rebuild_tensor_v2` on a storage that it refers to; `<name>/data/<key>`, the storages; `<name>/byteorder`. Older files
are pickles one after the other (magic number, protocol, system, the object, the storages' keys), then the storages,
each with its length in front.
"""

import io
import math
import os
import pickle
import struct
import zipfile

import numpy as np

from util.errors import UserError, one_line
from util.files import replacing
from util.weights import unpickle

MAGIC = 0x1950A86A20F9469CFC6C
MAX_TABLE = 8 << 20  # bytes of an archive's table of contents, enough for 80,000 tensors
_STORAGES = {
    'Float': 'f4',
    'Half': 'f2',
    'BFloat16': 'bfloat16',
    'Double': 'f8',
    'ComplexFloat': 'c8',
    'Bool': 'b1',
    'ComplexDouble': 'c16',
    'Long': 'i8',
    'Int': 'i4',
    'Short': 'i2',
    'Char': 'i1',
    'Byte': 'u1',
}
_UNTYPED = {'uint16': 'u2', 'uint32': 'u4', 'uint64': 'u8'}  # dtypes that have no storage class: on bytes
_OTHER_DTYPES = ('float32', 'float16', 'bfloat16', 'float64', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')
_WIDTHS = {'bfloat16': 2, **{code: np.dtype(code).itemsize for code in _STORAGES.values() if code != 'bfloat16'}}


def is_torch_file(path):
    """Whether a file begins as either format does, a zip archive or the magic number; False if it cannot be read."""
    try:
        with open(path, 'rb') as f:
            head = f.read(32)
    except OSError:
        return False
    return head.startswith(b'PK') or (head[:1] == b'\x80' and pickle.encode_long(MAGIC) in head)


def load(path, note=None):
    """The object in a file, as unpickle.load returns it. Tensors, parameters and storages are contiguous arrays
    (some read-only, some sharing memory), bfloat16 as float32; dtypes and devices are their names, a Size is a tuple.

    note: called with a line if there was bfloat16. Raises UserError that names the file: missing, damaged, of another
    kind, or asking for code.
    """
    try:
        with open(path, 'rb') as f:
            read = _load_zip if f.read(2) == b'PK' else _load_legacy
            f.seek(0)
            result, codes = read(f, os.fstat(f.fileno()).st_size)
    except UserError as error:
        raise UserError(f'{path}: {error}')
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})')
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(
            f'{path}: not a readable PyTorch file, or cut short ({type(error).__name__}: {one_line(error)})'
        )
    if 'bfloat16' in codes and note:
        note(f'{path}: what is bfloat16 in it is read as float32')
    return result


def _load_zip(file, size):
    """(object, type codes of its storages)"""
    archive, allowance = _open_zip(file), 2 * size  # members may overlap: no reason to run out of memory
    names = set(archive.namelist())
    if len(names) < len(archive.namelist()):
        raise UserError('a zip archive with two members of one name; not loaded')
    roots = [name[: -len('data.pkl')] for name in names if name.endswith('/data.pkl')]
    if len(roots) != 1:
        raise UserError('a zip archive, but not one that PyTorch wrote (has no data.pkl)')

    def member(name):
        nonlocal allowance
        info = archive.getinfo(roots[0] + name)
        allowance -= info.file_size
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f'{one_line(name)} is compressed in an unusual way; not loaded')
        if info.file_size > size or allowance < 0:
            raise UserError(f'{one_line(name)} would be larger than the file; PyTorch does not compress')
        with archive.open(info) as f:
            data = f.read(info.file_size)
        if len(data) != info.file_size:
            raise EOFError(f'{name} is cut short')
        return data

    order = '>' if roots[0] + 'byteorder' in names and member('byteorder').strip() == b'big' else '<'
    contents, storages = {}, {}

    def storage(reference):
        code, key, count, _ = _reference(reference)
        if key not in contents:
            contents[key] = member(f'data/{key}')
        if (code, key) not in storages:
            storages[code, key] = _storage(contents[key], code, count, order)
            if code == 'bfloat16':  # widened: a copy
                del contents[key]
        return storages[code, key]

    return _unpickle(io.BytesIO(member('data.pkl')), size, storage), {code for code, _ in storages}


class _Opening:
    """A file that zipfile opens an archive in: of each entry of 46 bytes in its table it makes an object of 600."""

    def __init__(self, file):
        self.read_all, self.seek, self.tell, self.seekable = file.read, file.seek, file.tell, file.seekable
        self.limit = MAX_TABLE

    def read(self, count=-1):
        if self.limit and count > self.limit:
            raise UserError(f'a zip archive with a table of contents of {count} bytes; not loaded')
        return self.read_all(self.limit or count) if count < 0 else self.read_all(count)


def _open_zip(file):
    opening = _Opening(file)
    archive, opening.limit = zipfile.ZipFile(opening), None
    return archive


def _load_legacy(file, size):
    """(object, type codes of its storages)"""
    if unpickle.load(file, what='PyTorch file', max_steps=1000) != MAGIC:
        raise UserError('not a PyTorch file')
    for _ in ('protocol, always 1001', 'system, although storages are little-endian on any'):
        unpickle.load(file, max_steps=1000)
    start, codes, storages = file.tell(), {}, {}

    def note(reference):  # the storages come after the object that is made of them: it is read twice
        code, key, _, _ = _reference(reference)
        codes[key] = code

    def storage(reference):
        _, key, count, view = _reference(reference)
        if storages[key].size != count:
            raise UserError('a storage of it has another size than its tensors say; not loaded')
        if view is None:
            return storages[key]
        return _strided(storages[key], view[1], view[2:], (1,))  # view: (key, offset, count)

    _unpickle(file, size, note)
    for key in unpickle.load(file):
        if type(key) is not str or key not in codes:
            raise UserError('has a storage that nothing refers to; not loaded')
        count = struct.unpack('<q', file.read(8))[0]
        length = count * _WIDTHS[codes[key]]
        storages[key] = _storage(file.read(min(max(length, 0), size)), codes[key], count, '<')
    file.seek(start)
    return _unpickle(file, size, storage), set(codes.values())


def _reference(reference):
    """(type code, key, number of values, view or None) of a persistent id. Only what is a string is safe to look up."""
    kind, code, key, _, count, *view = reference
    if kind != 'storage' or type(code) is not str or code not in _WIDTHS or type(key) is not str:
        raise UserError('refers to something that is no storage; not loaded')
    return code, key, count, view[0] if view else None


def _storage(data, code, count, order):
    """The 1-d array in the bytes of a storage."""
    if type(count) is not int or not 0 <= count * _WIDTHS[code] <= len(data):
        raise UserError('a storage of it is smaller than it says; cut short?')
    data = memoryview(data)[: count * _WIDTHS[code]]
    if code == 'bfloat16':  # the upper half of a float32
        wide = np.frombuffer(data, order + 'u2').astype('u4')
        wide <<= 16
        return wide.view('f4')
    array = np.frombuffer(data, order + code)
    return array.astype(array.dtype.newbyteorder('='), copy=False)


def _strided(array, offset, size, stride):
    """The view that a tensor is of its storage, which it must not leave."""
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)) or not len(size) == len(stride) <= 32:
        raise UserError('has a tensor of a strange shape; not loaded')
    if 0 in size:
        return np.zeros(size, array.dtype)
    if array.ndim != 1 or offset + sum((n - 1) * step for n, step in zip(size, stride)) >= array.size:
        raise UserError(f'has a tensor {list(size)} that reaches beyond its storage; not loaded')
    return np.lib.stride_tricks.as_strided(array[offset:], size, [n * array.itemsize for n in stride], writeable=False)


def _unpickle(file, size, storage):
    allowance = size + (1 << 26)  # bytes of copies: with strides of 0 one number makes a tensor of any size

    def tensor(array, offset, shape, stride, *_):
        nonlocal allowance
        if array is None:  # the first reading of an old file
            return None
        view = _strided(array, offset, shape, stride)
        if view.flags.c_contiguous:
            return view
        allowance -= view.nbytes
        if allowance < 0:
            raise UserError('has tensors much larger than their storages; not loaded')
        return np.ascontiguousarray(view)

    def typed_tensor(array, offset, shape, stride, requires_grad, hooks, dtype, *_):
        if type(dtype) is not str or dtype not in _UNTYPED:
            raise UserError('has a tensor of an unknown type; not loaded')
        return tensor(None if array is None else array.view(_UNTYPED[dtype]), offset, shape, stride)

    def first(value, *_):  # of the arguments the one that matters here
        return value

    utils = {
        '_rebuild_tensor': tensor,
        '_rebuild_tensor_v2': tensor,
        '_rebuild_tensor_v3': typed_tensor,
        '_rebuild_parameter': first,
        '_rebuild_parameter_with_state': first,
    }
    names = {
        **{('torch._utils', name): function for name, function in utils.items()},
        **{('torch', name + 'Storage'): code for name, code in _STORAGES.items()},
        **{('torch', name): name for name in (*_UNTYPED, *_OTHER_DTYPES)},
        ('torch.storage', 'UntypedStorage'): 'u1',
        ('torch', 'Size'): first,
        ('torch', 'device'): first,
    }
    return unpickle.load(file, names, storage, 'PyTorch file')


def save(state, path):
    """Write a state dict that `torch.load(path, weights_only=True)` reads: dicts, lists, tuples, str, int, float, bool,
    None, numpy arrays (as tensors of the same type) and numpy scalars (as Python's).

    The file is written beside `path` and renamed over it. Raises UserError that names the file if that fails, TypeError
    for a value of another type.
    """
    data, arrays = _pickled(state)
    with replacing(path) as f, zipfile.ZipFile(f, 'w') as archive:

        def add(name, content):  # a ZipInfo, unlike a name, gets the same date every time
            archive.writestr(zipfile.ZipInfo(f'archive/{name}'), content)

        add('data.pkl', data)
        add('byteorder', b'little')
        add('version', b'3\n')
        for key, array in enumerate(arrays):
            add(f'data/{key}', array.astype(array.dtype.newbyteorder('<'), copy=False).tobytes())


def _pickled(state):
    """(pickle of protocol 2, the arrays of its storages)."""
    names, arrays = {code: name for name, code in _STORAGES.items()}, []

    def tensor(array):
        code = array.dtype.str[1:]
        if code not in names:
            raise TypeError(f'PyTorch has no storage of type {array.dtype}')
        strides = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
        reference = (
            b'('
            + b''.join(
                (
                    put('storage'),
                    f'ctorch\n{names[code]}Storage\n'.encode(),
                    put(str(len(arrays))),
                    put('cpu'),
                    put(array.size),
                )
            )
            + b'tQ'
        )
        arrays.append(array)
        return (
            b'ctorch._utils\n_rebuild_tensor_v2\n('
            + reference
            + put(0)
            + put(array.shape)
            + put(strides)
            + b'\x89ccollections\nOrderedDict\n)RtR'
        )

    def put(value):
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, np.ndarray):
            return tensor(value)
        if value is None or isinstance(value, bool):
            return {None: b'N', True: b'\x88', False: b'\x89'}[value]
        if isinstance(value, int):
            data = pickle.encode_long(value)
            return struct.pack('<ci', b'J', value) if len(data) <= 4 else struct.pack('<cB', b'\x8a', len(data)) + data
        if isinstance(value, float):
            return struct.pack('>cd', b'G', value)
        if isinstance(value, str):
            data = value.encode()
            return struct.pack('<cI', b'X', len(data)) + data
        if isinstance(value, dict):
            return b'}(' + b''.join(put(item) for pair in value.items() for item in pair) + b'u'
        if isinstance(value, list):
            return b'](' + b''.join(map(put, value)) + b'e'
        if isinstance(value, tuple):
            return b'(' + b''.join(map(put, value)) + b't'
        raise TypeError(f'a {type(value).__name__} has no place in a file for PyTorch')

    return b'\x80\x02' + put(state) + b'.', arrays
