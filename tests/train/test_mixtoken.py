"""util/train/mixtoken.py: the box and the exchange of tokens. (The loss mixes by its share: test_loss.py.)"""

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


def test_the_mean_area_is_that_of_clipped_cutmix_boxes_and_beta_shapes_it():
    """Area share uniform, sides halved and floored, centre uniform, clipped at the border."""

    def areas(count, **beta):
        rng = np.random.default_rng(1)
        boxes = np.array([mixtoken.rand_box(14, 14, rng, **beta) for _ in range(count)])
        return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 196

    expected = 0.0
    for share in (np.arange(5000) + 0.5) / 5000:
        half = int(14 * share**0.5) // 2
        length = np.mean([min(centre + half, 14) - max(centre - half, 0) for centre in range(14)])
        expected += (length / 14) ** 2 / 5000  # the two axes are independent
    drawn = areas(10000)
    assert abs(drawn.mean() - expected) < 5 * drawn.std() / 10000**0.5
    assert areas(4000, beta=50.0).std() < 0.75 * drawn.std(), 'Beta(50, 50) is close to one half'


@pytest.mark.parametrize('batch', [2, 5])
def test_swap_takes_exactly_the_inside_from_the_reversed_batch(batch):
    x = np.random.default_rng(3).normal(size=(batch, 3, 6, 6)).astype('float32')
    expected = x.copy()
    expected[:, :, 1:3, 2:6] = x[::-1, :, 1:3, 2:6]
    mixed = mixtoken.swap(paddle.to_tensor(x), mixtoken.mask((1, 2, 3, 6), 6))
    assert np.array_equal(mixed.numpy(), expected)


@pytest.mark.parametrize('box', [mixtoken.EMPTY_BOX, (2, 0, 2, 4), (0, 3, 4, 3)])
def test_a_box_without_tokens_returns_the_input_itself(box):
    x = paddle.ones([2, 1, 4, 4])
    assert mixtoken.mask(box, 4) is None and mixtoken.swap(x, None) is x
