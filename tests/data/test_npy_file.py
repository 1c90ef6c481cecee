"""util/data/npy_file.py: reads what numpy writes, to the bit, and nothing that the header only claims."""

import numpy as np
import pytest

from util.data import npy_file

pytestmark = pytest.mark.cross_version


@pytest.mark.parametrize(
    'array',
    [
        np.arange(6, dtype='f2').reshape(1, 2, 3),
        np.array(3.5),
        np.zeros((0, 4), 'i1'),
        np.arange(3, dtype='>f4'),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
        np.array([1j]),
        np.arange(5, dtype='u8'),
    ],
    ids=str,
)
def test_arrays_of_numpy_come_back(tmp_path, array):
    path = tmp_path / 'x.npy'
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(path, 'wb') as f:
            np.lib.format.write_array(f, array, version)
        result = npy_file.load(path)
        assert result.dtype == array.dtype and result.shape == array.shape and np.array_equal(result, array)
        assert result.flags.f_contiguous == array.flags.f_contiguous and result.flags.writeable
        if array.size:
            mapped = npy_file.memory_map(path)
            assert isinstance(mapped, np.memmap) and np.array_equal(mapped, array) and not mapped.flags.writeable


@pytest.mark.parametrize(
    'header, shape',
    [
        ("{'descr':'<f4','fortran_order':False,'shape':(2,3)}", (2, 3)),
        ("{'shape': (6,), 'fortran_order': True, 'descr': \"<f4\"}\n", (6,)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }   \n", (2, 3)),
    ],
)
def test_headers_of_other_writers(tmp_path, header, shape):
    path = tmp_path / 'x.npy'
    path.write_bytes(b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header.encode() + bytes(24))
    assert npy_file.load(path).shape == shape


@pytest.mark.parametrize('shape', [(5,), (7,), (6, 10**15), (2**62, 4), (-6,), (6.0,), (6, 'x')])
@pytest.mark.parametrize('read', [npy_file.load, npy_file.memory_map])
def test_a_shape_that_does_not_fit_the_file_is_refused(tmp_path, shape, read):
    path = tmp_path / 'x.npy'
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    path.write_bytes(b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header + bytes(24))
    with pytest.raises(ValueError):
        read(path)
