"""RandAugment (arXiv 1909.13719) in timm's dialect: `rand-m9-mstd0.5-inc1`. Which ops an image gets, and how strong.

Nothing that is drawn depends on pixels: a policy turns an image's size and a generator into a list of `Op`s, which
render_pil.py or render_cv2.py carries out. The geometric ones are 3x3 matrices from output to input pixels, so that a
token-label map can follow the image (transforms.py). Coordinates are continuous, pixel (0, 0) spans [0, 1]².
"""

import math
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
from PIL import Image

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


# -- levels (0 … 10) to arguments: functions (level, rng) -> argument --------------------------------------------------


def rising(growth, base=0.0, kind=float):
    """From `base` to `base` + `growth`."""
    return lambda level, rng: kind(base + level / MAX_LEVEL * growth)


def rising_with_random_sign(growth, base=0.0):
    """`base` plus or minus what rises from 0 to `growth`."""
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
    increasing: Callable  # the same in the "increasing" set


GEOMETRIC = {
    'Rotate': Geometric(rotate, rising_with_random_sign(30.0)),
    'ShearX': Geometric(shear_x, rising_with_random_sign(0.3)),
    'ShearY': Geometric(shear_y, rising_with_random_sign(0.3)),
    'TranslateXRel': Geometric(translate_x, rising_with_random_sign(TRANSLATE_SHARE)),
    'TranslateYRel': Geometric(translate_y, rising_with_random_sign(TRANSLATE_SHARE)),
}
ENHANCEMENT = rising(1.8, base=0.1)  # from hardly anything over the image itself, at 5, to nearly twice
STRONGER_ENHANCEMENT = rising_with_random_sign(0.9, base=1.0)  # from the image itself, up or down
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
# The order matters: the draws of an op go by it.
NAMES = 'AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness'.split()
NAMES += 'ShearX ShearY TranslateXRel TranslateYRel'.split()
# -w0: timm's hand-made probabilities of the ops; one without an entry is never drawn
WEIGHTS = {
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


class Op(NamedTuple):
    """A drawn op: its name and argument, and of a geometric one the matrix and the PIL filter to resample with."""

    name: str
    argument: Any
    matrix: Optional[np.ndarray] = None  # float64 [3, 3], output point to input point
    interpolation: Optional[int] = None


class Policy:
    """The ops as the policies draw them.

    interpolation: PIL filter of the geometric ops, None = drawn from (bilinear, bicubic) each time; increasing: take
    the photometric ops that grow stronger with the level.
    """

    def __init__(self, interpolation, increasing):
        self.increasing = increasing
        # Pillow has no Lanczos filter for resampling through a matrix
        self.interpolation = Image.BICUBIC if interpolation == Image.LANCZOS else interpolation

    def op(self, name, level, size, rng):
        """The Op `name` at `level` (0 … 10) of an image of `size` (width, height)."""
        if name in PHOTOMETRIC:
            kind = PHOTOMETRIC[name]
            return Op(name, kind.increasing(level, rng) if self.increasing else kind.argument(level, rng))
        kind = GEOMETRIC[name]
        argument = kind.argument(level, rng)
        interpolation = self.interpolation
        if interpolation is None:
            interpolation = RANDOM_INTERPOLATION[rng.integers(2)]
        return Op(name, argument, kind.matrix(argument, *size), interpolation)


def noisy(level, std, rng):
    """The level plus normal noise, within 0 … 10; without noise nothing is drawn."""
    level = rng.normal(level, std) if std else level
    return min(max(level, 0.0), MAX_LEVEL)


class RandAugment(Policy):
    """`layers` random ops per image, each applied with probability 0.5 at a noisy magnitude.

    config: `rand` followed by `-mN` (magnitude 0…10, default 10), `-nN` (layers, 2), `-mstdX` (standard deviation of
    the magnitude, 0), `-incB` (ops that grow stronger with the level, 0), `-w0` (ops are drawn by WEIGHTS).
    interpolation: see Policy. Raises UserError for anything else.
    """

    def __init__(self, config, interpolation=None):
        super().__init__(interpolation, increasing=False)
        self.magnitude, self.layers, self.std, weights = 10.0, 2, 0.0, None
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
                elif key == 'w' and value == 0:
                    weights = WEIGHTS
                else:
                    raise ValueError(part)
            if weights and self.layers > len(weights):
                raise ValueError(config)
        except ValueError:
            raise UserError(
                f'--aa {config}: not a policy this project knows; use one like rand-m9-mstd0.5-inc1 '
                f"(parts m, n, mstd, inc, w0), original or v0, or '' for none"
            )
        self.weights = None if weights is None else np.array([weights.get(name, 0.0) for name in NAMES])

    def draw(self, size, rng):
        """The Ops of an image of `size` (width, height), in their order. rng: numpy Generator."""
        ops = []
        # with weights an op is drawn once at most, as in timm
        for i in rng.choice(len(NAMES), self.layers, replace=self.weights is None, p=self.weights):
            if rng.random() > APPLY_PROBABILITY:
                continue
            level = noisy(self.magnitude, self.std, rng)
            ops.append(self.op(NAMES[i], level, size, rng))
        return ops
