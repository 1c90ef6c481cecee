"""JPEG files by simplejpeg, faster than Pillow and to the same pixels; whatever is not plain goes to Pillow.

Pillow alone decides which files are refused (images.open_rgb): simplejpeg raises for everything that libjpeg warns of,
a truncated file for one, and then Pillow is asked.
"""

import numpy as np
import simplejpeg
from PIL import Image

from util.data.images import open_rgb

SHRINK = (8, 4, 2)  # libjpeg can decode an image so many times smaller, in less time
PLAIN = ('YCbCr', 'Gray')


class Pixels:
    """An image that is decoded already: uint8 [H, W, 3]."""

    def __init__(self, array):
        self.array, self.size = array, (array.shape[1], array.shape[0])

    def decode(self, most=1):
        return self.array, 1


class JpegFile:
    """A file whose header alone was read; size: (width, height)."""

    def __init__(self, path, data, size):
        self.path, self.data, self.size = path, data, size

    def decode(self, most=1):
        """(uint8 [H, W, 3], how many times smaller it was decoded: 1, 2, 4 or 8, but at most `most`).

        Raises BadImage and UserError as images.open_rgb.
        """
        width, height = self.size
        shrunk = next((times for times in SHRINK if times <= most), 1)
        smaller = dict(min_width=-(-width // shrunk), min_height=-(-height // shrunk), min_factor=shrunk)
        try:
            return simplejpeg.decode_jpeg(self.data, 'RGB', **(smaller if shrunk > 1 else {})), shrunk
        except ValueError:
            return np.asarray(open_rgb(self.path)), 1


def open_image(path):
    """JpegFile, or the Pixels of a file of another kind. Raises BadImage and UserError as images.open_rgb."""
    try:
        with open(path, 'rb') as file:
            data = file.read()
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (OSError, ValueError):
        return Pixels(np.asarray(open_rgb(path)))
    if colours not in PLAIN or width * height > Image.MAX_IMAGE_PIXELS:
        return Pixels(np.asarray(open_rgb(path)))
    return JpegFile(path, data, (width, height))
