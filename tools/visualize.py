"""A PNG of what tokens say: a model's classes for every token, label maps, and the targets made from them.

tools/visualize.py --resume CKPT --input IMG …                            predictions, token by token
tools/visualize.py --token_label_data DIR --input TRAIN_IMG …             map, and draws of the train transform
"""

import colorsys
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
import paddle
import paddle.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from models import build_model, load_weights, published_defaults
from util import options
from util.data.images import find_images, open_rgb
from util.data.label_maps import LabelMaps
from util.data.token_label import sampling_matrix, sparse_target
from util.data.transforms import EvalTransform, TrainTransform, to_input
from util.deploy import records
from util.errors import UserError
from util.logger import log

SIDE, GAP, MARGIN, CAPTION = 224, 4, 12, 44  # pixels: of a tile, between tiles, around panels, below a tile
INK, PAPER = (30, 30, 30), (255, 255, 255)
KNOWS = 1.1  # a token whose best class has less than this multiple of 1 / classes says nothing


def parser():
    parser = runtime.Parser('tools/visualize.py', description=__doc__)
    options.add_model(parser)
    options.add_weights(parser)
    options.add_eval_transform(parser)
    parser.add_argument('--label_list', metavar='FILE', help="names of the classes, lines 'id name'")
    parser.add_argument('--input', nargs='+', required=True, metavar='IMG', help='files, folders, glob patterns')
    parser.add_argument('--count', default=12, type=int, help='images to show, spread evenly over the input')
    parser.add_argument('--columns', default=3, type=int, help='images per row when predictions alone are shown')
    group = options.add_label_maps(parser)
    group.add_argument('--aa', default='rand-m9-mstd0.5-inc1', help="RandAugment of the draws, '' for none")
    group.add_argument('--draws', default=4, type=int, help='draws of the train transform per image')
    group.add_argument('--seed', default=0, type=int)
    parser.add_argument('--output', required=True, metavar='PNG')
    return parser


# -- pictures ---------------------------------------------------------------------------------------------------------


def font(size):
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def colour(class_id):
    """A colour of its own for each class: steps of the golden ratio around the colour wheel."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1.0, 0.75, 0.95)
    return int(red * 255), int(green * 255), int(blue * 255)


def name_of(class_id, names):
    return names.get(int(class_id), str(class_id))


def tile(image, title, probabilities=None, names=None):
    """A square picture with a caption; with probabilities [N, C] every token is washed in its class's colour."""
    image = image.resize((SIDE, SIDE), Image.BICUBIC)
    canvas = Image.new('RGB', (SIDE, SIDE + CAPTION), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, SIDE + 4), title, fill=INK, font=font(14))
    if probabilities is not None:
        image = overlay(image, probabilities, names)
        draw_legend(draw, SIDE + 24, probabilities, names)
    canvas.paste(image, (0, 0))
    return canvas


def overlay(image, probabilities, names):
    """The image with a wash over each token: its best class's colour, the stronger the surer; names where they fit.

    image: PIL image; probabilities: [N, C].
    """
    grid = round(len(probabilities) ** 0.5)
    cell = image.width / grid
    wash = Image.new('RGBA', image.size)
    draw = ImageDraw.Draw(wash)
    for i, token in enumerate(probabilities):
        best, sure = token.argmax(), token.max()
        if sure * len(token) <= KNOWS:
            continue
        x, y = i % grid * cell, i // grid * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=(*colour(best), int(20 + 170 * sure)))
        if cell >= 40:
            text, middle = f'{name_of(best, names)[:7]}\n{sure:.0%}', (x + cell / 2, y + cell / 2)
            outlined = dict(fill='white', stroke_fill=INK, stroke_width=2)
            draw.text(middle, text, font=font(12), anchor='mm', align='center', **outlined)
    return Image.alpha_composite(image.convert('RGBA'), wash).convert('RGB')


def draw_legend(draw, y, probabilities, names):
    """Chips with the names of the commonest classes, as many as fit; tokens that know nothing do not count."""
    sure = probabilities.max(axis=1) * probabilities.shape[1] > KNOWS
    ids, counts = np.unique(probabilities[sure].argmax(axis=1), return_counts=True)
    x = 0
    for class_id in ids[np.argsort(-counts, kind='stable')]:
        text = name_of(class_id, names).split(',')[0][:14]
        width = draw.textlength(text, font=font(12))
        if x + 15 + width > SIDE:
            break
        draw.rectangle((x, y + 2, x + 11, y + 13), fill=colour(class_id))
        draw.text((x + 15, y), text, fill=INK, font=font(12))
        x += 24 + int(width)


def arrange(pictures, columns, gap, margin=0):
    """Pictures of one size on a white one, row by row."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)  # rounded up
    width, height = pictures[0].width + gap, pictures[0].height + gap
    canvas = Image.new('RGB', (columns * width - gap + 2 * margin, rows * height - gap + 2 * margin), PAPER)
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (margin + i % columns * width, margin + i // columns * height))
    return canvas


# -- what is shown of an image ----------------------------------------------------------------------------------------


def map_tiles(path, maps, args, names):
    """The source, its label map where it lies, and draws of the train transform with the targets of their tokens."""
    source = open_rgb(path)
    scores, ids = maps.read(path)
    covered = maps.covered(*source.size)

    def targets(sampling):
        return dense(sparse_target(scores, ids, sampling, args.nb_classes), args.nb_classes)

    left, top, width, height = covered
    square = source.crop((round(left), round(top), round(left + width), round(top + height)))
    every_cell = np.eye(scores[0].size, dtype='float32')
    tiles = [tile(on_white(source), os.path.basename(path)[:28]), tile(square, 'label map', targets(every_cell), names)]
    transform = TrainTransform(args.input_size, aa=args.aa, reprob=0.0, geometry=args.token_label_geometry)
    for draw in range(args.draws):
        image, matrix = transform.draw(source, np.random.default_rng([args.seed, draw]))
        sampling = sampling_matrix(
            matrix, args.input_size, args.input_size // 16, covered=covered, map_shape=scores.shape[1:]
        )
        tiles.append(tile(image, f'draw {draw}: token targets', targets(sampling)[1:], names))
    return tiles


def dense(target, num_classes):
    """SparseTarget to probabilities [1+N, C]."""
    result = np.repeat(target.floor[:, None], num_classes, axis=1)
    result[:, target.ids] = target.listed.T
    return result


def on_white(image):
    """The image on a white square, so that a tile does not distort it."""
    side = max(image.size)
    canvas = Image.new('RGB', (side, side), PAPER)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def prediction_tiles(path, model, transform, names):
    """The network's view of the image with its prediction, and what every token says."""
    image = transform.crop(open_rgb(path))
    cls, aux = model.forward_dense(paddle.to_tensor(to_input(image)[None]))
    scores = F.softmax(cls + 0.5 * aux.max(axis=1)).numpy()[0]
    best = scores.argmax()
    return [
        tile(image, f'{name_of(best, names)[:24]}  {scores[best]:.1%}'),
        tile(image, 'the model, token by token', F.softmax(aux[0]).numpy(), names),
    ]


@paddle.no_grad()
def main(args):
    published_defaults(args)
    if not (args.resume or args.pretrained or args.token_label_data):
        raise UserError(
            'nothing to show: give --resume (a checkpoint) or --pretrained, --token_label_data (label maps), or both'
        )
    files = find_images(args.input)
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(args.count, len(files))).round().astype(int)]
    names = records.class_names(args.label_list, args.nb_classes)
    transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation)
    maps = model = None
    if args.token_label_data:
        maps = LabelMaps(args.token_label_data, args.nb_classes, args.token_label_coverage, args.token_label_geometry)
    if args.resume or args.pretrained:
        model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
        if not model.return_dense:
            raise UserError(f'--model {args.model}: has no classifier of tokens to show')
        log(load_weights(model, args))
        model.eval()
    panels = []
    for path in files:
        tiles = []
        if maps:
            tiles += map_tiles(path, maps, args, names)
        if model:
            tiles += prediction_tiles(path, model, transform, names)
        panels.append(arrange(tiles, len(tiles), GAP))
    arrange(panels, 1 if maps else args.columns, MARGIN, margin=MARGIN).save(args.output)
    log(f'wrote {args.output}')


if __name__ == '__main__':
    runtime.run(main, parser())
