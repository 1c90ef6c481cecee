"""Pixels by OpenCV, fast and nearly Pillow's: what was drawn for an image (transforms.Draws), carried out in one warp.

All geometric steps (flip, ops, crop, resize) are one resampling through the product of their matrices, of the region
that the crop shows and no more. Photometric ops come after it, on the few pixels of the output. The statistics that
some of them need are those of the whole source, with the earlier ops done to it.
docs/performance.md says how far the pixels are from render_pil.py's.
"""

import functools
import math

import cv2
import numpy as np
from PIL import Image

from util.data import jpeg, tone

cv2.setNumThreads(0)  # the loader has processes of its own
cv2.ocl.setUseOpenCL(False)

FILTERS = {
    Image.NEAREST: cv2.INTER_NEAREST,
    Image.BILINEAR: cv2.INTER_LINEAR,
    Image.BICUBIC: cv2.INTER_CUBIC,
    Image.LANCZOS: cv2.INTER_LANCZOS4,
}
GREY = np.array([0.299, 0.587, 0.114])  # of R, G, B, as Pillow's mode L
STATISTICS_SIDE = 512  # pixels along the short side, of what statistics come from after other ops


def open_image(path):
    """jpeg.JpegFile or jpeg.Pixels. Raises BadImage and UserError as images.open_rgb."""
    return jpeg.open_image(path)


def train_pixels(image, draws, size, fill):
    """What open_image gives -> uint8 [size, size, 3]. draws, fill: see render_pil.train_pixels."""
    left, top, width, height = draws.box
    crop = np.array([[width / size, 0, left], [0, height / size, top], [0, 0, 1]])
    as_it_is = draws.interpolation == Image.NEAREST or any(op.name == 'AutoContrast' for op in draws.ops)
    # decoding it smaller averages pixels: the brightest and the darkest would be lost
    pixels, shrunk = image.decode(1 if as_it_is else min(width, height) / size)
    view = View(pixels, shrunk, image.size, fill)
    return view.after(draws.ops, crop, (size, size), draws.interpolation)


def eval_pixels(image, resized, corner, size, interpolation):
    """As render_pil.eval_pixels."""
    factors = [side / resized_side for side, resized_side in zip(image.size, resized)]
    pixels, shrunk = image.decode(1 if interpolation == Image.NEAREST else min(factors))
    x, y = corner
    return warp(pixels, np.diag([*factors, shrunk]) / shrunk, resized, interpolation)[y : y + size, x : x + size]


# -- ops --------------------------------------------------------------------------------------------------------------


class View:
    """A decoded image, and what ops make of it.

    pixels: uint8 [H, W, 3], `shrunk` times smaller than the image's `size` (width, height); fill: colour outside it.
    """

    def __init__(self, pixels, shrunk, size, fill):
        self.pixels, self.shrunk, self.size, self.fill = pixels, shrunk, size, fill

    def after(self, ops, crop, size, interpolation):
        """The ops, one after the other, and then a crop: uint8 [height, width, 3] of `size` (width, height).

        crop: matrix from points of the output to points of what the ops made.
        """
        places = [crop]  # matrices from the output to the image before each op, the last one first
        for op in reversed(ops):
            places.append(places[-1] if op.matrix is None else op.matrix @ places[-1])
        to_pixels = np.diag([1 / self.shrunk, 1 / self.shrunk, 1]) @ places.pop()
        output = warp(self.pixels, to_pixels, size, interpolation)
        for number, op in enumerate(ops):
            place = places.pop()  # what the op gave: the same image, unless it moved pixels
            if op.name == 'Flip':
                continue
            if op.matrix is not None:
                output = self.fill_outside(output, op.matrix @ place)
            elif op.name == 'Color':
                output = cv2.transform(output, op.argument * np.eye(3) + (1 - op.argument) * GREY)
            elif op.name == 'Sharpness':
                output = sharpen(output, op.argument, place)
            else:
                counts = self.counts(ops[:number], op) if op.name in tone.OF_STATISTICS else None
                output = look_up(output, tone.table(op, counts))
        return output

    def fill_outside(self, output, place):
        """Points that `place` maps to points outside the image get the fill colour."""
        height, width = output.shape[:2]
        corners = place @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
        if (corners[:2] >= 0).all() and (corners[0] <= self.size[0]).all() and (corners[1] <= self.size[1]).all():
            return output
        xs, ys = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        x, y = (row[0] * xs + (row[1] * ys + row[2]) for row in place[:2])
        outside = (x < 0) | (x >= self.size[0]) | (y < 0) | (y >= self.size[1])
        return cv2.copyTo(plain(height, width, self.fill), outside.view('uint8'), output)

    def counts(self, ops, of):
        """How often each level occurs in the image after `ops`, as tone.table wants it for the op `of`."""
        channels = self.pixels
        if any(op.name != 'Flip' for op in ops):
            every = max(1, min(self.size) / STATISTICS_SIDE)
            width, height = (max(1, round(side / every)) for side in self.size)
            whole = np.diag([self.size[0] / width, self.size[1] / height, 1])
            channels = self.after(ops, whole, (width, height), Image.NEAREST)
        if of.name == 'Contrast':
            channels = cv2.cvtColor(channels, cv2.COLOR_RGB2GRAY)[..., None]
        levels = [cv2.calcHist([channels], [i], None, [256], [0, 256]).ravel() for i in range(channels.shape[2])]
        return np.array(levels, 'int64')


@functools.lru_cache(maxsize=16)
def plain(height, width, colour):
    """An image of one colour, not to be written to."""
    return np.full([height, width, 3], colour, 'uint8')


def look_up(pixels, table):
    """table: uint8 [1 or 3, 256], see tone.table."""
    return cv2.LUT(pixels, np.ascontiguousarray(table.T)[None])


def sharpen(pixels, factor, place):
    """Pillow's Sharpness of the source, seen through the matrix `place`.

    It mixes the image with a blurred one, by 3x3 weights of variance 6 / 13 along either axis, in pixels of the source.
    """
    across, down = (6 / 13 / (place[0, i] ** 2 + place[1, i] ** 2) for i in range(2))
    return cv2.addWeighted(pixels, factor, blur(pixels, across, down), 1 - factor, 0)


# -- resampling -------------------------------------------------------------------------------------------------------


def blur(pixels, across, down):
    """Blur by bells of these variances in pixels², along x and along y."""
    return cv2.sepFilter2D(pixels, -1, bell(across), bell(down), borderType=cv2.BORDER_REPLICATE)


def bell(variance):
    """Weights of this variance that sum to one: three, or where that is too much for three, a Gaussian's.

    In 256ths, to which OpenCV rounds each of them; so their sum stays, and with it the brightness.
    """
    if variance < 0.6:
        weights = np.array([variance / 2, 1 - variance, variance / 2])
    else:
        reach = math.ceil(3 * math.sqrt(variance))
        weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    weights = np.round(256 * weights / weights.sum())
    weights[len(weights) // 2] += 256 - weights.sum()
    return weights / 256


def shrink(pixels, x_factor, y_factor):
    """Prepare pixels for being resampled with so many of them to a pixel of the output, so that nothing aliases.

    Halves are averages. For the rest, less than 2, the pixels are blurred by a variance of 0.25 · (factor² - 1), of
    those tried the nearest to Pillow's bilinear and bicubic filters; 0.5 takes away the finest grating altogether.
    """
    height, width = pixels.shape[:2]
    smaller = tuple(
        max(1, side >> max(0, int(math.log2(factor)))) for side, factor in ((width, x_factor), (height, y_factor))
    )
    if smaller != (width, height):
        pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
        x_factor, y_factor = x_factor * smaller[0] / width, y_factor * smaller[1] / height
    across, down = (min(0.25 * max(0, factor**2 - 1), 0.5) for factor in (x_factor, y_factor))
    return blur(pixels, across, down) if max(across, down) > 0.02 else pixels


def warp(pixels, matrix, size, interpolation):
    """uint8 [height, width, 3] of `size` (width, height), seen through `matrix` from its points to those of `pixels`.

    Outside the pixels it is the nearest of them.
    """
    x_factor, y_factor = math.hypot(*matrix[0, :2]), math.hypot(*matrix[1, :2])  # pixels to one of the output
    if interpolation == Image.NEAREST:
        x_factor = y_factor = 1
    height, width = pixels.shape[:2]
    corners = matrix[:2] @ np.array([[0, size[0], 0, size[0]], [0, 0, size[1], size[1]], [1, 1, 1, 1]])
    (left, top), (right, bottom) = corners.min(axis=1), corners.max(axis=1)
    upright = matrix[0, 1] == matrix[1, 0] == 0 and interpolation != Image.NEAREST
    if upright and np.abs(corners - corners.round()).max() < 1e-6 and left > -1 and top > -1:
        part = pixels[round(top) : round(bottom), round(left) : round(right)]
        if part.shape[:2] == (round(bottom - top), round(right - left)):
            resized = cv2.resize(shrink(part, x_factor, y_factor), size, interpolation=FILTERS[interpolation])
            return cv2.flip(resized, 1) if matrix[0, 0] < 0 else resized
    x_margin, y_margin = 4 * max(1, x_factor), 4 * max(1, y_factor)  # what filters see beside the output
    left, right = (min(max(int(x), 0), width) for x in (left - x_margin, right + x_margin))
    top, bottom = (min(max(int(y), 0), height) for y in (top - y_margin, bottom + y_margin))
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    part = shrink(pixels[top:bottom, left:right], x_factor, y_factor)
    to_part = np.diag([part.shape[1] / (right - left), part.shape[0] / (bottom - top)]) @ (
        matrix[:2] - [[0, 0, left], [0, 0, top]]
    )
    to_part[:, 2] += to_part[:, :2] @ [0.5, 0.5] - 0.5  # OpenCV has the middle of the first pixel at (0, 0)
    flags = FILTERS[interpolation] | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(part, to_part, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
