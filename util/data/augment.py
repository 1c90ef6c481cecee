"""What is drawn at random for a training image: RandAugment, AutoAugment, colour jitter, random erasing.

Nothing that is drawn depends on pixels. A policy turns an image's size and a generator into a list of `Op`s
(augment_ops.py); render_pil.py or render_cv2.py applies them.
"""

import math
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from util.data.augment_ops import GEOMETRIC, MAX_LEVEL, PHOTOMETRIC, Op
from util.errors import UserError

RANDOM_INTERPOLATION = (Image.BILINEAR, Image.BICUBIC)


# -- policies ---------------------------------------------------------------------------------------------------------


class Policy:
    """Makes the ops that the policies below draw.

    interpolation: PIL filter of the geometric ops, None = bilinear or bicubic at random for each op; increasing: use
    the photometric ops that grow stronger with the level.
    """

    def __init__(self, interpolation, increasing=False):
        self.increasing = increasing
        # Pillow has no Lanczos filter for resampling through a matrix.
        self.interpolation = Image.BICUBIC if interpolation == Image.LANCZOS else interpolation

    def op(self, name, level, size, rng):
        """The Op `name` at `level` (0 … 10) for an image of `size` (width, height). rng: numpy Generator."""
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
    """The level plus normal noise, clipped to 0 … 10. Nothing is drawn if `std` is 0."""
    level = rng.normal(level, std) if std else level
    return min(max(level, 0.0), MAX_LEVEL)


# The ops of RandAugment. Their order matters: a random number is an index into this list.
NAMES = 'AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness'.split()
NAMES += 'ShearX ShearY TranslateXRel TranslateYRel'.split()
APPLY_PROBABILITY = 0.5
# -w0: timm's probabilities of the ops; an op without an entry is never drawn.
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


class RandAugment(Policy):
    """RandAugment (arXiv 1909.13719) as in timm: `layers` random ops, each applied with probability 0.5.

    config: `rand` followed by `-mN` (magnitude 0…10, default 10), `-nN` (layers, 2), `-mstdX` (standard deviation of
    the magnitude, 0), `-incB` (ops that grow stronger with the level, 0), `-w0` (ops are drawn by WEIGHTS).
    interpolation: see Policy. Raises UserError for any other config.
    """

    def __init__(self, config, interpolation=None):
        super().__init__(interpolation)
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
                f'--aa {config}: unknown policy; use one like rand-m9-mstd0.5-inc1 '
                f"(parts m, n, mstd, inc, w0), original or v0, or '' for none"
            )
        self.weights = None if weights is None else np.array([weights.get(name, 0.0) for name in NAMES])

    def draw(self, size, rng):
        """The Ops for an image of `size` (width, height), in the order of their application. rng: numpy Generator."""
        ops = []
        # With weights an op is drawn at most once, as in timm.
        for i in rng.choice(len(NAMES), self.layers, replace=self.weights is None, p=self.weights):
            if rng.random() > APPLY_PROBABILITY:
                continue
            level = noisy(self.magnitude, self.std, rng)
            ops.append(self.op(NAMES[i], level, size, rng))
        return ops


# AutoAugment's policies for ImageNet: pairs of ops (name, probability, level 0 … 10). `original` is the table of the
# paper; its Posterize keeps 4 to 8 bits. `v0` is that of EfficientNet's training on TPUs; its Posterize keeps 0 to 4.
ORIGINAL = """
    PosterizeOriginal 0.4 8, Rotate 0.6 9 | Solarize 0.6 5, AutoContrast 0.6 5
    Equalize 0.8 8, Equalize 0.6 3        | PosterizeOriginal 0.6 7, PosterizeOriginal 0.6 6
    Equalize 0.4 7, Solarize 0.2 4        | Equalize 0.4 4, Rotate 0.8 8
    Solarize 0.6 3, Equalize 0.6 7        | PosterizeOriginal 0.8 5, Equalize 1.0 2
    Rotate 0.2 3, Solarize 0.6 8          | Equalize 0.6 8, PosterizeOriginal 0.4 6
    Rotate 0.8 8, Color 0.4 0             | Rotate 0.4 9, Equalize 0.6 2
    Equalize 0.0 7, Equalize 0.8 8        | Invert 0.6 4, Equalize 1.0 8
    Color 0.6 4, Contrast 1.0 8           | Rotate 0.8 8, Color 1.0 2
    Color 0.8 8, Solarize 0.8 7           | Sharpness 0.4 7, Invert 0.6 8
    ShearX 0.6 5, Equalize 1.0 9          | Color 0.4 0, Equalize 0.6 3
    Equalize 0.4 7, Solarize 0.2 4        | Solarize 0.6 5, AutoContrast 0.6 5
    Invert 0.6 4, Equalize 1.0 8          | Color 0.6 4, Contrast 1.0 8
    Equalize 0.8 8, Equalize 0.6 3
"""
V0 = """
    Equalize 0.8 1, ShearY 0.8 4          | Color 0.4 9, Equalize 0.6 3
    Color 0.4 1, Rotate 0.6 8             | Solarize 0.8 3, Equalize 0.4 7
    Solarize 0.4 2, Solarize 0.6 2        | Color 0.2 0, Equalize 0.8 8
    Equalize 0.4 8, SolarizeAdd 0.8 3     | ShearX 0.2 9, Rotate 0.6 8
    Color 0.6 1, Equalize 1.0 2           | Invert 0.4 9, Rotate 0.6 0
    Equalize 1.0 9, ShearY 0.6 3          | Color 0.4 7, Equalize 0.6 0
    Posterize 0.4 6, AutoContrast 0.4 7   | Solarize 0.6 8, Color 0.6 9
    Solarize 0.2 4, Rotate 0.8 9          | Rotate 1.0 7, TranslateYRel 0.8 9
    ShearX 0.0 0, Solarize 0.8 4          | ShearY 0.8 0, Color 0.6 4
    Color 1.0 0, Rotate 0.6 2             | Equalize 0.8 4, Equalize 0.0 8
    Equalize 1.0 4, AutoContrast 0.6 2    | ShearY 0.4 7, SolarizeAdd 0.6 7
    Posterize 0.8 2, Solarize 0.6 10      | Solarize 0.6 8, Equalize 0.6 1
    Color 0.8 6, Rotate 0.4 5
"""


def read_table(text):
    """[[(op, probability, level), (op, probability, level)]]: the pairs of a table above."""
    pairs = []
    for pair in re.split(r'[|\n]', text.strip()):
        ops = [op.split() for op in pair.split(',')]
        pairs.append([(name, float(probability), float(level)) for name, probability, level in ops])
    return pairs


AUTOAUGMENT = {'original': read_table(ORIGINAL), 'v0': read_table(V0)}


class AutoAugment(Policy):
    """AutoAugment (arXiv 1805.09501): one random pair of a table, each op with its own probability and level.

    config: `original` or `v0`, with `-mstdX` for normal noise on the levels. interpolation: see Policy.
    Raises UserError for any other config.
    """

    def __init__(self, config, interpolation=None):
        super().__init__(interpolation)
        match = re.fullmatch(rf'({"|".join(AUTOAUGMENT)})(?:-mstd(\d+\.?\d*))?', config)
        if not match:
            raise UserError(f'--aa {config}: AutoAugment is {" or ".join(AUTOAUGMENT)}, each with -mstdX for noise')
        self.table, self.std = AUTOAUGMENT[match[1]], float(match[2] or 0)

    def draw(self, size, rng):
        """The Ops for an image of `size` (width, height), in the order of their application. rng: numpy Generator."""
        ops = []
        for name, probability, level in self.table[rng.integers(len(self.table))]:
            if rng.random() < probability:
                ops.append(self.op(name, noisy(level, self.std, rng), size, rng))
        return ops


def build_policy(config, interpolation):
    """The policy that --aa names. Raises UserError for an unknown one."""
    family = config.split('-')[0]
    if family == 'augmix':
        raise UserError(
            f'--aa {config}: AugMix blends images of different geometry, so a token has no single place in the label '
            "map; use rand-m9-mstd0.5-inc1, original, v0, or '' for none"
        )
    if family in AUTOAUGMENT:
        return AutoAugment(config, interpolation)
    return RandAugment(config, interpolation)


# -- without a policy -------------------------------------------------------------------------------------------------


def color_jitter(strength, rng):
    """Brightness, contrast and saturation by factors uniform in 1 ± strength, in random order: a list of Ops."""
    kinds = ('Brightness', 'Contrast', 'Color')
    return [Op(kinds[i], rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength)) for i in rng.permutation(len(kinds))]


# -- random erasing ---------------------------------------------------------------------------------------------------


ERASED_AREA = (0.02, 1 / 3)  # share of the image
MIN_ASPECT = 0.3  # aspect ratios are 0.3 to 1 / 0.3


class Erased(NamedTuple):
    """The values of an image [3, H, W] that random erasing replaces."""

    positions: np.ndarray  # int64 [n], in the flattened image; each occurs once
    values: np.ndarray  # float32 [n], as normalised


def draw_erasing(height, width, rng, probability, mode='pixel', count=1):
    """Random erasing (arXiv 1708.04896) of an image of this size, after timm: Erased, or None if nothing is erased.

    mode: `pixel` normal noise for each value, `rand` one normal colour, `const` zeros. Up to `count` boxes share the
    area; a later box covers an earlier one.
    """
    if rng.random() > probability:
        return None
    boxes = 1 if count == 1 else int(rng.integers(1, count + 1))
    mask, noise = np.zeros((3, height, width), bool), np.zeros((3, height, width), 'float32')
    for _ in range(boxes):
        for _ in range(10):  # until a box fits
            target = rng.uniform(*ERASED_AREA) * height * width / boxes
            aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
            h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if h < height and w < width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                box = np.s_[:, top : top + h, left : left + w]
                mask[box] = True
                if mode == 'pixel':
                    noise[box] = rng.standard_normal((3, h, w), dtype='float32')
                elif mode == 'rand':
                    noise[box] = rng.standard_normal((3, 1, 1), dtype='float32')
                else:
                    noise[box] = 0
                break
    positions = np.flatnonzero(mask)
    return Erased(positions, noise.ravel()[positions]) if len(positions) else None


def pack_erased(erased, image_size):
    """{'erased_positions': int64 [n] in the flattened batch, 'erased_values': float32 [n]}; {} if nothing is erased.

    erased: Erased or None for each image of the batch; image_size: how many values an image has.
    """
    drawn = [(number, image) for number, image in enumerate(erased) if image is not None]
    if not drawn:
        return {}
    return {
        'erased_positions': np.concatenate([number * image_size + image.positions for number, image in drawn]),
        'erased_values': np.concatenate([image.values for _, image in drawn]),
    }
