"""util/weights/layout.py: weights between PyTorch's layout and Paddle's, there and back without a bit changed."""

import numpy as np
import paddle
import pytest

import models
from states import same
from util.data.annotator import CLASSIFIERS
from util.errors import UserError
from util.weights import layout

pytestmark = pytest.mark.cross_version

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
PADDLE = {
    'conv.weight': TORCH['conv.weight'],
    'bn.weight': TORCH['bn.weight'],
    'bn.bias': TORCH['bn.bias'],
    'bn._mean': TORCH['bn.running_mean'],
    'bn._variance': TORCH['bn.running_var'],
    'pos_embed': TORCH['pos_embed'],
    'blocks.0.attn.qkv.weight': TORCH['blocks.0.attn.qkv.weight'].T,
    'blocks.0.attn.proj.weight': TORCH['blocks.0.attn.proj.weight'].T,
    'blocks.0.attn.proj.bias': TORCH['blocks.0.attn.proj.bias'],
    'head.weight': TORCH['head.weight'].T,
    'head.bias': TORCH['head.bias'],
}


def assert_same(a, b):
    assert list(a) == list(b)
    for key in a:
        assert same(a[key], b[key]), key


# ---- which entries are Linear weights


def assert_matrices_called_weight_are_linears(model):
    linears = {f'{name}.weight' for name, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    assert {key for key, value in model.state_dict().items() if layout.is_linear(key, value)} == linears


@pytest.mark.parametrize('name', models.FAMILY)
def test_the_matrices_called_weight_are_the_linear_layers_of_the_family(name):
    with paddle.LazyGuard():
        assert_matrices_called_weight_are_linears(models.build_model(name))


def test_they_are_those_of_every_classifier_of_paddle_vision_too():
    for name in CLASSIFIERS:
        with paddle.LazyGuard():
            assert_matrices_called_weight_are_linears(getattr(paddle.vision.models, name)())


# ---- conversion


def test_from_pytorch_to_paddle_and_back():
    assert_same(layout.to_paddle(TORCH), PADDLE)
    assert_same(layout.to_torch(PADDLE), TORCH)
    naive = {key: value for key, value in TORCH.items() if not key.startswith('bn')}
    assert_same(layout.to_torch(layout.to_paddle(naive)), naive)


def test_nothing_is_copied():
    weights = layout.to_paddle(TORCH)
    assert all(np.shares_memory(weights[key], TORCH.get(key, weights[key])) for key in weights)


def test_of_many_counters_the_first_are_named():
    many = {f'bn{i}.{key[3:]}': value for i in range(5) for key, value in TORCH.items() if key.startswith('bn.')}
    assert layout.counters(many) == 'num_batches_tracked of bn0, bn1, bn2 and 2 more'
    assert layout.counters(TORCH) == 'num_batches_tracked of bn' and layout.counters(PADDLE) == ''


# ---- whose layout it is


@pytest.mark.parametrize('keys', [['bn.running_mean'], ['bn.num_batches_tracked'], ['head.weight', 'head.bias']])
def test_any_of_these_tells_pytorchs_layout(keys):
    weights = {key: TORCH[key] for key in keys}
    assert layout.guess({'blocks.0.attn.proj.weight': array(6, 6), **weights}, 'x') == layout.TORCH


@pytest.mark.parametrize('keys', [['bn._variance'], ['head.weight', 'head.bias'], ['conv.weight']])
def test_any_of_these_tells_paddles_layout_or_that_there_is_no_difference(keys):
    weights = {key: PADDLE[key] for key in keys}
    assert layout.guess(weights, 'x') == layout.PADDLE


@pytest.mark.parametrize('weights', [{'fc.weight': array(4, 4), 'fc.bias': array(4)}, {'fc.weight': array(3, 4)}])
def test_what_could_be_either_is_refused_and_not_guessed(weights):
    with pytest.raises(UserError, match='x.safetensors: nothing tells whether fc.weight'):
        layout.guess(weights, 'x.safetensors')


# ---- counts


@pytest.mark.parametrize('name', ['vit', 'lvvit_s'])
def test_parameters_are_what_is_learned(name, tiny):
    model = models.build_model(name)
    learned = sum(p.size for p in model.parameters() if not p.stop_gradient)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    assert layout.count_parameters(weights) == learned
    assert layout.count_parameters(layout.to_torch(weights)) == learned
