"""Draw a PNG of token predictions, attention rollout, label maps, and the token targets made from them.

tools/visualize.py --resume CKPT --input IMG …                            predictions, token by token
tools/visualize.py --resume CKPT --rollout --input IMG …                  and what the class token attends to
tools/visualize.py --resume CKPT --relevance --input IMG …                and what contributed to the class
tools/visualize.py --resume CKPT --compare CKPT … --input IMG …           checkpoints side by side
tools/visualize.py --token_label_data DIR --input TRAIN_IMG …             label maps, and targets after augmentation
"""

import argparse
import os
import sys
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
from PIL import Image

from models import FAMILY, load_model, token_grid, weights_file
from tools import fonts, insight
from tools.drawing import GAP, MARGIN, PAPER, SIDE, Tile, Tokens, arrange, draw_tiles, drawn_name, heat, save, spread
from util import class_names
from util.args import (
    LABEL_LIST_HELP,
    Parser,
    add_eval_transform,
    add_label_maps,
    add_model,
    add_normalisation,
    add_weights,
)
from util.data.folders import find_images
from util.data.images import BadImage, open_rgb
from util.data.label_maps import LabelMaps
from util.data.token_label import sparse_target, token_target
from util.data.transforms import EvalTransform, TrainTransform, to_input
from util.errors import UserError, visible
from util.logger import log
from util.ranges import count, natural
from util.weights import settings
from util.weights.load import read

BEST = -1  # --relevance without a class


class Column(NamedTuple):
    """A model, and the tiles that it adds to each photo."""

    caption: str
    model: object
    names: dict  # {class id: name to draw}
    folders: list  # [folder of the photos of class 0, …]; empty if unknown
    transform: object  # EvalTransform


def parser():
    parser = Parser('tools/visualize.py', description=__doc__)
    add_model(parser, FAMILY)
    add = add_weights(parser).add_argument
    add('--compare', nargs='+', default=[], metavar='FILE', help='more checkpoints, a column each')
    add_eval_transform(parser, FAMILY)
    add_normalisation(parser)
    parser.add_argument('--label_list', metavar='FILE', help=LABEL_LIST_HELP)
    help = 'TrueType or OpenType font (default: fonts of the system for characters that the built-in font lacks)'
    parser.add_argument('--font', metavar='FILE', help=help)
    parser.add_argument('--input', nargs='+', required=True, metavar='IMG', help='files, folders, glob patterns')
    parser.add_argument('--count', default=12, type=count, help='images to show, spread evenly over the input')
    parser.add_argument('--columns', type=count, help='images per row (default: 3 for predictions of a model, else 1)')
    parser.add_argument('--rollout', action='store_true', help='also draw the attention rollout of the class token')
    help = "also draw each token's relevance (Chefer et al. 2021) to a class id; without CLASS to the best class"
    parser.add_argument('--relevance', nargs='?', type=natural, const=BEST, metavar='CLASS', help=help)
    group = add_label_maps(parser)
    group.add_argument('--aa', default='rand-m9-mstd0.5-inc1', help="RandAugment of the draws, '' for none")
    group.add_argument('--draws', default=4, type=natural, help='draws of the train transform per image (default: 4)')
    group.add_argument('--seed', default=0, type=natural, help='seed of the draws (default: 0)')
    parser.add_argument('--output', required=True, metavar='PNG', help='picture to write')
    return parser


# -- what is shown of an image ----------------------------------------------------------------------------------------


def map_tiles(path, maps, args, names):
    """Tiles: the photo, its label map over the part that it covers, and random augmentations with their targets."""
    source = open_rgb(path)
    scores, ids = maps.read(maps.name_for(path))
    covered = maps.covered(*source.size)

    left, top, width, height = covered
    square = source.crop((round(left), round(top), round(left + width), round(top + height)))
    square = square.resize((SIDE, SIDE), Image.BICUBIC)
    every_cell = sparse_target(scores, ids, np.eye(scores[0].size, dtype='float32'), args.nb_classes)
    cells = Tokens.of(dense(every_cell, args.nb_classes))
    tiles = [Tile(on_white(source), end(visible(os.path.basename(path)), 28)), Tile(square, 'label map', cells, names)]
    grid = token_grid(args.model, args.input_size)
    transform = TrainTransform(
        args.input_size, aa=args.aa, reprob=0.0, geometry=args.token_label_geometry, mean=args.mean, std=args.std
    )
    for draw in range(args.draws):
        draws = transform.draw(source.size, np.random.default_rng([args.seed, draw]))
        image = Image.fromarray(transform.render(source, draws))
        target = token_target(
            scores, ids, args.nb_classes, matrix=draws.matrix, side=args.input_size, grid=grid, covered=covered
        )
        tokens = Tokens.of(dense(target, args.nb_classes)[1:])
        tiles.append(Tile(image, f'draw {draw}: token targets', tokens, names))
    return tiles


def dense(target, num_classes):
    """The probabilities [1+N, C] of a SparseTarget."""
    result = np.repeat(target.floor[:, None], num_classes, axis=1)
    result[:, target.ids] = target.listed.T
    return result


def on_white(image):
    """The image, at the size of a tile, centred on a white square."""
    scale = SIDE / max(image.size)
    width, height = (max(1, round(scale * side)) for side in image.size)
    canvas = Image.new('RGB', (SIDE, SIDE), PAPER)
    canvas.paste(image.resize((width, height), Image.BICUBIC), ((SIDE - width) // 2, (SIDE - height) // 2))
    return canvas


def prediction_tiles(path, columns, with_rollout, relevance):
    """Tiles: the cropped image, and for each model its prediction, its token predictions, rollout and relevance.

    columns: [Column]. with_rollout: draw the rollout. relevance: a class id, BEST, or None.
    The prediction is written below the image of one model, below the tokens of several.
    """
    photo, comparing = open_rgb(path), len(columns) > 1
    about_photo = end(visible(os.path.basename(path)), 28) + true_class(path, columns[0])
    tiles = [Tile(columns[0].transform.crop(photo), about_photo)] if comparing else []
    for caption, model, names, _, transform in columns:
        image = transform.crop(photo)
        array = to_input(image, transform.mean, transform.std)
        enlarged = image.resize((SIDE, SIDE), Image.BICUBIC)
        scores, by_block = insight.scores_and_tokens(model, array)
        tokens = None if by_block is None else Tokens.of(by_block[-1])
        best = scores.argmax()
        answer = f'{scores[best]:.1%} {drawn_name(best, names)}'
        heading = f'{caption}\n' if comparing else ''
        if comparing:
            tiles.append(Tile(image, f'{heading}{answer}', tokens, names))
        else:
            tiles.append(Tile(image, f'{about_photo}\nmodel: {answer}'))
            tokens_title = 'the model, token by token' if tokens else 'no trained token classifier'
            tiles.append(Tile(image, tokens_title, tokens, names))
        if with_rollout:
            values = insight.class_rollout(model, array)
            tiles.append(Tile(heat(enlarged, values), f'{heading}rollout: {spread(values)}'))
        if relevance is not None:
            class_id = int(best) if relevance == BEST else relevance
            values = insight.class_relevance(model, array, class_id)
            title = f'{heading}relevance to {drawn_name(class_id, names)}\n{spread(values)}'
            tiles.append(Tile(heat(enlarged, values), title))
    return tiles


def true_class(path, column):
    """A line 'true: NAME' if the photo's folder is a class of the model, else ''."""
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    if folder not in column.folders:
        return ''
    return f'\ntrue: {drawn_name(column.folders.index(folder), column.names)}'


def captions(paths):
    """Short names of files: their paths without what all share, at most 30 characters."""
    if not paths:
        return []
    paths = [os.path.abspath(path) for path in paths]
    if len(set(paths)) > 1 and len({os.path.basename(path) for path in paths}) == 1:
        paths = [os.path.dirname(path) for path in paths]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [os.path.relpath(path, shared) for path in paths]
    return [end(name, 30) for name in names]


def end(text, letters):
    """The text, or '…' and as much of its end as the number of letters allows."""
    return text if len(text) <= letters else '…' + text[1 - letters :]


def load_models(args):
    """([Column] of --resume or --pretrained, then of --compare; the flags of the first, completed).

    Each file has the settings that it says, unless a flag says otherwise. Raises UserError if nothing can be shown.
    """
    files = [weights_file(args), *args.compare]
    shown = ['published weights', *captions(args.compare)] if args.pretrained else captions(files)
    columns, completed = [], []
    for caption, file in zip(shown, files):
        own, state = argparse.Namespace(**vars(args)), read(file)
        model = load_model(own, state, file)
        if not (model.return_dense or own.rollout or own.relevance is not None):
            raise UserError(
                f'{file}: {own.model} has no token classifier; --rollout and --relevance show its attention'
            )
        if own.relevance is not None and own.relevance >= own.nb_classes:
            raise UserError(f'--relevance {own.relevance}: {file} has classes 0 to {own.nb_classes - 1}')
        kept = class_names.of_checkpoint(state, file, own.nb_classes)
        names = class_names.to_show(own.label_list, kept, own.nb_classes)
        folders = kept or [names[i] for i in sorted(names)]
        if not kept and not own.label_list and own.nb_classes == 1000:
            folders = class_names.imagenet_wordnet_ids()
        model.eval()
        transform = EvalTransform(own.input_size, own.crop_pct, own.interpolation, mean=own.mean, std=own.std)
        columns.append(Column(caption, model, names, folders, transform))
        completed.append(own)
    return columns, completed[0]


def main(args):
    if not (args.resume or args.pretrained):
        for flag, given in (
            ('--compare', args.compare),
            ('--rollout', args.rollout),
            ('--relevance', args.relevance is not None),
        ):
            if given:
                raise UserError(f'{flag}: needs a model; add --resume (a checkpoint) or --pretrained')
    if not (args.resume or args.pretrained or args.token_label_data):
        raise UserError(
            'nothing to show: give --resume (a checkpoint) or --pretrained, --token_label_data (label maps), or both'
        )
    if args.font:
        fonts.use(args.font)
    files = find_images(args.input)
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(args.count, len(files))).round().astype(int)]
    columns, maps = [], None
    if args.resume or args.pretrained:
        columns, args = load_models(args)
    else:
        settings.complete(args, FAMILY)
    if args.token_label_data:
        maps = LabelMaps(args.token_label_data, args.nb_classes, args.token_label_coverage, args.token_label_geometry)
    names = columns[0].names if columns else class_names.to_show(args.label_list, None, args.nb_classes)
    panels = []
    for path in files:
        tiles = []
        try:
            if maps:
                tiles += map_tiles(path, maps, args, names)
            if columns:
                tiles += prediction_tiles(path, columns, args.rollout, args.relevance)
        except BadImage as error:
            raise UserError(str(error))
        panels.append(tiles)
    rows = [arrange(pictures, len(pictures), GAP) for pictures in draw_tiles(panels)]
    per_row = args.columns or (1 if maps or len(columns) > 1 else 3)
    save(arrange(rows, per_row, MARGIN, margin=MARGIN), args.output)
    log(f'wrote {args.output}')


if __name__ == '__main__':
    runtime.run(main, parser())
