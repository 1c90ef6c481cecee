"""util/data/render_cv2.py: nearly Pillow's pixels, so near that no other op, level, sign, order or colour is nearer.

docs/results/cv2.md tells how near on photos of ImageNet.
"""

import numpy as np
import pytest
from PIL import Image

import rendered
from conftest import ROOT
from util.data import images, render_cv2
from util.data.augment import NAMES
from util.data.augment_ops import Op
from util.data.transforms import INTERPOLATIONS, EvalTransform, TrainTransform, flip_matrix


PHOTO = Image.open(ROOT / 'demo' / 'chelsea.png').convert('RGB')  # 451 x 300
BY_PILLOW, BY_OPENCV = TrainTransform(96, 'bicubic'), TrainTransform(96, 'bicubic', backend='cv2')
WHOLE = (0, 0, *PHOTO.size)


def both(draws, image=PHOTO):
    """What Pillow and OpenCV make of it, int64 [S, S, 3]."""
    return [rendered.pixels(transform, image, draws).astype('int64') for transform in (BY_PILLOW, BY_OPENCV)]


def distance(a, b):
    """Mean absolute difference in grey levels."""
    return np.abs(a - b).mean()


def draws(*ops, box=(150, 80, 126, 118), interpolation=Image.BICUBIC, flip=False, size=PHOTO.size):
    if flip:
        ops = [Op('Flip', None, flip_matrix(size[0])), *ops]
    return BY_PILLOW.draw(size, np.random.default_rng(0))._replace(ops=list(ops), box=box, interpolation=interpolation)


class Sign:
    """A generator that draws one sign only."""

    def __init__(self, sign):
        self.value = 0.75 if sign > 0 else 0.25

    def random(self):
        return self.value


def op(name, level, sign=1, size=PHOTO.size):
    return BY_PILLOW.augment.op(name, level, size, Sign(sign))


# ---- ops

LEVELS_AND_SIGNS = ((9.0, 1), (9.0, -1), (5.0, 1), (5.0, -1))
ALL_OPS = [op(name, level, sign) for name in NAMES for level, sign in LEVELS_AND_SIGNS]
VARIANTS = [None, *{(each.name, each.argument): each for each in ALL_OPS}.values()]  # None: no op
NON_LINEAR = {'Posterize', 'Solarize', 'SolarizeAdd', 'Equalize'}  # where it matters whether pixels are mixed before


def test_an_op_is_nearer_to_the_same_op_by_pillow_than_to_any_other():
    pairs = [both(draws(*([each] if each else []))) for each in VARIANTS]
    for number, each in enumerate(VARIANTS):
        distances = [distance(pairs[number][1], pillow) for pillow, _ in pairs]
        same = distances.pop(number)
        faint = each is None or each.name == 'Sharpness'  # at this size it changes pixels by 1 or 2 levels
        assert same < (6 if each and each.name in NON_LINEAR else 1.5), each
        assert same < min(distances) * (0.9 if faint else 0.25), each


@pytest.mark.parametrize('name', ['AutoContrast', 'Equalize', 'Contrast'])
@pytest.mark.parametrize('before', [None, 'Color', 'Rotate'])
def test_statistics_are_those_of_the_whole_image_after_the_ops_before(name, before):
    """The crop is of the darker half alone: by its own statistics it would become much brighter."""
    ramp = np.tile(np.linspace(40, 200, 320).astype('uint8'), (240, 1))
    image = Image.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], -1))
    ops = [op(n, 9.0, size=image.size) for n in (before, name) if n]
    pillow, opencv = both(draws(*ops, box=(20, 20, 120, 200), size=image.size), image)
    own = distance(pillow, opencv)
    assert own < 2.5
    alone = image.crop((20, 20, 140, 220))
    assert distance(both(draws(*ops, box=(0, 0, *alone.size), size=alone.size), alone)[0], opencv) > 5 + own


def test_two_hundred_draws_of_the_recipe_are_near():
    drawn = [BY_PILLOW.draw(PHOTO.size, np.random.default_rng(seed)) for seed in range(200)]
    distances = [distance(*both(each)) for each in drawn]
    assert np.mean(distances) < 2.2 and np.quantile(distances, 0.9) < 4


# ---- geometry


@pytest.mark.parametrize('interpolation', [Image.BILINEAR, Image.BICUBIC, Image.LANCZOS])
@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('box', [WHOLE, (3, 5, 96, 96), (50, 60, 40, 30), (7, 9, 192, 97), (440, 290, 2, 3)])
def test_a_crop_is_near_and_not_half_a_pixel_beside(box, flip, interpolation):
    pillow, opencv = both(draws(box=box, interpolation=interpolation, flip=flip))
    shifted = [np.roll(pillow, shift, axis=axis) for axis in (0, 1) for shift in (-1, 1)]
    beside = min(distance((pillow + other) / 2, opencv) for other in shifted)
    assert distance(pillow, opencv) < 0.5 * beside + 0.5


def test_nearest_takes_the_pixels_that_pillow_takes():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 451, 3), 'uint8'))
    for box in (WHOLE, (10, 20, 50, 40)):
        pillow, opencv = both(draws(box=box, interpolation=Image.NEAREST, flip=True), image)
        assert (pillow == opencv).all(axis=-1).mean() > 0.97  # a place between two pixels is rounded either way


@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize('name', ['Rotate', 'ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel'])
def test_points_outside_the_image_and_no_others_have_the_colour_of_the_mean(name, sign):
    white = Image.new('RGB', PHOTO.size, (255, 255, 255))
    pillow, opencv = both(draws(op(name, 9.0, sign), box=WHOLE), white)
    filled = (opencv == BY_PILLOW.fill).all(axis=-1)
    assert ((opencv == 255).all(axis=-1) | filled).all() and 0.01 < filled.mean() < 0.5
    assert not filled[(pillow == 255).all(axis=-1)].any() and filled[(pillow == BY_PILLOW.fill).all(axis=-1)].all()


# ---- shrinking


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('times', [1.7, 2.0, 2.5, 4.3, 6.0])
@pytest.mark.parametrize('name', [None, 'Rotate', 'ShearX', 'TranslateYRel'])
def test_a_grating_that_is_shrunk_becomes_grey(name, times, axis):
    """Its columns (or rows) are black and white in turn: it aliases unless it is blurred along the right axis."""
    stripes = np.broadcast_to(np.tile(np.uint8([0, 255]), 288), (576, 576)).swapaxes(0, axis)
    image, side = Image.fromarray(np.repeat(stripes[..., None], 3, 2)), round(96 * times)
    ops = [op(name, 3.0, size=image.size)] if name else []
    for interpolation in (Image.BILINEAR, Image.BICUBIC):
        drawn = draws(*ops, box=(0, 0, side, side), interpolation=interpolation, size=image.size)
        pillow, opencv = (pixels[20:-20, 20:-20].astype('float64') for pixels in both(drawn, image))
        assert opencv.std() < pillow.std() + 5 and abs(opencv.mean() - 127.5) < 2
    nearest = both(drawn._replace(interpolation=Image.NEAREST), image)[1][20:-20, 20:-20]
    assert np.abs(nearest - 127.5).mean() > 60, 'without a filter it aliases'


def test_a_large_jpeg_is_decoded_smaller_and_stays_near(tmp_path):
    large = PHOTO.resize((1804, 1200), Image.BICUBIC)
    large.save(tmp_path / 'large.jpg', quality=95)
    for seed in range(20):
        (a, *_), (b, *_) = (t.load(tmp_path / 'large.jpg', np.random.default_rng(seed)) for t in (BY_PILLOW, BY_OPENCV))
        drawn = BY_PILLOW.draw(large.size, np.random.default_rng(seed))
        limit = 6 if {each.name for each in drawn.ops} & NON_LINEAR else 4
        assert distance(a.astype('int64'), b) < limit, drawn


def test_it_is_decoded_in_full_for_autocontrast_and_for_the_nearest_filter(monkeypatch):
    allowed = []
    image = images.DecodedImage(np.asarray(PHOTO))
    monkeypatch.setattr(image, 'decode', lambda max_shrink=1: allowed.append(max_shrink) or (image.array, 1))
    for drawn in (draws(), draws(op('AutoContrast', 9)), draws(interpolation=Image.NEAREST)):
        BY_OPENCV.render(image, drawn._replace(box=(0, 0, 288, 192)))
    for interpolation in (Image.BICUBIC, Image.NEAREST):
        render_cv2.eval_pixels(image, (200, 100), (0, 0), 96, interpolation)
    assert allowed == [2, 1, 1, 451 / 200, 1]


# ---- evaluation


@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
@pytest.mark.parametrize('size, crop_pct', [(224, 0.9), (32, 1.0), (448, 1.0)])
def test_evaluation_is_near_and_has_the_same_centre(size, crop_pct, interpolation, tmp_path):
    PHOTO.save(tmp_path / 'photo.jpg', quality=95)
    a, b = (
        EvalTransform(size, crop_pct, interpolation, backend=b).load(tmp_path / 'photo.jpg').astype('int64')
        for b in ('pil', 'cv2')
    )
    assert b.shape == (size, size, 3) and distance(a, b) < (8 if interpolation == 'nearest' else 3.5)
    inner = slice(2, -2), slice(2, -2)
    beside = [distance(np.roll(a, shift, axis=axis)[inner], b[inner]) for axis in (0, 1) for shift in (-1, 1)]
    assert distance(a[inner], b[inner]) < 0.5 * min(beside)
