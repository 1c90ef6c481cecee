"""What photometric ops do to one channel of a pixel, as tables of its 256 levels; for both backends.

Color and Sharpness look at more than that: they are in render_pil.py and render_cv2.py.
"""

import numpy as np
from PIL import Image

LEVELS = np.arange(256)
RAMP = Image.fromarray(LEVELS.astype('uint8')[None])


def blend(level, factor):
    """From `level` everywhere (factor 0) to the image itself (1) and beyond, rounded as Pillow's enhancers round."""
    return np.asarray(Image.blend(Image.new('L', RAMP.size, level), RAMP, factor))[0]


def posterize(bits):
    """Keep the highest `bits` bits. 0 leaves black: that happens at level 10."""
    return LEVELS & 0xFF & ~(2 ** (8 - bits) - 1)


def solarize(threshold):
    return np.where(LEVELS < threshold, LEVELS, 255 - LEVELS)


def solarize_add(add, threshold=128):
    return np.where(LEVELS < threshold, np.minimum(LEVELS + add, 255), LEVELS)


# -- with statistics of the whole image: (counts, int [256], of each level; argument) -> table -------------------------


def autocontrast(counts, _):
    """From the darkest level that occurs to the brightest, stretched over all."""
    (present,) = np.nonzero(counts)
    darkest, brightest = present[0], present[-1]
    if darkest == brightest:
        return LEVELS
    scale = 255 / (brightest - darkest)
    return (LEVELS * scale - darkest * scale).astype('int64').clip(0, 255)


def equalize(counts, _):
    """So that each level occurs about equally often: a level goes by the pixels that are darker."""
    (present,) = np.nonzero(counts)
    step = (counts.sum() - counts[present[-1]]) // 255
    if step == 0:
        return LEVELS
    darker = np.cumsum(counts) - counts
    return ((darker + step // 2) // step).clip(0, 255)


def contrast(counts, factor):
    """counts: of the grey image, whose mean is what contrast is measured from."""
    return blend(int(counts @ LEVELS / counts.sum() + 0.5), factor)


TABLES = {
    'Invert': lambda _: 255 - LEVELS,
    'Posterize': posterize,
    'PosterizeOriginal': posterize,
    'Solarize': solarize,
    'SolarizeAdd': solarize_add,
    'Brightness': lambda factor: blend(0, factor),
}
OF_STATISTICS = {'AutoContrast': autocontrast, 'Equalize': equalize, 'Contrast': contrast}


def table(op, counts=None):
    """uint8 [1 or 3, 256]: what an Op makes of each level, of all channels or each of the three.

    counts: for those OF_STATISTICS int [3, 256], how often each level occurs in the channels of the whole image; for
    Contrast [1, 256], of its grey values.
    """
    if op.name in TABLES:
        rows = [TABLES[op.name](op.argument)]
    else:
        rows = [OF_STATISTICS[op.name](row, op.argument) for row in counts]
    return np.array(rows, 'uint8')
