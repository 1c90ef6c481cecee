"""Draw a PNG of token predictions, attention rollout, label maps, and the token targets made from them.

tools/visualize.py --resume CKPT --input IMG …                            predictions, token by token
tools/visualize.py --resume CKPT --rollout --input IMG …                  and what the class token attends to
tools/visualize.py --resume CKPT --relevance --input IMG …                and what contributed to the class
tools/visualize.py --resume CKPT --compare CKPT … --input IMG …           checkpoints side by side
tools/visualize.py --token_label_data DIR --input TRAIN_IMG …             label maps, and targets after augmentation
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
from PIL import Image

from models import FAMILY, build_model, published_weights, token_grid
from tools import insight
from tools.drawing import GAP, MARGIN, PAPER, SIDE, Tokens, arrange, heat, save, short_name, tile
from util import class_names
from util.args import (
    LABEL_LIST_HELP,
    Parser,
    add_eval_transform,
    add_label_maps,
    add_model,
    add_normalisation,
    add_weights,
    complete_model,
    weights_file,
)
from util.data.folders import find_images
from util.data.images import BadImage, open_rgb
from util.data.label_maps import LabelMaps
from util.data.token_label import sparse_target, token_target
from util.data.transforms import EvalTransform, TrainTransform, to_input
from util.errors import UserError
from util.logger import log
from util.ranges import count, natural
from util.weights.load import load_named


BEST = -1  # --relevance without a class


def parser():
    parser = Parser('tools/visualize.py', description=__doc__)
    add_model(parser, FAMILY)
    add = add_weights(parser).add_argument
    add('--compare', nargs='+', default=[], metavar='FILE', help='more checkpoints of the same model, a column each')
    add_eval_transform(parser, FAMILY)
    add_normalisation(parser)
    parser.add_argument('--label_list', metavar='FILE', help=LABEL_LIST_HELP)
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
    every_cell = sparse_target(scores, ids, np.eye(scores[0].size, dtype='float32'), args.nb_classes)
    cells = Tokens.of(dense(every_cell, args.nb_classes))
    tiles = [tile(on_white(source), file_name(path)), tile(square, 'label map', cells, names)]
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
        tiles.append(tile(image, f'draw {draw}: token targets', tokens, names))
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


def prediction_tiles(path, columns, transform, with_rollout, relevance):
    """Tiles: the cropped image, and for each model its prediction, its token predictions, rollout and relevance.

    columns: [(caption, model, {class id: name})]. with_rollout: draw the rollout. relevance: a class id, BEST, or None.
    The prediction is written below the image of one model, below the tokens of several.
    """
    image = transform.crop(open_rgb(path))
    array = to_input(image, transform.mean, transform.std)
    enlarged = image.resize((SIDE, SIDE), Image.BICUBIC)
    comparing = len(columns) > 1
    tiles = [tile(image, f'{file_name(path)}\n')] if comparing else []
    for caption, model, names in columns:
        scores, by_block = insight.scores_and_tokens(model, array)
        tokens = None if by_block is None else Tokens.of(by_block[-1])
        best = scores.argmax()
        answer = f'{short_name(best, names)[:24]}  {scores[best]:.1%}'
        if comparing:
            tiles.append(tile(image, f'{caption}\n{answer}', tokens, names))
        else:
            tiles.append(tile(image, answer))
            tokens_title = 'the model, token by token' if tokens else 'no trained token classifier'
            tiles.append(tile(image, tokens_title, tokens, names))
        if with_rollout:
            values = insight.class_rollout(model, array)
            spread = f'rollout: {values.min():.2f} to {values.max():.2f} x the mean'
            tiles.append(tile(heat(enlarged, values), f'{caption}\n{spread}' if comparing else spread))
        if relevance is not None:
            class_id = int(best) if relevance == BEST else relevance
            values = insight.class_relevance(model, array, class_id)
            title = f'relevance to {short_name(class_id, names)[:20]}'
            tiles.append(tile(heat(enlarged, values), f'{caption}\n{title}' if comparing else title))
    return tiles


def file_name(path):
    return os.path.basename(path)[-28:]


def captions(paths):
    """Short names of files: their paths without what all share, at most the last 30 characters."""
    if not paths:
        return []
    paths = [os.path.abspath(path) for path in paths]
    if len(set(paths)) > 1 and len({os.path.basename(path) for path in paths}) == 1:
        paths = [os.path.dirname(path) for path in paths]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, shared)[-30:] for path in paths]


def load_models(args):
    """[(caption, model, {class id: name})]: of --resume or --pretrained, then of --compare.

    Raises UserError if nothing can be shown.
    """
    shown, files = captions(([args.resume] if args.resume else []) + args.compare), list(args.compare)
    if args.pretrained and not args.resume:
        shown = ['published weights', *shown]
    if args.resume or args.pretrained:
        files.insert(0, weights_file(args, published_weights))
    columns = []
    for caption, file in zip(shown, files):
        model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
        if not (model.return_dense or args.rollout or args.relevance is not None):
            raise UserError(
                f'--model {args.model}: has no token classifier; --rollout and --relevance show its attention'
            )
        names = load_named(model, file, args.ema, args.label_list)
        model.eval()
        columns.append((caption, model, names))
    return columns


def main(args):
    complete_model(args, FAMILY[args.model])
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
    if args.relevance is not None and args.relevance >= args.nb_classes:
        raise UserError(f'--relevance {args.relevance}: the model has classes 0 to {args.nb_classes - 1}')
    files = find_images(args.input)
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(args.count, len(files))).round().astype(int)]
    transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation, mean=args.mean, std=args.std)
    maps = None
    if args.token_label_data:
        maps = LabelMaps(args.token_label_data, args.nb_classes, args.token_label_coverage, args.token_label_geometry)
    columns = load_models(args)
    names = columns[0][2] if columns else class_names.to_show(args.label_list, None, args.nb_classes)
    panels = []
    for path in files:
        tiles = []
        try:
            if maps:
                tiles += map_tiles(path, maps, args, names)
            if columns:
                tiles += prediction_tiles(path, columns, transform, args.rollout, args.relevance)
        except BadImage as error:
            raise UserError(str(error))
        panels.append(arrange(tiles, len(tiles), GAP))
    per_row = args.columns or (1 if maps or len(columns) > 1 else 3)
    save(arrange(panels, per_row, MARGIN, margin=MARGIN), args.output)
    log(f'wrote {args.output}')


if __name__ == '__main__':
    runtime.run(main, parser())
