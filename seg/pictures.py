"""Pictures of predictions: masks in colours, and images with their classes in colour and a legend."""

import functools

import numpy as np
from PIL import Image, ImageDraw

from tools import drawing, fonts

FIRST = [(40, 40, 40)] + [  # class 0, the background of most data sets, is grey
    *[(230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)],
    *[(145, 30, 180), (70, 240, 240), (240, 50, 230), (170, 110, 40), (250, 190, 212)],
]
WIDTH = 288  # pixels: of a picture at least; smaller images are enlarged
LINE, GAP = 20, 8  # pixels: height of a line of the legend with letters of 12, distances


@functools.lru_cache(maxsize=None)
def colours():
    """256 RGB tuples, by class id."""
    return (FIRST + drawing.distinct_colours())[:256]


def mask(ids):
    """A palette PIL image of class ids, uint8 [H, W]."""
    picture = Image.fromarray(ids)
    picture.putpalette([value for colour in colours() for value in colour])
    return picture


def over_image(image, ids, names):
    """The image with each pixel tinted in the colour of its class, and below it a legend of the classes that occur.

    image: RGB PIL image. ids: uint8 [H, W]. names: {class id: name}; a class without a name is shown by its id.
    """
    tinted = Image.blend(image, mask(ids).convert('RGB'), 0.7)
    zoom = max(1, WIDTH // max(image.size))
    tinted = tinted.resize((image.width * zoom, image.height * zoom), Image.NEAREST)
    width = max(tinted.width, WIDTH)
    size = max(12, width // 60)  # of the letters
    line = LINE * size // 12
    entries = legend(ids, names, size, width - 2 * GAP)
    lines = 1 + max(row for row, *_ in entries)
    canvas = Image.new('RGB', (width, tinted.height + lines * line + 2 * GAP), drawing.PAPER)
    canvas.paste(tinted, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, x, class_id, text in entries:
        x, baseline = x + GAP, tinted.height + GAP + row * line + size
        draw.rectangle((x, baseline - size + 2, x + size - 2, baseline), fill=colours()[class_id])
        fonts.write(draw, (x + size + 4, baseline), text, size, fill=drawing.INK)
    return canvas


def legend(ids, names, size, width):
    """[(row, x in pixels, class id, text)] of the classes that occur, the most frequent first.

    size: of the letters; width: of a row, both in pixels. A name that is longer is cut, with '…'.
    """
    found, counts = np.unique(ids, return_counts=True)
    entries, row, x = [], 0, 0
    for class_id in found[np.argsort(-counts, kind='stable')].tolist():
        text = fonts.cut(drawing.drawn_name(class_id, names), size, width - size - 4)
        taken = size + 4 + int(fonts.width(text, size))
        if x and x + taken > width:
            row, x = row + 1, 0
        entries.append((row, x, class_id, text))
        x += taken + 2 * GAP
    return entries
