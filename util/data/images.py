"""Image files: their formats, and decoding them to RGB pixels by Pillow or, faster, by simplejpeg.

Pillow alone decides which files are refused. simplejpeg raises for everything that libjpeg warns of, a truncated file
for example; such a file goes to Pillow. simplejpeg is optional: only --image_backend cv2 imports it.
"""

import warnings

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError, features
from PIL.TiffImagePlugin import BITSPERSAMPLE

from util.errors import one_line, visible

# Pillow starts programs to decode some other formats.
SUFFIXES = {
    'JPEG': ('.jpg', '.jpeg', '.jfif'),
    'PNG': ('.png',),
    'BMP': ('.bmp',),
    'GIF': ('.gif',),
    'WEBP': ('.webp',),
    'TIFF': ('.tif', '.tiff'),
    'AVIF': ('.avif',),
}
LIBRARIES = {'TIFF': 'libtiff', 'AVIF': 'avif'}  # Pillow has AVIF since 11.3
AVAILABLE = features.get_supported()
FORMATS = tuple(name for name in SUFFIXES if name not in LIBRARIES or LIBRARIES[name] in AVAILABLE)  # by content
EXTENSIONS = tuple(suffix for name in FORMATS for suffix in SUFFIXES[name])

# Pillow takes at most 1 MB of one colour profile or text of a PNG; photo editors write more.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 << 20  # bytes, decompressed

# Pillow's warnings about metadata do not concern the pixels.
warnings.filterwarnings('ignore', module=r'PIL\.')


class BadImage(Exception):
    """A file that cannot be read or decoded; the message names it and gives the reason."""

    def __init__(self, message):
        super().__init__(visible(message))


def is_image(name):
    return name.lower().endswith(EXTENSIONS) and not name.startswith('.')


def open_rgb(path, upright=False):
    """Decode an image file, of several images the first, to an RGB PIL image. Transparency is dropped.

    upright: turn it by its EXIF orientation; that of greys of 16 bits is ignored. By default it is ignored in all files
    but TIFF files, where Pillow applies it. Raises BadImage for a file that cannot be read, is no image or is damaged,
    and MemoryError.
    """
    try:
        with open(path, 'rb') as file, Image.open(file, formats=FORMATS) as image:
            photo = to_rgb(image)
            return ImageOps.exif_transpose(photo) if upright else photo
    except UnidentifiedImageError:
        reason = f'cannot be decoded (Pillow finds no {", ".join(FORMATS)} image in it)'
    except Image.DecompressionBombError:
        reason = f'cannot be decoded (has more than {2 * Image.MAX_IMAGE_PIXELS} pixels; resize it)'
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise nearly any exception
        if isinstance(error, OSError) and error.errno:  # the system's: a dangling link, no permission, a bad disk
            reason = f'cannot be read ({error.strerror})'
        else:
            reason = f'cannot be decoded ({one_line(error) or type(error).__name__})'
    raise BadImage(f'{path}: {reason}')


def to_rgb(image):
    """An RGB PIL image of any PIL image, decoded. Transparency is dropped. Raises as Pillow, and as deep_grey."""
    if image.mode.startswith(('I', 'F')):
        return deep_grey(image).convert('RGB')
    image.load()
    return image if image.mode == 'RGB' else image.convert('RGB')


def deep_grey(image):
    """A grey PIL image of 16 or 12 bits, scaled to 8 bits. Raises ValueError if the range of its greys is not known."""
    if image.mode == 'F' or (image.mode == 'I' and image.format != 'PNG'):
        raise ValueError('the range of 32-bit or signed greys is not known; save it with 8 or 16 bits')
    bits = 12 if image.format == 'TIFF' and image.tag_v2[BITSPERSAMPLE] == (12,) else 16
    return Image.fromarray((np.asarray(image).astype('uint32') >> (bits - 8)).astype('uint8'))


# -- JPEG by simplejpeg, to the same pixels as Pillow's ---------------------------------------------------------------


class DecodedImage:
    """An image in memory: uint8 [H, W, 3]. It has the interface of JpegFile; size: (width, height)."""

    def __init__(self, array):
        self.array, self.size = array, (array.shape[1], array.shape[0])

    def decode(self, max_shrink=1):
        return self.array, 1


class JpegFile:
    """A JPEG of which only the header was read; size: (width, height)."""

    def __init__(self, path, data, size):
        self.path, self.data, self.size = path, data, size

    def decode(self, max_shrink=1):
        """(uint8 [H, W, 3], shrink). The result is `shrink` times smaller than the image in the file.

        shrink is the largest of 1, 2, 4 and 8 that is at most `max_shrink`: libjpeg decodes a smaller image faster.

        Raises BadImage as open_rgb.
        """
        import simplejpeg

        width, height = self.size
        shrink = max(factor for factor in (1, 2, 4, 8) if factor <= max(max_shrink, 1))
        smaller = {}
        if shrink > 1:
            smaller = dict(min_width=-(-width // shrink), min_height=-(-height // shrink), min_factor=shrink)
        try:
            return simplejpeg.decode_jpeg(self.data, 'RGB', **smaller), shrink
        except ValueError:
            return np.asarray(open_rgb(self.path)), 1


def open_jpeg(path):
    """A JpegFile; if the file is not a plain JPEG, a DecodedImage from Pillow. Raises as open_rgb."""
    import simplejpeg

    try:
        with open(path, 'rb') as file:
            data = file.read()
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (OSError, ValueError):
        return DecodedImage(np.asarray(open_rgb(path)))
    if colours not in ('YCbCr', 'Gray') or width * height > Image.MAX_IMAGE_PIXELS:
        return DecodedImage(np.asarray(open_rgb(path)))
    return JpegFile(path, data, (width, height))
