"""The ops of RandAugment and AutoAugment: what each does to an image, and its argument at each level (0 … 10).

A geometric op is a 3x3 matrix from output to input pixels, so that a token-label map can follow the image
(transforms.py). Coordinates are continuous: pixel (0, 0) spans [0, 1]². A photometric op is a table of the 256 levels
of a channel, for both backends; Color and Sharpness need more than a level and are in render_pil.py and render_cv2.py.
"""

import math
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
from PIL import Image

MAX_LEVEL = 10.0


class Op(NamedTuple):
    """A drawn op: its name and argument; of a geometric op also the matrix and the PIL filter to resample with."""

    name: str
    argument: Any
    matrix: Optional[np.ndarray] = None  # float64 [3, 3], output point to input point
    interpolation: Optional[int] = None


# -- geometric ops: (argument, width, height) -> matrix, output point to input point ----------------------------------


def shear_x(arg, width, height):
    return np.array([[1, arg, 0], [0, 1, 0], [0, 0, 1]], 'float64')


def shear_y(arg, width, height):
    return np.array([[1, 0, 0], [arg, 1, 0], [0, 0, 1]], 'float64')


def translate_x(arg, width, height):
    return np.array([[1, 0, arg * width], [0, 1, 0], [0, 0, 1]], 'float64')


def translate_y(arg, width, height):
    return np.array([[1, 0, 0], [0, 1, arg * height], [0, 0, 1]], 'float64')


def rotate(arg, width, height):
    """Counter-clockwise by `arg` degrees about the centre. Rounded as PIL.Image.rotate rounds: its pixels exactly."""
    angle = -math.radians(arg % 360)
    cos, sin, cx, cy = round(math.cos(angle), 15), round(math.sin(angle), 15), width / 2, height / 2
    return np.array([[cos, sin, -cos * cx - sin * cy + cx], [-sin, cos, sin * cx - cos * cy + cy], [0, 0, 1]])


# -- photometric ops as tables: argument -> level of the result for each of the 256 levels -----------------------------

LEVELS = np.arange(256)
RAMP = Image.fromarray(LEVELS.astype('uint8')[None])


def blend(level, factor):
    """From `level` everywhere (factor 0) to the image itself (1) and beyond, rounded as Pillow's enhancers round."""
    return np.asarray(Image.blend(Image.new('L', RAMP.size, level), RAMP, factor))[0]


def invert(argument):
    return 255 - LEVELS


def posterize(bits):
    """Keep the highest `bits` bits. 0 bits, at level 10 of the increasing set, leave a black image."""
    return LEVELS & 0xFF & ~(2 ** (8 - bits) - 1)


def solarize(threshold):
    return np.where(LEVELS < threshold, LEVELS, 255 - LEVELS)


def solarize_add(add):
    return np.where(LEVELS < 128, np.minimum(LEVELS + add, 255), LEVELS)


def brightness(factor):
    return blend(0, factor)


# Ops that need statistics of the whole image: (counts int [256], the pixels of each level; argument) -> table.


def autocontrast(counts, argument):
    """Stretch the range from the darkest to the brightest level that occurs to 0 … 255."""
    (present,) = np.nonzero(counts)
    darkest, brightest = present[0], present[-1]
    if darkest == brightest:
        return LEVELS
    scale = 255 / (brightest - darkest)
    return (LEVELS * scale - darkest * scale).astype('int64').clip(0, 255)


def equalize(counts, argument):
    """Make each level occur about equally often: a level becomes the share of the pixels that are darker."""
    (present,) = np.nonzero(counts)
    step = (counts.sum() - counts[present[-1]]) // 255
    if step == 0:
        return LEVELS
    darker = np.cumsum(counts) - counts
    return ((darker + step // 2) // step).clip(0, 255)


def contrast(counts, factor):
    """Blend with the mean grey. counts: of the grey image."""
    return blend(int(counts @ LEVELS / counts.sum() + 0.5), factor)


TABLES = {
    'Invert': invert,
    'Posterize': posterize,
    'PosterizeOriginal': posterize,
    'Solarize': solarize,
    'SolarizeAdd': solarize_add,
    'Brightness': brightness,
}
TABLES_BY_STATISTICS = {'AutoContrast': autocontrast, 'Equalize': equalize, 'Contrast': contrast}


def level_table(op, counts=None):
    """uint8 [1 or 3, 256]: what an Op makes of each level, of all channels or of each of the three.

    counts: for TABLES_BY_STATISTICS int [3, 256], how many pixels of the whole image have each level in each channel;
    for Contrast [1, 256], of its grey values.
    """
    if op.name in TABLES:
        rows = [TABLES[op.name](op.argument)]
    else:
        rows = [TABLES_BY_STATISTICS[op.name](row, op.argument) for row in counts]
    return np.array(rows, 'uint8')


# -- levels (0 … 10) to arguments: functions (level, rng) -> argument --------------------------------------------------


def rising(growth, base=0.0, kind=float):
    """From `base` at level 0 to `base` + `growth` at level 10."""
    return lambda level, rng: kind(base + level / MAX_LEVEL * growth)


def rising_with_random_sign(growth, base=0.0):
    """`base` plus or minus a term that rises from 0 to `growth`."""
    return lambda level, rng: base + level / MAX_LEVEL * growth * (-1 if rng.random() < 0.5 else 1)


def falling(top):
    """A whole number, falling from `top` to 0."""
    return lambda level, rng: top - int(level / MAX_LEVEL * top)


def no_argument(level, rng):
    return None


class Geometric(NamedTuple):
    matrix: Callable  # (argument, width, height) -> matrix
    argument: Callable  # (level, rng) -> argument


class Photometric(NamedTuple):
    argument: Callable  # (level, rng) -> argument
    increasing: Callable  # the same in the "increasing" set (inc1), whose ops grow stronger with the level


GEOMETRIC = {
    'Rotate': Geometric(rotate, rising_with_random_sign(30.0)),
    'ShearX': Geometric(shear_x, rising_with_random_sign(0.3)),
    'ShearY': Geometric(shear_y, rising_with_random_sign(0.3)),
    'TranslateXRel': Geometric(translate_x, rising_with_random_sign(0.45)),
    'TranslateYRel': Geometric(translate_y, rising_with_random_sign(0.45)),
}
ENHANCEMENT = rising(1.8, base=0.1)  # factor 1, at level 5, leaves the image as it is
STRONGER_ENHANCEMENT = rising_with_random_sign(0.9, base=1.0)  # level 0 leaves the image as it is
PHOTOMETRIC = {
    'AutoContrast': Photometric(no_argument, no_argument),
    'Equalize': Photometric(no_argument, no_argument),
    'Invert': Photometric(no_argument, no_argument),
    'Posterize': Photometric(rising(4, kind=int), falling(4)),
    'PosterizeOriginal': Photometric(rising(4, base=4, kind=int), falling(4)),  # of AutoAugment's paper
    'Solarize': Photometric(rising(256, kind=int), falling(256)),
    'SolarizeAdd': Photometric(rising(110, kind=int), rising(110, kind=int)),
    'Color': Photometric(ENHANCEMENT, STRONGER_ENHANCEMENT),
    'Contrast': Photometric(ENHANCEMENT, STRONGER_ENHANCEMENT),
    'Brightness': Photometric(ENHANCEMENT, STRONGER_ENHANCEMENT),
    'Sharpness': Photometric(ENHANCEMENT, STRONGER_ENHANCEMENT),
}
