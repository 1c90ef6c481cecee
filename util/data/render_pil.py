"""Pixels by Pillow, the published recipe to the last bit: what was drawn for an image (transforms.Draws), carried out.

Only what the crop needs is computed. Every op leaves the size of the image as it is, so a box of its result needs: the
same box of what came before (tables, Color), a pixel more on each side (Sharpness), or all of it (geometric ops, and
those that need statistics of the whole image).
"""

import numpy as np
from PIL import Image, ImageEnhance

from util.data import tone
from util.data.images import open_rgb


def open_image(path):
    """RGB PIL image. Raises BadImage and UserError as images.open_rgb."""
    return open_rgb(path)


def train_pixels(image, draws, size, fill):
    """RGB PIL image -> uint8 [size, size, 3]. draws: of an image of this size; fill: colour of what lies outside."""
    left, top, width, height = draws.box
    part = after(image, draws.ops, (left, top, left + width, top + height), fill)
    return np.asarray(resize(part, (size, size), draws.interpolation))


def eval_pixels(image, resized, corner, size, interpolation):
    """RGB PIL image -> uint8 [size, size, 3]: the square at `corner` (x, y) of the image resized to (width, height)."""
    return np.asarray(eval_crop(image, resized, corner, size, interpolation))


def eval_crop(image, resized, corner, size, interpolation):
    """The same as a PIL image."""
    if resized != image.size:
        image = resize(image, resized, interpolation)
    x, y = corner
    return image.crop((x, y, x + size, y + size))


def resize(image, size, interpolation):
    """`image.resize((width, height), …)` with the horizontal pass first, on every version of Pillow.

    Values are rounded and clipped to 8 bits between the passes, so their order shows in the pixels. Pillow 13 chooses
    it by the sizes (its pull request 9549); before, the horizontal pass came first, as in all published results.
    """
    return image.resize((size[0], image.height), interpolation).resize(size, interpolation)


def after(image, ops, box, fill):
    """What is in `box` (left, top, right, bottom) of the image that the ops, one after the other, make of `image`."""
    whole = (0, 0, *image.size)
    if not ops:
        return image if box == whole else image.crop(box)
    *before, op = ops
    left, top, right, bottom = box
    if op.name == 'Flip':
        mirrored = image.width - right, top, image.width - left, bottom
        return after(image, before, mirrored, fill).transpose(Image.FLIP_LEFT_RIGHT)
    if op.matrix is not None:
        return affine(after(image, before, whole, fill), op.matrix, op.interpolation, fill, box)
    if op.name in tone.OF_STATISTICS:
        image = after(image, before, whole, fill)
        counts = (image.convert('L') if op.name == 'Contrast' else image).histogram()
        return look_up(image if box == whole else image.crop(box), tone.table(op, np.reshape(counts, [-1, 256])))
    if op.name in tone.TABLES:
        return look_up(after(image, before, box, fill), tone.table(op))
    if op.name == 'Color':
        return ImageEnhance.Color(after(image, before, box, fill)).enhance(op.argument)
    # Sharpness: the filter looks one pixel around, and leaves the image's own border as it is
    x, y = max(left - 1, 0), max(top - 1, 0)
    wider = after(image, before, (x, y, min(right + 1, image.width), min(bottom + 1, image.height)), fill)
    return ImageEnhance.Sharpness(wider).enhance(op.argument).crop((left - x, top - y, right - x, bottom - y))


def look_up(image, table):
    """table: uint8 [1 or 3, 256], see tone.table."""
    return image.point(np.broadcast_to(table, [3, 256]).ravel().tolist())


def affine(image, matrix, interpolation, fill, box):
    """`box` of the image resampled through `matrix` (output point to input point); outside the image it is `fill`.

    What lies left of the box and above it is computed too: an offset in the matrix would be rounded in other places.
    """
    coefficients = tuple(matrix[:2].ravel())
    return image.transform(box[2:], Image.AFFINE, coefficients, interpolation, fillcolor=fill).crop(box)
