"""From image file to network input. All that is random is drawn first (Draws), from the size of the image alone, and
then carried out by a backend (renderer). Every geometric step of the train transform is recorded as a 3x3 matrix.

A matrix maps points of a step's output to points of its input, in continuous pixel coordinates (pixel (0, 0) spans
[0, 1]², x to the right, y down). The product of all steps maps the network's input to the source image; with it
util/data/token_label.py finds what a label map says about each token.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from util.data import render_pil
from util.data.auto_augment import RANDOM_INTERPOLATION, Op
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


def color_jitter(strength, rng):
    """The Ops when --aa is '': brightness, contrast, saturation by factors uniform in 1 ± strength, in random order."""
    kinds = ('Brightness', 'Contrast', 'Color')
    return [Op(kinds[i], rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength)) for i in rng.permutation(len(kinds))]


def renderer(backend):
    """The module that makes the pixels: `pil`, to the last bit the published recipe's, or `cv2`, faster and nearly so.

    It has open_image(path), something with a `size` (width, height), and of that train_pixels and eval_pixels. Raises
    UserError if what `cv2` needs is not installed.
    """
    if backend == 'pil':
        return render_pil
    try:
        from util.data import render_cv2
    except ImportError as error:
        raise UserError(f'--image_backend cv2: {error}; pip install opencv-python-headless simplejpeg')
    return render_cv2


class Draws(NamedTuple):
    """All that is random about the pixels of a training sample, but for random erasing."""

    ops: list  # of auto_augment.Op, in their order
    box: tuple  # of the crop: (left, top, width, height)
    interpolation: int  # of the crop, a PIL filter
    matrix: np.ndarray  # float64 [3, 3], from the crop's pixels to the source's, as token labels take it


class TrainTransform:
    """Flip, RandAugment or AutoAugment (or colour jitter), random resized crop, random erasing.

    interpolation: a key of INTERPOLATIONS, or `random` (bilinear or bicubic each time).
    geometry: `exact`, or `reference` for the matrix of crop_matrix; the pixels are the same.
    mean, std: see normalise.py; the mean is also the colour of what lies outside the image.
    backend: see renderer.
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
        backend='pil',
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
        self.fill = tuple(max(0, min(255, round(255 * m))) for m in mean)
        self.augment = build_policy(aa, self.interpolation) if aa else None
        self.backend = backend
        renderer(backend)  # says now what is missing

    def load(self, path, rng):
        """Image file -> (pixels uint8 [S, S, 3], matrix as in Draws, (width, height) of the file, list of Erased).

        rng: numpy Generator. Raises BadImage and UserError as images.open_rgb.
        """
        image = renderer(self.backend).open_image(path)
        draws = self.draw(image.size, rng)
        pixels = self.render(image, draws)
        erased = draw_erasing(self.size, self.size, rng, self.reprob, mode=self.remode, count=self.recount)
        return pixels, draws.matrix, image.size, erased

    def render(self, image, draws):
        """What the backend opened (for `pil` an RGB PIL image) -> uint8 [S, S, 3]."""
        return renderer(self.backend).train_pixels(image, draws, self.size, self.fill)

    def draw(self, size, rng):
        """The Draws of an image of `size` (width, height). rng: numpy Generator."""
        width, height = size
        matrix, ops, augmentation = np.eye(3), [], np.eye(3)
        if rng.random() < self.flip:
            matrix = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])
            ops = [Op('Flip', None, matrix)]
        if self.augment:
            ops += self.augment.draw(size, rng)
        elif self.jitter:
            ops += color_jitter(self.jitter, rng)
        box = random_crop_box(width, height, rng, self.scale)
        interpolation = self.interpolation
        if interpolation is None:
            interpolation = RANDOM_INTERPOLATION[rng.integers(2)]
        for op in ops:
            if op.name != 'Flip' and op.matrix is not None:
                augmentation = augmentation @ op.matrix
        crop = crop_matrix(box, self.size, width, height, geometry=self.geometry)
        return Draws(ops, box, interpolation, matrix @ augmentation @ crop)


class EvalTransform:
    """Resize the short side to size / crop_pct, cut the centre square, normalise: the field's standard evaluation.

    backend: see renderer.
    """

    def __init__(self, size, crop_pct, interpolation='bicubic', mean=IMAGENET_MEAN, std=IMAGENET_STD, backend='pil'):
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
        self.backend = backend
        renderer(backend)  # says now what is missing

    def load(self, path):
        """Image file -> uint8 [S, S, 3]. Raises BadImage and UserError as images.open_rgb."""
        backend = renderer(self.backend)
        image = backend.open_image(path)
        return backend.eval_pixels(image, *self._places(*image.size), self.size, self.interpolation)

    def crop(self, image):
        """RGB PIL image -> the PIL square that the network sees (with `pil`)."""
        return render_pil.eval_crop(image, *self._places(*image.size), self.size, self.interpolation)

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
