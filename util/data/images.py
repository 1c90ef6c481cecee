"""Image files: finding them, and decoding them to RGB pixels by Pillow or, faster, by simplejpeg.

Pillow alone decides which files are refused. simplejpeg raises for everything that libjpeg warns of, a truncated file
for example; such a file goes to Pillow. simplejpeg is optional: only --image_backend cv2 imports it.
"""

import glob
import os
import warnings
from collections import Counter

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features
from PIL.TiffImagePlugin import BITSPERSAMPLE

from util.errors import UserError, one_line, visible
from util.logger import log

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


def is_hidden(folder):
    """Whether a folder's name says that no data set means it: those of macOS, of file systems and of tools."""
    return folder.startswith('.') or folder in ('__MACOSX', '@eaDir', 'lost+found')


def walk_images(folder, skipped):
    """Paths below `folder` of its images. skipped and what is raised: see walk_files."""
    return walk_files(folder, is_image, skipped)


def walk_files(folder, wanted, skipped, above=()):
    """Paths below `folder` of its files, sorted, those of its subfolders after its own. Links are followed.

    wanted: a function of a file's name; skipped: a Counter, which gets the suffixes of the other files, and the folders
    that no data set means; above: the folders around this one, to which no link is followed. Raises UserError for a
    folder that cannot be read.
    """
    above = (*above, os.path.realpath(folder))
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if wanted(entry.name):
                    files.append(entry.name)
                elif not os.path.isdir(entry.path):  # entry.is_dir() raises for a link to itself
                    skipped[suffix(entry.name)] += 1
                elif is_hidden(entry.name):
                    skipped[f'folder {entry.name}'] += 1
                elif leads_back(entry.path, above):
                    skipped['link to a folder around it'] += 1
                else:
                    folders.append(entry.name)
    except OSError as error:
        raise UserError(f'{folder}: cannot be read ({error.strerror})')
    files.sort()
    for name in sorted(folders):
        files += [
            os.path.join(name, inside) for inside in walk_files(os.path.join(folder, name), wanted, skipped, above)
        ]
    return files


def leads_back(folder, above):
    """Whether a folder is one of those in `above`, or contains one of them. above: real paths."""
    real = os.path.join(os.path.realpath(folder), '')
    return any(os.path.join(path, '').startswith(real) for path in above)


def suffix(name):
    """The suffix of a skipped file, as the log counts it."""
    if name.startswith('._'):  # what macOS writes beside x.jpg
        return '._*'
    return os.path.splitext(name)[1].lower() or 'no suffix'


def log_skipped(folder, skipped):
    """Log what was skipped in a folder. skipped: Counter of walk_files."""
    if skipped:
        counts = ', '.join(f'{count} {suffix}' for suffix, count in skipped.most_common(10))
        log(f'{folder}: skipped {sum(skipped.values())}: {counts}')


def find_images(inputs):
    """Paths of the images that files, folders (searched recursively, sorted) and glob patterns name, in their order.

    Raises UserError for an input that names no image.
    """
    found = []
    for item in inputs:
        if os.path.isdir(item):
            skipped = Counter()
            paths = [os.path.join(item, name) for name in walk_images(item, skipped)]
            log_skipped(item, skipped)
        elif os.path.isfile(item):
            paths = [item]
        else:
            paths = [path for path in glob.glob(item, recursive=True) if is_image(os.path.basename(path))]
        if not paths:
            raise UserError(f'{item}: no such file, or no images there ({" ".join(EXTENSIONS)})')
        found += sorted(paths)
    return found


def open_rgb(path):
    """Decode an image file, of several images the first, to an RGB PIL image. Transparency is dropped.

    An EXIF orientation is ignored (Pillow applies that of a TIFF file). Raises BadImage for a file that cannot be read,
    is no image or is damaged, and MemoryError.
    """
    try:
        with open(path, 'rb') as file, Image.open(file, formats=FORMATS) as image:
            if image.mode.startswith(('I', 'F')):
                return deep_grey(image).convert('RGB')
            image.load()
            return image if image.mode == 'RGB' else image.convert('RGB')
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


def deep_grey(image):
    """A PIL image of greys of 16 or 12 bits, scaled to 8 bits. Raises ValueError for those whose range is not known."""
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
