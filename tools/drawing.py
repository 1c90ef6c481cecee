"""Pictures of token predictions: a coloured overlay on each token, heat maps, captions and legends."""

import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from util.errors import UserError

SIDE, GAP, MARGIN = 224, 4, 12  # pixels: of a tile, between tiles, around panels
LINE = 20  # pixels: height of a line of text below a tile
INK, PAPER = (30, 30, 30), (255, 255, 255)
ABOVE_CHANCE = 1.1  # a token prefers its best class if it has at least this multiple of 1 / classes


class Tokens(NamedTuple):
    """The best class of each of N tokens, row by row, out of num_classes."""

    ids: np.ndarray  # int [N]
    scores: np.ndarray  # float [N]: the probability of that class
    num_classes: int

    @classmethod
    def of(cls, probabilities):
        """probabilities: [N, C]."""
        return cls(probabilities.argmax(axis=1), probabilities.max(axis=1), probabilities.shape[1])

    @property
    def decided(self):
        """bool [N]: whether a token prefers a class at all."""
        return self.scores * self.num_classes > ABOVE_CHANCE


def font(size):
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def colour(class_id):
    """RGB of a class: steps of the golden ratio around the colour wheel, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1.0, 0.75, 0.95)
    return int(red * 255), int(green * 255), int(blue * 255)


def short_name(class_id, names):
    """The first synonym of a class's name, or its number."""
    return names.get(int(class_id), str(class_id)).split(',')[0]


# -- over a square image ----------------------------------------------------------------------------------------------


def overlay(image, tokens, names, written=True):
    """The image with each token tinted in the colour of its best class, more strongly for higher scores.

    image: square PIL image. tokens: Tokens. names: {class id: name}. written: also write name and score where they fit.
    """
    grid = round(len(tokens.ids) ** 0.5)
    cell = image.width / grid
    tint = Image.new('RGBA', image.size)
    draw = ImageDraw.Draw(tint)
    size = int(min(max(cell / 6, 12), 22))  # of the letters
    for i in np.flatnonzero(tokens.decided):
        best, score = tokens.ids[i], tokens.scores[i]
        x, y = i % grid * cell, i // grid * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=(*colour(best), int(20 + 170 * score)))
        if written and cell >= 40:
            text, middle = f'{short_name(best, names)[:7]}\n{score:.0%}', (x + cell / 2, y + cell / 2)
            outlined = dict(fill='white', stroke_fill=INK, stroke_width=2)
            draw.text(middle, text, font=font(size), anchor='mm', align='center', **outlined)
    return Image.alpha_composite(image.convert('RGBA'), tint).convert('RGB')


def heat(image, values):
    """The image in grey with each token in red, the stronger the larger its value.

    image: square PIL image. values: float [N]; the smallest is left grey, the largest is drawn at full strength.
    """
    grid = round(len(values) ** 0.5)
    span = values.max() - values.min()
    share = (values - values.min()) / span if span > 0 else np.zeros(len(values))
    alpha = Image.fromarray((200 * share.reshape(grid, grid)).round().astype('uint8'))
    alpha = alpha.resize(image.size, Image.NEAREST)  # smoothing would suggest a finer resolution
    red = Image.new('RGB', image.size, (235, 30, 20))
    return Image.composite(red, image.convert('L').convert('RGB'), alpha)


def in_context(photo, region, side):
    """(surroundings, square, corner): a square of a photo, and up to half a side of its surroundings in each direction.

    region: (left, top, right, bottom) of the square in pixels of the photo. side: of the result `square`, in pixels.
    surroundings: faded PIL image at the scale of the square. corner: (x, y) of the square in it.
    """
    left, top, right, bottom = region
    margin = (right - left) / 2
    x0, y0 = max(0, left - margin), max(0, top - margin)
    x1, y1 = min(photo.width, right + margin), min(photo.height, bottom + margin)
    scale = side / (right - left)
    size = (max(side, round((x1 - x0) * scale)), max(side, round((y1 - y0) * scale)))
    faded = photo.resize(size, Image.BICUBIC, box=(x0, y0, x1, y1))
    faded = Image.blend(faded, Image.new('RGB', size, PAPER), 0.6)
    square = photo.resize((side, side), Image.BICUBIC, box=region)
    corner = (min(round((left - x0) * scale), size[0] - side), min(round((top - y0) * scale), size[1] - side))
    return faded, square, corner


# -- tiles and panels -------------------------------------------------------------------------------------------------


def tile(image, title, tokens=None, names=None):
    """A square picture with its title below, one line or several, and a legend of the tokens' classes if given."""
    lines = title.split('\n')
    canvas = Image.new('RGB', (SIDE, SIDE + LINE * (len(lines) + 1) + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        draw.text((0, SIDE + GAP + LINE * i), line, fill=INK, font=font(14))
    image = image.resize((SIDE, SIDE), Image.BICUBIC)
    if tokens:
        image = overlay(image, tokens, names)
        draw_legend(draw, SIDE + GAP + LINE * len(lines), tokens, names)
    canvas.paste(image, (0, 0))
    return canvas


def common_classes(tokens):
    """Ids of the classes that tokens prefer, the most frequent first."""
    ids, counts = np.unique(tokens.ids[tokens.decided], return_counts=True)
    return ids[np.argsort(-counts, kind='stable')]


def draw_legend(draw, y, tokens, names):
    """Coloured squares with the names of the most frequent classes, as many as fit into a tile."""
    x = 0
    for class_id in common_classes(tokens):
        text = short_name(class_id, names)[:14]
        width = draw.textlength(text, font=font(12))
        if x + 15 + width > SIDE:
            break
        draw.rectangle((x, y + 2, x + 11, y + 13), fill=colour(class_id))
        draw.text((x + 15, y), text, fill=INK, font=font(12))
        x += 24 + int(width)


def arrange(pictures, columns, gap, margin=0):
    """One white picture with all pictures row by row, in cells of the size of the largest."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)  # rounded up
    width = max(picture.width for picture in pictures) + gap
    height = max(picture.height for picture in pictures) + gap
    canvas = Image.new('RGB', (columns * width - gap + 2 * margin, rows * height - gap + 2 * margin), PAPER)
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (margin + i % columns * width, margin + i // columns * height))
    return canvas


def save(picture, path):
    """Write a picture. Raises UserError if --output cannot be written."""
    try:
        picture.save(path)
    except (OSError, ValueError) as error:  # ValueError: an extension that Pillow does not know
        raise UserError(f'--output {path}: cannot be written ({getattr(error, "strerror", None) or error})')
