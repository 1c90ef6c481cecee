"""util/weights/torch_file.py: PyTorch's files are read without PyTorch, bit for bit, a file cannot reach beyond its own
storages, and state dicts change between PyTorch's layout and Paddle's without a bit changed.

The files are made by hand here, as PyTorch makes them (tests/torch_files.py); one test asks PyTorch itself, where it is
installed.
"""

import pickle
import zipfile

import numpy as np
import pytest

import models
from states import same
from torch_files import CLASSES, op, reference, save, tensor, write_legacy, write_zip
from util.errors import UserError
from util.weights import torch_file, unpickle

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


def refusal(path):
    """The message with which a file is refused, without the name of the file that it begins with."""
    with pytest.raises(UserError) as error:
        torch_file.load_file(path)
    message = str(error.value)
    assert message.startswith(f'{path}: ') and '\n' not in message
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
    assert torch_file.is_torch_file(open(path, 'rb').read(32))
    assert_same(torch_file.load_file(path), STATE)


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
def test_bfloat16_is_read_as_float32(path, write):
    halves = np.array([1.0, -2.5, 3e38], 'f4').view('u2')[1::2].copy()  # the upper halves
    write(path, tensor((2,), (1,), storage=CLASSES['bfloat16'], count=3), {'0': halves})
    assert_same(torch_file.load_file(path), np.array([1, -2.5], 'f4'))


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
    }
    write(path, b'}(' + b''.join(op(key) + program for key, program in things.items()) + b'u')
    expected = {'state': {'w': VALUES}, 'size': (1, 2), 'device': 'cuda', 'dtype': 'float16', 'args': {'lr': 0.1}}
    assert_same(torch_file.load_file(path), expected)


@WRITERS
def test_objects_of_other_classes_become_placeholders(path, write):
    layer = b'(' + op('module') + b'ctorch.nn.modules.activation\nGELU\n' + op('gelu.py') + op('source') + b'tQ)\x81}b'
    for module, name in ('os', 'system'), ('pathlib', 'PosixPath'), ('torch.storage', '_load_from_bytes'):
        call = f'c{module}\n{name}\n'.encode() + op(('true',)) + b'R'
        write(path, b'}(' + op('w') + tensor() + op('other') + call + op('layer') + layer + b'u')
        content = torch_file.load_file(path)
        assert_same(content['w'], VALUES)
        assert unpickle.placeholders(content) == {f'{module}.{name}', 'torch.nn.modules.activation.GELU'}


def test_which_files_are_pytorchs(path):
    for content in (b'', b'\x80\x02K\x01.', pickle.dumps({'w': 1}), b'\x93NUMPY\x01\x00'):
        assert not torch_file.is_torch_file(content[:32])
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('photo.jpg', b'')
    assert torch_file.is_torch_file(open(path, 'rb').read(32)) and 'not one that PyTorch wrote' in refusal(path)


@pytest.mark.parametrize('zipped', [True, False])
def test_files_of_pytorch(path, zipped):
    torch = pytest.importorskip('torch')
    names = 'float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8 bool complex64'.split()
    tensors = {name: (torch.arange(15) * 7).to(getattr(torch, name)).reshape(3, 5)[:, ::2] for name in names}
    tied = {'a': tensors['float32'], 'b': tensors['float32'].t(), 'parameter': torch.nn.Linear(3, 4).weight}
    content = {'tensors': tensors, 'tied': tied}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    result = torch_file.load_file(path)
    for group, members in content.items():
        for name, value in members.items():
            expected = (value.float() if name == 'bfloat16' else value).detach().numpy()
            assert_same(result[group][name], expected.copy(order='C'))


# ---- files that are refused


@WRITERS
@pytest.mark.parametrize(
    'size, stride, offset',
    [
        *[((2, 3), (3, 1), 1), ((7,), (1,), 0), ((2,), (6,), 0)],
        *[((1,), (1,), -1), ((2, 3), (-3, 1), 3), ((-2,), (1,), 0)],
        ((2, 2), (2**61 - 1, 1), 0),  # makes numpy's own check overflow
    ],
)
def test_a_tensor_never_reaches_beyond_its_storage(path, write, size, stride, offset):
    write(path, tensor(size, stride, offset))
    refusal(path)


@WRITERS
@pytest.mark.parametrize(
    'program',
    [
        *[tensor(count=count) for count in (7, -1, None)],
        *[tensor(key='../../etc/passwd'), tensor(storage=op('O')), op('text') + b'Q', reference()],
        b']' + tensor() + b'a' + tensor(storage=CLASSES['f2']) + b'a',  # a storage of two types
        *[reference() + b'}' + op('code') + op('O') + b'sb', tensor() + b'}' + op('storage') + b'Nsb'],
    ],
)
def test_a_wrong_reference_is_refused(path, write, program):
    write(path, program)
    refusal(path)


def test_a_storage_of_an_old_file_that_claims_too_much(path):
    for name, count in (('0', 7), ('other', 6)):
        write_legacy(path, tensor(), {name: np.zeros(count, 'f4')})
        refusal(path)


# ---- layout

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.normal(size=shape).astype('float32')


TORCH = {
    'conv.weight': array(4, 3, 2, 2),
    'bn.weight': array(4),
    'bn.bias': array(4),
    'bn.running_mean': array(4),
    'bn.running_var': array(4),
    'bn.num_batches_tracked': np.array(0),
    'pos_embed': array(1, 5, 6),
    'blocks.0.attn.qkv.weight': array(18, 6),
    'blocks.0.attn.proj.weight': array(6, 6),
    'blocks.0.attn.proj.bias': array(6),
    'head.weight': array(10, 6),
    'head.bias': array(10),
}
NAMES = {'bn.running_mean': 'bn._mean', 'bn.running_var': 'bn._variance'}
PADDLE = {
    NAMES.get(key, key): value.T if value.ndim == 2 else value
    for key, value in TORCH.items()
    if key != 'bn.num_batches_tracked'
}


def test_the_layout_of_pytorch_and_of_paddle():
    assert_same(
        {k: np.array(v, order='C') for k, v in torch_file.to_paddle(TORCH).items()},
        {key: np.array(value, order='C') for key, value in PADDLE.items()},
    )
    assert list(torch_file.to_torch(PADDLE)) == list(TORCH)
    assert all(same(value, TORCH[key]) for key, value in torch_file.to_torch(PADDLE).items())


def test_names_tell_the_layout_unless_both_are_the_same():
    square = {'blocks.0.attn.proj.weight': array(6, 6)}
    for keys in ['bn.running_mean'], ['bn.num_batches_tracked'], ['head.weight', 'head.bias']:
        assert torch_file.guess_layout({**square, **{key: TORCH[key] for key in keys}}, 'x') == torch_file.TORCH
    for keys in ['bn._variance'], ['head.weight', 'head.bias'], ['conv.weight']:
        assert torch_file.guess_layout({key: PADDLE[key] for key in keys}, 'x') == torch_file.PADDLE
    for weights in {'fc.weight': array(4, 4), 'fc.bias': array(4)}, {'fc.weight': array(3, 4)}:
        with pytest.raises(UserError, match='x.safetensors: nothing tells whether fc.weight'):
            torch_file.guess_layout(weights, 'x.safetensors')


def test_parameters_are_the_numbers_that_are_learned(tiny):
    model = models.build_model('lvvit_s')
    learned = sum(p.size for p in model.parameters() if not p.stop_gradient)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    assert torch_file.count_parameters(weights) == models.count_parameters(model) == learned
    assert torch_file.count_parameters(torch_file.to_torch(weights)) == learned
