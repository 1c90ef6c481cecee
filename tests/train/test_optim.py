"""util/train/optim.py: steps against the written-out formulas, decay groups, clipping."""

import numpy as np
import paddle
import pytest

from models import LV_ViT
from util.errors import UserError
from util.train.optim import build_optimizer, decays, lr_scales, restore_by_name, state_by_name
from util.weights import checkpoint

pytestmark = pytest.mark.cross_version

DECAYED = (
    {f'patch_embed.{n}.weight' for n in ('conv1', 'conv2', 'conv3', 'proj')}
    | {f'blocks.0.{n}.weight' for n in ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')}
    | {'head.weight', 'aux_head.weight'}
)


def model_of(seed):
    """A tiny model with weights of order 1, so that decay shows everywhere."""
    paddle.seed(seed)
    model = LV_ViT(img_size=32, num_classes=3, embed_dim=8, depth=1, num_heads=2)
    rng = np.random.default_rng(seed)
    for _, p in trained(model):
        p.set_value((rng.choice([-1.0, 1.0], p.shape) * rng.uniform(0.5, 1.5, p.shape)).astype('float32'))
    return model


def trained(model):
    return [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]


def values(model):
    return {name: p.numpy().astype('float64') for name, p in trained(model)}


def gradients(model, steps, seed=7):
    rng = np.random.default_rng(seed)
    return [{name: rng.normal(0, 0.1, p.shape).astype('float32') for name, p in trained(model)} for _ in range(steps)]


def run(model, optimizer, grads):
    """One step for each set of gradients, which arrive through a backward pass."""
    for step in grads:
        loss = paddle.add_n([(p * paddle.to_tensor(step[name])).sum() for name, p in trained(model)])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    return values(model)


def adamw(p, grads, lr, decay, beta1=0.9, beta2=0.999, eps=1e-8):
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p = p - lr * decay * p
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p


def momentum(p, grads, lr, decay, mu):
    velocity = 0.0
    for g in grads:
        velocity = mu * velocity + g + decay * p
        p = p - lr * velocity
    return p


def assert_same(actual, expected):
    for name, value in expected.items():
        assert np.abs(actual[name] - value).max() <= 2e-6, name  # the values are of order 1


def test_what_decays_are_the_matrices_and_convolutions():
    assert {name for name, p in trained(model_of(0)) if decays(name, p)} == DECAYED


@pytest.mark.parametrize('steps', [1, 3])
def test_adamw_decays_decoupled_and_only_what_decays(steps):
    model = model_of(1)
    before, grads = values(model), gradients(model, steps)
    after = run(model, build_optimizer(model, 'adamw', lr=0.01, weight_decay=0.5), grads)
    assert_same(
        after,
        {
            name: adamw(p, [g[name].astype('float64') for g in grads], 0.01, 0.5 if name in DECAYED else 0.0)
            for name, p in before.items()
        },
    )


def test_adamw_takes_betas_and_eps():
    model = model_of(2)
    before, grads = values(model), gradients(model, 3)
    after = run(model, build_optimizer(model, 'adamw', lr=0.01, weight_decay=0.0, betas=(0.7, 0.9), eps=0.05), grads)
    assert_same(
        after,
        {
            name: adamw(p, [g[name].astype('float64') for g in grads], 0.01, 0.0, 0.7, 0.9, 0.05)
            for name, p in before.items()
        },
    )


@pytest.mark.parametrize('steps', [1, 3])
def test_momentum_adds_the_decay_to_the_gradient_of_what_decays(steps):
    model = model_of(3)
    before, grads = values(model), gradients(model, steps)
    after = run(model, build_optimizer(model, 'momentum', lr=0.1, weight_decay=0.05, momentum=0.8), grads)
    assert_same(
        after,
        {
            name: momentum(p, [g[name].astype('float64') for g in grads], 0.1, 0.05 if name in DECAYED else 0.0, 0.8)
            for name, p in before.items()
        },
    )


@pytest.mark.parametrize('share', [0.25, 4.0])
def test_clipping_scales_all_gradients_by_one_norm_over_all_parameters(share):
    model = model_of(4)
    before, grads = values(model), gradients(model, 2)
    norm = np.sqrt(sum((g.astype('float64') ** 2).sum() for g in grads[0].values()))
    limit = float(share * norm)
    optimizer = build_optimizer(model, 'momentum', lr=0.1, weight_decay=0.0, momentum=0.5, clip_grad=limit)
    after = run(model, optimizer, grads)
    scale = [min(1.0, limit / np.sqrt(sum((g.astype('float64') ** 2).sum() for g in step.values()))) for step in grads]
    assert_same(
        after,
        {name: momentum(p, [g[name] * s for g, s in zip(grads, scale)], 0.1, 0.0, 0.5) for name, p in before.items()},
    )


def test_adamw_clips_by_the_same_norm():
    model = model_of(5)
    before, grads = values(model), gradients(model, 2)
    norms = [np.sqrt(sum((g.astype('float64') ** 2).sum() for g in step.values())) for step in grads]
    limit = float(0.3 * min(norms))
    # with a large eps AdamW's step depends on the scale of the gradient
    after = run(model, build_optimizer(model, 'adamw', lr=0.01, weight_decay=0.5, eps=0.05, clip_grad=limit), grads)
    assert_same(
        after,
        {
            name: adamw(
                p,
                [g[name] * (limit / n) for g, n in zip(grads, norms)],
                0.01,
                0.5 if name in DECAYED else 0.0,
                eps=0.05,
            )
            for name, p in before.items()
        },
    )


@pytest.mark.parametrize('opt', ['adamw', 'momentum'])
def test_set_lr_reaches_every_parameter(opt):
    model = model_of(6)
    optimizer = build_optimizer(model, opt, lr=1.0, weight_decay=0.5)
    optimizer.set_lr(0.0)
    before = values(model)
    assert_same(run(model, optimizer, gradients(model, 1)), before)
    optimizer.set_lr(0.01)
    after = run(model, optimizer, gradients(model, 1))
    assert all(np.abs(after[name] - value).max() > 1e-4 for name, value in before.items())


# ---- layer-wise decay of the learning rate


def expected_scale(name, decay, depth=1):
    """BEiT's table, written out for a model of `depth` blocks: stem and embeddings, blocks, norm and heads."""
    table = [
        ('patch_embed', 0),
        ('cls_token', 0),
        ('pos_embed', 0),
        ('norm', depth + 1),
        ('head', depth + 1),
        ('aux_head', depth + 1),
        *[(f'blocks.{i}.', i + 1) for i in range(depth)],
    ]
    for prefix, layer in table:
        if name.startswith(prefix):
            return decay ** (depth + 1 - layer)
    raise AssertionError(name)


def test_the_learning_rate_falls_by_a_factor_from_block_to_block_down_to_the_stem():
    paddle.seed(0)
    model = LV_ViT(img_size=32, num_classes=3, embed_dim=8, depth=12, num_heads=2)
    scales = lr_scales([name for name, _ in trained(model)], 0.65)
    assert scales['patch_embed.conv1.weight'] == scales['cls_token'] == scales['pos_embed'] == 0.65**13
    assert scales['blocks.0.norm1.weight'] == 0.65**12 and scales['blocks.11.mlp.fc2.bias'] == 0.65
    assert {scales[name] for name in scales if 'blocks' not in name} == {0.65**13, 1.0}
    assert scales['norm.weight'] == scales['head.weight'] == scales['aux_head.bias'] == 1.0
    assert all(scale == expected_scale(name, 0.65, 12) for name, scale in scales.items())


@pytest.mark.parametrize('off', [None, 1.0])
def test_without_layer_decay_every_factor_is_one(off):
    names = ['cls_token', 'blocks.0.norm1.bias', 'blocks.1.norm1.bias', 'head.bias']
    assert set(lr_scales(names, off).values()) == {1.0}


def test_adamw_scales_step_and_decay_of_each_layer_and_clips_all_by_one_norm():
    model = model_of(8)
    before, grads = values(model), gradients(model, 3)
    norms = [np.sqrt(sum((g.astype('float64') ** 2).sum() for g in step.values())) for step in grads]
    limit = float(0.3 * min(norms))
    optimizer = build_optimizer(model, 'adamw', lr=0.01, weight_decay=0.5, eps=0.05, clip_grad=limit, layer_decay=0.5)
    after = run(model, optimizer, grads)
    assert_same(
        after,
        {
            name: adamw(
                p,
                [g[name] * (limit / n) for g, n in zip(grads, norms)],
                0.01 * expected_scale(name, 0.5),
                0.5 if name in DECAYED else 0.0,
                eps=0.05,
            )
            for name, p in before.items()
        },
    )


def test_momentum_scales_step_and_decay_of_each_layer():
    model = model_of(9)
    before, grads = values(model), gradients(model, 3)
    optimizer = build_optimizer(model, 'momentum', lr=0.1, weight_decay=0.05, momentum=0.8, layer_decay=0.5)
    after = run(model, optimizer, grads)
    assert_same(
        after,
        {
            name: momentum(
                p,
                [g[name].astype('float64') for g in grads],
                0.1 * expected_scale(name, 0.5),
                0.05 if name in DECAYED else 0.0,
                0.8,
            )
            for name, p in before.items()
        },
    )


@pytest.mark.parametrize('opt', ['adamw', 'momentum'])
def test_layer_decay_follows_the_schedule_and_leaves_no_trace_in_the_model(opt):
    model = model_of(10)
    optimizer = build_optimizer(model, opt, lr=1.0, weight_decay=0.5, layer_decay=0.5)
    optimizer.set_lr(0.0)
    before = values(model)
    assert_same(run(model, optimizer, gradients(model, 1)), before)
    other = model_of(10)
    plain = build_optimizer(other, opt, lr=0.01)
    expected = run(other, plain, gradients(other, 1))
    assert_same(run(model, build_optimizer(model, opt, lr=0.01), gradients(model, 1)), expected)


@pytest.mark.parametrize('opt', ['adamw', 'momentum'])
def test_a_run_with_layer_decay_continues_from_its_state(opt):
    model = model_of(11)
    optimizer, grads = build_optimizer(model, opt, lr=0.01, layer_decay=0.5), gradients(model, 2)
    run(model, optimizer, grads[:1])
    other, state = model_of(12), checkpoint.to_numpy(state_by_name(optimizer, model))
    other.set_state_dict({key: value.numpy() for key, value in model.state_dict().items()})
    again = build_optimizer(other, opt, lr=0.01, layer_decay=0.5)
    restore_by_name(again, other, state, 'x.pd')
    expected, continued = run(model, optimizer, grads[1:]), run(other, again, grads[1:])
    assert all((continued[name] == value).all() for name, value in expected.items())


@pytest.mark.parametrize('factor', [0.0, -0.5, 1.5])
def test_a_factor_that_cannot_be_is_refused(factor):
    with pytest.raises(UserError, match='--layer_decay'):
        build_optimizer(model_of(0), layer_decay=factor)


# ---- what is not trained


def test_frozen_parameters_stay():
    model = model_of(7)
    model.disable_aux_head()
    optimizer = build_optimizer(model, 'adamw', lr=0.1, weight_decay=0.5)
    run(model, optimizer, gradients(model, 1))
    assert not model.aux_head.weight.numpy().any() and not model.aux_head.bias.numpy().any()


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match='--opt lamb: use adamw or momentum'):
        build_optimizer(model_of(0), 'lamb')
