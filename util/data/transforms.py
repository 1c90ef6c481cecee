"""From PIL image to network input. Every geometric step of the train transform is recorded as a 3x3 matrix.

A matrix maps points of a step's output to points of its input, in continuous pixel coordinates (pixel (0, 0) spans
[0, 1]², x to the right, y down). The product of all steps maps the network's input to the source image; with it
util/data/token_label.py finds what a label map says about each token.
"""

import math

import numpy as np
from PIL import Image, ImageEnhance

from util.data.auto_augment import RANDOM_INTERPOLATION
from util.data.auto_policies import build_policy
from util.data.normalise import check_normalisation, draw_erasing, to_input
from util.errors import UserError
from util.options import IMAGENET_MEAN, IMAGENET_STD

INTERPOLATIONS = {
    'nearest': Image.NEAREST,
    'bilinear': Image.BILINEAR,
    'bicubic': Image.BICUBIC,
    'lanczos': Image.LANCZOS,
}


def resize(image, size, interpolation):
    """`image.resize((width, height), …)` with the horizontal pass first, on every version of Pillow.

    Values are rounded and clipped to 8 bits between the passes, so their order shows in the pixels. Pillow 13 chooses
    it by the sizes (its pull request 9549); before, the horizontal pass came first, as in all published results.
    """
    return image.resize((size[0], image.height), interpolation).resize(size, interpolation)


def random_crop_box(width, height, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """(left, top, width, height) of Inception's random resized crop: area share and log aspect ratio uniform."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    w = min(width, max(1, round(height * ratio[1])))  # ten misses: the largest centred crop of a permitted shape
    h = min(height, max(1, round(width / ratio[0])))
    return (width - w) // 2, (height - h) // 2, w, h


def crop_matrix(box, size, width, height, geometry='exact'):
    """Points of the resized crop (size² pixels) to points of the image (width x height) it was cut from.

    box: (left, top, width, height). geometry `reference` replays the original's reading of the box for token labels:
    stored as (top / height, left / width, …), taken as (x, y, …).
    """
    x, y, w, h = box
    if geometry == 'reference':
        x, w, y, h = y * width / height, h * width / height, x * height / width, w * height / width
    return np.array([[w / size, 0, x], [0, h / size, y], [0, 0, 1]])


def color_jitter(image, strength, rng):
    """Brightness, contrast and saturation by factors uniform in 1 ± strength, in random order (when --aa is '')."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in rng.permutation(len(kinds)):
        image = kinds[i](image).enhance(rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
    return image


class TrainTransform:
    """Flip, RandAugment or AutoAugment (or colour jitter), random resized crop, random erasing.

    interpolation: a key of INTERPOLATIONS, or `random` (bilinear or bicubic each time).
    geometry: `exact`, or `reference` for the matrix of crop_matrix; the pixels are the same.
    mean, std: see normalise.py; the mean is also the colour of what lies outside the image.
    """

    def __init__(
        self,
        size,
        interpolation='bicubic',
        aa='rand-m9-mstd0.5-inc1',
        jitter=0.4,
        reprob=0.25,
        remode='pixel',
        recount=1,
        scale=(0.08, 1.0),
        flip=0.5,
        geometry='exact',
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ):
        if interpolation != 'random' and interpolation not in INTERPOLATIONS:
            raise UserError(f'--train_interpolation {interpolation}: use random, {", ".join(INTERPOLATIONS)}')
        if remode not in ('pixel', 'rand', 'const'):
            raise UserError(f'--remode {remode}: use pixel, rand or const')
        self.size, self.scale, self.flip, self.geometry = size, scale, flip, geometry
        self.interpolation = INTERPOLATIONS.get(interpolation)  # None: random
        self.jitter = jitter
        self.reprob, self.remode, self.recount = reprob, remode, recount
        check_normalisation(mean, std)
        self.mean, self.std = mean, std
        fill = tuple(max(0, min(255, round(255 * m))) for m in mean)
        self.augment = build_policy(aa, fill, self.interpolation) if aa else None

    def __call__(self, image, rng):
        """PIL image -> (uint8 [S, S, 3], matrix float64 [3, 3] from its pixels to the source's, its list of Erased)."""
        image, matrix = self.draw(image, rng)
        erased = draw_erasing(self.size, self.size, rng, self.reprob, mode=self.remode, count=self.recount)
        return np.asarray(image), matrix, erased

    def draw(self, image, rng):
        """All that comes before normalisation: PIL image -> (PIL image of size², matrix as in __call__)."""
        width, height = image.size
        matrix = np.eye(3)
        if rng.random() < self.flip:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
            matrix = matrix @ np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])
        if self.augment:
            image, step = self.augment(image, rng)
            matrix = matrix @ step
        elif self.jitter:
            image = color_jitter(image, self.jitter, rng)
        box = random_crop_box(width, height, rng, self.scale)
        interpolation = self.interpolation
        if interpolation is None:
            interpolation = RANDOM_INTERPOLATION[rng.integers(2)]
        left, top, box_width, box_height = box
        image = image.crop((left, top, left + box_width, top + box_height))
        image = resize(image, (self.size, self.size), interpolation)
        return image, matrix @ crop_matrix(box, self.size, width, height, geometry=self.geometry)


class EvalTransform:
    """Resize the short side to size / crop_pct, cut the centre square, normalise: the field's standard evaluation."""

    def __init__(self, size, crop_pct, interpolation='bicubic', mean=IMAGENET_MEAN, std=IMAGENET_STD):
        if not 0 < crop_pct <= 1:
            raise UserError(f'--crop_pct {crop_pct}: must be above 0 and at most 1')
        if interpolation == 'random':
            interpolation = 'bicubic'
        if interpolation not in INTERPOLATIONS:
            raise UserError(f'--interpolation {interpolation}: use {", ".join(INTERPOLATIONS)}')
        check_normalisation(mean, std)
        self.size, self.short = size, int(math.floor(size / crop_pct))
        self.mean, self.std = mean, std
        self.interpolation = INTERPOLATIONS[interpolation]

    def crop(self, image):
        """PIL image -> the PIL square that the network sees."""
        (width, height), (x, y) = self._places(*image.size)
        if (width, height) != image.size:
            image = resize(image, (width, height), self.interpolation)
        return image.crop((x, y, x + self.size, y + self.size))

    def region(self, width, height):
        """Where that square lies in an image of this size: (left, top, right, bottom) in its pixels, floats."""
        resized, (x, y) = self._places(width, height)
        scale_x, scale_y = width / resized[0], height / resized[1]
        right, bottom = min((x + self.size) * scale_x, width), min((y + self.size) * scale_y, height)
        return x * scale_x, y * scale_y, right, bottom

    def _places(self, width, height):
        """((width, height) of the resized image, (x, y) of the square in it)."""
        if width < height:
            width, height = self.short, int(self.short * height / width)
        else:
            width, height = int(self.short * width / height), self.short
        return (width, height), (round((width - self.size) / 2), round((height - self.size) / 2))

    def __call__(self, image):
        """PIL image -> float32 [3, S, S]."""
        return to_input(self.crop(image), self.mean, self.std)
