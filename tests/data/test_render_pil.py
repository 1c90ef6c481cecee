"""util/data/render_pil.py: the pixels are those of every op on the whole image, by Pillow's own functions."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from conftest import ROOT
from util.data import render_pil
from util.data.augment_ops import GEOMETRIC, Op
from util.data.transforms import INTERPOLATIONS, TrainTransform, flip_matrix


FILL = (124, 116, 104)


def by_levels(function):
    return lambda image, argument: image.point([function(level, argument) for level in range(256)] * 3)


def by_enhancer(kind):
    return lambda image, factor: kind(image).enhance(factor)


WHOLE = {
    'Flip': lambda image, _: image.transpose(Image.FLIP_LEFT_RIGHT),
    'AutoContrast': lambda image, _: ImageOps.autocontrast(image),
    'Equalize': lambda image, _: ImageOps.equalize(image),
    'Invert': lambda image, _: ImageOps.invert(image),
    'Posterize': by_levels(lambda level, bits: level >> (8 - bits) << (8 - bits)),
    'Solarize': ImageOps.solarize,
    'SolarizeAdd': by_levels(lambda level, add: min(255, level + add) if level < 128 else level),
    'Color': by_enhancer(ImageEnhance.Color),
    'Contrast': by_enhancer(ImageEnhance.Contrast),
    'Brightness': by_enhancer(ImageEnhance.Brightness),
    'Sharpness': by_enhancer(ImageEnhance.Sharpness),
}
WHOLE['PosterizeOriginal'] = WHOLE['Posterize']


def on_the_whole(image, ops):
    for op in ops:
        if op.name in GEOMETRIC:
            how = Image.AFFINE, tuple(op.matrix[:2].ravel()), op.interpolation
            image = image.transform(image.size, *how, fillcolor=FILL)
        else:
            image = WHOLE[op.name](image, op.argument)
    return image


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
    for number in range(30):
        image = image_of(number)
        draws = transform.draw(image.size, np.random.default_rng(number))
        left, top, width, height = draws.box
        crop = on_the_whole(image, draws.ops).crop((left, top, left + width, top + height))
        expected = crop.resize((32, height), draws.interpolation).resize((32, 32), draws.interpolation)
        before = image.tobytes()
        assert np.array_equal(transform.render(image, draws), np.asarray(expected)), (number, draws)
        assert image.tobytes() == before, 'the source is left as it was'


def test_each_op_needs_no_more_of_the_image_than_this():
    shear = Op('ShearX', 0.1, np.eye(3), Image.BILINEAR)
    ops = [Op('Color', 1), Op('Flip', None, flip_matrix(50)), shear, Op('Sharpness', 1), Op('Invert', None)]
    boxes = render_pil.needed_boxes(ops, (3, 0, 20, 29), (50, 30))
    whole, wider = (0, 0, 50, 30), (2, 0, 21, 30)
    assert boxes == [whole, whole, whole, wider, (3, 0, 20, 29), (3, 0, 20, 29)]
    assert render_pil.needed_boxes(ops[:2], (3, 0, 20, 29), (50, 30))[0] == (30, 0, 47, 29)
    assert render_pil.needed_boxes([Op('Equalize', None)], (3, 0, 20, 29), (50, 30))[0] == whole
