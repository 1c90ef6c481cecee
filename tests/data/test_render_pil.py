"""util/data/render_pil.py: the pixels are those of every op on the whole image, by Pillow's own functions."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from conftest import ROOT
from util.data import render_pil
from util.data.augment import GEOMETRIC, NAMES, PHOTOMETRIC, Op
from util.data.transforms import INTERPOLATIONS, TrainTransform

pytestmark = pytest.mark.cross_version

FILL = (124, 116, 104)


def by_levels(function):
    return lambda image, argument: image.point([function(level, argument) for level in range(256)] * 3)


def by_enhancer(kind):
    return lambda image, factor: kind(image).enhance(factor)


def posterized(level, bits):
    return level >> (8 - bits) << (8 - bits)


WHOLE = {
    'Flip': lambda image, _: image.transpose(Image.FLIP_LEFT_RIGHT),
    'AutoContrast': lambda image, _: ImageOps.autocontrast(image),
    'Equalize': lambda image, _: ImageOps.equalize(image),
    'Invert': lambda image, _: ImageOps.invert(image),
    'Posterize': by_levels(posterized),
    'PosterizeOriginal': by_levels(posterized),
    'Solarize': ImageOps.solarize,
    'SolarizeAdd': by_levels(lambda level, add: min(255, level + add) if level < 128 else level),
    'Color': by_enhancer(ImageEnhance.Color),
    'Contrast': by_enhancer(ImageEnhance.Contrast),
    'Brightness': by_enhancer(ImageEnhance.Brightness),
    'Sharpness': by_enhancer(ImageEnhance.Sharpness),
}


def on_the_whole(image, op):
    if op.name in GEOMETRIC:
        how = Image.AFFINE, tuple(op.matrix[:2].ravel()), op.interpolation
        return image.transform(image.size, *how, fillcolor=FILL)
    return WHOLE[op.name](image, op.argument)


def plainly(image, draws, size):
    """uint8 [size, size, 3]: the ops one after the other, then the crop, resized across and then down."""
    for op in draws.ops:
        image = on_the_whole(image, op)
    left, top, width, height = draws.box
    crop = image.crop((left, top, left + width, top + height))
    across = crop.resize((size, height), draws.interpolation)
    return np.asarray(across.resize((size, size), draws.interpolation))


def image_of(number):
    """Images that differ in size, in smoothness and in how many levels they have."""
    rng = np.random.default_rng(number)
    width, height = (int(side) for side in rng.integers(1, 120, 2))
    photo = Image.open(ROOT / 'demo' / 'chelsea.png').convert('RGB')
    return [
        lambda: Image.fromarray(rng.integers(0, 256, (height, width, 3), 'uint8')),
        lambda: photo.crop((number, 7, number + width, 7 + height)),
        lambda: photo.resize((width, height)).point(lambda level: 60 + level // 3),
        lambda: Image.new('RGB', (width, height), (7, 100, 9)),
        lambda: Image.fromarray(rng.integers(0, 2, (height, width, 3), 'uint8') * 255),
    ][number % 5]()


@pytest.mark.parametrize('interpolation', ['random', *INTERPOLATIONS])
@pytest.mark.parametrize('aa', ['rand-m9-mstd0.5-inc1', 'rand-m10-n5', 'original', 'v0', ''])
def test_only_what_the_crop_needs_is_computed_and_it_is_the_same(aa, interpolation):
    transform = TrainTransform(32, interpolation, aa)
    assert transform.fill == FILL
    for number in range(40):
        image = image_of(number)
        draws = transform.draw(image.size, np.random.default_rng(number))
        before = image.tobytes()
        assert np.array_equal(transform.render(image, draws), plainly(image, draws, 32)), (number, draws)
        assert image.tobytes() == before, 'the source is left as it was'


@pytest.mark.parametrize('name', ['Flip', *NAMES, 'PosterizeOriginal'])
def test_any_box_of_any_op_is_that_box_of_the_whole(name):
    """Between two other ops, boxes at the edges of the image and inside it."""
    policy = TrainTransform(32, interpolation='random', aa='rand-inc1').augment
    for number in range(20):
        image, rng = image_of(number), np.random.default_rng(number)
        width, height = image.size
        names = [str(rng.choice(NAMES)), name, str(rng.choice(NAMES))]
        ops = [Op('Flip', None) if n == 'Flip' else policy.op(n, rng.uniform(0, 10), image.size, rng) for n in names]
        whole = image
        for op in ops:
            whole = on_the_whole(whole, op)
        left, top = int(rng.integers(width)), int(rng.integers(height))
        box = (left, top, int(rng.integers(left, width)) + 1, int(rng.integers(top, height)) + 1)
        for box in (box, (0, 0, width, height)):
            assert np.array_equal(
                np.asarray(render_pil.apply_ops(image, ops, box, FILL)), np.asarray(whole.crop(box))
            ), ops


def test_every_op_has_its_pixels_compared_here():
    assert set(WHOLE) - {'Flip'} == set(PHOTOMETRIC)
