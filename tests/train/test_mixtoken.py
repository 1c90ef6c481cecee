"""util/train/mixtoken.py: the box, its share, and the exchange of tokens."""

import numpy as np
import paddle
import pytest

from util.train import mixtoken

pytestmark = pytest.mark.cross_version


@pytest.mark.parametrize('height, width', [(14, 14), (4, 9), (1, 1)])
def test_a_box_lies_within_the_grid(height, width):
    rng = np.random.default_rng(0)
    for _ in range(500):
        top, left, bottom, right = mixtoken.rand_box(height, width, rng)
        assert 0 <= top <= bottom <= height and 0 <= left <= right <= width
        assert all(type(v) is int for v in (top, left, bottom, right))


def expected_share(n, shares):
    """Mean area share of CutMix boxes on an n x n grid: area share uniform, sides halved and floored, centre
    uniform, clipped at the border."""
    total = 0.0
    for share in shares:
        half = int(n * share**0.5) // 2
        length = np.mean([min(centre + half, n) - max(centre - half, 0) for centre in range(n)])
        total += (length / n) ** 2  # the two axes are independent
    return total / len(shares)


def test_the_mean_area_is_that_of_clipped_cutmix_boxes():
    rng = np.random.default_rng(1)
    boxes = np.array([mixtoken.rand_box(14, 14, rng) for _ in range(20000)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 196
    expected = expected_share(14, (np.arange(5000) + 0.5) / 5000)
    assert abs(shares.mean() - expected) < 5 * shares.std() / 20000**0.5
    assert 0.2 < expected < 0.35  # neither empty nor the whole grid


def test_beta_shapes_the_area():
    rng = np.random.default_rng(2)

    def area(beta):
        boxes = np.array([mixtoken.rand_box(14, 14, rng, beta) for _ in range(4000)])
        return ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).std()

    assert area(50.0) < 0.75 * area(1.0)  # Beta(50, 50) is concentrated at one half


@pytest.mark.parametrize('box, share', [((1, 2, 3, 5), 1 - 6 / 16), ((0, 0, 4, 4), 0.0), (mixtoken.EMPTY_BOX, 1.0)])
def test_kept_share_is_the_share_of_tokens_outside_the_box(box, share):
    assert mixtoken.kept_share(box, 16) == pytest.approx(share)


@pytest.mark.parametrize('batch', [2, 5])
def test_swap_takes_exactly_the_inside_from_the_reversed_batch(batch):
    x = np.random.default_rng(3).normal(size=(batch, 3, 6, 6)).astype('float32')
    expected = x.copy()
    for i in range(batch):
        expected[i, :, 1:3, 2:6] = x[batch - 1 - i, :, 1:3, 2:6]
    mixed = mixtoken.swap(paddle.to_tensor(x), mixtoken.mask((1, 2, 3, 6), 6))
    assert np.array_equal(mixed.numpy(), expected)
    assert not np.array_equal(mixed.numpy(), x)


def test_swapping_twice_restores_the_input():
    x = paddle.to_tensor(np.random.default_rng(4).normal(size=(4, 2, 5, 5)).astype('float32'))
    inside = mixtoken.mask((0, 1, 3, 4), 5)
    assert np.array_equal(mixtoken.swap(mixtoken.swap(x, inside), inside).numpy(), x.numpy())


@pytest.mark.parametrize('box', [mixtoken.EMPTY_BOX, (2, 0, 2, 4), (0, 3, 4, 3)])
def test_a_box_without_tokens_returns_the_input_itself(box):
    x = paddle.ones([2, 1, 4, 4])
    assert mixtoken.mask(box, 4) is None and mixtoken.swap(x, None) is x


def test_the_gradient_of_a_token_goes_to_the_image_it_came_from():
    x = paddle.zeros([2, 1, 2, 2])
    x.stop_gradient = False
    weight = np.arange(8, dtype='float32').reshape(2, 1, 2, 2)
    (mixtoken.swap(x, mixtoken.mask((0, 0, 1, 1), 2)) * paddle.to_tensor(weight)).sum().backward()
    expected = weight.copy()
    expected[0, 0, 0, 0], expected[1, 0, 0, 0] = weight[1, 0, 0, 0], weight[0, 0, 0, 0]
    assert np.array_equal(x.grad.numpy(), expected)
