"""`.npy` files of numbers: what the header claims is compared with the file before a byte is allocated for it.

    \\x93NUMPY, version (2 bytes), length of the header (2 bytes, from version 2 on 4), header, array
    header: {'descr': '<f2', 'fortran_order': False, 'shape': (2, 5, 18, 18), } and blanks up to a line end

np.load evaluates the header as a Python literal and asks for as much memory as it names.
"""

import math
import os
import re

import numpy as np

MAX_HEADER = 10_000  # bytes; numpy's own limit
_FIELDS = (
    r"""(['"])descr\1\s*:\s*(['"])([<>|=]?[biufc]\d{1,2})\2""",
    r"""(['"])fortran_order\1\s*:\s*(True|False)""",
    r"""(['"])shape\1\s*:\s*\(((?:\s*\d{1,18}L?\s*,)*(?:\s*\d{1,18}L?\s*)?)\)""",
)


def load(path):
    """The array in a file, in C or Fortran order as there. Raises OSError, ValueError."""
    with open(path, 'rb') as f:
        shape, dtype, order, _ = read_header(f)
        array = np.fromfile(f, dtype, math.prod(shape))
    return array.reshape(shape, order=order)


def memory_map(path):
    """The array in a file, read-only, read from disk where it is touched. Raises OSError, ValueError."""
    with open(path, 'rb') as f:
        shape, dtype, order, start = read_header(f)
        return np.memmap(f, dtype, 'r', start, shape, order)


def read_header(file):
    """(shape, dtype, order 'C' or 'F', offset of the array) of an open file, which is then at the array.

    Raises ValueError unless all of it is there, of numbers, and nothing after it.
    """
    head = file.read(8)
    if head[:2] == b'PK':
        raise ValueError('it is a zip archive, .npz perhaps')
    if head[:6] != b'\x93NUMPY' or head[6:7] not in (b'\x01', b'\x02', b'\x03'):
        raise ValueError('it does not begin as a .npy file')
    width = 2 if head[6] == 1 else 4
    length = int.from_bytes(file.read(width), 'little')
    start = 8 + width + length
    if length > MAX_HEADER:
        raise ValueError(f'its header has {length} bytes')
    rest = file.read(length).decode('latin-1')
    found = []
    for field in _FIELDS:
        match = re.search(field, rest)
        if not match:
            raise ValueError('its header does not describe an array of numbers')
        found.append(match[match.lastindex])
        rest = rest[: match.start()] + rest[match.end() :]
    if re.sub(r'\s', '', rest) not in ('{,,}', '{,,,}'):
        raise ValueError('its header does not describe an array of numbers')
    try:
        dtype = np.dtype(found[0])
    except TypeError:
        raise ValueError(f'its header names a type {found[0]} that does not exist')
    shape = tuple(int(number.strip().rstrip('L')) for number in found[2].split(',') if number.strip())
    size = os.fstat(file.fileno()).st_size
    if len(shape) > 32 or start + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f'its header describes another array than its {size} bytes hold')
    return shape, dtype, 'F' if found[1] == 'True' else 'C', start
