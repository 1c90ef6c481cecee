"""Pictures of token predictions: a coloured overlay on each token, heat maps, captions and legends."""

from typing import NamedTuple, Optional

import numpy as np
from PIL import Image, ImageDraw

from tools import fonts
from tools.distinct import distinct_colours
from util.errors import UserError

SIDE, GAP, MARGIN = 224, 4, 12  # pixels: of a tile, between tiles, around panels
LINE = 20  # pixels: height of a line of text below a tile
INK, PAPER = (30, 30, 30), (255, 255, 255)
FEW_CLASSES = 16  # at most so many have fixed colours
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


def colours(shown):
    """{class id: RGB} for a picture that shows several Tokens of a model; colours of frequent classes differ most.

    With few classes each has the same colour in all pictures.
    """
    if not shown:
        return {}
    order = range(shown[0].num_classes)
    if len(order) > FEW_CLASSES:
        order = common_classes(shown)
    palette = distinct_colours()
    return {int(class_id): palette[i % len(palette)] for i, class_id in enumerate(order)}


def common_classes(shown):
    """Ids of the classes that tokens prefer, the most frequent first. shown: [Tokens]."""
    ids, counts = np.unique(np.concatenate([tokens.ids[tokens.decided] for tokens in shown]), return_counts=True)
    return ids[np.argsort(-counts, kind='stable')]


def short_name(class_id, names):
    """The first synonym of a class's name, or its number."""
    return names.get(int(class_id), str(class_id)).split(',')[0]


def drawn_name(class_id, names):
    """The short name of a class, or its number if no font can draw the name; then the log says so, once."""
    name = short_name(class_id, names)
    if fonts.can_draw(name):
        return name
    fonts.say_that_ids_are_drawn()
    return str(class_id)


def percent(score):
    return '<1%' if score < 0.01 else f'{score:.0%}'


def spread(values):
    """The range of what tokens weigh, as a title. values: float [N], none negative."""
    mean = max(values.mean(), 1e-30)
    return f'{values.min() / mean:.2f} to {values.max() / mean:.2f} x the mean'


# -- over a square image ----------------------------------------------------------------------------------------------


def overlay(image, tokens, names, written=True, palette=None):
    """The image with each token tinted in the colour of its best class, more strongly for higher scores.

    image: square PIL image. tokens: Tokens. names: {class id: name}. written: also write name and score into the tokens
    if those of all tokens fit. palette: {class id: RGB}, by default the colours of these tokens alone.
    """
    grid = round(len(tokens.ids) ** 0.5)
    cell = image.width / grid
    tint = Image.new('RGBA', image.size)
    draw = ImageDraw.Draw(tint)
    palette = palette or colours([tokens])
    size = letter_size(cell)
    texts = cell_texts(tokens, names, cell) if written else None
    for i in np.flatnonzero(tokens.decided):
        best, score = tokens.ids[i], tokens.scores[i]
        x, y = i % grid * cell, i // grid * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=(*palette[best], int(70 + 120 * score)))
        if texts:
            for text, baseline in (texts[best], y + cell / 2 - 0.25 * size), (percent(score), y + cell / 2 + size):
                left = x + (cell - fonts.width(text, size)) / 2
                fonts.write(draw, (left, baseline), text, size, fill='white', stroke_fill=INK, stroke_width=2)
    return Image.alpha_composite(image.convert('RGBA'), tint).convert('RGB')


def letter_size(cell):
    """Of the letters in a cell, in pixels. cell: its side in pixels."""
    return int(min(max(cell / 6, 12), 22))


def cell_texts(tokens, names, cell):
    """{class id: as much of its name as fits into a cell}.

    None if a percentage or six letters of a name do not fit. cell: side of a cell, in pixels.
    """
    size, space = letter_size(cell), cell - 8
    if cell < 2.2 * size or space < fonts.width('100%', size):
        return None
    texts = {}
    for class_id in common_classes([tokens]):
        name = drawn_name(class_id, names)
        texts[class_id] = fonts.cut(name, size, space)
        if texts[class_id] != name and len(texts[class_id]) <= 6:
            return None
    return texts


def heat(image, values):
    """The image in grey with each token in red, the stronger the larger its value.

    image: square PIL image. values: float [N], none negative. The red is the distance from the smallest value, as a
    share of the largest distance or of the mean, whichever is larger. Values that are nearly equal so remain grey.
    """
    grid = round(len(values) ** 0.5)
    above = values - values.min()
    share = above / max(above.max(), values.mean(), 1e-30)
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


class Tile(NamedTuple):
    """A square picture with a title below, one line or several, and the tokens to draw over it, if any."""

    image: Image.Image
    title: str
    tokens: Optional[Tokens] = None
    names: Optional[dict] = None  # {class id: name}


def draw_tiles(panels):
    """Pictures of tiles. A class has the same colour in all of them. panels: [[Tile]]; returns pictures likewise."""
    palette = colours([tile.tokens for tiles in panels for tile in tiles if tile.tokens])
    return [[draw_tile(tile, palette) for tile in tiles] for tiles in panels]


def draw_tile(tile, palette):
    """A picture of a tile, with a legend of its tokens' classes. palette: {class id: RGB}."""
    image = tile.image.resize((SIDE, SIDE), Image.BICUBIC)
    lines, rows = tile.title.split('\n'), []
    if tile.tokens:
        image = overlay(image, tile.tokens, tile.names, palette=palette)
        rows = legend(tile.tokens, tile.names)
    canvas = Image.new('RGB', (SIDE, SIDE + GAP + LINE * (len(lines) + len(rows))), PAPER)
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    baseline = SIDE + GAP + 14
    for line in lines:
        fonts.write(draw, (0, baseline), fonts.cut(line, 14, SIDE), 14, fill=INK)
        baseline += LINE
    for row in rows:
        for x, class_id, text in row:
            if class_id is not None:
                draw.rectangle((x - 15, baseline - 10, x - 4, baseline + 1), fill=palette[class_id])
            fonts.write(draw, (x, baseline), text, 12, fill=INK)
        baseline += LINE
    return canvas


def legend(tokens, names):
    """Rows of (x, class id, text): names of the most frequent classes in three rows, and how many more there are."""
    rows, x = [[]], 0
    common = common_classes([tokens])
    for i, class_id in enumerate(common):
        text = fonts.cut(drawn_name(class_id, names), 12, SIDE / 2 - 24)
        width = 24 + int(fonts.width(text, 12))
        if x + width - 9 > SIDE:
            if len(rows) == 3:
                return [*rows, [(0, None, f'and {len(common) - i} more')]]
            rows.append([])
            x = 0
        rows[-1].append((x + 15, class_id, text))
        x += width
    return rows


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
