"""util/deploy/insight.py: what is read inside a model is what the model itself calculates with."""

import numpy as np
import paddle
import pytest
from inference_helpers import random_images, random_model

import models
from util.deploy import insight

pytestmark = pytest.mark.cross_version

BLOCKS, TOKENS = 6, 4  # of lvvit_nano at 32 px


@pytest.fixture(scope='module')
def model():
    return random_model()


def random_maps(blocks=3, batch=2, heads=4, size=5):
    """Attention maps whose rows sum to 1."""
    maps = np.random.default_rng(0).uniform(0, 1, (blocks, batch, heads, size, size))
    return list((maps / maps.sum(axis=-1, keepdims=True)).astype('float32'))


def rollout_in_loops(maps, branch_scale):
    """The formula of insight.rollout, written out number by number."""
    _, batch, heads, size, _ = np.shape(maps)
    result = np.zeros((batch, size, size))
    for b in range(batch):
        total = [[float(i == j) for j in range(size)] for i in range(size)]
        for attention in maps:
            step = [[0.0] * size for _ in range(size)]
            for i in range(size):
                for j in range(size):
                    mean = sum(float(attention[b, h, i, j]) for h in range(heads)) / heads
                    step[i][j] = ((i == j) + branch_scale * mean) / (1 + branch_scale)
                row = sum(step[i])
                step[i] = [value / row for value in step[i]]
            total = [[sum(step[i][k] * total[k][j] for k in range(size)) for j in range(size)] for i in range(size)]
        result[b] = total
    return result


@pytest.mark.parametrize('branch_scale', [1.0, 1 / 2, 1 / 3])
def test_rollout_is_its_formula_and_its_rows_sum_to_1(branch_scale):
    maps = random_maps()
    result = insight.rollout(maps, branch_scale)
    assert result.dtype == np.float64 and result.shape == (2, 5, 5)
    np.testing.assert_allclose(result, rollout_in_loops(maps, branch_scale), rtol=1e-12)
    np.testing.assert_allclose(result.sum(axis=-1), 1, rtol=1e-12)


def test_without_scaling_a_block_counts_half_itself_and_half_its_attention():
    (attention,) = random_maps(blocks=1)
    expected = 0.5 * np.eye(5) + 0.5 * attention.mean(axis=1)
    np.testing.assert_allclose(insight.rollout([attention]), expected, atol=1e-6)


def test_rollout_goes_from_the_first_block_to_the_last():
    """Block 1: token 0 looks at token 1 alone. Block 2: token 2 looks at token 0 alone. So 2 sees 1, 1 only itself."""
    first, second = np.eye(3), np.eye(3)
    first[0], second[2] = [0, 1, 0], [1, 0, 0]
    result = insight.rollout([first[None, None], second[None, None]])[0]
    assert result[2].tolist() == [0.25, 0.25, 0.5] and result[1].tolist() == [0, 1, 0]


def test_the_attention_read_is_the_attention_used(model):
    """Applied to the values and projected it gives what the attention layers gave."""
    images = paddle.to_tensor(random_images(2))
    maps = insight.attention_maps(model, images)
    attentions = [block.attn for block in model.blocks]
    qkv, _ = insight.outputs_of([attention.qkv for attention in attentions], model, images)
    outputs, _ = insight.outputs_of(attentions, model, images)
    assert len(maps) == BLOCKS
    for layer, weights, mixed, output in zip(attentions, maps, qkv, outputs):
        assert weights.shape == (2, 4, 1 + TOKENS, 1 + TOKENS)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
        values = mixed.numpy()[..., -128:].reshape(2, 1 + TOKENS, 4, 32).transpose(0, 2, 1, 3)
        gathered = (weights @ values).transpose(0, 2, 1, 3).reshape(2, 1 + TOKENS, 128)
        np.testing.assert_allclose(layer.proj(paddle.to_tensor(gathered)).numpy(), output.numpy(), atol=1e-5)


def test_the_class_token_s_rollout_is_relative_to_an_even_share(model):
    (image,) = random_images(1)
    share = insight.class_rollout(model, image)
    assert share.shape == (TOKENS,) and share.mean() == pytest.approx(1) and share.std() > 1e-6
    total = insight.rollout(insight.attention_maps(model, paddle.to_tensor(image[None])))
    np.testing.assert_allclose(share / TOKENS, total[0, 0, 1:] / total[0, 0, 1:].sum(), rtol=1e-12)


def test_scaled_residual_branches_weigh_less_in_the_rollout(tiny):
    """lvvit_s divides its branches by 2: Â = (I + A / 2) / 1.5."""
    paddle.seed(0)
    model = models.build_model('lvvit_s', img_size=32, num_classes=3)
    model.eval()
    (image,) = random_images(1)
    maps = insight.attention_maps(model, paddle.to_tensor(image[None]))
    expected = rollout_in_loops(maps, 0.5)[0, 0, 1:]
    np.testing.assert_allclose(insight.class_rollout(model, image), expected / expected.mean(), rtol=1e-9)


def test_the_last_block_s_tokens_are_the_model_s_own(model):
    (image,) = random_images(1)
    scores, tokens = insight.scores_and_tokens(model, image)
    assert scores.shape == (10,) and tokens.shape == (BLOCKS, TOKENS, 10)
    given = paddle.to_tensor(image[None])
    softmax = paddle.nn.functional.softmax
    np.testing.assert_allclose(scores, softmax(model(given))[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(tokens[-1], softmax(model.forward_dense(given)[1])[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(tokens.sum(axis=-1), 1, rtol=1e-5)
    assert np.abs(tokens[0] - tokens[-1]).max() > 0.01


def test_the_first_block_s_tokens_are_read_through_the_final_norm(model):
    given = paddle.to_tensor(random_images(1))
    x = model.patch_embed(given).flatten(2).transpose([0, 2, 1])
    x = paddle.concat([model.cls_token, x], axis=1) + model.pos_embed
    logits = model.aux_head(model.norm(model.blocks[0](x))[:, 1:])
    _, tokens = insight.scores_and_tokens(model, given[0].numpy())
    np.testing.assert_allclose(tokens[0], paddle.nn.functional.softmax(logits)[0].numpy(), atol=1e-6)


@pytest.mark.parametrize('name', ['vit', 'lvvit_nano'])
def test_tokens_without_a_trained_classifier_say_nothing(tiny, name):
    model = models.build_model(name, img_size=32, num_classes=3)
    model.disable_aux_head()
    model.eval()
    scores, tokens = insight.scores_and_tokens(model, random_images(1)[0])
    assert scores.sum() == pytest.approx(1, abs=1e-5) and tokens is None and not insight.says_something(model)


def test_no_hook_is_left_behind(model):
    images = paddle.to_tensor(random_images(1))
    insight.attention_maps(model, images)
    with pytest.raises(Exception):
        insight.outputs_of(model.blocks, model, images[:, :1])  # one channel
    assert not any(layer._forward_post_hooks for layer in model.sublayers())
