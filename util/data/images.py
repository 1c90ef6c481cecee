"""Image files to RGB pictures; of a hostile one nothing but one of UNREADABLE."""

import warnings

import numpy as np
from PIL import Image

from util.errors import one_line
from util.plain_files import open_plain

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP')  # of the content, whatever the name says; for others Pillow starts programs
MAX_PIXELS = 50_000_000  # 200 MB of RGB, twice that while it is made from RGBA
MAX_SCANS = 100  # of a progressive JPEG; encoders write about ten, each costs a pass over all pixels
UNREADABLE = (OSError, ValueError)

# What Pillow has to say of a file's metadata does not concern its pixels.
warnings.filterwarnings('ignore', module=r'PIL\.')


def is_image(name):
    return name.lower().endswith(EXTENSIONS)


def open_rgb(path):
    """Decode an image file to RGB. 16-bit greys are scaled to 8 bits; an EXIF orientation is ignored, as in the field.

    Raises one of UNREADABLE for a file that is no image, truncated, missing, or of more than MAX_PIXELS.
    """
    try:
        with open(path, 'rb', opener=open_plain) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f'{image.width} x {image.height} pixels are more than {MAX_PIXELS}')
            if image.info.get('progressive'):
                file.seek(0)
                if file.read().count(b'\xff\xda') > MAX_SCANS:
                    raise ValueError(f'it has more than {MAX_SCANS} scans')
            if image.mode.startswith('I'):
                image = Image.fromarray((np.asarray(image).astype('uint32') >> 8).clip(0, 255).astype('uint8'))
            return image.convert('RGB')
    except UNREADABLE:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(f'{type(error).__name__}: {one_line(error)}')
