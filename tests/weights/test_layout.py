"""util/weights/layout.py: weights between PyTorch's layout and Paddle's, there and back without a bit changed."""

import numpy as np
import paddle
import pytest

import models
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


def without(weights, *keys):
    return {key: value for key, value in weights.items() if key not in keys}


def assert_same(a, b):
    assert list(a) == list(b)
    for key in a:
        assert a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]), key


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


def test_from_pytorch_to_paddle():
    weights, notes = layout.to_paddle(TORCH, 'x')
    assert_same(weights, PADDLE)
    assert notes == ['left out, for Paddle has no such counter: num_batches_tracked of bn']


def test_from_paddle_to_pytorch():
    weights, notes = layout.to_torch(PADDLE, 'x')
    assert_same(weights, TORCH)
    assert notes == ['added, for PyTorch has such a counter: num_batches_tracked of bn = 0']


def test_of_many_counters_the_first_are_named():
    many = {f'bn{i}.{key[3:]}': value for i in range(5) for key, value in PADDLE.items() if key.startswith('bn.')}
    assert layout.to_torch(many, 'x')[1] == [
        'added, for PyTorch has such a counter: num_batches_tracked of bn0, bn1, bn2 and 2 more = 0'
    ]


def test_there_and_back_is_the_same_in_both_directions():
    assert_same(layout.to_torch(layout.to_paddle(TORCH, 'x')[0], 'x')[0], TORCH)
    assert_same(layout.to_paddle(layout.to_torch(PADDLE, 'x')[0], 'x')[0], PADDLE)


def test_weights_that_have_the_layout_already_stay_as_they_are():
    for convert, weights in ((layout.to_paddle, PADDLE), (layout.to_torch, TORCH)):
        assert convert(weights, 'x') == (weights, [])


def test_without_batch_norm_there_is_nothing_to_say():
    naive = {key: value for key, value in TORCH.items() if not key.startswith('bn')}
    assert layout.to_paddle(naive, 'x')[1] == []
    assert_same(layout.to_torch(layout.to_paddle(naive, 'x')[0], 'x')[0], naive)


def test_nothing_is_copied():
    weights, _ = layout.to_paddle(TORCH, 'x')
    assert all(np.shares_memory(weights[key], TORCH.get(key, weights[key])) for key in weights)


# ---- whose layout it is


@pytest.mark.parametrize('keys', [['bn.running_mean'], ['bn.num_batches_tracked'], ['head.weight', 'head.bias']])
def test_any_of_these_tells_pytorchs_layout(keys):
    weights = {key: TORCH[key] for key in keys}
    assert layout.framework({**weights, 'blocks.0.attn.proj.weight': array(6, 6)}, 'x') == layout.TORCH


@pytest.mark.parametrize('keys', [['bn._variance'], ['head.weight', 'head.bias']])
def test_any_of_these_tells_paddles_layout(keys):
    weights = {key: PADDLE[key] for key in keys}
    assert layout.framework({**weights, 'blocks.0.attn.proj.weight': array(6, 6)}, 'x') == layout.PADDLE


def test_where_the_layouts_are_equal_nothing_needs_to_be_told():
    assert layout.framework({'conv.weight': TORCH['conv.weight'], 'w': array(3, 4), 'epoch': 3}, 'x') is None


@pytest.mark.parametrize(
    'weights, named',
    [({**TORCH, 'bn._mean': array(4)}, 'bn._mean'), ({**PADDLE, 'head.weight': TORCH['head.weight']}, 'head.weight')],
)
def test_a_mixture_is_refused_by_name(weights, named):
    with pytest.raises(UserError, match=f'x.pth: mixes .*{named}'):
        layout.to_paddle(weights, 'x.pth')


@pytest.mark.parametrize('weights', [{'fc.weight': array(4, 4), 'fc.bias': array(4)}, {'fc.weight': array(3, 4)}])
def test_what_could_be_either_is_refused_and_not_guessed(weights):
    with pytest.raises(UserError, match='x.pth: nothing tells whether fc.weight'):
        layout.to_paddle(weights, 'x.pth')


# ---- prefixes and counts


def test_the_prefix_of_dataparallel_goes_if_all_names_have_it():
    assert layout.unwrapped({'module.a': 1, 'module.b.module.c': 2}) == {'a': 1, 'b.module.c': 2}
    for weights in ({'module.a': 1, 'b': 2}, {'modules.a': 1}, {}):
        assert layout.unwrapped(weights) == weights


@pytest.mark.parametrize('name', ['vit', 'lvvit_s'])
def test_parameters_are_what_is_learned(name, tiny):
    model = models.build_model(name)
    learned = sum(p.size for p in model.parameters() if not p.stop_gradient)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    assert layout.count_parameters(weights) == learned
    assert layout.count_parameters(layout.to_torch(weights, 'x')[0]) == learned
