"""From an image file to the network's input. Everything random is drawn first (Draws), from the size of the image
alone; a backend (renderer) then makes the pixels. Every geometric step of the train transform is a 3x3 matrix.

A matrix maps points of a step's output to points of its input, in continuous pixel coordinates (pixel (0, 0) spans
[0, 1]², x to the right, y down). The product of all steps maps the network's input to the source image; with it
util/data/token_label.py finds the part of a label map that each token shows.

Loader processes hand over bytes, a quarter of the size of floats; the main process normalises and erases a whole batch
on its device (network_input).
"""

import importlib
import math
from typing import NamedTuple

import numpy as np
import paddle
from PIL import Image

from util.data import render_pil
from util.data.augment import RANDOM_INTERPOLATION, build_policy, color_jitter, draw_erasing
from util.data.augment_ops import Op
from util.errors import UserError, one_line
from util.weights.settings import IMAGENET_MEAN, IMAGENET_STD

INTERPOLATIONS = {
    'nearest': Image.NEAREST,
    'bilinear': Image.BILINEAR,
    'bicubic': Image.BICUBIC,
    'lanczos': Image.LANCZOS,
}


def renderer(backend):
    """The module that makes the pixels: `pil`, as in the published recipe, or `cv2`, faster and nearly the same.

    It has open_image(path), which returns an object with a `size` (width, height), and train_pixels and eval_pixels,
    which take that object. Raises UserError if a package that `cv2` needs is not installed.
    """
    if backend == 'pil':
        return render_pil
    try:
        importlib.import_module('simplejpeg')
        return importlib.import_module('util.data.render_cv2')
    except ImportError as error:
        raise UserError(f'--image_backend cv2: {one_line(error)}; pip install opencv-python-headless simplejpeg')


# -- training ---------------------------------------------------------------------------------------------------------


def random_crop_box(width, height, rng, scale=(0.08, 1.0)):
    """(left, top, width, height) of Inception's random resized crop.

    Its share of the area is uniform in `scale`, the logarithm of its aspect ratio in log 3/4 to log 4/3.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    w = min(width, max(1, round(height * (4 / 3))))  # no box of ten fits: the largest centred crop of a permitted shape
    h = min(height, max(1, round(width / (3 / 4))))
    return (width - w) // 2, (height - h) // 2, w, h


def flip_matrix(width):
    return np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])


def crop_matrix(box, size, width, height, geometry='exact'):
    """The matrix from points of the resized crop (size² pixels) to points of the image (width x height).

    box: of the crop, (left, top, width, height). geometry `reference` repeats an error of the original, which stores
    the box as (top / height, left / width, …) and reads it as (x, y, …).
    """
    x, y, w, h = box
    if geometry == 'reference':
        x, w, y, h = y * width / height, h * width / height, x * height / width, w * height / width
    return np.array([[w / size, 0, x], [0, h / size, y], [0, 0, 1]])


class Draws(NamedTuple):
    """Everything random about the pixels of a training sample except random erasing."""

    ops: list  # of augment_ops.Op, in the order of their application; a flip comes first
    box: tuple  # of the crop: (left, top, width, height)
    interpolation: int  # of the crop, a PIL filter
    matrix: np.ndarray  # float64 [3, 3], from the crop's pixels to the source's, for token labels


class TrainTransform:
    """Flip, RandAugment or AutoAugment (or colour jitter), random resized crop, random erasing.

    size: side of the output in pixels. interpolation: a key of INTERPOLATIONS, or `random` (bilinear or bicubic each
    time). aa: a policy of augment.build_policy, '' = colour jitter of strength `jitter`. reprob, remode, recount: see
    augment.draw_erasing. scale: area share of the crop. flip: its probability. geometry: `exact`, or `reference` for
    the matrix of crop_matrix; the pixels are the same. mean, std: see normalise; the mean is also the colour of points
    outside the image. backend: see renderer. Raises UserError for a value that is none of these.
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
        if scale[0] > scale[1]:
            raise UserError(f'--train_scale {scale[0]} {scale[1]}: the smaller number must come first')
        check_normalisation(mean, std)
        self.size, self.scale, self.flip, self.geometry = size, scale, flip, geometry
        self.interpolation = INTERPOLATIONS.get(interpolation)  # None: random
        self.jitter = jitter
        self.reprob, self.remode, self.recount = reprob, remode, recount
        self.mean, self.std = mean, std
        self.fill = tuple(max(0, min(255, round(255 * m))) for m in mean)
        self.augment = build_policy(aa, self.interpolation) if aa else None
        self.backend = backend
        renderer(backend)  # a missing package is an error now, not in a loader process

    def load(self, path, rng):
        """Image file -> (pixels uint8 [S, S, 3], matrix as in Draws, (width, height) of the file, Erased or None).

        rng: numpy Generator. Raises BadImage as images.open_rgb.
        """
        image = renderer(self.backend).open_image(path)
        draws = self.draw(image.size, rng)
        pixels = self.render(image, draws)
        erased = draw_erasing(self.size, self.size, rng, self.reprob, mode=self.remode, count=self.recount)
        return pixels, draws.matrix, image.size, erased

    def render(self, image, draws):
        """The image that the backend opened (for `pil` an RGB PIL image) -> uint8 [S, S, 3]."""
        return renderer(self.backend).train_pixels(image, draws, self.size, self.fill)

    def draw(self, size, rng):
        """The Draws of an image of `size` (width, height). rng: numpy Generator."""
        width, height = size
        ops, flip, augmentation = [], np.eye(3), np.eye(3)
        if rng.random() < self.flip:
            flip = flip_matrix(width)
            ops.append(Op('Flip', None, flip))
        if self.augment:
            augmentations = self.augment.draw(size, rng)
        else:
            augmentations = color_jitter(self.jitter, rng) if self.jitter else []
        for op in augmentations:
            if op.matrix is not None:
                augmentation = augmentation @ op.matrix
        box = random_crop_box(width, height, rng, self.scale)
        interpolation = self.interpolation
        if interpolation is None:
            interpolation = RANDOM_INTERPOLATION[rng.integers(2)]
        crop = crop_matrix(box, self.size, width, height, geometry=self.geometry)
        return Draws(ops + augmentations, box, interpolation, flip @ augmentation @ crop)


# -- evaluation -------------------------------------------------------------------------------------------------------


def check_eval_transform(crop_pct, interpolation, mean, std):
    """Raise UserError for a value that EvalTransform does not take."""
    if not 0 < crop_pct <= 1:
        raise UserError(f'--crop_pct {crop_pct}: must be above 0 and at most 1')
    if interpolation != 'random' and interpolation not in INTERPOLATIONS:
        raise UserError(f'--interpolation {interpolation}: use {", ".join(INTERPOLATIONS)}')
    check_normalisation(mean, std)


class EvalTransform:
    """Resize the short side to size / crop_pct, cut the centre square, normalise: the field's standard evaluation.

    size: side of the output in pixels. interpolation: a key of INTERPOLATIONS; `random` means bicubic. mean, std: see
    normalise. backend: see renderer. Raises UserError for a value that is none of these.
    """

    def __init__(self, size, crop_pct, interpolation='bicubic', mean=IMAGENET_MEAN, std=IMAGENET_STD, backend='pil'):
        check_eval_transform(crop_pct, interpolation, mean, std)
        self.size, self.short_side = size, int(math.floor(size / crop_pct))
        self.mean, self.std = mean, std
        self.interpolation = INTERPOLATIONS['bicubic' if interpolation == 'random' else interpolation]
        self.backend = backend
        renderer(backend)  # a missing package is an error now, not in a loader process

    def load(self, path):
        """Image file -> uint8 [S, S, 3]. Raises BadImage as images.open_rgb."""
        backend = renderer(self.backend)
        image = backend.open_image(path)
        return backend.eval_pixels(image, *self._resized_and_corner(*image.size), self.size, self.interpolation)

    def __call__(self, image):
        """RGB PIL image -> float32 [3, S, S]."""
        return to_input(self.crop(image), self.mean, self.std)

    def crop(self, image):
        """RGB PIL image -> the PIL square that the network sees, by the backend `pil`."""
        return render_pil.eval_crop(image, *self._resized_and_corner(*image.size), self.size, self.interpolation)

    def region(self, width, height):
        """Where that square lies in an image of this size: (left, top, right, bottom) in its pixels, floats."""
        resized, (x, y) = self._resized_and_corner(width, height)
        scale_x, scale_y = width / resized[0], height / resized[1]
        right, bottom = min((x + self.size) * scale_x, width), min((y + self.size) * scale_y, height)
        return x * scale_x, y * scale_y, right, bottom

    def _resized_and_corner(self, width, height):
        """((width, height) of the resized image, (x, y) of the square in it)."""
        if width < height:
            width, height = self.short_side, int(self.short_side * height / width)
        else:
            width, height = int(self.short_side * width / height), self.short_side
        return (width, height), (round((width - self.size) / 2), round((height - self.size) / 2))


# -- bytes to floats --------------------------------------------------------------------------------------------------


def check_normalisation(mean, std):
    """Raise UserError for a --mean or --std that is not three numbers, or a deviation that is not above 0."""
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise UserError(f'--mean {mean} --std {std}: must be three numbers each, the deviations above 0')


def normalise(images, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """(images / 255 - mean) / std, channels first: uint8 [B, H, W, 3] -> float32 [B, 3, H, W].

    images: an array, or a tensor, which stays on its device. mean, std: of R, G, B, in 0-1.
    """
    mean, std = np.float32(mean).reshape(3, 1, 1), np.float32(std).reshape(3, 1, 1)
    if isinstance(images, np.ndarray):
        batch, height, width, channels = images.shape
        planes = np.empty([batch, channels, height, width], 'float32')
        for image, pixels in zip(planes, images):  # one by one: an image stays in the processor's cache
            image[:] = pixels.transpose(2, 0, 1)
            image /= np.float32(255)
            image -= mean
            image /= std
        return planes
    planes = images.transpose([0, 3, 1, 2]).astype('float32') / 255.0
    return (planes - paddle.to_tensor(mean)) / paddle.to_tensor(std)


def to_input(image, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """RGB PIL image, or uint8 [H, W, 3] -> normalised float32 array [3, H, W]."""
    return normalise(np.asarray(image)[None], mean, std)[0]


def erase(images, positions, values):
    """Replace the values at these positions of the flattened images [B, 3, H, W], in one operation; returns them.

    positions: int64 [n]; values: float32 [n], as augment.pack_erased returns them. Arrays (in place) or tensors.
    """
    if isinstance(images, np.ndarray):
        images.reshape(-1)[positions] = values
        return images
    return paddle.scatter(images.flatten(), positions, values).reshape(images.shape)


def network_input(batch, mean, std):
    """Replace batch['image'], uint8 [B, S, S, 3], by the network's input: float32 [B, 3, S, S], normalised and erased.

    batch: named arrays or tensors. The entries of augment.pack_erased are removed from it.
    """
    image = batch['image']
    positions, values = batch.pop('erased_positions', None), batch.pop('erased_values', None)
    on_cpu = isinstance(image, paddle.Tensor) and image.place.is_cpu_place()
    if on_cpu:  # numpy takes a fourth of the time of Paddle's kernels
        image = image.numpy()
        if positions is not None:
            positions, values = positions.numpy(), values.numpy()
    image = normalise(image, mean, std)
    if positions is not None:
        image = erase(image, positions, values)
    if on_cpu:  # shares the memory: the copy of paddle.to_tensor takes as long as all of the above
        image = paddle.utils.dlpack.from_dlpack(image.__dlpack__())
    batch['image'] = image
