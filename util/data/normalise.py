"""From pixels in bytes to what a network takes: normalised, channels first, and in training with parts erased.

Loader processes hand over bytes, a quarter of what floats take; the main process makes the floats, on its device.
"""

import math
from typing import NamedTuple

import numpy as np
import paddle

from util.errors import UserError
from util.options import IMAGENET_MEAN, IMAGENET_STD


def check_normalisation(mean, std):
    """Raise UserError for --mean and --std that no image can be normalised by."""
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise UserError(f'--mean {mean} --std {std}: must be three numbers each, the deviations above 0')


def normalise(images, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """(images / 255 - mean) / std, channels first: uint8 [B, H, W, 3] -> float32 [B, 3, H, W].

    images: an array, or a tensor, which stays on its device. mean, std: of RGB, in 0-1.
    """
    mean, std = np.float32(mean).reshape(3, 1, 1), np.float32(std).reshape(3, 1, 1)
    if isinstance(images, np.ndarray):
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype('float32')
        planes /= np.float32(255)
        planes -= mean
        planes /= std
        return planes
    planes = images.transpose([0, 3, 1, 2]).astype('float32') / 255.0
    return (planes - paddle.to_tensor(mean)) / paddle.to_tensor(std)


def to_input(image, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """RGB PIL image, or uint8 [H, W, 3] -> normalised float32 array [3, H, W]."""
    return normalise(np.asarray(image)[None], mean, std)[0]


# -- random erasing ---------------------------------------------------------------------------------------------------


class Erased(NamedTuple):
    """A box of an image [3, H, W] and the normalised values that take its place."""

    top: int
    left: int
    values: np.ndarray  # float32 [3, height, width]


def draw_erasing(height, width, rng, probability, mode='pixel', count=1, area=(0.02, 1 / 3), min_aspect=0.3):
    """Random erasing (arXiv 1708.04896) of an image of this size, after timm: a list of Erased, often empty.

    mode: `pixel` normal noise for each value, `rand` one normal colour, `const` zeros. Up to `count` boxes share the
    area.
    """
    if rng.random() > probability:
        return []
    boxes = 1 if count == 1 else int(rng.integers(1, count + 1))
    drawn = []
    for _ in range(boxes):
        for _ in range(10):  # until a box fits
            target = rng.uniform(*area) * height * width / boxes
            aspect = math.exp(rng.uniform(math.log(min_aspect), -math.log(min_aspect)))
            h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if h < height and w < width:
                y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                values = np.zeros((3, h, w), 'float32')
                if mode == 'pixel':
                    values = rng.standard_normal((3, h, w), dtype='float32')
                elif mode == 'rand':
                    values += rng.standard_normal((3, 1, 1), dtype='float32')
                drawn.append(Erased(y, x, values))
                break
    return drawn


def pack_erased(erased):
    """What is erased in a batch, as few objects: {} if nothing is, else

    erased: a list of (image, top, left, height, width) of all boxes, in the order in which they are painted;
    erased_values: their values one after another, float32 [n].

    erased: for each image its list of Erased.
    """
    boxes = [(i, box) for i, of_image in enumerate(erased) for box in of_image]
    if not boxes:
        return {}
    places = [(i, box.top, box.left, *box.values.shape[1:]) for i, box in boxes]
    return {'erased': places, 'erased_values': np.concatenate([box.values.ravel() for _, box in boxes])}


def erase(images, erased, erased_values):
    """Paint what `pack_erased` returned into images [B, 3, H, W], in place; arrays or tensors, both of one kind."""
    start = 0
    for i, top, left, height, width in erased:
        values = erased_values[start : start + 3 * height * width].reshape([3, height, width])
        images[i, :, top : top + height, left : left + width] = values
        start += 3 * height * width


def network_input(batch, mean, std):
    """Turn batch['image'] from uint8 [B, S, S, 3] into the float32 [B, 3, S, S] that a network takes, in place.

    batch: named arrays or tensors; what `pack_erased` put there is taken out.
    """
    image, erased, values = batch['image'], batch.pop('erased', []), batch.pop('erased_values', None)
    on_cpu = isinstance(image, paddle.Tensor) and image.place.is_cpu_place()
    if on_cpu:  # numpy takes a fourth of the time of Paddle's kernels
        image, values = image.numpy(), values.numpy() if len(erased) else None
    image = normalise(image, mean, std)
    erase(image, erased, values)
    if on_cpu:  # the same memory: paddle.to_tensor takes as long for its copy as all of the above
        image = paddle.utils.dlpack.from_dlpack(image.__dlpack__())
    batch['image'] = image
