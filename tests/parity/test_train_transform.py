"""The train transform is the original's with label maps: flip, RandAugment, crop, normalisation, erasing."""

import numpy as np
import pytest
from PIL import Image

import rendered
from parity.draws import Draws, share
from parity.photos import photos
from util.data.augment import draw_erasing
from util.data.transforms import TrainTransform, erase, random_crop_box, to_input

SECTION = 'Train transform'
EXTREME = [(1000, 100), (100, 1000), (200, 5), (5, 400)]
SIZES = [(500, 375), (375, 500), (640, 427), (224, 224), (33, 47), (4000, 3000), *EXTREME]


# ---- random resized crop


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_with_the_same_draws_the_crop_is_the_same(size, original, fidelity, monkeypatch):
    draws = Draws(1)
    ours = [random_crop_box(*size, draws) for _ in range(2000)]
    share(monkeypatch, original, Draws(1))
    crop, image = original.timm.data.transforms.RandomResizedCropAndInterpolation, Image.new('1', size)
    wrong = sum((y, x, h, w) != crop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for x, y, w, h in ours)
    fidelity(SECTION, 'crops that differ, same draws, 10 image sizes of 2,000', wrong, 0, 'count')
    centred = [((size[0] - w) // 2, (size[1] - h) // 2) == (x, y) for x, y, w, h in ours]
    assert size not in EXTREME or sum(centred) > 100, 'the way out after ten misses was not taken'


# ---- random erasing


def painted(image, erased):
    """An image [3, H, W] with what was drawn for it erased."""
    return image if erased is None else erase(image[None], *erased)[0]


@pytest.mark.parametrize('mode', ['pixel', 'rand', 'const'])
@pytest.mark.parametrize('count', [1, 3])
def test_with_the_same_draws_the_same_values_are_erased(mode, count, original, fidelity, monkeypatch):
    erasing = original.timm.data.random_erasing.RandomErasing(0.6, mode=mode, max_count=count, device='cpu')
    wrong = erased = 0
    for seed in range(400):
        own = painted(np.full((3, 32, 40), 9.0, 'float32'), draw_erasing(32, 40, Draws(seed), 0.6, mode, count))
        with monkeypatch.context() as patch:
            share(patch, original, Draws(seed))
            expected = erasing(original.torch.full((3, 32, 40), 9.0)).numpy()
        wrong += not np.array_equal(own, expected)
        erased += (own != 9.0).any()
    fidelity(SECTION, 'erased images that differ, same draws, 6 settings of 400', wrong, 0, 'count')
    assert 200 < erased < 280


# ---- the whole


@pytest.mark.parametrize(
    'size, interpolation, aa, erase',
    [
        (224, 'random', 'rand-m9-mstd0.5-inc1', ('pixel', 1)),
        (64, 'bilinear', 'rand-m5-n3', ('rand', 3)),
        (96, 'random', 'rand-m7-mstd1-w0', ('const', 2)),
    ],
    ids=str,
)
def test_with_the_same_draws_a_sample_is_the_same_from_the_photo_to_the_network(
    size, interpolation, aa, erase, original, fidelity, monkeypatch
):
    mode, count = erase
    ours = TrainTransform(size, interpolation, aa, reprob=0.5, remode=mode, recount=count)
    same = dict(auto_augment=aa, interpolation=interpolation, re_prob=0.5, re_mode=mode, re_count=count)
    theirs = original.tlt.data.label_transforms_factory.create_token_label_transform(size, is_training=True, **same)
    label = original.torch.zeros(2, 5, 18, 18)
    kinds = set()
    for seed in range(50):
        photo = photos()[seed % 3].crop((0, 0, 200 + 3 * seed, 300 - 3 * seed))
        draws = Draws(seed)
        image, matrix = rendered.sample(ours, photo, draws)
        own = painted(to_input(image), draw_erasing(size, size, draws, 0.5, mode, count))
        with monkeypatch.context() as patch:
            share(patch, original, Draws(seed))
            expected, _ = theirs(photo, label)
        assert own.shape == tuple(expected.shape) and own.dtype == np.float32
        what = f'whole transform, same draws ({aa}, {interpolation}, {mode})'
        fidelity(SECTION, what, np.abs(own - expected.numpy()).max(), 0, 'max abs difference')
        kinds.add((matrix[0, 0] < 0, abs(matrix[0, 1]) > 0))
    assert len(kinds) == 4, 'not all of: flipped or not, sheared or not'


def test_differs_on_purpose_nearest_is_nearest_not_bilinear(original):
    assert original.timm.data.transforms._pil_interp('nearest') == Image.BILINEAR
    assert TrainTransform(32, 'nearest').interpolation == Image.NEAREST
