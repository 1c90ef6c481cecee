"""The policies that --aa names: AutoAugment's two for ImageNet beside RandAugment (auto_augment.py).

A policy of AutoAugment (arXiv 1805.09501) is a list of pairs of ops (name, probability, level 0 … 10); each image draws
one pair. The tables are data: `original` is the paper's (its table of ImageNet policies), `v0` that of EfficientNet's
training on TPUs, which no paper prints.
"""

import re

from util.data.auto_augment import Policy, RandAugment, noisy
from util.errors import UserError

# the paper's Posterize keeps 4 to 8 bits, EfficientNet's 0 to 4
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
    """[[(op, probability, level), (op, probability, level)]], a pair of ops for each of a table's entries."""
    pairs = []
    for entry in re.split(r'[|\n]', text.strip()):
        ops = [op.split() for op in entry.split(',')]
        pairs.append([(name, float(probability), float(level)) for name, probability, level in ops])
    return pairs


TABLES = {'original': read_table(ORIGINAL), 'v0': read_table(V0)}


class AutoAugment(Policy):
    """One pair of ops per image, drawn from a table, each op with its own probability and level.

    config: `original` or `v0`, with `-mstdX` for normal noise on the levels. interpolation: see Policy.
    Raises UserError for anything else.
    """

    def __init__(self, config, interpolation=None):
        super().__init__(interpolation, increasing=False)
        match = re.fullmatch(rf'({"|".join(TABLES)})(?:-mstd(\d+\.?\d*))?', config)
        if not match:
            raise UserError(
                f'--aa {config}: of AutoAugment there are {" and ".join(TABLES)}, each with -mstdX for noise'
            )
        self.table, self.std = TABLES[match[1]], float(match[2] or 0)

    def draw(self, size, rng):
        """The Ops of an image of `size` (width, height), in their order. rng: numpy Generator."""
        ops = []
        for name, probability, level in self.table[rng.integers(len(self.table))]:
            if rng.random() < probability:
                ops.append(self.op(name, noisy(level, self.std, rng), size, rng))
        return ops


def build_policy(config, interpolation):
    """The policy that --aa names. Raises UserError for what is none."""
    family = config.split('-')[0]
    if family == 'augmix':
        raise UserError(
            f'--aa {config}: AugMix blends images that went through different geometries, so a token has no one place '
            "to take its label from; use rand-m9-mstd0.5-inc1, original, v0, or '' for none"
        )
    return (AutoAugment if family in TABLES else RandAugment)(config, interpolation)
