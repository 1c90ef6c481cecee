"""RandAugment (arXiv 1909.13719) in timm's dialect: `rand-m9-mstd0.5-inc1`.

Every op maps (image, argument) to an image; the geometric ones are 3x3 matrices from output to input pixels, so that
a token-label map can follow the image (transforms.py). Coordinates are continuous, pixel (0, 0) spans [0, 1]².
"""

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from util.errors import UserError

MAX_LEVEL = 10.0
TRANSLATE_SHARE = 0.45
APPLY_PROBABILITY = 0.5
RANDOM_INTERPOLATION = (Image.BILINEAR, Image.BICUBIC)


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
    """Counter-clockwise by `arg` degrees about the centre: PIL.Image.rotate to the last bit, so to the last pixel."""
    angle = -math.radians(arg % 360)
    cos, sin, cx, cy = round(math.cos(angle), 15), round(math.sin(angle), 15), width / 2, height / 2
    return np.array([[cos, sin, -cos * cx - sin * cy + cx], [-sin, cos, sin * cx - cos * cy + cy], [0, 0, 1]])


# -- photometric ops: (image, argument) -> image ----------------------------------------------------------------------


def posterize(image, bits):
    """Keep the highest `bits` bits; 0 leaves black, which happens at level 10 and which ImageOps refuses."""
    keep = 0xFF & ~(2 ** (8 - bits) - 1)
    return image.point([i & keep for i in range(256)] * len(image.getbands()))


def solarize_add(image, add, threshold=128):
    table = [min(255, i + add) if i < threshold else i for i in range(256)]
    return image.point(table * len(image.getbands()))


def enhance(kind):
    return lambda image, factor: kind(image).enhance(factor)


# -- levels (0 … 10) to arguments -------------------------------------------------------------------------------------


def plain(scale, kind=float, base=0.0):
    return lambda level, rng: kind(base + level / MAX_LEVEL * scale)


def signed(scale, base=0.0):
    return lambda level, rng: base + level / MAX_LEVEL * scale * (-1 if rng.random() < 0.5 else 1)


def no_argument(level, rng):
    return None


GEOMETRIC = {  # name: (matrix, level to argument)
    'Rotate': (rotate, signed(30.0)),
    'ShearX': (shear_x, signed(0.3)),
    'ShearY': (shear_y, signed(0.3)),
    'TranslateXRel': (translate_x, signed(TRANSLATE_SHARE)),
    'TranslateYRel': (translate_y, signed(TRANSLATE_SHARE)),
}
PHOTOMETRIC = {  # name: (op, level to argument, the same in the "increasing" set)
    'AutoContrast': (lambda image, _: ImageOps.autocontrast(image), no_argument, no_argument),
    'Equalize': (lambda image, _: ImageOps.equalize(image), no_argument, no_argument),
    'Invert': (lambda image, _: ImageOps.invert(image), no_argument, no_argument),
    'Posterize': (posterize, plain(4, int), lambda level, rng: 4 - int(level / MAX_LEVEL * 4)),
    'Solarize': (ImageOps.solarize, plain(256, int), lambda level, rng: 256 - int(level / MAX_LEVEL * 256)),
    'SolarizeAdd': (solarize_add, plain(110, int), plain(110, int)),
    'Color': (enhance(ImageEnhance.Color), plain(1.8, base=0.1), signed(0.9, base=1.0)),
    'Contrast': (enhance(ImageEnhance.Contrast), plain(1.8, base=0.1), signed(0.9, base=1.0)),
    'Brightness': (enhance(ImageEnhance.Brightness), plain(1.8, base=0.1), signed(0.9, base=1.0)),
    'Sharpness': (enhance(ImageEnhance.Sharpness), plain(1.8, base=0.1), signed(0.9, base=1.0)),
}
# `w0`: timm's hand-made weights; ops without an entry are never drawn
WEIGHTS = [
    {
        'Rotate': 0.3,
        'ShearX': 0.2,
        'ShearY': 0.2,
        'TranslateXRel': 0.1,
        'TranslateYRel': 0.1,
        'Color': 0.025,
        'Sharpness': 0.025,
        'AutoContrast': 0.025,
        'Solarize': 0.005,
        'SolarizeAdd': 0.005,
        'Contrast': 0.005,
        'Brightness': 0.005,
        'Equalize': 0.005,
    }
]
NAMES = (
    'AutoContrast',
    'Equalize',
    'Invert',
    'Rotate',
    'Posterize',
    'Solarize',
    'SolarizeAdd',
    'Color',
    'Contrast',
    'Brightness',
    'Sharpness',
    'ShearX',
    'ShearY',
    'TranslateXRel',
    'TranslateYRel',
)


def affine(image, matrix, interpolation, fill):
    """Resample `image` through `matrix` (output point to input point); outside the input it is `fill`."""
    return image.transform(
        image.size, Image.AFFINE, tuple(np.asarray(matrix)[:2].ravel()), interpolation, fillcolor=fill
    )


class RandAugment:
    """`layers` random ops per image, each applied with probability 0.5 at a noisy magnitude.

    config: `rand` followed by `-mN` (magnitude 0…10, default 10), `-nN` (layers, 2), `-mstdX` (standard deviation of
    the magnitude, 0), `-incB` (ops that grow stronger with the level, 0), `-wN` (weights for the choice of ops).
    interpolation: PIL filter of the geometric ops, None = drawn from (bilinear, bicubic) each time.
    Raises UserError for anything else.
    """

    def __init__(self, config, fill=(124, 116, 104), interpolation=None):
        self.magnitude, self.layers, self.std, self.increasing, weights = 10.0, 2, 0.0, False, None
        family, *parts = config.split('-')
        try:
            if family != 'rand':
                raise ValueError(config)
            for part in parts:
                key = part.rstrip('.0123456789')
                value = float(part[len(key) :])
                if key == 'm':
                    self.magnitude = value
                elif key == 'n':
                    self.layers = int(value)
                elif key == 'mstd':
                    self.std = value
                elif key == 'inc':
                    self.increasing = bool(value)
                elif key == 'w':
                    weights = WEIGHTS[int(value)]
                else:
                    raise ValueError(part)
            if weights and self.layers > len(weights):
                raise ValueError(config)
        except (ValueError, IndexError):
            raise UserError(
                f'--aa {config}: not a policy this project knows; use one like rand-m9-mstd0.5-inc1 '
                f"(parts m, n, mstd, inc, w0), or '' for none"
            )
        self.weights = None if weights is None else np.array([weights.get(name, 0.0) for name in NAMES])
        # PIL has no Lanczos filter for resampling through a matrix
        self.fill, self.interpolation = fill, Image.BICUBIC if interpolation == Image.LANCZOS else interpolation

    def __call__(self, image, rng):
        """image: RGB PIL image; rng: numpy Generator. Returns (image, matrix 3x3 from new to old pixels)."""
        total = np.eye(3)
        # with weights an op is drawn once at most, as in timm
        for i in rng.choice(len(NAMES), self.layers, replace=self.weights is None, p=self.weights):
            if rng.random() > APPLY_PROBABILITY:
                continue
            level = float(np.clip(rng.normal(self.magnitude, self.std) if self.std else self.magnitude, 0.0, MAX_LEVEL))
            image, matrix = self.apply(NAMES[i], image, level, rng)
            total = total @ matrix
        return image, total

    def apply(self, name, image, level, rng):
        """Apply the op `name` at `level`; returns (image, matrix)."""
        if name in GEOMETRIC:
            matrix_of, argument = GEOMETRIC[name]
            matrix = matrix_of(argument(level, rng), *image.size)
            interpolation = self.interpolation
            if interpolation is None:
                interpolation = RANDOM_INTERPOLATION[rng.integers(2)]
            return affine(image, matrix, interpolation, self.fill), matrix
        op, argument, increasing = PHOTOMETRIC[name]
        return op(image, (increasing if self.increasing else argument)(level, rng)), np.eye(3)
