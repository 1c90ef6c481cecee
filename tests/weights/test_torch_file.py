"""util/weights/torch_file.py: PyTorch's files are read without PyTorch, to the bit, and no file does harm.

The files are made by hand here, as PyTorch makes them (tests/torch_files.py); the last test asks PyTorch itself, where
it is installed.
"""

import pickle
import zipfile

import numpy as np
import pytest

from states import same
from torch_files import CLASSES, op, reference, save, tensor, write_legacy, write_zip
from util.errors import UserError
from util.weights import torch_file

pytestmark = pytest.mark.cross_version

WRITERS = pytest.mark.parametrize('write', [write_zip, write_legacy])
VALUES = np.arange(6, dtype='float32').reshape(2, 3)
STATE = {
    'w': VALUES,
    **{code: np.array([1, 0, 1], code) for code in CLASSES if code != torch_file.BFLOAT16},
    'number': np.array(3.5),
    'empty': np.zeros([0, 3], 'float32'),
    'more': {'lr': 0.1, 'epoch': 7, 'big': 2**70, 'name': 'µ', 'list': [1, None, True], 'pair': (1, -2)},
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'file.pt')


def said(path):
    """The message with which a file is turned down: one line that begins with its name."""
    with pytest.raises(UserError) as error:
        torch_file.load_file(path)
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
        assert same(a, b) and a.flags.c_contiguous
    else:
        assert a == b


# ---- reading


@WRITERS
def test_arrays_of_every_type_and_plain_values(path, write):
    save(STATE, path, write)
    assert torch_file.is_torch_file(path)
    assert_same(torch_file.load_file(path, pytest.fail), STATE)


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
    assert_same(torch_file.load_file(path), np.array(expected, 'float32'))


@WRITERS
def test_bfloat16_is_read_as_float32_and_that_is_said(path, write):
    halves = np.array([1.0, -2.5, 3e38], 'f4').view('u2')[1::2].copy()  # the upper halves
    write(path, tensor((2,), (1,), storage=CLASSES['bfloat16'], count=3), {'0': halves})
    lines = []
    assert_same(torch_file.load_file(path, lines.append), np.array([1, -2.5], 'f4'))
    assert lines == [f'{path}: what is bfloat16 in it is read as float32']


@pytest.mark.parametrize('dtype', ['uint16', 'uint32', 'uint64'])
def test_types_without_a_storage_class_are_on_bytes(path, dtype):
    array = np.array([1, 2, 60000], dtype)
    extra = b'\x89)ctorch\n' + dtype.encode() + b'\n'
    storage = dict(storage=b'ctorch.storage\nUntypedStorage\n', count=array.nbytes)
    write_zip(path, tensor((3,), (1,), function='_rebuild_tensor_v3', extra=extra, **storage), {'0': array})
    assert_same(torch_file.load_file(path), array)


def test_big_endian_files(path):
    write_zip(path, tensor(), {'0': VALUES.astype('>f4')}, byteorder=b'big')
    assert_same(torch_file.load_file(path), VALUES)


@WRITERS
def test_the_other_things_in_a_checkpoint(path, write):
    parameter = b'ctorch._utils\n_rebuild_parameter\n(' + tensor() + b'\x88ccollections\nOrderedDict\n)RtR'
    things = {
        'state': b'ccollections\nOrderedDict\n)R(' + op('w') + parameter + b'u}' + op('_metadata') + b'Nsb',
        'size': b'ctorch\nSize\n' + op(((1, 2),)) + b'R',
        'device': b'ctorch\ndevice\n' + op(('cuda', 0)) + b'R',
        'dtype': b'ctorch\nfloat16\n',
        'args': b'cargparse\nNamespace\n)\x81}' + op('lr') + op(0.1) + b'sb',
        'storage': reference(),
    }
    write(path, b'}(' + b''.join(op(key) + program for key, program in things.items()) + b'u')
    expected = {'state': {'w': VALUES}, 'size': (1, 2), 'device': 'cuda', 'dtype': 'float16', 'args': {'lr': 0.1}}
    assert_same(torch_file.load_file(path), {**expected, 'storage': VALUES.ravel()})


def test_which_files_are_pytorchs(path, tmp_path):
    for content in (b'', b'\x80\x02K\x01.', pickle.dumps({'w': 1}), b'\x93NUMPY\x01\x00'):
        open(path, 'wb').write(content)
        assert not torch_file.is_torch_file(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('photo.jpg', b'')
    assert torch_file.is_torch_file(path) and 'not one that PyTorch wrote' in said(path)
    assert not torch_file.is_torch_file(str(tmp_path)) and not torch_file.is_torch_file(str(tmp_path / 'missing'))


# ---- hostile and damaged files


@WRITERS
@pytest.mark.parametrize(
    'name',
    [
        'os system',
        'builtins eval',
        '__builtin__ getattr',
        'torch load',
        'torch.hub load',
        'torch.nn.modules.linear Linear',
    ]
    + ['torch._utils _rebuild_wrapper_subclass', 'torch.storage _load_from_bytes', 'torch _C'],
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
        *[((2, 3), (3, 1), 1), ((7,), (1,), 0), ((2,), (6,), 0), ((1,), (1,), 6), ((1,), (1,), -1)],
        *[((2, 3), (-3, 1), 3), ((-2,), (1,), 0), ((2, 3), (3,), 0), ((2**62,), (2**62,), 0), ((1.0,), (1,), 0)],
        *[((1,) * 70, (1,) * 70, 0), ((2**62, 2**62), (0, 0), 0), ((0, 2**62, 2**62), (0, 0, 0), 0)],
        *[(3, 1, 0), (None, (), 0), ((2, 2), (2**61 - 1, 1), 0)],  # the last makes numpy's own check overflow
    ],
)
def test_a_tensor_never_leaves_its_storage(path, write, size, stride, offset):
    write(path, tensor(size, stride, offset))
    said(path)


@WRITERS
@pytest.mark.parametrize(
    'program',
    [
        *[tensor(count=count) for count in (7, -1, 2**62, None)],
        *[tensor(key=key) for key in ('1', 0, '../../etc/passwd')],
        *[tensor(storage=storage) for storage in (op('O'), op('f4,O'), b'N', b'ctorch\nSize\n')],
        *[b')Q', op('text') + b'Q', b'ctorch._utils\n_rebuild_tensor_v2\n)R', b'ctorch\nSize\n'],
        *[b'ctorch._utils\n_rebuild_tensor_v2\n(NNNNttR', b'ctorch\nFloatStorage\n}b', b'ctorch\nFloatStorage\n)R'],
        *[tensor(function='_rebuild_tensor_v3'), b']' + tensor() + b'a' + tensor(storage=CLASSES['f2']) + b'a'],
        *[reference() + b'}' + op('code') + op('O') + b'sb', tensor() + b'}' + op('storage') + b'Nsb'],
    ],
)
def test_references_that_lie(path, write, program):
    write(path, program)
    said(path)


def test_a_storage_of_an_old_file_that_claims_too_much(path):
    for name, count in (('0', 7), ('other', 6)):
        write_legacy(path, tensor(), {name: np.zeros(count, 'f4')})
        said(path)


@WRITERS
def test_damage_is_a_user_error_whatever_it_hits(path, write):
    save([STATE, STATE], path, write)
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
            torch_file.load_file(path)
        except UserError as error:
            assert str(error).startswith(path) and '\n' not in str(error)


def test_a_flipped_bit_in_a_storage_does_not_go_unnoticed(path):
    save({'w': np.zeros(100, 'f4')}, path)
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
    names = 'float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64 complex64'.split()
    tensors = {name: (torch.arange(15) * 7).to(getattr(torch, name)).reshape(3, 5)[:, ::2] for name in names}
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    tied = {'a': tensors['float32'], 'b': tensors['float32'].t(), 'parameter': model[0].weight}
    content = {'tensors': tensors, 'model': model.state_dict(), 'tied': tied}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    result = torch_file.load_file(path)
    assert torch_file.is_torch_file(path)
    for group, members in content.items():
        for name, value in members.items():
            expected = (value.float() if name == 'bfloat16' else value).detach().numpy()
            assert_same(result[group][name], expected.copy(order='C'))
