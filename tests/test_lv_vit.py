"""lv_vit.py: the forward pass against one that is written out, MixToken, dropout. Sizes: test_model_info.py; initial
values, drop path and the names of parameters: tests/parity/."""

import math

import numpy as np
import paddle
import pytest
from paddle import nn

import lv_vit
from lv_vit import LV_ViT
from util.train.mixtoken import EMPTY_BOX

pytestmark = pytest.mark.cross_version


def tiny(seed=0, **kwargs):
    paddle.seed(seed)
    return LV_ViT(**{**dict(img_size=32, num_classes=7, embed_dim=16, depth=2, num_heads=2, skip_lam=2.0), **kwargs})


def randomise(model, seed=0):
    """Every weight and statistic away from its initial value, so that none can be left out unnoticed."""
    rng = np.random.default_rng(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith('_variance'):
            value = rng.uniform(0.5, 2.0, tensor.shape)
        elif tensor.ndim == 1 and name.endswith('weight'):
            value = rng.uniform(0.5, 1.5, tensor.shape)
        else:
            value = rng.normal(0.0, 0.2 if tensor.ndim != 4 else 1 / math.sqrt(np.prod(tensor.shape[1:])), tensor.shape)
        tensor.set_value(value.astype('float32'))
    return model


def images(batch, size=32, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, 3, size, size)).astype('float32')


def close(actual, expected, tolerance=1e-5):
    """Relative to the largest value."""
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


# ---- the same forward pass, written out in float64

ERF = np.vectorize(math.erf)


def conv2d(x, weight, bias, stride, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    out = np.tensordot(windows, weight, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
    return out if bias is None else out + bias[:, None, None]


def batch_norm(x, w, name):
    mean, var = w[f'{name}._mean'], w[f'{name}._variance']
    x = (x - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    return x * w[f'{name}.weight'][:, None, None] + w[f'{name}.bias'][:, None, None]


def layer_norm(x, w, name):
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return x * w[f'{name}.weight'] + w[f'{name}.bias']


def dense(x, w, name):
    return x @ w[f'{name}.weight'] + w[f'{name}.bias']


def attention(x, w, name, heads):
    batch, tokens, dim = x.shape
    qkv, size = x @ w[f'{name}.qkv.weight'], dim // heads
    out = np.empty_like(x)
    for h in range(heads):
        q, k, v = (qkv[:, :, part * dim + h * size : part * dim + (h + 1) * size] for part in range(3))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(size)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, :, h * size : (h + 1) * size] = scores / scores.sum(-1, keepdims=True) @ v
    return dense(out, w, f'{name}.proj')


def stem(x, w, naive=False, patch=16, statistics_of_batch=False):
    """The patch embedding, [B, D, H, W]; statistics_of_batch: batch norm as in training, which replaces those in w."""
    if naive:
        return conv2d(x, w['patch_embed.proj.weight'], w['patch_embed.proj.bias'], patch, 0)
    for i, (stride, padding) in enumerate(((2, 3), (1, 1), (1, 1)), 1):
        x = conv2d(x, w[f'patch_embed.conv{i}.weight'], None, stride, padding)
        if statistics_of_batch:
            w[f'patch_embed.bn{i}._mean'], w[f'patch_embed.bn{i}._variance'] = x.mean((0, 2, 3)), x.var((0, 2, 3))
        x = np.maximum(batch_norm(x, w, f'patch_embed.bn{i}'), 0.0)
    return conv2d(x, w['patch_embed.proj.weight'], w['patch_embed.proj.bias'], patch // 2, 0)


def reference(model, x, depth=2, heads=2, skip_lam=2.0, **of_stem):
    """(class scores, token scores, features of all tokens) in float64."""
    w = {name: tensor.numpy().astype('float64') for name, tensor in model.state_dict().items()}
    x = stem(x.astype('float64'), w, **of_stem)
    x = x.reshape(x.shape[0], x.shape[1], -1).transpose(0, 2, 1)
    x = np.concatenate([np.broadcast_to(w['cls_token'], (len(x), 1, x.shape[2])), x], axis=1) + w['pos_embed']
    for i in range(depth):
        x = x + attention(layer_norm(x, w, f'blocks.{i}.norm1'), w, f'blocks.{i}.attn', heads) / skip_lam
        hidden = dense(layer_norm(x, w, f'blocks.{i}.norm2'), w, f'blocks.{i}.mlp.fc1')
        hidden = hidden * 0.5 * (1.0 + ERF(hidden / math.sqrt(2.0)))
        x = x + dense(hidden, w, f'blocks.{i}.mlp.fc2') / skip_lam
    x = layer_norm(x, w, 'norm')
    return dense(x[:, 0], w, 'head'), dense(x[:, 1:], w, 'aux_head') if 'aux_head.weight' in w else None, x


STEMS = [dict(stem=stem) for stem in ('4_2', '4_2_128', 'naive')]
SIZES = [dict(skip_lam=1.0), dict(num_heads=4), dict(img_size=48), dict(patch_size=8)]


@pytest.mark.parametrize('how', STEMS + SIZES, ids=str)
def test_the_forward_pass_equals_the_one_written_out_in_float64(how):
    model, x = randomise(tiny(**how)), images(2, how.get('img_size', 32))
    model.eval()
    numbers = dict(heads=how.get('num_heads', 2), skip_lam=how.get('skip_lam', 2.0))
    cls, aux, features = reference(
        model, x, naive=how.get('stem') == 'naive', patch=how.get('patch_size', 16), **numbers
    )
    assert close(model.forward_features(paddle.to_tensor(x)).numpy(), features)
    own_cls, own_aux = model.forward_dense(paddle.to_tensor(x))
    assert close(own_cls.numpy(), cls) and close(own_aux.numpy(), aux)
    assert close(model(paddle.to_tensor(x)).numpy(), cls + 0.5 * aux.max(axis=1))


def test_features_are_made_from_embeddings_by_the_steps_that_the_port_has():
    model, x = randomise(tiny(img_size=48)), paddle.to_tensor(images(2, 48))
    model.eval()
    embeddings = model.forward_embeddings(x)
    assert embeddings.shape == [2, 16, 3, 3]
    features = model.forward_tokens(embeddings.flatten(2).transpose([0, 2, 1]))
    assert features.shape == [2, 10, 16] and np.array_equal(features.numpy(), model.forward_features(x).numpy())
    assert model.no_weight_decay() == {'pos_embed', 'cls_token'}


def test_without_an_aux_head_or_with_a_disabled_one_the_output_is_that_of_the_class_token_alone():
    x = images(2)
    without, disabled = randomise(tiny(return_dense=False)), randomise(tiny())
    disabled.disable_aux_head()
    for model in (without, disabled):
        model.eval()
        assert close(model(paddle.to_tensor(x)).numpy(), reference(model, x)[0])
    without.train()
    cls, aux, box = without(paddle.to_tensor(x))
    assert cls.shape == [2, 7] and aux is None and box == EMPTY_BOX
    trained = {name for name, p in disabled.named_parameters() if not p.stop_gradient}
    assert trained == {name for name, p in without.named_parameters() if not p.stop_gradient}


def test_in_training_the_stem_normalises_with_the_statistics_of_the_batch():
    model, x = randomise(tiny()), images(3)
    model.train()
    cls, aux, _ = model(paddle.to_tensor(x), EMPTY_BOX)
    expected = reference(model, x, statistics_of_batch=True)
    assert close(cls.numpy(), expected[0], 2e-5) and close(aux.numpy(), expected[1], 2e-5)


# ---- training forward


def test_drop_path_drops_samples_at_a_rate_that_grows_from_0_and_scales_the_others():
    model = tiny(depth=3, drop_path_rate=0.5, stem='naive')
    assert [block.drop_path.rate for block in model.blocks] == [0.0, 0.25, 0.5]
    block, x = randomise(model).blocks[1], paddle.to_tensor(images(400))
    paddle.seed(3)
    out = block.drop_path(x).numpy()
    dropped = (out == 0).all(axis=(1, 2, 3))
    assert abs(dropped.mean() - 0.25) < 0.1
    np.testing.assert_allclose(out[~dropped], x.numpy()[~dropped] / 0.75, rtol=1e-6)
    tokens = paddle.to_tensor(np.random.default_rng(5).normal(size=(400, 5, 16)).astype('float32'))
    unchanged = np.abs((block(tokens) - tokens).numpy()).max(axis=(1, 2)) == 0.0
    assert 5 < unchanged.sum() < 60, 'a sixteenth: both branches dropped'
    block.eval()
    assert (np.abs((block(tokens) - tokens).numpy()).max(axis=(1, 2)) > 0).all()


def test_without_a_box_training_draws_one_and_returns_what_it_mixed():
    model = randomise(tiny(img_size=64, stem='naive'))
    model.train()
    x = paddle.to_tensor(images(2, 64))
    np.random.seed(0)
    drawn = []
    for _ in range(8):
        cls, _, box = model(x)
        drawn.append(box)
        assert np.array_equal(model(x, box)[0].numpy(), cls.numpy())
    assert len(set(drawn)) > 3
    model.mix_token = False
    assert model(x)[2] == EMPTY_BOX


@pytest.mark.parametrize('batch', [2, 3])
@pytest.mark.parametrize('box', [(0, 1, 2, 4), (1, 1, 2, 2), (0, 0, 4, 4)])
def test_mixing_tokens_equals_mixing_the_patches_and_sorting_the_token_scores_back(batch, box):
    """With the naive stem a token is one patch of 16 x 16 pixels, so MixToken can be done on the image by hand."""
    model, x = randomise(tiny(img_size=64, stem='naive')), images(batch, 64)
    model.train()
    top, left, bottom, right = box
    mixed = x.copy()
    area = np.s_[:, :, 16 * top : 16 * bottom, 16 * left : 16 * right]
    mixed[area] = x[::-1][area]
    cls, aux, returned = model(paddle.to_tensor(x), box)
    assert returned == box
    mixed_cls, mixed_aux, _ = model(paddle.to_tensor(mixed), EMPTY_BOX)
    expected = mixed_aux.numpy().reshape(batch, 4, 4, 7).copy()
    expected[:, top:bottom, left:right] = expected[::-1, top:bottom, left:right].copy()
    assert close(cls.numpy(), mixed_cls.numpy())
    assert close(aux.numpy(), expected.reshape(batch, 16, 7))
    plain = model(paddle.to_tensor(x), EMPTY_BOX)[0].numpy()
    assert not np.allclose(plain[0], cls.numpy()[0], atol=1e-3)  # and mixing does change the scores


def test_dropout_and_mixtoken_are_for_training_only():
    model, x = randomise(tiny(drop_rate=0.5, stem='naive')), paddle.to_tensor(images(2))
    model.eval()
    assert np.array_equal(model(x, (0, 0, 2, 2)).numpy(), model(x).numpy())
    model.train()
    assert not np.array_equal(model(x, EMPTY_BOX)[0].numpy(), model(x, EMPTY_BOX)[0].numpy())
    assert sum(isinstance(layer, nn.Dropout) and layer.p == 0.5 for layer in model.sublayers()) == 1 + 2 * 2


# ---- memory


def test_recomputed_blocks_run_twice_and_give_the_same_gradients():
    gradients, calls = [], []
    for recompute in (False, True):
        model = randomise(tiny(depth=3, drop_rate=0.3, drop_path_rate=0.5, recompute=recompute))
        model.train()
        for block in model.blocks:
            block.register_forward_pre_hook(lambda block, inputs: calls.append(recompute))
        paddle.seed(3)
        cls, aux, _ = model(paddle.to_tensor(images(4)), (0, 1, 2, 2))
        (cls.square().sum() + aux.square().sum()).backward()
        gradients.append({name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None})
    assert calls == [False] * 3 + [True] * 6
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 40
    for name in gradients[0]:
        assert np.array_equal(gradients[0][name], gradients[1][name]), name


@pytest.mark.parametrize('width', [8, 6])
def test_fused_attention_gives_the_result_and_the_gradients_of_the_written_out_form(monkeypatch, width):
    attention = lv_vit.Attention(2 * width, num_heads=2)
    results = []
    for fused in (False, True):
        monkeypatch.setattr(lv_vit, 'uses_fused_attention', lambda q: fused)
        x = paddle.to_tensor(np.random.default_rng(4).normal(size=(3, 5, 2 * width)), 'float32', stop_gradient=False)
        out = attention(x)
        (out * paddle.arange(2.0 * width)).sum().backward()
        results.append((out.numpy(), x.grad.numpy(), attention.qkv.weight.grad.numpy()))
        attention.clear_gradients()
    for written_out, fused in zip(*results):
        assert close(fused, written_out)
