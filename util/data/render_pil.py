"""Pixels by Pillow, exactly as in the published recipe: applies what was drawn for an image (transforms.Draws).

Only what the crop needs is computed. No op changes the size of the image, so a backward pass over the ops finds the
region that each of them must produce; then the ops are applied to these regions one after the other.
"""

import numpy as np
from PIL import Image, ImageEnhance

from util.data import augment_ops
from util.data.images import open_rgb

# If the long side would have more pixels after resizing, only the part that the crop shows is resized. At a short side
# of 256 pixels this concerns images that are more than 128 times as long as wide.
MAX_RESIZED = 2**15 - 2  # OpenCV 4 warps nothing longer


def open_image(path):
    """RGB PIL image. Raises BadImage as images.open_rgb."""
    return open_rgb(path)


def train_pixels(image, draws, size, fill):
    """RGB PIL image -> uint8 [size, size, 3]. draws: of an image of this size; fill: colour of what lies outside."""
    left, top, width, height = draws.box
    crop = apply_ops(image, draws.ops, (left, top, left + width, top + height), fill)
    return np.asarray(resize(crop, (size, size), draws.interpolation))


def eval_pixels(image, resized, corner, size, interpolation):
    """RGB PIL image -> uint8 [size, size, 3]: the square at `corner` (x, y) of the image resized to (width, height)."""
    return np.asarray(eval_crop(image, resized, corner, size, interpolation))


def eval_crop(image, resized, corner, size, interpolation):
    """The same as a PIL image."""
    x, y = corner
    box = (x, y, x + size, y + size)
    if resized == image.size:
        return image.crop(box)
    if max(resized) > MAX_RESIZED:
        return resize_part(image, resized, box, interpolation)
    return resize(image, resized, interpolation).crop(box)


def resize(image, size, interpolation):
    """`image.resize((width, height), …)` with the horizontal pass first, on every version of Pillow.

    Values are rounded and clipped to 8 bits between the passes, so their order shows in the pixels. Pillow 13 chooses
    it by the sizes (its pull request 9549); before, the horizontal pass came first, as in all published results.
    """
    return image.resize((size[0], image.height), interpolation).resize(size, interpolation)


def resize_part(image, size, box, interpolation):
    """The box (left, top, right, bottom) of `image.resize(size, …)`. Some of its values are rounded differently."""
    scale = np.array([image.width / size[0], image.height / size[1]] * 2)
    source = box * scale  # the box, in pixels of the image
    reach = np.ceil(3 * np.maximum(scale, 1)) * [-1, -1, 1, 1]  # pixels around it that the filters look at, at most
    # Pillow has the numbers of a box as 32-bit floats. The part of the image around the box keeps them small.
    around = (source + reach).round().astype(int).clip(0, [*image.size] * 2)
    source = source - around[[0, 1, 0, 1]]
    return image.crop(around).resize((box[2] - box[0], box[3] - box[1]), interpolation, box=source)


# -- ops --------------------------------------------------------------------------------------------------------------
# Boxes are (left, top, right, bottom) in pixels of the whole image.


def apply_ops(image, ops, box, fill):
    """Apply the ops to an RGB PIL image, one after the other; returns the part of the result that lies in `box`."""
    boxes = needed_boxes(ops, box, image.size)
    image = crop(image, boxes[0])
    for op, before, after in zip(ops, boxes, boxes[1:]):
        image = apply_op(image, op, before, after, fill)
    return image


def needed_boxes(ops, box, size):
    """boxes[i]: the part of the image before ops[i] that is needed for `box` of the result; boxes[-1] is `box`.

    size: (width, height) of the image.
    """
    width, height = size
    boxes = [box]
    for op in reversed(ops):
        left, top, right, bottom = boxes[0]
        if op.name == 'Flip':
            needed = (width - right, top, width - left, bottom)
        elif op.matrix is not None or op.name in augment_ops.TABLES_BY_STATISTICS:
            needed = (0, 0, width, height)
        elif op.name == 'Sharpness':  # its filter looks one pixel around
            needed = (max(left - 1, 0), max(top - 1, 0), min(right + 1, width), min(bottom + 1, height))
        else:
            needed = boxes[0]
        boxes.insert(0, needed)
    return boxes


def apply_op(image, op, before, after, fill):
    """The part `after` of an op's result, from the part `before` of the image, which is the PIL image given."""
    if op.name == 'Flip':
        return image.transpose(Image.FLIP_LEFT_RIGHT)
    if op.matrix is not None:
        return affine(image, op.matrix, op.interpolation, fill, after)
    if op.name in augment_ops.TABLES_BY_STATISTICS:
        counts = (image.convert('L') if op.name == 'Contrast' else image).histogram()
        return look_up(crop(image, after), augment_ops.level_table(op, np.reshape(counts, [-1, 256])))
    if op.name in augment_ops.TABLES:
        return look_up(image, augment_ops.level_table(op))
    if op.name == 'Color':
        return ImageEnhance.Color(image).enhance(op.argument)
    left, top = before[:2]
    part = (after[0] - left, after[1] - top, after[2] - left, after[3] - top)
    return ImageEnhance.Sharpness(image).enhance(op.argument).crop(part)


def crop(image, box):
    """`image.crop(box)` without a copy if `box` is the whole image."""
    return image if box == (0, 0, *image.size) else image.crop(box)


def look_up(image, table):
    """Replace each level by that of the table, uint8 [1 or 3, 256] (augment_ops.level_table)."""
    return image.point(np.broadcast_to(table, [3, 256]).ravel().tolist())


def affine(image, matrix, interpolation, fill, box):
    """`box` of the image resampled through `matrix` (output point to input point); outside the image it is `fill`.

    What lies left of the box and above it is computed too: an offset in the matrix would be rounded differently.
    """
    coefficients = tuple(matrix[:2].ravel())
    return image.transform(box[2:], Image.AFFINE, coefficients, interpolation, fillcolor=fill).crop(box)
