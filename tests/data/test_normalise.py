"""normalise.py: bytes become what the network takes, on arrays and on tensors alike; random erasing."""

import numpy as np
import paddle
import pytest

from util.data.augment import draw_erasing, pack_erased
from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD, erase, network_input, normalise, to_input

MEAN, STD = (0.1, 0.25, 0.7), (0.5, 0.2, 0.31)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, 'uint8')


def by_hand(images, mean, std):
    """In float64."""
    return ((images / 255.0 - mean) / std).transpose(0, 3, 1, 2)


@pytest.mark.cross_version
@pytest.mark.parametrize('how', [(), (MEAN, STD)], ids=['of ImageNet', 'of others'])
def test_bytes_become_normalised_float32_channels_first(how):
    images = pixels(4, 6, 5, 3)
    mean, std = how or (IMAGENET_MEAN, IMAGENET_STD)
    planes = normalise(images, *how)
    assert planes.dtype == np.float32 and planes.shape == (4, 3, 6, 5) and planes.flags.c_contiguous
    np.testing.assert_allclose(planes, by_hand(images, mean, std), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(to_input(images[2], mean, std), planes[2])


@pytest.mark.cross_version
def test_tensors_are_normalised_where_they_are_to_the_same_numbers(monkeypatch):
    tensor = paddle.to_tensor(pixels(3, 8, 8, 3))
    monkeypatch.setattr(paddle.Tensor, 'numpy', lambda _: pytest.fail('waits for the device'))
    there = normalise(tensor, MEAN, STD)
    monkeypatch.undo()
    assert there.dtype == paddle.float32
    np.testing.assert_allclose(there.numpy(), normalise(tensor.numpy(), MEAN, STD), rtol=0, atol=1e-6)


@pytest.mark.cross_version
def test_an_input_outlives_the_array_whose_memory_it_shares():
    batches = [{'image': paddle.to_tensor(pixels(8, 64, 64, 3, seed=i))} for i in range(20)]
    for batch in batches:
        network_input(batch, MEAN, STD)
    for i, batch in enumerate(batches):
        assert isinstance(batch['image'], paddle.Tensor) and batch['image'].stop_gradient
        assert np.array_equal(batch['image'].numpy(), normalise(pixels(8, 64, 64, 3, seed=i), MEAN, STD))


# ---- random erasing


def erased(seed, **kwargs):
    """Mask of the values that random erasing changes in an array of sevens, and the array."""
    array = np.full((1, 3, 40, 60), 7.0, 'float32')
    erase(array, *draw_erasing(40, 60, np.random.default_rng(seed), **kwargs))
    return (array[0] != 7.0), array[0]


@pytest.mark.parametrize('mode', ['pixel', 'rand', 'const'])
def test_erasing_fills_one_box_of_the_permitted_area_and_nothing_else(mode):
    areas = []
    for seed in range(200):
        mask, array = erased(seed, probability=1.0, mode=mode)
        ys, xs = np.nonzero(mask[0])
        box = np.zeros((40, 60), bool)
        box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
        assert all(np.array_equal(channel, box) for channel in mask)
        areas.append(box.mean())
        inside = array[:, box]
        if mode == 'const':
            assert not inside.any()
        elif mode == 'rand':
            assert (inside == inside[:, :1]).all() and len(np.unique(inside[:, 0])) == 3
        elif box.sum() > 200:
            assert abs(inside.mean()) < 0.3 and 0.8 < inside.std() < 1.2
    assert 0.01 < min(areas) < 0.05 and 0.28 < max(areas) < 0.36


@pytest.mark.parametrize('probability', [0.0, 0.25, 1.0])
def test_images_are_erased_with_the_given_probability(probability):
    rng = np.random.default_rng(0)
    share = np.mean([draw_erasing(32, 32, rng, probability) is not None for _ in range(2000)])
    assert abs(share - probability) < 0.03


@pytest.mark.cross_version
@pytest.mark.parametrize('kind', [np.asarray, paddle.to_tensor], ids=['arrays', 'tensors'])
def test_the_images_of_a_batch_get_the_values_that_were_drawn_for_them(kind):
    rng = np.random.default_rng(3)
    drawn = [draw_erasing(24, 24, rng, 0.6, 'pixel', count=3) for _ in range(12)]
    expected = normalise(pixels(12, 24, 24, 3), MEAN, STD)
    for image, erased in zip(expected, drawn):
        if erased is not None:
            image.reshape(-1)[erased.positions] = erased.values
    batch = {'image': kind(pixels(12, 24, 24, 3)), 'label': 0}
    batch.update({name: kind(part) for name, part in pack_erased(drawn, 3 * 24 * 24).items()})
    network_input(batch, MEAN, STD)
    assert set(batch) == {'image', 'label'} and np.array_equal(np.asarray(batch['image']), expected)


def test_a_batch_in_which_nothing_is_erased_carries_nothing_of_it():
    assert pack_erased([None, None], 12) == {}
