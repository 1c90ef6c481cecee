"""Scenes of the demo: one large handwritten digit (its class) and small ones of other classes on a coloured background.

The layout is known, so label maps and masks need no annotator network.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

SPLITS = ('train', 'val')
TRAIN_DIGITS = 1400  # of the 1,797 handwritten digits; the other 397 appear in validation scenes only
TOP_K = 5  # classes kept per cell of a label map
PEAK = 10.0  # logit of a fully covered cell; softmax gives it 96 % among 1000 classes
FEATHER = 0.05  # width of a label's soft edge, as a share of the canvas (about one cell of 18)

# main, small: range of digit heights in px of a 64 px canvas. others: possible numbers of small digits.
# background, contrast, noise (standard deviation): in grey levels of 255. Ink is lighter than a dark background and
# darker than a light one; the easy scenes have dark backgrounds only.
EASY = dict(main=(48, 62), small=(10, 16), others=[1], background=(40, 110), contrast=(80, 115), noise=6)
HARD = dict(main=(32, 46), small=(14, 20), others=[1, 2], background=(50, 205), contrast=(45, 70), noise=20)


@lru_cache(maxsize=None)
def handwriting():
    """(images float64 [1797, 8, 8] with ink 0-16, classes int64 [1797])"""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


@lru_cache(maxsize=None)
def sources(split):
    """Ten int arrays: for each class the rows of handwriting() that scenes of `split` may use."""
    classes = handwriting()[1]
    order = np.random.default_rng(0).permutation(len(classes))  # fixed: the split never depends on --seed
    rows = order[:TRAIN_DIGITS] if split == 'train' else order[TRAIN_DIGITS:]
    return [rows[classes[rows] == c] for c in range(10)]


@lru_cache(maxsize=None)
def glyph(row):
    """One digit as an alpha mask, 8-bit, cropped to its ink, up to 160 px a side."""
    ink = np.pad(handwriting()[0][row] / 16, 1).astype(np.float32)  # a margin, so that no stroke is cut off
    smooth = np.asarray(Image.fromarray(ink).resize((160, 160), Image.BICUBIC))
    crisp = np.clip((smooth - 0.35) * 4, 0, 1)  # sharp strokes instead of blurred ones
    mask = Image.fromarray((crisp * 255).astype(np.uint8))
    return mask.crop(mask.getbbox())


def colour(rng, level):
    """RGB float [3] of mean brightness `level` (0-255), tinted at random."""
    tint = rng.uniform(-45, 45, 3)
    return level + tint - tint.mean()


def overlap(a, b):
    """Area that two boxes (x0, y0, x1, y1) share, in square px."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def extent(row, side):
    """(width, height) in px of a digit whose longer side is to be `side` px."""
    width, height = glyph(row).size
    longer = max(width, height)
    return max(round(side * width / longer), 1), max(round(side * height / longer), 1)


def background(rng, level, size):
    """RGB image of `size` (width, height): a gradient between a few colours of mean brightness `level`."""
    knots = colour(rng, level) + rng.normal(0, 14, (3, 3, 3))
    return Image.fromarray(np.clip(knots, 0, 255).astype(np.uint8)).resize(size, Image.BICUBIC)


def paint(image, rng, row, box, level):
    """Paint a digit into a box of the image, in a colour of mean brightness `level`."""
    ink = tuple(int(v) for v in np.clip(colour(rng, level), 0, 255))
    x0, y0, x1, y1 = box
    image.paste(ink, box, glyph(row).resize((x1 - x0, y1 - y0), Image.BICUBIC))


def layout(rng, index, split, size, look):
    """The digits of a scene and their places: [(class, box, row)] from the lowest to the uppermost, see scene().

    The main digit is placed first. Each small one tries a few places and keeps the one with the least overlap.
    """
    main = index % 10
    others = rng.permutation([c for c in range(10) if c != main]).tolist()
    count = rng.choice(look['others'])
    placed = []
    for c in [main, *others[:count]]:
        heights, tries = (look['small'], 12) if placed else (look['main'], 1)
        row = int(rng.choice(sources(split)[c]))
        w, h = extent(row, rng.uniform(*heights) * size / 64)
        corners = (rng.random((tries, 2)) * (size - w + 1, size - h + 1)).astype(int).tolist()
        boxes = [(x, y, x + w, y + h) for x, y in corners]
        hidden = [sum(overlap(box, other) for _, other, _ in placed) for box in boxes]
        placed.append((c, boxes[int(np.argmin(hidden))], row))
    return placed[::-1]


def scene(index, split, size=64, seed=0, hard=False):
    """Scene number `index` of `split` ("train" or "val"): (image, digits).

    image is an RGB PIL image of size x size px. digits lists (class, box, row) from the lowest to the uppermost;
    the last is the main digit, of class index % 10. box = (x0, y0, x1, y1) in px bounds its ink, row is its row in
    handwriting().
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    look = HARD if hard else EASY
    digits = layout(rng, index, split, size=size, look=look)
    level = rng.uniform(*look['background'])
    image = background(rng, level, (size, size))
    for _, box, row in digits:
        contrast = rng.uniform(*look['contrast'])
        paint(image, rng, row, box, level=level + contrast if level < 128 else level - contrast)
    # The noise scales with the canvas like everything else, so a scene is equally hard at any size.
    noise = np.clip(128 + rng.normal(0, look['noise'], (64, 64, 3)), 0, 255).astype(np.uint8)
    noise = np.asarray(Image.fromarray(noise).resize((size, size), Image.BICUBIC), np.int16) - 128
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)), digits


def cover(start, stop, cells):
    """How much of each of `cells` equal cells of [0, 1] a soft-edged bar from start to stop covers: [cells].

    The bar is the difference of two ramps, each FEATHER wide; its integral over each cell is exact.
    """

    def integral(edge):
        t = (np.linspace(0, 1, cells + 1) - edge) / FEATHER + 0.5
        return FEATHER * (np.clip(t, 0, 1) ** 2 / 2 + np.maximum(t - 1, 0))

    return np.diff(integral(start) - integral(stop)) * cells


def label_map(digits, size, label_size=18, class_ids=range(10)):
    """Label map of a scene's `digits` on a canvas of `size` px: float16 [2, 5, label_size, label_size].

    [0] holds the 5 highest logits of each cell (row = y, column = x), the best first, [1] their class ids. A class's
    logit is PEAK times the share of the cell inside the soft box of that class's digit; a digit hides those below it.
    Classes without a digit in the cell have logit 0.
    """
    logits, free = np.zeros((10, label_size, label_size)), 1.0
    for c, box, _ in reversed(digits):  # from the uppermost
        x0, y0, x1, y1 = (v / size for v in box)
        share = np.outer(cover(y0, y1, label_size), cover(x0, x1, label_size))
        logits[c] += PEAK * share * free
        free = free * (1 - share)
    return strongest(logits, class_ids)


def strongest(logits, class_ids=range(10)):
    """A label map, float16 [2, 5, H, W], of the logits [10, H, W] of the ten digits."""
    best = np.argsort(-logits, axis=0, kind='stable')[:TOP_K]
    scores = np.take_along_axis(logits, best, 0)
    return np.stack([scores, np.asarray(class_ids)[best]]).astype(np.float16)


def mask(digits, size):
    """The class of each pixel of a scene, an 8-bit PIL image: 0 is the background, 1 + class a digit's ink.

    A pixel belongs to the uppermost digit whose ink covers at least half of it.
    """
    image = Image.new('L', (size, size))
    for c, box, row in digits:
        x0, y0, x1, y1 = box
        ink = glyph(row).resize((x1 - x0, y1 - y0), Image.BICUBIC)
        image.paste(c + 1, box, ink.point([0] * 128 + [255] * 128))
    return image
