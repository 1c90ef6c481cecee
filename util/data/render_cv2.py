"""Pixels by OpenCV, fast and nearly Pillow's: applies what was drawn for an image (transforms.Draws).

All geometric steps (flip, ops, crop, resize) are one resampling through the product of their matrices, of the region
that the crop shows. Photometric ops come after it, on the few pixels of the output. The statistics that some of them
need are those of the whole image after the earlier ops.
docs/performance.md has the differences to the pixels of render_pil.py.
"""

import functools
import math

import cv2
import numpy as np
from PIL import Image

from util.data import augment_ops, images
from util.data.render_pil import MAX_RESIZED

cv2.setNumThreads(0)  # the loader has processes of its own
cv2.ocl.setUseOpenCL(False)

FILTERS = {
    Image.NEAREST: cv2.INTER_NEAREST,
    Image.BILINEAR: cv2.INTER_LINEAR,
    Image.BICUBIC: cv2.INTER_CUBIC,
    Image.LANCZOS: cv2.INTER_LANCZOS4,
}
GREY = np.array([0.299, 0.587, 0.114])  # of R, G, B, as Pillow's mode L
STATISTICS_SIDE = 512  # short side in pixels of the image from which statistics come


def open_image(path):
    """images.JpegFile or images.DecodedImage. Raises BadImage as images.open_rgb."""
    return images.open_jpeg(path)


def train_pixels(image, draws, size, fill):
    """What open_image returns -> uint8 [size, size, 3]. draws, fill: see render_pil.train_pixels."""
    left, top, width, height = draws.box
    # Decoding a JPEG smaller averages pixels, so that the brightest and the darkest are lost.
    full_size = draws.interpolation == Image.NEAREST or any(op.name == 'AutoContrast' for op in draws.ops)
    pixels, shrink = image.decode(1 if full_size else min(width, height) / size)
    renderer = Renderer(pixels, shrink, image.size, fill)
    crop = np.array([[width / size, 0, left], [0, height / size, top], [0, 0, 1]])
    return renderer.apply_ops(draws.ops, crop, (size, size), draws.interpolation)


def eval_pixels(image, resized, corner, size, interpolation):
    """As render_pil.eval_pixels."""
    factors = [side / resized_side for side, resized_side in zip(image.size, resized)]
    pixels, shrink = image.decode(1 if interpolation == Image.NEAREST else min(factors))
    x, y = corner
    to_pixels = np.diag([factors[0] / shrink, factors[1] / shrink, 1])
    if max(resized) > MAX_RESIZED:
        crop = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
        return resample(pixels, to_pixels @ crop, (size, size), interpolation)
    return resample(pixels, to_pixels, resized, interpolation)[y : y + size, x : x + size]


# -- ops --------------------------------------------------------------------------------------------------------------


class Renderer:
    """Applies ops to a decoded image.

    pixels: uint8 [H, W, 3], `shrink` times smaller than the image's `size` (width, height); fill: colour outside it.
    """

    def __init__(self, pixels, shrink, size, fill):
        self.pixels, self.shrink, self.size, self.fill = pixels, shrink, size, fill

    def apply_ops(self, ops, crop, size, interpolation):
        """The image after the ops, seen through a crop: uint8 [height, width, 3] of `size` (width, height).

        crop: matrix from points of the output to points of the image after the ops.
        """
        # to_image[i]: matrix from points of the output to points of the image before ops[i]
        to_image = [crop]
        for op in reversed(ops):
            to_image.insert(0, to_image[0] if op.matrix is None else op.matrix @ to_image[0])
        to_pixels = np.diag([1 / self.shrink, 1 / self.shrink, 1]) @ to_image[0]
        output = resample(self.pixels, to_pixels, size, interpolation)
        for i, op in enumerate(ops):
            if op.name == 'Flip':
                continue
            if op.matrix is not None:
                output = fill_outside(output, to_image[i], self.size, self.fill)
            elif op.name == 'Color':
                output = cv2.transform(output, op.argument * np.eye(3) + (1 - op.argument) * GREY)
            elif op.name == 'Sharpness':
                output = sharpen(output, op.argument, to_image[i + 1])
            elif op.name in augment_ops.TABLES_BY_STATISTICS:
                output = look_up(output, augment_ops.level_table(op, self.level_counts(op, ops[:i])))
            else:
                output = look_up(output, augment_ops.level_table(op))
        return output

    def level_counts(self, op, ops_before):
        """How many pixels of the whole image have each level after `ops_before`, as level_table takes it for `op`."""
        pixels = self.pixels
        if any(before.name != 'Flip' for before in ops_before):
            step = max(1, min(self.size) / STATISTICS_SIDE, max(self.size) / MAX_RESIZED)
            width, height = (max(1, round(side / step)) for side in self.size)
            whole = np.diag([self.size[0] / width, self.size[1] / height, 1])
            pixels = self.apply_ops(ops_before, whole, (width, height), Image.NEAREST)
        if op.name == 'Contrast':
            pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
        counts = [cv2.calcHist([pixels], [i], None, [256], [0, 256]).ravel() for i in range(pixels.shape[2])]
        return np.array(counts, 'int64')


def corner_points(matrix, size):
    """float64 [2, 4]: x and y of the points to which `matrix` maps the corners of an output of this (width, height)."""
    width, height = size
    return matrix[:2] @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])


def fill_outside(output, matrix, size, fill):
    """Give the colour `fill` to all points of the output that `matrix` maps outside an image of `size`."""
    xs, ys = corner_points(matrix, output.shape[1::-1])
    if min(xs.min(), ys.min()) >= 0 and xs.max() <= size[0] and ys.max() <= size[1]:
        return output
    height, width = output.shape[:2]
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    x, y = (row[0] * columns + (row[1] * rows + row[2]) for row in matrix[:2])
    outside = (x < 0) | (x >= size[0]) | (y < 0) | (y >= size[1])
    return cv2.copyTo(plain_image(height, width, fill), outside.view('uint8'), output)


@functools.lru_cache(maxsize=16)
def plain_image(height, width, colour):
    """An image of one colour; read it only, it is cached."""
    return np.full([height, width, 3], colour, 'uint8')


def look_up(pixels, table):
    """Replace each level by that of the table, uint8 [1 or 3, 256] (augment_ops.level_table)."""
    return cv2.LUT(pixels, np.ascontiguousarray(table.T)[None])


def sharpen(pixels, factor, matrix):
    """Pillow's Sharpness of the image, applied to an output that shows it through `matrix`.

    Pillow blends the image with a blurred one, by 3x3 weights of variance 6 / 13 along either axis, in its pixels.
    """
    x_variance, y_variance = (6 / 13 / (matrix[0, i] ** 2 + matrix[1, i] ** 2) for i in range(2))
    return cv2.addWeighted(pixels, factor, blur(pixels, x_variance, y_variance), 1 - factor, 0)


# -- resampling -------------------------------------------------------------------------------------------------------


def resample(pixels, matrix, size, interpolation):
    """uint8 [height, width, 3] of `size` (width, height), seen through `matrix` from its points to those of `pixels`.

    Points outside the pixels get the nearest pixel.
    """
    box = whole_pixel_box(pixels, matrix, size)
    if box is None or interpolation == Image.NEAREST:
        return warp(pixels, matrix, size, interpolation)
    resized = resize_box(pixels, box, size, interpolation)
    return cv2.flip(resized, 1) if matrix[0, 0] < 0 else resized


def whole_pixel_box(pixels, matrix, size):
    """(left, top, right, bottom) if the output shows an upright box of whole pixels, else None."""
    corners = corner_points(matrix, size)
    rounded = corners.round()
    if matrix[0, 1] != 0 or matrix[1, 0] != 0 or np.abs(corners - rounded).max() >= 1e-6:
        return None
    (left, top), (right, bottom) = rounded.min(axis=1).astype(int), rounded.max(axis=1).astype(int)
    inside = left >= 0 and top >= 0 and right <= pixels.shape[1] and bottom <= pixels.shape[0]
    return (left, top, right, bottom) if inside else None


def resize_box(pixels, box, size, interpolation):
    """The box (left, top, right, bottom) of the pixels, resized to `size` (width, height)."""
    left, top, right, bottom = box
    width, height = size
    part = anti_alias(pixels[top:bottom, left:right], (right - left) / width, (bottom - top) / height)
    return cv2.resize(part, size, interpolation=FILTERS[interpolation])


def warp(pixels, matrix, size, interpolation):
    """As resample, through any affine matrix."""
    x_factor, y_factor = math.hypot(*matrix[0, :2]), math.hypot(*matrix[1, :2])  # pixels to one of the output
    if interpolation == Image.NEAREST:
        x_factor = y_factor = 1
    # The part of the pixels that the output shows, with a margin for the filters; at least one pixel.
    xs, ys = corner_points(matrix, size)
    x_margin, y_margin = 4 * max(1, x_factor), 4 * max(1, y_factor)
    left, right = part_range(xs.min() - x_margin, xs.max() + x_margin, pixels.shape[1])
    top, bottom = part_range(ys.min() - y_margin, ys.max() + y_margin, pixels.shape[0])
    part = pixels[top:bottom, left:right]
    if interpolation == Image.NEAREST:  # takes single pixels; fewer to choose from if there are too many for OpenCV
        part = part[:: -(-part.shape[0] // MAX_RESIZED), :: -(-part.shape[1] // MAX_RESIZED)]
    else:
        part = anti_alias(part, x_factor, y_factor)
    to_part = np.diag([part.shape[1] / (right - left), part.shape[0] / (bottom - top)]) @ (
        matrix[:2] - [[0, 0, left], [0, 0, top]]
    )
    to_part[:, 2] += to_part[:, :2] @ [0.5, 0.5] - 0.5  # OpenCV has the centre of the first pixel at (0, 0)
    flags = FILTERS[interpolation] | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(part, to_part, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def part_range(first, last, length):
    """(start, stop) of the pixels from `first` to `last` among `length`; at least one of them."""
    start = min(max(int(first), 0), length - 1)
    return start, max(min(max(int(last), 0), length), start + 1)


def anti_alias(pixels, x_factor, y_factor):
    """Shrink and blur pixels before resampling, so that nothing aliases. x_factor, y_factor: pixels per output pixel.

    Averaging halves the pixels as often as the factor allows. For the rest of the factor, less than 2, they are blurred
    with a variance of 0.25 · (factor² - 1): of the constants tried, 0.25 comes nearest to Pillow's bilinear and bicubic
    filters. A variance of 0.5 already removes the highest frequency, so it is the limit.
    """
    height, width = pixels.shape[:2]
    new_width = max(1, width >> max(0, int(math.log2(x_factor))))
    new_height = max(1, height >> max(0, int(math.log2(y_factor))))
    if (new_width, new_height) != (width, height):
        pixels = cv2.resize(pixels, (new_width, new_height), interpolation=cv2.INTER_AREA)
        x_factor, y_factor = x_factor * new_width / width, y_factor * new_height / height
    x_variance, y_variance = (min(0.25 * max(0, factor**2 - 1), 0.5) for factor in (x_factor, y_factor))
    return blur(pixels, x_variance, y_variance) if max(x_variance, y_variance) > 0.02 else pixels


def blur(pixels, x_variance, y_variance):
    """Blur by the kernels of these variances in pixels², along x and along y."""
    weights = kernel(x_variance), kernel(y_variance)
    return cv2.sepFilter2D(pixels, -1, *weights, borderType=cv2.BORDER_REPLICATE)


def kernel(variance):
    """Weights of a blur with this variance: three weights, or a Gaussian's if the variance is too large for three.

    OpenCV rounds each weight to a multiple of 1/256. The weights are rounded here, so that they still sum to 1 and the
    blur does not change the brightness.
    """
    if variance < 0.6:
        weights = np.array([variance / 2, 1 - variance, variance / 2])
    else:
        reach = math.ceil(3 * math.sqrt(variance))
        weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    weights = np.round(256 * weights / weights.sum())
    weights[len(weights) // 2] += 256 - weights.sum()
    return weights / 256
