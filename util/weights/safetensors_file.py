"""`.safetensors` files without the package: a length, a JSON header, and the arrays' bytes one after the other.

    8 bytes         length n of the header, little-endian
    n bytes         {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, .., "__metadata__": {..}}
    the rest        arrays in C order, little-endian, without gaps; offsets count from here

The format is Hugging Face's (github.com/huggingface/safetensors, "Format"). Nothing in such a file can ask for code.
"""

import json
import math
import os
import struct

import numpy as np

from util.errors import UserError, one_line
from util.files import replacing

DTYPES = {
    'F64': 'f8',
    'F32': 'f4',
    'F16': 'f2',
    'I64': 'i8',
    'I32': 'i4',
    'I16': 'i2',
    'I8': 'i1',
    'U64': 'u8',
    'U32': 'u4',
    'U16': 'u2',
    'U8': 'u1',
    'BOOL': 'b1',
}
BFLOAT16 = 'BF16'
MAX_HEADER = 6 << 20  # bytes, enough for 50,000 arrays; as Python's objects up to 30 times as much


def is_safetensors_file(path):
    """Whether a file begins as one; False for one that cannot be read."""
    try:
        with open(path, 'rb') as f:
            head = f.read(9)
            return len(head) == 9 and head[8:] == b'{' and _header_length(head) <= os.fstat(f.fileno()).st_size - 8
    except OSError:
        return False


def load(path, note=None):
    """{name: array} of a file, in the order of their bytes, bfloat16 as float32.

    note: called with a line if that happened. Raises UserError that names the file: missing, damaged, of another kind.
    """
    try:
        with open(path, 'rb') as f:
            result, widened = _read(f, os.fstat(f.fileno()).st_size)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})')
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise UserError(
            f'{path}: not a readable safetensors file, or cut short ({type(error).__name__}: {one_line(error)[:100]})'
        )
    if widened and note:
        note(f'{path}: {widened} tensors in bfloat16 are read as float32')
    return result


def _header_length(head):
    return struct.unpack('<Q', head[:8])[0]


def _unique(pairs):
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError('a name is there twice')
    return result


def _read(file, size):
    length = _header_length(file.read(8))
    if length > min(MAX_HEADER, size - 8):
        raise ValueError('header longer than the file')
    header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    header.pop('__metadata__', None)
    result, widened, end = {}, 0, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]['data_offsets']):
        code, shape, (begin, stop) = entry['dtype'], entry['shape'], entry['data_offsets']
        if len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, begin, stop)):
            raise ValueError(f'{name[:50]!r} has a strange shape or place')
        if begin != end:
            raise ValueError(f'{name[:50]!r} overlaps another array, or leaves a gap')
        dtype = np.dtype('<u2' if code == BFLOAT16 else '<' + DTYPES[code])
        if stop - begin != math.prod(shape) * dtype.itemsize or 8 + length + stop > size:
            raise ValueError(f'{name[:50]!r} has {stop - begin} bytes, its shape {shape} asks for others, or none left')
        array = np.frombuffer(file.read(stop - begin), dtype).reshape(shape)
        if code == BFLOAT16:  # the upper half of a float32
            wide, widened = array.astype('u4'), widened + 1
            wide <<= 16
            array = wide.view('f4')
        result[name], end = array, stop
    if 8 + length + end != size:
        raise ValueError('bytes at the end that no array has')
    return result, widened


def save(arrays, path, metadata=None):
    """Write {name: array}, each array as it is, one at a time; the file replaces `path` when it is complete.

    metadata: {str: str}. Raises UserError that names the file if it cannot be written, TypeError for another dtype.
    """
    codes, entries, end = {dtype: code for code, dtype in DTYPES.items()}, {}, 0
    for name, array in arrays.items():
        if array.dtype.str[1:] not in codes:
            raise TypeError(f'safetensors have no type {array.dtype}')
        entries[name] = {
            'dtype': codes[array.dtype.str[1:]],
            'shape': list(array.shape),
            'data_offsets': [end, end + array.nbytes],
        }
        end += array.nbytes
    header = json.dumps({**({'__metadata__': metadata} if metadata else {}), **entries}, separators=(',', ':')).encode()
    header += b' ' * (-len(header) % 8)  # so that the arrays are aligned
    with replacing(path) as f:
        f.write(struct.pack('<Q', len(header)) + header)
        for array in arrays.values():
            f.write(array.astype(array.dtype.newbyteorder('<'), copy=False).tobytes())
