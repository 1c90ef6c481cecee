"""tools/insight.py: token predictions, attention and rollout are what the model itself computes."""

import math

import numpy as np
import paddle
import pytest
from inference_helpers import random_images, random_model

import lv_vit
import models
from tools import insight

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


@pytest.mark.parametrize('branch_scale', [1.0, 1 / 3])
def test_rollout_is_its_formula_and_its_rows_sum_to_1(branch_scale):
    maps = random_maps()
    result = insight.rollout(maps, branch_scale)
    assert result.dtype == np.float64 and result.shape == (2, 5, 5)
    np.testing.assert_allclose(result, rollout_in_loops(maps, branch_scale), rtol=1e-12)
    np.testing.assert_allclose(result.sum(axis=-1), 1, rtol=1e-12)


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
        values = mixed.numpy()[..., -128:].reshape(2, 1 + TOKENS, 4, 32).transpose(0, 2, 1, 3)
        gathered = (weights @ values).transpose(0, 2, 1, 3).reshape(2, 1 + TOKENS, 128)
        np.testing.assert_allclose(layer.proj(paddle.to_tensor(gathered)).numpy(), output.numpy(), atol=1e-5)


def test_the_class_tokens_rollout_takes_the_scaled_residuals_and_has_mean_1(tiny):
    """lvvit_s divides its branches by 2: Â = (I + A / 2) / 1.5."""
    paddle.seed(0)
    model = models.build_model('lvvit_s', img_size=32, num_classes=3)
    model.eval()
    (image,) = random_images(1)
    maps = insight.attention_maps(model, paddle.to_tensor(image[None]))
    expected = rollout_in_loops(maps, 0.5)[0, 0, 1:]
    np.testing.assert_allclose(insight.class_rollout(model, image), expected / expected.mean(), rtol=1e-9)


def test_the_last_blocks_tokens_are_the_models_own_and_the_first_ones_go_through_the_final_norm(model):
    (image,) = random_images(1)
    scores, tokens = insight.scores_and_tokens(model, image)
    assert scores.shape == (10,) and tokens.shape == (BLOCKS, TOKENS, 10)
    given, softmax = paddle.to_tensor(image[None]), paddle.nn.functional.softmax
    np.testing.assert_allclose(scores, softmax(model(given))[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(tokens[-1], softmax(model.forward_dense(given)[1])[0].numpy(), atol=1e-6)
    x = model.patch_embed(given).flatten(2).transpose([0, 2, 1])
    x = model.blocks[0](paddle.concat([model.cls_token, x], axis=1) + model.pos_embed)
    first = softmax(model.aux_head(model.norm(x)[:, 1:]))[0].numpy()
    np.testing.assert_allclose(tokens[0], first, atol=1e-6)
    assert np.abs(tokens[0] - tokens[-1]).max() > 0.01


@pytest.mark.parametrize('name', ['vit', 'lvvit_nano'])
def test_without_a_trained_token_classifier_there_are_no_token_scores(tiny, name):
    model = models.build_model(name, img_size=32, num_classes=3)
    model.disable_aux_head()
    model.eval()
    scores, tokens = insight.scores_and_tokens(model, random_images(1)[0])
    assert scores.sum() == pytest.approx(1, abs=1e-5) and tokens is None


# ---- relevance


def written_out_relevance(model, image, class_id):
    """The formula in float64: the forward pass by hand, ∂score/∂A of each block by moving one entry of A at a time."""
    w = {name: value.numpy().astype('float64') for name, value in model.state_dict().items()}
    x = model.forward_embeddings(paddle.to_tensor(image[None])).numpy().astype('float64')[0]
    start = np.concatenate([w['cls_token'][0], x.reshape(x.shape[0], -1).T]) + w['pos_embed'][0]
    heads, depth = model.blocks[0].attn.num_heads, len(model.blocks)

    def norm(x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * w[f'{name}.weight']
            + w[f'{name}.bias']
        )

    def linear(x, name):
        return x @ w[f'{name}.weight'] + w.get(f'{name}.bias', 0)

    def score(moved=None):
        """(score, [A of each block]); moved: (block, head, row, column, by how much)."""
        x, maps = start, []
        for i in range(depth):
            q, k, v = np.split(linear(norm(x, f'blocks.{i}.norm1'), f'blocks.{i}.attn.qkv'), 3, axis=-1)
            q, k, v = (part.reshape(len(x), heads, -1).transpose(1, 0, 2) for part in (q, k, v))
            a = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
            a /= a.sum(axis=-1, keepdims=True)
            maps.append(a.copy())
            if moved and moved[0] == i:
                a[moved[1:4]] += moved[4]
            x = (
                x
                + linear((a @ v).transpose(1, 0, 2).reshape(x.shape), f'blocks.{i}.attn.proj')
                * model.blocks[i].skip_scale
            )
            hidden = linear(norm(x, f'blocks.{i}.norm2'), f'blocks.{i}.mlp.fc1')
            hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
            x = x + linear(hidden, f'blocks.{i}.mlp.fc2') * model.blocks[i].skip_scale
        return linear(norm(x, 'norm')[0], 'head')[class_id], maps

    _, maps = score()
    total = np.eye(len(start))
    for i, a in enumerate(maps):
        gradient = np.zeros_like(a)
        for place in np.ndindex(a.shape):
            up, down = (score((i, *place, by))[0] for by in (1e-5, -1e-5))
            gradient[place] = (up - down) / 2e-5
        total = total + np.maximum(0, gradient * a).mean(axis=0) @ total
    return total[0, 1:]


def test_relevance_is_its_formula_written_out_in_float64():
    paddle.seed(1)
    model = lv_vit.LV_ViT(img_size=32, num_classes=5, embed_dim=12, depth=3, num_heads=3, skip_lam=2.0, stem='naive')
    rng = np.random.default_rng(3)
    for p in model.parameters():
        p.set_value(rng.normal(0, 0.4, p.shape).astype('float32'))
    model.eval()
    image = rng.normal(size=(3, 32, 32)).astype('float32')
    for class_id in (0, 4):
        expected = written_out_relevance(model, image, class_id)
        assert expected.max() > 1.2 * expected.min() >= 0, 'tokens differ'
        np.testing.assert_allclose(insight.class_relevance(model, image, class_id), expected, rtol=1e-3, atol=1e-6)
