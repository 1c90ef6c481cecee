"""util/data/render_cv2.py: nearly Pillow's pixels, so near that no other op, level, sign, order or colour is nearer.

How near on photos of ImageNet: benchmarks/image_backend.py.
"""

import numpy as np
import pytest
from PIL import Image

import rendered
from conftest import ROOT
from util.data import images, render_cv2
from util.data.augment import NAMES, Op
from util.data.transforms import INTERPOLATIONS, EvalTransform, TrainTransform


PHOTO = Image.open(ROOT / 'demo' / 'chelsea.png').convert('RGB')  # 451 x 300
BY_PILLOW, BY_OPENCV = TrainTransform(96, 'bicubic'), TrainTransform(96, 'bicubic', backend='cv2')


def both(draws, image=PHOTO):
    """What Pillow and OpenCV make of it, int64 [S, S, 3]."""
    return [rendered.pixels(transform, image, draws).astype('int64') for transform in (BY_PILLOW, BY_OPENCV)]


def distance(a, b):
    """Mean absolute difference in grey levels."""
    return np.abs(a - b).mean()


def draws(*ops, box=(150, 80, 126, 118), interpolation=Image.BICUBIC, flip=False, size=PHOTO.size):
    if flip:
        ops = [Op('Flip', None, np.array([[-1.0, 0, size[0]], [0, 1, 0], [0, 0, 1]])), *ops]
    return BY_PILLOW.draw(size, np.random.default_rng(0))._replace(ops=list(ops), box=box, interpolation=interpolation)


class Sign:
    """A generator that draws one sign only."""

    def __init__(self, sign):
        self.value = 0.75 if sign > 0 else 0.25

    def random(self):
        return self.value


def op(name, level, sign=1):
    return BY_PILLOW.augment.op(name, level, PHOTO.size, Sign(sign))


# ---- ops


def variants():
    """An op of each kind at two levels, with both signs where there are two."""
    for name in NAMES:
        seen = set()
        for level, sign in ((9.0, 1), (9.0, -1), (5.0, 1), (5.0, -1)):
            each = op(name, level, sign)
            if each.argument not in seen:
                seen.add(each.argument)
                yield each


VARIANTS = [None, *variants()]
NON_LINEAR = {'Posterize', 'Solarize', 'SolarizeAdd', 'Equalize'}  # where it matters whether pixels are mixed before


@pytest.fixture(scope='module')
def by_pillow():
    return [both(draws(*(each and [each] or [])))[0] for each in VARIANTS]


@pytest.mark.parametrize('number', range(len(VARIANTS)), ids=lambda n: str(VARIANTS[n] and VARIANTS[n][:2]))
def test_an_op_is_nearer_to_the_same_op_by_pillow_than_to_any_other(number, by_pillow):
    each = VARIANTS[number]
    own = both(draws(*(each and [each] or [])))[1]
    distances = [distance(own, other) for other in by_pillow]
    assert distances[number] < (6 if each and each.name in NON_LINEAR else 1.5)
    others = [d for other, d in zip(VARIANTS, distances) if other is not each]
    faint = each is None or each.name == 'Sharpness'  # at this size it changes pixels by 1 or 2 levels
    assert distances[number] < min(others) * (0.9 if faint else 0.25)


@pytest.mark.parametrize('first', ['Rotate', 'ShearY', 'TranslateXRel'])
@pytest.mark.parametrize(
    'second', ['Invert', 'Equalize', 'AutoContrast', 'Contrast', 'Color', 'Brightness', 'Solarize']
)
def test_the_order_of_two_ops_shows_in_what_came_from_outside(first, second):
    """Before a tone op it is changed as all the rest, after it it has the colour of the mean."""
    a, b = op(first, 9.0), op(second, 9.0, -1)
    corner = dict(box=(0, 0, *PHOTO.size))
    (there, own), (back, other) = both(draws(a, b, **corner)), both(draws(b, a, **corner))
    for pillow, opencv, reverse in ((there, own, back), (back, other, there)):
        assert distance(pillow, opencv) < 6 and distance(pillow, opencv) < 0.8 * distance(reverse, opencv)


def test_what_one_op_moved_out_of_the_image_another_does_not_bring_back():
    left, right = op('TranslateXRel', 10.0, 1), op('TranslateXRel', 10.0, -1)
    pillow, opencv = both(draws(left, right, box=(0, 0, *PHOTO.size)))
    assert (opencv[:, :42] == BY_PILLOW.fill).all() and distance(pillow, opencv) < 1.5


@pytest.mark.parametrize('name', ['AutoContrast', 'Equalize', 'Contrast'])
@pytest.mark.parametrize('before', [None, 'Color', 'Rotate'])
def test_statistics_are_those_of_the_whole_image_after_the_ops_before(name, before):
    """The crop is of the darker half alone: by its own statistics it would become much brighter."""
    ramp = np.tile(np.linspace(40, 200, 320).astype('uint8'), (240, 1))
    image = Image.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], -1))
    ops = [BY_PILLOW.augment.op(n, 9.0, image.size, Sign(1)) for n in (before, name) if n]
    pillow, opencv = both(draws(*ops, box=(20, 20, 120, 200), size=image.size), image)
    own = distance(pillow, opencv)
    assert own < 2.5
    alone = image.crop((20, 20, 140, 220))
    assert distance(both(draws(*ops, box=(0, 0, *alone.size), size=alone.size), alone)[0], opencv) > 5 + own


def test_two_hundred_draws_of_the_recipe_are_near():
    distances = []
    for seed in range(200):
        drawn = BY_PILLOW.draw(PHOTO.size, np.random.default_rng(seed))
        same = BY_OPENCV.draw(PHOTO.size, np.random.default_rng(seed))
        assert drawn.box == same.box and np.array_equal(drawn.matrix, same.matrix)
        assert [each[:2] for each in drawn.ops] == [each[:2] for each in same.ops]
        distances.append(distance(*both(drawn)))
    assert np.mean(distances) < 2.2 and np.quantile(distances, 0.9) < 4


# ---- geometry


@pytest.mark.parametrize('interpolation', [Image.BILINEAR, Image.BICUBIC, Image.LANCZOS])
@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('box', [(0, 0, 451, 300), (3, 5, 96, 96), (50, 60, 40, 30), (7, 9, 192, 97), (440, 290, 2, 3)])
def test_a_crop_is_near_and_not_half_a_pixel_beside(box, flip, interpolation):
    pillow, opencv = both(draws(box=box, interpolation=interpolation, flip=flip))
    shifted = [np.roll(pillow, shift, axis=axis) for axis in (0, 1) for shift in (-1, 1)]
    beside = min(distance((pillow + other) / 2, opencv) for other in shifted)
    assert distance(pillow, opencv) < 0.5 * beside + 0.5


def test_nearest_takes_the_pixels_that_pillow_takes():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 451, 3), 'uint8'))
    for box in ((0, 0, 451, 300), (10, 20, 50, 40)):
        pillow, opencv = both(draws(box=box, interpolation=Image.NEAREST, flip=True), image)
        assert (pillow == opencv).all(axis=-1).mean() > 0.97  # a place between two pixels is rounded either way


@pytest.mark.parametrize('name', ['Rotate', 'ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel'])
def test_just_what_comes_from_outside_has_the_colour_of_the_mean(name):
    white = Image.new('RGB', PHOTO.size, (255, 255, 255))
    for sign in (-1, 1):
        pillow, opencv = both(draws(op(name, 9.0, sign), box=(0, 0, *PHOTO.size)), white)
        filled = (opencv == BY_PILLOW.fill).all(axis=-1)
        assert ((opencv == 255).all(axis=-1) | filled).all() and 0.01 < filled.mean() < 0.5
        within = (pillow == 255).all(axis=-1), (pillow == BY_PILLOW.fill).all(axis=-1)
        assert not filled[within[0]].any() and filled[within[1]].all()


@pytest.mark.parametrize('size', [(1, 1), (1, 90), (90, 1), (2, 3), (500, 4)])
def test_images_of_any_shape_have_draws(size):
    image = Image.new('RGB', size, (200, 100, 50))
    for seed in range(60):
        drawn = BY_OPENCV.draw(size, np.random.default_rng(seed))
        assert both(drawn, image)[1].shape == (96, 96, 3)


# ---- shrinking


@pytest.fixture(scope='module')
def grating():
    """Columns (or rows) of 576 px that are black and white in turn: shrunk, it is grey."""
    stripes = np.tile(np.uint8([0, 255]), 288)
    return {
        axis: Image.fromarray(np.repeat(np.broadcast_to(stripes, (576, 576)).swapaxes(0, axis)[..., None], 3, 2))
        for axis in (0, 1)
    }


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('times', [1.7, 2.0, 2.5, 3.0, 4.3, 6.0])
@pytest.mark.parametrize('name', [None, 'Rotate', 'ShearX', 'TranslateYRel'])
def test_what_is_shrunk_does_not_alias(name, times, axis, grating):
    image, side = grating[axis], round(96 * times)
    ops = [] if name is None else [BY_PILLOW.augment.op(name, 3.0, image.size, Sign(1))]
    for interpolation in (Image.BILINEAR, Image.BICUBIC):
        drawn = draws(*ops, box=(0, 0, side, side), interpolation=interpolation, size=image.size)
        pillow, opencv = (pixels[20:-20, 20:-20].astype('float64') for pixels in both(drawn, image))
        assert opencv.std() < pillow.std() + 5 and abs(opencv.mean() - 127.5) < 2
        nearest = both(drawn._replace(interpolation=Image.NEAREST), image)[1][20:-20, 20:-20]
        assert np.abs(nearest - 127.5).mean() > 60, 'this would'


def test_a_large_jpeg_is_decoded_smaller_and_stays_near(tmp_path):
    large = PHOTO.resize((1804, 1200), Image.BICUBIC)
    large.save(tmp_path / 'large.jpg', quality=95)
    pillow, opencv = BY_PILLOW, BY_OPENCV
    for seed in range(40):
        (a, *_), (b, *_) = (t.load(tmp_path / 'large.jpg', np.random.default_rng(seed)) for t in (pillow, opencv))
        drawn = pillow.draw(large.size, np.random.default_rng(seed))
        limit = 6 if {each.name for each in drawn.ops} & NON_LINEAR else 4
        assert distance(a.astype('int64'), b) < limit, drawn


# ---- evaluation


@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
@pytest.mark.parametrize('size, crop_pct', [(224, 0.9), (96, 0.875), (32, 1.0), (448, 1.0)])
def test_evaluation_is_near_and_has_the_same_centre(size, crop_pct, interpolation, tmp_path):
    PHOTO.save(tmp_path / 'photo.jpg', quality=95)
    a, b = (
        EvalTransform(size, crop_pct, interpolation, backend=b).load(tmp_path / 'photo.jpg') for b in ('pil', 'cv2')
    )
    a, b = a.astype('int64'), b.astype('int64')
    assert b.shape == (size, size, 3) and distance(a, b) < (8 if interpolation == 'nearest' else 3.5)
    inner = slice(2, -2), slice(2, -2)
    beside = [distance(np.roll(a, shift, axis=axis)[inner], b[inner]) for axis in (0, 1) for shift in (-1, 1)]
    assert distance(a[inner], b[inner]) < 0.5 * min(beside)


def test_opencv_starts_no_threads():
    assert render_cv2.cv2.getNumThreads() == 1
    assert isinstance(images.open_jpeg(ROOT / 'demo' / 'chelsea.png'), images.DecodedImage)
