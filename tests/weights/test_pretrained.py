"""pretrained.py: which weights of a file are taken, that a misfit is named, and what fine-tuning changes."""

import json
import struct

import numpy as np
import paddle
import pytest
import safetensors.numpy

import torch_files

from models import LV_ViT
from states import same
from util.errors import UserError
from util.weights import checkpoint, layout, pretrained

pytestmark = pytest.mark.cross_version


def small(seed=0, **kwargs):
    paddle.seed(seed)
    return LV_ViT(**{**dict(img_size=32, num_classes=5, embed_dim=8, depth=1, num_heads=2), **kwargs})


def values(model):
    return {key: value.numpy() for key, value in model.state_dict().items()}


def said(call, *args, **kwargs):
    """The message with which a call turns its input down."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    return str(error.value)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, value in b.items():
        assert same(a[key], value), key


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'checkpoint.pd')


# ---- which weights


def test_a_model_comes_back_from_its_file(path):
    model, other = small(0), small(1)
    checkpoint.save({'model': model.state_dict()}, path)
    pretrained.load_into(other, path)
    assert_same(values(other), values(model))


def test_weights_or_their_average_and_what_is_said_about_it(path):
    checkpoint.save({'model': {'w': 1}, 'model_ema': {'w': 2}}, path)
    weights, source = pretrained.read_weights(path)
    assert weights == {'w': 1} and 'trained weights (model)' in source and '--ema' in source
    weights, source = pretrained.read_weights(path, ema=True)
    assert weights == {'w': 2} and 'averaged weights (model_ema)' in source
    checkpoint.save({'model': {'w': 1}}, path)
    assert '--ema' not in pretrained.read_weights(path)[1]
    assert path in said(pretrained.read_weights, path, ema=True)


def test_a_plain_state_dict_is_named_so(path):
    model = small()
    paddle.save(model.state_dict(), path)
    weights, source = pretrained.read_weights(path)
    pretrained.set_weights(model, weights, path)
    assert source == f'plain weights of {path}'


def test_a_missing_flag_is_named():
    assert '--resume' in said(pretrained.load_into, small(), '')


# ---- files of PyTorch, and safetensors


def torch_weights(model):
    """A model's weights as the original's state dict."""
    return {key: np.array(value, order='C') for key, value in layout.to_torch(values(model)).items()}


def save_safetensors(weights, path, label='pt'):
    safetensors.numpy.save_file(weights, path, label and {'format': label})


def save_paddle(weights, path):
    checkpoint.save(layout.to_paddle(weights), path)


@pytest.mark.parametrize('write', [torch_files.save, save_safetensors, save_paddle])
@pytest.mark.parametrize('name', ['x.pth', 'x.pdparams', 'no suffix'])
def test_a_file_is_recognised_by_its_content_whatever_its_name(tmp_path, capfd, write, name):
    path, model, other = str(tmp_path / name), small(0), small(1)
    write(torch_weights(model), path)
    assert pretrained.load_into(other, path) == f'using plain weights of {path}'
    assert_same(values(other), values(model))
    said = f'{path}: left out, for Paddle has no such counter: num_batches_tracked of patch_embed.bn1'
    assert (said in capfd.readouterr().out) == (write is not save_paddle)


@pytest.mark.parametrize('label', ['pt', 'pd', 'np', None])
@pytest.mark.parametrize('make', [torch_weights, values])
def test_safetensors_are_in_the_layout_that_they_say_or_that_their_names_tell(path, label, make):
    model, other = small(0), small(1)
    save_safetensors(make(model), path, label)
    if (label, make) in (('pt', values), ('pd', torch_weights)):
        assert 'does not fit' in said(pretrained.load_into, other, path)
    else:
        pretrained.load_into(other, path)
        assert_same(values(other), values(model))


def test_square_weights_of_safetensors_go_by_the_label(path):
    square = {'fc.weight': np.arange(4, dtype='f4').reshape(2, 2)}
    for label, expected in (('pt', square['fc.weight'].T), ('pd', square['fc.weight'])):
        save_safetensors(square, path, label)
        np.testing.assert_array_equal(pretrained.read(path)['fc.weight'], expected)
    save_safetensors(square, path, None)
    assert 'nothing tells whether fc.weight' in said(pretrained.read, path)


def test_safetensors_of_every_type_and_bfloat16_as_float32(path, capfd):
    dtypes = ['f8', 'f4', 'f2', 'b1', 'i8', 'i4', 'i2', 'i1', 'u8', 'u4', 'u2', 'u1']
    arrays = {dtype: np.array([[1, 0, 1]], dtype) for dtype in dtypes}
    arrays.update({'number': np.array(3.5), 'empty': np.zeros([0, 3], 'f4')})
    save_safetensors(arrays, path)
    assert_same(pretrained.read(path), arrays)
    assert list(pretrained.read(path)) == sorted(arrays)
    halves = np.array([1.0, -2.5, 3e38], 'f4').view('u2')[1::2].tobytes()
    header = json.dumps({'w': {'dtype': 'BF16', 'shape': [3], 'data_offsets': [0, 6]}}).encode()
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(header)) + header + halves)
    assert pretrained.read(path)['w'].dtype == np.float32
    np.testing.assert_array_equal(pretrained.read(path)['w'][:2], [1, -2.5])
    assert f'{path}: 1 tensors in bfloat16 are read as float32' in capfd.readouterr().out


def test_of_a_pytorch_checkpoint_the_weights_are_used_and_the_rest_is_named(path, capfd):
    model, weights = small(0), torch_weights(small(0))
    averaged = {key: np.asarray(value + 1) for key, value in weights.items()}
    wrapped = {f'module.{key}': value for key, value in weights.items()}
    optimizer = {'state': {}, 'param_groups': []}
    torch_files.save({'epoch': 3, 'state_dict': wrapped, 'state_dict_ema': averaged, 'optimizer': optimizer}, path)
    state = pretrained.read(path)
    assert list(state) == ['state_dict', 'state_dict_ema'] and pretrained.holds_average(state)
    out = capfd.readouterr().out
    assert 'only the weights are used, not epoch, optimizer' in out and out.count('left out, for Paddle') == 1
    weights, source = pretrained.choose(state, path)
    assert_same(weights, values(model))
    assert source == f'trained weights (state_dict) of {path}; it also holds averaged weights, which --ema selects'
    weights, source = pretrained.choose(state, path, ema=True)
    assert_same(weights, {key: value + np.float32(1) for key, value in values(model).items()})
    assert source == f'averaged weights (state_dict_ema) of {path}'


def test_weights_under_another_name_are_found_if_they_are_the_only_ones(path):
    torch_files.save({'net': torch_weights(small()), 'epoch': 3}, path)
    weights, source = pretrained.read_weights(path)
    assert_same(weights, values(small()))
    assert '(net)' in source
    torch_files.save({'net': torch_weights(small()), 'critic': {'w': np.ones(2)}}, path)
    assert 'several sets of weights (net, critic)' in said(pretrained.read_weights, path)


def test_averaged_weights_alone_are_not_taken_without_ema(path):
    torch_files.save({'state_dict_ema': torch_weights(small())}, path)
    assert '--ema' in said(pretrained.read_weights, path)
    assert_same(pretrained.read_weights(path, ema=True)[0], values(small()))


@pytest.mark.parametrize('dtype', ['float16', 'float64'])
def test_weights_of_another_precision_are_set_in_the_models(path, dtype):
    model, other = small(0), small(1)
    torch_files.save({k: v.astype(dtype) for k, v in torch_weights(model).items() if 'tracked' not in k}, path)
    pretrained.load_into(other, path)
    assert_same(values(other), {key: value.astype(dtype).astype('float32') for key, value in values(model).items()})


def test_weights_that_are_no_fractions_are_refused_by_name(path):
    checkpoint.save({**values(small()), 'norm.bias': np.ones(8, 'uint16')}, path)  # bfloat16 as paddle.save has it
    assert 'norm.bias is uint16' in said(pretrained.load_into, small(), path)


@pytest.mark.parametrize('content', [[1], 'text', np.ones(2)])
def test_what_is_no_state_dict_is_named(path, content):
    torch_files.save(content, path)
    assert said(pretrained.read, path).startswith(f'{path}: no state dict')


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    assert 'Is a directory' in said(pretrained.read, str(tmp_path))
    assert 'missing: cannot be read (No such file' in said(pretrained.read, str(tmp_path / 'missing'))


# ---- into a model


def test_weights_of_another_model_name_the_first_keys_and_set_nothing(path):
    model = small()
    before = values(model)
    other = small(1, num_classes=6, embed_dim=12, depth=2)
    checkpoint.save({'model': other.state_dict()}, path)
    message = said(pretrained.load_into, model, path)
    assert message.startswith(path) and 'unexpected blocks.1.norm1.weight' in message
    assert 'more' in message and '--model' in message and len(message) < 600
    checkpoint.save({'model': small(1, num_classes=6).state_dict()}, path)
    assert 'head.weight is [8, 6] in the file and [8, 5] in the model' in said(pretrained.load_into, model, path)
    checkpoint.save({'model': {k: v for k, v in before.items() if k != 'norm.bias'}}, path)
    assert 'missing norm.bias' in said(pretrained.load_into, model, path)
    assert_same(values(model), before)


# ---- fine-tuning


def test_a_position_embedding_of_the_same_grid_stays_and_a_constant_one_stays_constant():
    rng = np.random.default_rng(0)
    same = rng.normal(size=(1, 17, 8)).astype('float32')
    np.testing.assert_allclose(pretrained.resize_pos_embed(same, 4), same, atol=1e-6)
    flat = np.concatenate([same[:, :1], np.full((1, 16, 8), 0.5, 'float32')], axis=1)
    for grid in (2, 7, 24):
        resized = pretrained.resize_pos_embed(flat, grid)
        assert resized.shape == (1, grid**2 + 1, 8) and resized.dtype == np.float32
        np.testing.assert_array_equal(resized[:, 0], flat[:, 0])
        np.testing.assert_allclose(resized[:, 1:], 0.5, atol=1e-6)


def bicubic(row, count):
    """A row of numbers resampled to `count` by Keys' cubic kernel with a = -0.75, edges repeated, in float64."""

    def kernel(x):
        x, a = abs(x), -0.75
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return near if x <= 1 else far if x < 2 else 0.0

    result = np.zeros([count, *row.shape[1:]])
    for i in range(count):
        center = (i + 0.5) * len(row) / count - 0.5
        for j in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            result[i] += kernel(center - j) * row[min(max(j, 0), len(row) - 1)]
    return result


@pytest.mark.parametrize('old, new', [(14, 24), (14, 28), (14, 32), (3, 4), (24, 14)])
def test_a_position_embedding_is_resized_by_the_bicubic_formula(old, new):
    array = np.random.default_rng(0).normal(size=(1, old**2 + 1, 6)).astype('float32')
    square = array[0, 1:].astype('float64').reshape(old, old, 6)
    expected = bicubic(bicubic(square, new).transpose(1, 0, 2), new).transpose(1, 0, 2).reshape(new * new, 6)
    resized = pretrained.resize_pos_embed(array, new)
    np.testing.assert_allclose(resized[0, 1:], expected, atol=1e-5)
    np.testing.assert_array_equal(resized[0, 0], array[0, 0])


@pytest.mark.parametrize('shape', [(1, 8, 8), (1, 5), (5, 8), (1, 1, 8), ()])
def test_a_position_embedding_that_is_no_grid_is_left_for_the_message(shape):
    weights = {**values(small()), 'pos_embed': np.zeros(shape, 'float32')}
    model = small(1, img_size=64)
    assert pretrained.fit_pos_embed(weights, model) == (weights, [])
    assert f'pos_embed is {list(shape)} in the file' in said(pretrained.finetune, model, weights, 'x.pd')


def test_rows_and_columns_of_a_position_embedding_keep_their_places():
    y, x = np.mgrid[:8, :8].astype('float32') + 0.5
    ramp = np.concatenate([np.zeros((1, 1, 2)), np.stack([y, x], -1).reshape(1, 64, 2)], 1).astype('float32')
    resized = pretrained.resize_pos_embed(ramp, 16)[0, 1:].reshape(16, 16, 2) * 2
    y, x = np.mgrid[:16, :16] + 0.5
    np.testing.assert_allclose(resized[4:-4, 4:-4], np.stack([y, x], -1)[4:-4, 4:-4], atol=0.1)


def test_finetune_at_another_size_and_class_count():
    source, model = small(0), small(1, num_classes=7, img_size=48)
    fresh = values(model)
    weights = values(source)
    notes = pretrained.finetune(model, weights, 'x.pd')
    assert notes == [
        'head.weight: initialised anew',
        'head.bias: initialised anew',
        'aux_head.weight: initialised anew',
        'aux_head.bias: initialised anew',
        'pos_embed: resized from 4 to 9 tokens',
    ]
    state = values(model)
    for key in state:
        if 'head' in key:
            np.testing.assert_array_equal(state[key], fresh[key])
        elif key != 'pos_embed':
            np.testing.assert_array_equal(state[key], weights[key])
    np.testing.assert_allclose(state['pos_embed'], pretrained.resize_pos_embed(weights['pos_embed'], 3))
    assert weights['pos_embed'].shape == (1, 5, 8), "the caller's weights are left alone"


def test_finetune_with_the_same_shapes_keeps_everything_unless_the_heads_are_to_go():
    weights = values(small(0))
    model = small(1)
    assert pretrained.finetune(model, weights, 'x.pd') == []
    assert_same(values(model), weights)
    model = small(1)
    notes = pretrained.finetune(model, weights, 'x.pd', remove_head=True)
    assert len(notes) == 4 and not np.array_equal(model.head.weight.numpy(), weights['head.weight'])


def test_finetune_between_models_with_and_without_a_token_classifier():
    dense, plain = small(0), small(1, return_dense=False)
    to_numpy = checkpoint.to_numpy
    assert pretrained.finetune(plain, to_numpy(dense.state_dict()), 'x.pd') == [
        'aux_head.weight: not used, this model has none',
        'aux_head.bias: not used, this model has none',
    ]
    assert pretrained.finetune(dense, to_numpy(plain.state_dict()), 'x.pd') == [
        'aux_head.weight: initialised anew',
        'aux_head.bias: initialised anew',
    ]


def test_finetune_from_something_else_entirely_is_refused():
    assert 'x.pd: does not fit' in said(pretrained.finetune, small(), {'conv.weight': np.zeros(3)}, 'x.pd')
    weights = checkpoint.to_numpy(small(0, embed_dim=12).state_dict())
    assert 'does not fit' in said(pretrained.finetune, small(), weights, 'x.pd')


@pytest.mark.parametrize('value', [[[1.0], [2.0, 3.0]], 'text', {'a': 1}, None])
@pytest.mark.parametrize('key', ['head.weight', 'pos_embed', 'blocks.0.mlp.fc1.weight', 'norm.bias'])
def test_values_that_are_no_arrays_are_named_and_not_stumbled_over(path, key, value):
    checkpoint.save({**values(small()), key: value}, path)
    message = said(pretrained.load_into, small(), path)
    assert f'{key} is a {type(value).__name__} in the file' in message
    weights, _ = pretrained.read_weights(path)
    if key != 'head.weight':  # which fine-tuning initialises anew
        assert key in said(pretrained.finetune, small(), weights, path)
