"""Image files: which there are, and their pixels."""

import glob
import os
import warnings

import numpy as np
from PIL import Image

from util.errors import UserError, one_line

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP')  # of the content, whatever the name says; for others Pillow starts programs

# What Pillow has to say of a file's metadata does not concern its pixels.
warnings.filterwarnings('ignore', module=r'PIL\.')


class BadImage(Exception):
    """A file that cannot be decoded; the message names it and says why."""


def is_image(name):
    return name.lower().endswith(EXTENSIONS)


def find_images(inputs):
    """Image files named by files, folders (searched recursively, sorted) and glob patterns, in the order given.

    Raises UserError for an input that names no image.
    """
    found = []
    for item in inputs:
        if os.path.isdir(item):
            here = [os.path.join(root, name) for root, _, names in os.walk(item) for name in names if is_image(name)]
        elif os.path.isfile(item):
            here = [item]
        else:
            here = [path for path in glob.glob(item, recursive=True) if os.path.isfile(path) and is_image(path)]
        if not here:
            raise UserError(f'{item}: no such file, or no images there (.jpg .jpeg .png .bmp .webp)')
        found += sorted(here)
    return found


def open_rgb(path):
    """Decode an image file to RGB. 16-bit greys are scaled to 8 bits; an EXIF orientation is ignored, as in the field.

    Raises BadImage for a file that is no image, or a damaged one; UserError for one that cannot be read at all.
    """
    try:
        with open(path, 'rb') as file, Image.open(file, formats=FORMATS) as image:
            if image.mode.startswith('I'):
                image = Image.fromarray((np.asarray(image).astype('uint32') >> 8).clip(0, 255).astype('uint8'))
            image.load()
            return image if image.mode == 'RGB' else image.convert('RGB')
    except Exception as error:  # a damaged file can raise nearly anything
        if isinstance(error, OSError) and error.errno:  # not the image: the file is gone, or the disk
            raise UserError(f'{path}: cannot be read ({error.strerror})')
        raise BadImage(f'{path}: cannot be decoded ({one_line(error)})')
