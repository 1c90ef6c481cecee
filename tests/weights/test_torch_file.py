"""util/weights/torch_file.py: PyTorch's files are read without PyTorch, to the bit, and no file does harm.

The files are made by hand here, as PyTorch makes them; the last tests ask PyTorch itself where it is installed.
"""

import collections
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from util.errors import UserError
from util.weights import torch_file

pytestmark = pytest.mark.cross_version

STATE = {
    'w': np.arange(6, dtype='float32').reshape(2, 3),
    'half': np.ones(2, 'float16'),
    'double': np.array(3.5),
    'ids': np.array([-1, 2**40]),
    'bytes': np.array([0, 255], 'uint8'),
    'mask': np.array([True, False]),
    'empty': np.zeros([0, 3], 'float32'),
    'complex': np.array([1j], 'complex64'),
    'more': {'lr': 0.1, 'epoch': 7, 'big': 2**70, 'name': 'µ', 'list': [1, None, True], 'pair': (1, -2)},
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'file.pt')


def said(path):
    """The message with which a file is turned down: one line that begins with its name."""
    with pytest.raises(UserError) as error:
        torch_file.load(path)
    message = str(error.value)
    assert message.startswith(f'{path}: ') and '\n' not in message and len(message) < 500 + len(path)
    return message[len(path) + 2 :]


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b) and a.flags.c_contiguous
    else:
        assert a == b


# ---- a small assembler


def op(value):
    """The instructions of a plain value, of protocol 2."""
    return pickle.dumps(value, 2)[2:-1]


def reference(storage, key='0', count=6, more=b''):
    return b'(' + op('storage') + storage + op(key) + op('cpu') + op(count) + more + b'tQ'


def tensor(
    size=(2, 3),
    stride=(3, 1),
    offset=0,
    storage=b'ctorch\nFloatStorage\n',
    function=b'_rebuild_tensor_v2',
    key='0',
    count=6,
    more=b'',
    extra=b'\x89ccollections\nOrderedDict\n)R',
):
    return (
        b'ctorch._utils\n'
        + function
        + b'\n('
        + reference(storage, key, count, more)
        + op(offset)
        + op(size)
        + op(stride)
        + extra
        + b'tR'
    )


def write_zip(path, instructions, storages=None, root='archive', compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr(f'{root}/data.pkl', b'\x80\x02' + instructions + b'.')
        for key, data in (storages or {'0': np.arange(6, dtype='f4').tobytes()}).items():
            archive.writestr(f'{root}/data/{key}', data)
        for name, data in members.items():
            archive.writestr(f'{root}/{name}', data)


def write_legacy(path, instructions, storages=None, magic=torch_file.MAGIC):
    storages = {'0': (6, np.arange(6, dtype='f4').tobytes())} if storages is None else storages
    system = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4, 'long': 4}}
    with open(path, 'wb') as f:
        for value in (magic, 1001, system):
            f.write(pickle.dumps(value, 2))
        f.write(b'\x80\x02' + instructions + b'.' + pickle.dumps(sorted(storages), 2))
        for _, (count, data) in sorted(storages.items()):
            f.write(struct.pack('<q', count) + data)


WRITERS = pytest.mark.parametrize('write', [write_zip, write_legacy])
VALUES = np.arange(6, dtype='float32').reshape(2, 3)


# ---- reading


@WRITERS
def test_a_tensor(path, write):
    write(path, tensor())
    assert torch_file.is_torch_file(path)
    assert_same(torch_file.load(path), VALUES)


@WRITERS
@pytest.mark.parametrize(
    'size, stride, offset, expected',
    [
        ((3, 2), (1, 3), 0, VALUES.T),
        ((2, 2), (3, 2), 0, VALUES[:, ::2]),
        ((3,), (1,), 3, VALUES[1]),
        ((), (), 5, VALUES[1, 2]),
        ((4, 2), (0, 1), 1, np.tile(VALUES[0, 1:], (4, 1))),
        ((0, 7), (7, 1), 0, np.zeros([0, 7])),
    ],
)
def test_views_of_a_storage_become_contiguous(path, write, size, stride, offset, expected):
    write(path, tensor(size, stride, offset))
    assert_same(torch_file.load(path), np.array(expected, 'float32'))


@WRITERS
@pytest.mark.parametrize(
    'storage, dtype',
    [
        ('Float', 'f4'),
        ('Half', 'f2'),
        ('Double', 'f8'),
        ('Long', 'i8'),
        ('Int', 'i4'),
        ('Short', 'i2'),
        ('Char', 'i1'),
        ('Byte', 'u1'),
        ('Bool', 'b1'),
        ('ComplexFloat', 'c8'),
        ('ComplexDouble', 'c16'),
    ],
)
def test_every_type_of_storage(path, write, storage, dtype):
    array = np.array([1, 0, 1], dtype)
    data = array.tobytes()
    write(
        path,
        tensor((3,), (1,), storage=f'ctorch\n{storage}Storage\n'.encode(), count=3),
        {'0': data if write is write_zip else (3, data)},
    )
    assert_same(torch_file.load(path), array)


@WRITERS
def test_bfloat16_is_read_as_float32_and_that_is_said(path, write):
    data = np.array([1.0, -2.5, 3e38], 'f4').view('u2')[1::2].tobytes()  # the upper halves
    write(
        path,
        tensor((2,), (1,), storage=b'ctorch\nBFloat16Storage\n', count=3),
        {'0': data if write is write_zip else (3, data)},
    )
    lines = []
    assert_same(torch_file.load(path, lines.append), np.array([1, -2.5], 'f4'))
    assert lines == [f'{path}: what is bfloat16 in it is read as float32']


@WRITERS
def test_nothing_is_said_without_bfloat16(path, write):
    write(path, tensor())
    torch_file.load(path, pytest.fail)


def test_unsigned_types_are_on_untyped_storages(path):
    write_zip(
        path,
        tensor(
            (3,),
            (1,),
            storage=b'ctorch.storage\nUntypedStorage\n',
            function=b'_rebuild_tensor_v3',
            extra=b'\x89)ctorch\nuint16\n',
        ),
        {'0': np.array([1, 2, 65535], '<u2').tobytes()},
    )
    assert_same(torch_file.load(path), np.array([1, 2, 65535], 'u2'))


def test_big_endian_files(path):
    write_zip(path, tensor(), {'0': VALUES.astype('>f4').tobytes()}, byteorder=b'big')
    assert_same(torch_file.load(path), VALUES)


def test_a_view_of_a_storage_in_a_file_of_old(path):
    write_legacy(path, tensor((2,), (1,), more=b'(' + op('v') + op(4) + op(2) + b't'))
    assert_same(torch_file.load(path), np.array([4, 5], 'f4'))


@WRITERS
def test_the_other_things_in_a_checkpoint(path, write):
    parameter = b'ctorch._utils\n_rebuild_parameter\n(' + tensor() + b'\x88ccollections\nOrderedDict\n)RtR'
    state = b'ccollections\nOrderedDict\n)R(' + op('w') + parameter + b'u}' + op('_metadata') + b'Nsb'
    write(
        path,
        b'}('
        + op('state')
        + state
        + op('size')
        + b'ctorch\nSize\n'
        + op(((1, 2),))
        + b'R'
        + op('device')
        + b'ctorch\ndevice\n'
        + op(('cuda', 0))
        + b'R'
        + op('dtype')
        + b'ctorch\nfloat16\n'
        + op('args')
        + b'cargparse\nNamespace\n)\x81}'
        + op('lr')
        + op(0.1)
        + b'sb'
        + op('storage')
        + reference(b'ctorch\nFloatStorage\n')
        + b'u',
    )
    assert_same(torch_file.load(path)['state'], {'w': VALUES})
    result = torch_file.load(path)
    assert [result[key] for key in ('size', 'device', 'dtype', 'args')] == [(1, 2), 'cuda', 'float16', {'lr': 0.1}]
    assert_same(result['storage'], VALUES.ravel())


def test_which_files_are_pytorchs(path, tmp_path):
    for content in (b'', b'\x80\x02K\x01.', pickle.dumps({'w': 1}), b'\x93NUMPY\x01\x00'):
        open(path, 'wb').write(content)
        assert not torch_file.is_torch_file(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('photo.jpg', b'')
    assert torch_file.is_torch_file(path) and 'not one that PyTorch wrote' in said(path)
    assert not torch_file.is_torch_file(str(tmp_path)) and not torch_file.is_torch_file(str(tmp_path / 'missing'))


# ---- writing


def test_what_is_saved_is_loaded(path):
    torch_file.save(STATE, path)
    assert torch_file.is_torch_file(path)
    assert_same(torch_file.load(path), STATE)


def test_other_layouts_are_saved_by_value(path):
    torch_file.save(
        {'t': VALUES.T, 'big': np.arange(3, dtype='>i4'), 'n': np.float32(2), 'o': collections.OrderedDict(a=1)}, path
    )
    assert_same(
        torch_file.load(path),
        {'t': np.ascontiguousarray(VALUES.T), 'big': np.arange(3, dtype='i4'), 'n': 2.0, 'o': {'a': 1}},
    )


def test_two_saves_write_the_same_bytes_and_nothing_else(path):
    torch_file.save(STATE, path)
    first = open(path, 'rb').read()
    torch_file.save(STATE, path)
    assert open(path, 'rb').read() == first and os.listdir(os.path.dirname(path)) == ['file.pt']


def test_a_failed_save_leaves_the_old_file(path, monkeypatch, tmp_path):
    torch_file.save({'epoch': 1}, path)

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch_file.os, 'fsync', full)
    with pytest.raises(UserError, match=f'{path}: could not be written .No space left'):
        torch_file.save({'epoch': 2}, path)
    monkeypatch.undo()
    assert torch_file.load(path) == {'epoch': 1} and os.listdir(tmp_path) == ['file.pt']
    with pytest.raises(UserError, match='file.pt/x.pt'):
        torch_file.save({}, str(tmp_path / 'file.pt' / 'x.pt'))


@pytest.mark.parametrize('value', [object(), {1, 2}, np.array(['a']), np.array([1], 'uint16')])
def test_what_pytorch_has_no_word_for_is_not_saved(path, value):
    with pytest.raises(TypeError):
        torch_file.save({'a': value}, path)
    assert not os.path.exists(path)


# ---- hostile and damaged files


@WRITERS
@pytest.mark.parametrize(
    'name',
    [
        'os system',
        'posix system',
        'builtins eval',
        '__builtin__ getattr',
        'torch load',
        'torch.hub load',
        'torch.jit load',
        'torch._utils _rebuild_wrapper_subclass',
        'torch.nn.modules.linear Linear',
        'torch.storage _load_from_bytes',
        'torch _C',
    ],
)
def test_a_name_that_executes_is_refused(path, tmp_path, name, write):
    victim = tmp_path / 'victim'
    module, name = name.split()
    write(path, f'c{module}\n{name}\n'.encode() + op((f'touch {victim}',)) + b'R')
    assert name in said(path) and 'has no use for' in said(path) and not victim.exists()


@WRITERS
@pytest.mark.parametrize(
    'size, stride, offset',
    [
        ((2, 3), (3, 1), 1),
        ((7,), (1,), 0),
        ((2,), (6,), 0),
        ((1,), (1,), 6),
        ((1,), (1,), -1),
        ((2, 3), (-3, 1), 3),
        ((-2,), (1,), 0),
        ((2, 3), (3,), 0),
        ((2**62,), (2**62,), 0),
        ((1.0,), (1,), 0),
        ((1,) * 70, (1,) * 70, 0),
        ((2**40,), (0,), 0),
        ((2**62, 2**62), (0, 0), 0),
        ((0, 2**62, 2**62), (0, 0, 0), 0),
        (3, 1, 0),
        (None, (), 0),
    ],
)
def test_a_tensor_never_leaves_its_storage_nor_outgrows_it(path, write, size, stride, offset):
    write(path, tensor(size, stride, offset))
    said(path)


@WRITERS
@pytest.mark.parametrize(
    'instructions',
    [
        tensor(count=7),
        tensor(count=-1),
        tensor(count=2**62),
        tensor(count=None),
        tensor(key='1'),
        tensor(key=0),
        tensor(key='../../etc/passwd'),
        tensor(storage=op('O')),
        tensor(storage=op('f4,O')),
        tensor(storage=b'N'),
        tensor(storage=b'ctorch\nSize\n'),
        b')Q',
        op('text') + b'Q',
        b'ctorch._utils\n_rebuild_tensor_v2\n)R',
        b'ctorch._utils\n_rebuild_tensor_v2\n(NNNNttR',
        b'ctorch\nFloatStorage\n}b',
        b'ctorch\nFloatStorage\n)R',
        tensor(function=b'_rebuild_tensor_v3'),
        b'ctorch\nSize\n',
    ],
)
def test_references_that_lie(path, write, instructions):
    write(path, instructions)
    said(path)


@WRITERS
def test_keys_and_types_too_deep_to_hash(path, write):
    deep = b')' + b'\x85' * 50_000
    storage = op('storage')
    for names in (storage + b'ctorch\nFloatStorage\n' + deep, storage + deep + op('0'), deep + op('a') * 2):
        write(path, b'(' + names + op('cpu') + op(6) + b'tQ')
        said(path)


def test_a_storage_of_an_old_file_that_claims_too_much(path):
    for count in (7, 2**60, -1):
        write_legacy(path, tensor(), {'0': (count, VALUES.tobytes())})
        said(path)
    write_legacy(path, tensor(), {'other': (6, VALUES.tobytes())})
    assert 'nothing refers to' in said(path)


def test_compressed_members_are_read_but_not_if_they_inflate_beyond_the_file(path):
    noise = np.random.default_rng(0).normal(size=6).astype('f4')
    write_zip(path, tensor(), {'0': noise.tobytes()}, compression=zipfile.ZIP_DEFLATED)
    assert_same(torch_file.load(path), noise.reshape(2, 3))
    write_zip(path, tensor((10**7,), (1,), count=10**7), {'0': bytes(4 * 10**7)}, compression=zipfile.ZIP_DEFLATED)
    assert 'does not compress' in said(path) and os.path.getsize(path) < 100_000


@WRITERS
def test_damage_is_a_user_error_whatever_it_hits(path, write):
    torch_file.save(STATE, path) if write is write_zip else write(path, b'](' + tensor() * 3 + op(STATE['more']) + b'e')
    whole = open(path, 'rb').read()
    for length in range(0, len(whole), len(whole) // 60):
        open(path, 'wb').write(whole[:length])
        said(path)
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] ^= 1 << rng.integers(0, 8)
        open(path, 'wb').write(data)
        try:
            torch_file.load(path)
        except UserError as error:
            assert str(error).startswith(path) and '\n' not in str(error)
        torch_file.is_torch_file(path)


def test_a_flipped_bit_in_a_storage_does_not_go_unnoticed(path):
    torch_file.save({'w': np.zeros(100, 'f4')}, path)
    data = bytearray(open(path, 'rb').read())
    data[data.index(bytes(400)) + 200] ^= 1
    open(path, 'wb').write(data)
    assert 'CRC' in said(path)


@pytest.mark.parametrize('content', [b'', b'text', b'PK\x03\x04', b'\x80\x02}.', pickle.dumps(torch_file.MAGIC, 2)])
def test_what_is_no_such_file_is_named(path, tmp_path, content):
    open(path, 'wb').write(content)
    said(path)
    assert 'Is a directory' in said(str(tmp_path)) and 'No such file' in said(str(tmp_path / 'missing'))


# ---- PyTorch itself, where it is installed


@pytest.mark.parametrize('zipped', [True, False])
def test_files_of_pytorch(path, zipped):
    torch = pytest.importorskip('torch')
    tensors = {
        name: (torch.arange(15) * 7).to(getattr(torch, name)).reshape(3, 5)[:, ::2]
        for name in ('float32', 'float16', 'bfloat16', 'int64', 'uint8', 'bool', 'uint16')
    }
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save({'tensors': tensors, 'model': model.state_dict()}, path, _use_new_zipfile_serialization=zipped)
    result = torch_file.load(path)
    assert torch_file.is_torch_file(path)
    found = {**result['tensors'], **result['model']}
    for name, tensor in {**tensors, **model.state_dict()}.items():
        expected = (tensor.float() if name == 'bfloat16' else tensor).numpy()
        assert_same(found[name], expected.copy(order='C'))


def test_pytorch_reads_what_is_saved(path):
    torch = pytest.importorskip('torch')
    torch_file.save(STATE, path)
    result = torch.load(path, weights_only=True)
    assert result.pop('more') == STATE['more']
    result['more'] = STATE['more']
    assert_same({k: v if k == 'more' else v.numpy() for k, v in result.items()}, STATE)
