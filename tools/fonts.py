"""Text in pictures: Pillow's own font, and for characters that it lacks, such as Chinese ones, fonts of the system."""

import functools
import glob
import itertools
import os

from PIL import ImageFont

from util.errors import UserError
from util.logger import log

FOLDERS = ('/usr/share/fonts', '/usr/local/share/fonts', '~/.local/share/fonts', '~/.fonts')  # of fontconfig
FILES = (  # in this order
    'DejaVuSans.ttf',
    'NotoSansCJK*-Regular.*',
    'NotoSansSC*',
    'SourceHanSans*-Regular.*',
    'wqy-*.tt[cf]',
    'DroidSansFallback*.ttf',
)
_chosen = []  # the file of --font


def use(path):
    """Draw text in the font of a file; other fonts only draw characters that it lacks. Raises UserError."""
    try:
        ImageFont.truetype(path, 12)
    except OSError as error:
        raise UserError(f'--font {path}: is not a font that Pillow reads ({error.strerror or error})')
    _chosen[:] = [path]
    font_file.cache_clear()


@functools.lru_cache(maxsize=None)
def system_fonts():
    """Paths of the fonts of the system that FILES names."""
    patterns = [os.path.join(os.path.expanduser(folder), '**', name) for name in FILES for folder in FOLDERS]
    return [path for pattern in patterns for path in sorted(glob.glob(pattern, recursive=True))]


@functools.lru_cache(maxsize=None)
def load(path, size):
    """The font of a file, or for '' Pillow's own. size: pixels."""
    if path:
        return ImageFont.truetype(path, size)
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


@functools.lru_cache(maxsize=None)
def font_file(character):
    """The path of the first font that has the character, '' for Pillow's own; None if no font has it."""
    for path in itertools.chain(_chosen, [''], system_fonts()):
        if has(load(path, 24), character):
            return path
    return None


def has(font, character):
    """Whether a font has a character."""
    try:
        return bytes(font.getmask(character)) != bytes(font.getmask('\uffff'))  # U+FFFF is in no font
    except UnicodeEncodeError:  # Pillow before 10.1: its own font has Latin-1 alone
        return ord(character) < 256


def can_draw(text):
    return all(font_file(character) is not None for character in text)


@functools.lru_cache(maxsize=None)
def say_that_ids_are_drawn():
    """Log, the first time only, that pictures show the ids of classes whose names no font can draw."""
    log(
        'pictures show the ids of some classes: no font here has the characters of their names. Install one, such as '
        'fonts-noto-cjk, or give --font FILE'
    )


def runs(text, size):
    """[(font, part)]: the text in parts that one font draws. A character that no font has is a question mark."""
    known = ''.join('?' if font_file(character) is None else character for character in text)
    return [(load(path, size), ''.join(part)) for path, part in itertools.groupby(known, font_file)]


def width(text, size):
    """The width of a line of text, in pixels."""
    return sum(font.getlength(part) for font, part in runs(text, size))


def cut(text, size, space):
    """The text, or as much of its beginning as has space, with '…' behind it. space: pixels."""
    if width(text, size) <= space:
        return text
    kept = len(text)
    while kept and width(text[:kept].rstrip() + '…', size) > space:
        kept -= 1
    return text[:kept].rstrip() + '…'


def write(draw, place, text, size, **options):
    """Draw one line of text. place: (left, baseline) in pixels. options: of ImageDraw.text."""
    left, baseline = place
    for font, part in runs(text, size):
        draw.text((left, baseline), part, font=font, anchor='ls', **options)
        left += font.getlength(part)
