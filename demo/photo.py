"""Reading the photos of visitors of demo/app.py."""

import os
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from util.data.images import FORMATS, BadImage, is_image, open_rgb

MAX_PIXELS = 64_000_000  # of a photo: 0.2 GB decoded
ORIENTATION = 0x0112  # EXIF tag


class Photo(NamedTuple):
    name: str  # of the file
    image: Image.Image  # RGB, upright
    turned: bool  # by its EXIF orientation


def read_photo(path):
    """The Photo in a file. predict.py does not turn photos, as training does not.

    Raises BadImage, which names the file without its folder, for a file that is not an image, damaged, or too large.
    """
    name, width, height, turned = os.path.basename(path), 0, 0, False
    try:
        with Image.open(path, formats=FORMATS) as image:  # reads the header only
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) != 1
    except UnidentifiedImageError:
        raise BadImage(f'{name} {why_not_read(path)}')
    except Exception:
        pass  # open_rgb raises the error
    if width * height > MAX_PIXELS:
        raise BadImage(f'{name}: {width} x {height} pixels; this page takes {MAX_PIXELS // 10**6} million at most')
    try:
        return Photo(name, open_rgb(path, upright=True), turned)
    except BadImage as error:
        raise BadImage(str(error).replace(path, name))


def why_not_read(path):
    """What a file is in which there is no image that can be read, as the rest of a sentence."""
    if not os.path.getsize(path):
        return 'is empty'
    suffix = os.path.splitext(path)[1]
    found = f'is a {suffix[1:].upper()} file' if suffix and not is_image(path) else 'is not a picture'
    return f'{found}; {", ".join(FORMATS[:-1])} and {FORMATS[-1]} are read'
