"""util/optim.py: steps against the written-out formulas, decay groups, clipping."""
import numpy as np
import paddle
import pytest

from models import LV_ViT
from util.optim import build_optimizer, decays
from util.runtime import UserError

pytestmark = pytest.mark.cross_version

DECAYED = {f'patch_embed.{n}.weight' for n in ('conv1', 'conv2', 'conv3', 'proj')} \
    | {f'blocks.0.{n}.weight' for n in ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')} \
    | {'head.weight', 'aux_head.weight'}


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
        p = p - lr * (m / (1 - beta1 ** t)) / (np.sqrt(v / (1 - beta2 ** t)) + eps)
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
    assert_same(after, {name: adamw(p, [g[name].astype('float64') for g in grads], 0.01,
                                    0.5 if name in DECAYED else 0.0) for name, p in before.items()})


def test_adamw_takes_betas_and_eps():
    model = model_of(2)
    before, grads = values(model), gradients(model, 3)
    after = run(model, build_optimizer(model, 'adamw', lr=0.01, weight_decay=0.0, betas=(0.7, 0.9), eps=0.05), grads)
    assert_same(after, {name: adamw(p, [g[name].astype('float64') for g in grads], 0.01, 0.0, 0.7, 0.9, 0.05)
                        for name, p in before.items()})


@pytest.mark.parametrize('steps', [1, 3])
def test_momentum_adds_the_decay_to_the_gradient_of_what_decays(steps):
    model = model_of(3)
    before, grads = values(model), gradients(model, steps)
    after = run(model, build_optimizer(model, 'momentum', lr=0.1, weight_decay=0.05, momentum=0.8), grads)
    assert_same(after, {name: momentum(p, [g[name].astype('float64') for g in grads], 0.1,
                                       0.05 if name in DECAYED else 0.0, 0.8) for name, p in before.items()})


@pytest.mark.parametrize('share', [0.25, 4.0])
def test_clipping_scales_all_gradients_by_one_norm_over_all_parameters(share):
    model = model_of(4)
    before, grads = values(model), gradients(model, 2)
    norm = np.sqrt(sum((g.astype('float64') ** 2).sum() for g in grads[0].values()))
    limit = float(share * norm)
    optimizer = build_optimizer(model, 'momentum', lr=0.1, weight_decay=0.0, momentum=0.5, clip_grad=limit)
    after = run(model, optimizer, grads)
    scale = [min(1.0, limit / np.sqrt(sum((g.astype('float64') ** 2).sum() for g in step.values()))) for step in grads]
    assert_same(after, {name: momentum(p, [g[name] * s for g, s in zip(grads, scale)], 0.1, 0.0, 0.5)
                        for name, p in before.items()})


def test_adamw_clips_by_the_same_norm():
    model = model_of(5)
    before, grads = values(model), gradients(model, 2)
    norms = [np.sqrt(sum((g.astype('float64') ** 2).sum() for g in step.values())) for step in grads]
    limit = float(0.3 * min(norms))
    # with a large eps AdamW's step depends on the scale of the gradient
    after = run(model, build_optimizer(model, 'adamw', lr=0.01, weight_decay=0.5, eps=0.05, clip_grad=limit), grads)
    assert_same(after, {name: adamw(p, [g[name] * (limit / n) for g, n in zip(grads, norms)], 0.01,
                                    0.5 if name in DECAYED else 0.0, eps=0.05) for name, p in before.items()})


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


def test_frozen_parameters_stay():
    model = model_of(7)
    model.disable_aux_head()
    optimizer = build_optimizer(model, 'adamw', lr=0.1, weight_decay=0.5)
    run(model, optimizer, gradients(model, 1))
    assert not model.aux_head.weight.numpy().any() and not model.aux_head.bias.numpy().any()


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match='--opt lamb: use adamw or momentum'):
        build_optimizer(model_of(0), 'lamb')
