"""util/train/optim.py: steps against the written-out formulas, decay groups, clipping, layer-wise decay."""

import numpy as np
import paddle
import pytest

from lv_vit import LV_ViT
from util.errors import UserError
from util.train.optim import build_optimizer, lr_scales

pytestmark = pytest.mark.cross_version

DECAYED = {f'patch_embed.{n}.weight' for n in ('conv1', 'conv2', 'conv3', 'proj')}
DECAYED |= {f'blocks.0.{n}.weight' for n in ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')}
DECAYED |= {'head.weight', 'aux_head.weight'}


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


def norms(grads):
    """One norm over all parameters for each step."""
    return [np.sqrt(sum((g.astype('float64') ** 2).sum() for g in step.values())) for step in grads]


def run(model, optimizer, grads):
    """One step for each set of gradients, which arrive through a backward pass."""
    for step in grads:
        loss = paddle.add_n([(p * paddle.to_tensor(step[name])).sum() for name, p in trained(model)])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    return values(model)


def adamw(p, grads, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    (beta1, beta2), m, v = betas, 0.0, 0.0
    for t, g in enumerate(grads, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p = p - lr * decay * p
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p


def sgd(p, grads, lr, decay, momentum=0.9):
    velocity = 0.0
    for g in grads:
        velocity = momentum * velocity + g + decay * p
        p = p - lr * velocity
    return p


def expected_scale(name, decay, depth=1):
    """BEiT's table, written out for a model of `depth` blocks: stem and embeddings, blocks, norm and heads."""
    layers = {'patch_embed': 0, 'cls_token': 0, 'pos_embed': 0, 'norm': depth + 1, 'head': depth + 1}
    layers['aux_head'] = depth + 1
    first, *rest = name.split('.')
    layer = int(rest[0]) + 1 if first == 'blocks' else layers[first]
    return decay ** (depth + 1 - layer)


def assert_same(actual, expected):
    for name, value in expected.items():
        assert np.abs(actual[name] - value).max() <= 2e-6, name  # the values are of order 1


@pytest.mark.parametrize(
    'opt, lr, decay, clip, layer_decay, more',
    [
        ('adamw', 0.01, 0.5, None, None, {}),
        ('adamw', 0.01, 0.5, 0.0, None, {}),  # clip_grad 0: no clipping
        ('adamw', 0.01, 0.0, None, None, dict(betas=(0.7, 0.9), eps=0.05)),
        # with a large eps AdamW's step depends on the scale of the gradient
        ('adamw', 0.01, 0.5, 0.3, 0.5, dict(eps=0.05)),
        ('momentum', 0.1, 0.05, None, None, dict(momentum=0.8)),
        ('momentum', 0.1, 0.05, 0.25, 0.5, dict(momentum=0.5)),
        ('momentum', 0.1, 0.0, 4.0, None, dict(momentum=0.5)),
    ],
)
def test_steps_are_those_of_the_formula(opt, lr, decay, clip, layer_decay, more):
    """Decay (of what decays) is decoupled in AdamW and part of the gradient in SGD; clipping scales all gradients by
    one norm over all parameters; layer decay scales step and decay of each layer."""
    model = model_of(1)
    before, grads = values(model), gradients(model, 3)
    limit = clip and float(clip * min(norms(grads)))
    options = dict(weight_decay=decay, clip_grad=limit, layer_decay=layer_decay, **more)
    optimizer = build_optimizer(model, opt, lr=1.0, **options)
    optimizer.set_lr(lr)
    after = run(model, optimizer, grads)
    shares = [min(1.0, limit / norm) if limit else 1.0 for norm in norms(grads)]
    formula = {'adamw': adamw, 'momentum': sgd}[opt]
    expected = {}
    for name, p in before.items():
        clipped = [g[name].astype('float64') * share for g, share in zip(grads, shares)]
        own_lr = lr * expected_scale(name, layer_decay or 1.0)
        expected[name] = formula(p, clipped, own_lr, decay if name in DECAYED else 0.0, **more)
    assert_same(after, expected)


def test_the_learning_rate_falls_by_a_factor_from_block_to_block_down_to_the_stem():
    paddle.seed(0)
    model = LV_ViT(img_size=32, num_classes=3, embed_dim=8, depth=12, num_heads=2)
    scales = lr_scales([name for name, _ in trained(model)], 0.65)
    assert all(scale == expected_scale(name, 0.65, 12) for name, scale in scales.items())
    for off in (None, 1.0):
        assert set(lr_scales(list(scales), off).values()) == {1.0}


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match='--opt lamb: use adamw or momentum'):
        build_optimizer(model_of(0), opt='lamb')
