"""util/weights/safetensors_file.py: what is saved is loaded, the package's files too, and damage is one line."""

import json
import os
import struct

import numpy as np
import pytest

from util.errors import UserError
from util.weights import safetensors_file

pytestmark = pytest.mark.cross_version

ARRAYS = {
    'w': np.arange(6, dtype='float32').reshape(2, 3),
    'half': np.ones(3, 'float16'),
    'double': np.array(3.5),
    'ids': np.array([-1, 2**40]),
    'bytes': np.array([0, 255], 'uint8'),
    'mask': np.array([True, False]),
    'empty': np.zeros([0, 3], 'float32'),
    'counter': np.array(7),
    'u2': np.array([65535], 'uint16'),
    'µ': np.ones(1),
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'file.safetensors')


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype and a[key].shape == b[key].shape and np.array_equal(a[key], b[key]), key


def write(path, header, data=b'', length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text) if length is None else length) + text + data)


def said(path):
    """The message with which a file is turned down: one line that begins with its name."""
    with pytest.raises(UserError) as error:
        safetensors_file.load(path)
    message = str(error.value)
    assert message.startswith(f'{path}: ') and '\n' not in message and len(message) < 400 + len(path)
    return message


def entry(dtype='F32', shape=(2,), offsets=(0, 8)):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


def test_what_is_saved_is_loaded(path):
    safetensors_file.save(ARRAYS, path, {'format': 'pt'})
    assert safetensors_file.is_safetensors_file(path)
    assert_same(safetensors_file.load(path, pytest.fail), ARRAYS)


def test_other_layouts_are_saved_by_value(path):
    arrays = {'t': ARRAYS['w'].T, 'big': np.arange(3, dtype='>i4')}
    safetensors_file.save(arrays, path)
    assert_same(safetensors_file.load(path), {'t': ARRAYS['w'].T, 'big': np.arange(3, dtype='i4')})


@pytest.mark.parametrize('name', ['a', 'ab', 'abc', 'abcd', 'abcde'])
def test_the_arrays_begin_at_a_multiple_of_eight(path, name):
    safetensors_file.save({name: np.ones(3)}, path)
    with open(path, 'rb') as f:
        assert struct.unpack('<Q', f.read(8))[0] % 8 == 0


def test_bfloat16_is_read_as_float32_and_that_is_said(path):
    halves = np.array([1.0, -2.5, 3e38], 'f4').view('u2')[1::2]
    write(path, {'a': entry('BF16', (3,), (0, 6)), 'b': entry('F16', (1,), (6, 8))}, halves.tobytes() + b'\x00\x3c')
    lines = []
    result = safetensors_file.load(path, lines.append)
    assert_same(result, {'a': (halves.astype('u4') << 16).view('f4'), 'b': np.ones(1, 'float16')})
    assert lines == [f'{path}: 1 tensors in bfloat16 are read as float32'] and result['a'][1] == -2.5


def test_the_order_is_that_of_the_bytes(path):
    write(path, {'second': entry('U8', (1,), (1, 2)), 'first': entry('U8', (1,), (0, 1))}, b'\x01\x02')
    assert {key: int(value[0]) for key, value in safetensors_file.load(path).items()} == {'first': 1, 'second': 2}


def test_a_failed_save_leaves_the_old_file(path, monkeypatch, tmp_path):
    safetensors_file.save({'a': np.ones(1)}, path)

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match=f'{path}: could not be written .No space left'):
        safetensors_file.save({'a': np.zeros(1)}, path)
    monkeypatch.undo()
    assert_same(safetensors_file.load(path), {'a': np.ones(1)})
    assert os.listdir(tmp_path) == ['file.safetensors']
    with pytest.raises(TypeError, match='complex64'):
        safetensors_file.save({'a': np.zeros(1, 'complex64')}, path)


@pytest.mark.parametrize(
    'header, data',
    [
        ({'a': entry(offsets=(0, 8))}, b''),
        ({'a': entry(shape=(3,))}, bytes(8)),
        ({'a': entry()}, bytes(9)),
        ({'a': entry(offsets=(1, 9))}, bytes(9)),
        ({'a': entry(), 'b': entry(offsets=(4, 12))}, bytes(12)),
        ({'a': entry(dtype='F31')}, bytes(8)),
        ({'a': entry(dtype='O')}, bytes(8)),
        ({'a': entry(shape=(-2,))}, bytes(8)),
        ({'a': entry(shape=(2.0,))}, bytes(8)),
        ({'a': entry(shape='2')}, bytes(8)),
        ({'a': entry(offsets=(0, 2**62))}, b''),
        ({'a': entry(shape=(2**62,), offsets=(0, 2**64))}, b''),
        ({'a': entry(offsets=(8, 0))}, bytes(8)),
        ({'a': {}}, b''),
        ({'a': 1}, b''),
        ([1], b''),
        (b'{"a"', b''),
        (b'{\xff}', b''),
        (b'{"a":' * 9000, b''),
    ],
)
def test_headers_that_lie_are_one_line(path, header, data):
    write(path, header, data)
    said(path)


@pytest.mark.parametrize('length', [2**63, 10**6, 0, 1])
def test_a_length_that_lies_is_one_line(path, length):
    write(path, {'a': entry()}, bytes(8), length)
    said(path)


def test_a_file_cut_short_anywhere_is_one_line(path, tmp_path):
    safetensors_file.save(ARRAYS, path)
    whole = open(path, 'rb').read()
    for length in range(0, len(whole), 7):
        open(path, 'wb').write(whole[:length])
        said(path)
    assert 'No such file' in said(str(tmp_path / 'missing')) and 'Is a directory' in said(str(tmp_path))


def test_what_is_no_such_file_is_known_by_its_beginning(path, tmp_path):
    for content in (b'', b'PK\x03\x04', b'\x80\x02}.', b'{"a": 1}', b'\xff' * 8 + b'{}', bytes(20)):
        open(path, 'wb').write(content)
        assert not safetensors_file.is_safetensors_file(path)
    assert not safetensors_file.is_safetensors_file(str(tmp_path))


# ---- the package itself, where it is installed


def test_the_package_reads_what_is_saved(path):
    package = pytest.importorskip('safetensors')
    pytest.importorskip('safetensors.numpy')
    safetensors_file.save(ARRAYS, path, {'format': 'pt'})
    with package.safe_open(path, framework='numpy') as f:
        assert f.metadata() == {'format': 'pt'}
        assert_same({key: f.get_tensor(key) for key in f.keys()}, ARRAYS)


def test_what_the_package_saves_is_read(path):
    pytest.importorskip('safetensors')
    from safetensors.numpy import save_file

    save_file(ARRAYS, path, {'who': 'the package'})
    assert safetensors_file.is_safetensors_file(path)
    assert_same(safetensors_file.load(path), ARRAYS)
