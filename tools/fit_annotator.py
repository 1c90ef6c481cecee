"""Make an annotator for your classes from any pretrained network and some labelled photos.

    python tools/fit_annotator.py backbone.onnx PHOTOS annotator.onnx
    python generate_label.py PHOTOS maps --model annotator.onnx --relative_scores

BACKBONE is an ONNX file that gives features of cells, such as tools/export_dense_onnx.py --features writes. A linear
classifier of the features' mean learns the classes. The annotator is BACKBONE with this classifier behind every cell.
Beside it, <name>.features/ keeps the features, and <name>.png shows twelve photos and their maps. The same command
continues an interrupted run. Needs `pip install onnx onnxruntime scikit-learn`.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np

from tools import backbone, drawing, linear_classifier, photo_features
from util import files
from util.args import Parser
from util.data import listing
from util.data.datasets import EvalDataset
from util.data.images import open_rgb
from util.data.loader import Loader
from util.data.onnx_annotator import OnnxHead, OnnxNetwork
from util.deploy import records
from util.errors import UserError
from util.logger import log, progress
from util.ranges import count, natural, positive, probability

FEWEST = 10  # labelled photos of a class
COMPARED = 500  # photos whose cells are compared with their label, at most


def parser():
    parser = Parser('tools/fit_annotator.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('backbone', metavar='BACKBONE', help='ONNX file with output [B, C, H, H], [B, H, H, C] or [B, N, C]')
    add('photos', metavar='PHOTOS', help='labelled photos: class folders, in train/ if there is such a folder')
    add('out', metavar='OUT', help='the ONNX file to write')
    add('--cls_label_path', metavar='FILE', help="list file 'path class_id' below PHOTOS (default: all class folders)")
    add('--label_list', metavar='FILE', help="names of the classes of --cls_label_path: lines 'id name'")
    add = parser.add_argument_group("images (default: what BACKBONE's metadata says)").add_argument
    add('--img_size', type=count, metavar='S', help='side of the input in pixels')
    add('--mean', type=probability, nargs=3, metavar='M', help='of red, green and blue in 0-1')
    add('--std', type=positive, nargs=3, metavar='S', help='of red, green and blue in 0-1')
    add('--interpolation', help='bicubic (default without metadata), bilinear, nearest, lanczos')
    add = parser.add_argument
    help = 'tokens of [B, N, C] before the cells: class token and registers (default: 1 if N − 1 is a square, else 0)'
    add('--prefix_tokens', type=natural, metavar='N', help=help)
    help = 'loader processes, at most the cores of the machine'
    add('--num_workers', default=10, type=natural, metavar='N', help=help)
    add('-b', '--batch_size', default=32, type=count, metavar='N', help='photos per batch (default: 32)')
    return parser


# -- the photos -------------------------------------------------------------------------------------------------------


def labelled_samples(photos, list_path, label_list):
    """Samples of the photos with a label, with class_names. Raises UserError for too few classes or photos."""
    if list_path:
        samples = listing.read_list(photos, list_path, sys.maxsize)
    else:
        train = os.path.join(photos, 'train')
        samples = listing.read_folder(train if os.path.isdir(train) else photos, sys.maxsize)
    classes = int(samples.labels.max()) + 1
    names = samples.class_names
    if label_list:
        names = [name for _, name in sorted(records.class_names(label_list, classes).items())]
    samples.class_names = names or [str(i) for i in range(classes)]
    chosen = part(samples, samples.labels >= 0)
    check_classes(chosen.labels, chosen.class_names, photos)
    return chosen


def part(samples, chosen):
    """The Samples of a part. chosen: bool [n]."""
    return listing.Samples(samples.paths.root, samples.paths.names[chosen], samples.labels[chosen], samples.class_names)


def check_classes(labels, names, photos):
    """Raise UserError unless there are two classes with FEWEST photos each. labels: int [n]."""
    if len(names) < 2:
        raise UserError(f'PHOTOS {photos}: photos of {len(names)} class only; an annotator needs two')
    numbers = np.bincount(labels, minlength=len(names))
    if numbers.min() < FEWEST:
        worst = int(numbers.argmin())
        few = int((numbers < FEWEST).sum())
        raise UserError(
            f'PHOTOS {photos}: class {names[worst]} has {numbers[worst]} labelled photos; every class needs {FEWEST} '
            f'({few} of {len(names)} classes have fewer)'
        )


# -- what is found ----------------------------------------------------------------------------------------------------


def report(fitted, labels, names):
    """Log the accuracy in cross-validation, of all photos and of the ten weakest classes."""
    right = fitted.guesses == labels
    log(
        f'annotator: {linear_classifier.accuracy(right)} of {len(right)} photos right, each by a classifier that was '
        f'fitted without it ({linear_classifier.FOLDS} folds, C {fitted.strength:g}; 95 % interval in brackets)'
    )
    shares = [right[labels == i].mean() for i in range(len(names))]
    for i in np.argsort(shares, kind='stable')[:10]:
        own = labels == i
        log(f'  {names[i]}: {linear_classifier.accuracy(right[own])} of {own.sum()}')


def spread(labels, count):
    """Up to `count` numbers of photos, from all classes in turn, the same ones every time."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn = np.zeros(len(labels), int)  # the how-manieth of its class a photo is
    seen = np.zeros(labels.max() + 1, int)
    for number in order:
        turn[number] = seen[labels[number]]
        seen[labels[number]] += 1
    return order[np.argsort(turn[order], kind='stable')][:count]


def compare_cells(head, transform, samples, picture):
    """Log on which share of the cells the annotator agrees with the photo's label, and write the picture."""
    chosen = spread(samples.labels, COMPARED)
    batches = [chosen[start : start + 32].tolist() for start in range(0, len(chosen), 32)]
    agreeing, scores = [], []
    for batch in progress(Loader(EvalDataset(samples, transform), batches, 32, 0), 'batches of maps'):
        cells = head(batch['image']).numpy()
        agreeing.append((cells.argmax(axis=2) == batch['label'].numpy()[:, None]).mean(axis=1))
        scores += list(cells[: max(0, 12 - len(scores))])
    share = np.concatenate(agreeing).mean()
    log(f'cells: {100 * share:.1f} % agree with the label of their photo ({len(chosen)} of the photos it learned from)')
    draw(samples, chosen[:12], scores, transform, picture)
    log(f'{picture}: twelve photos and their maps')


def draw(samples, chosen, scores, transform, path):
    """A picture of photos beside their maps. scores: [H·H, K] of each."""
    names, tiles = dict(enumerate(samples.class_names)), []
    for number, cells in zip(chosen, scores):
        square = transform.crop(open_rgb(samples.paths[number]))
        tokens = drawing.Tokens.of(records.softmax(cells))
        whole = records.softmax(cells.mean(axis=0, keepdims=True))[0]
        guess = int(whole.argmax())
        tiles.append(drawing.tile(square, drawing.short_name(samples.labels[number], names)))
        title = f'annotator: {drawing.short_name(guess, names)} {whole[guess]:.0%}'
        tiles.append(drawing.tile(square, title, tokens, names))
    drawing.save(drawing.arrange(tiles, 6, drawing.GAP, drawing.MARGIN), path)


def main(args):
    files.check_target('OUT', args.out)
    samples = labelled_samples(args.photos, args.cls_label_path, args.label_list)
    names = samples.class_names
    given = {key: getattr(args, key) for key in ('img_size', 'mean', 'std', 'interpolation')}
    network = backbone.Backbone(args.backbone, given, args.prefix_tokens)
    layout, settings = network.layout, network.settings_text()
    log(
        f'{args.backbone}: {layout.side}x{layout.side} cells with {layout.channels} features each; input: '
        + ' '.join(f'--{key} {value}' for key, value in settings.items())
    )
    stem = os.path.splitext(args.out)[0]
    features = photo_features.compute(network, samples, f'{stem}.features', args.batch_size, args.num_workers)
    readable = ~np.isnan(features).any(axis=(1, 2))
    if not readable.all():
        log(f'{(~readable).sum()} photos cannot be decoded (named above); the annotator is fitted without them')
        samples, features = part(samples, readable), features[readable]
        check_classes(samples.labels, names, args.photos)
    try:
        fitted = linear_classifier.fit(features[:, 0], features[:, 1], samples.labels)
    except ImportError as error:
        raise UserError(f'fitting needs scikit-learn ({error}); run `{backbone.INSTALL}`')
    report(fitted, samples.labels, names)
    found = {'photos': len(samples), 'right': int((fitted.guesses == samples.labels).sum()), 'C': fitted.strength}
    about = {'backbone': os.path.basename(args.backbone), 'backbone_sha256': network.network.fingerprint()}
    about.update(class_names=json.dumps(names), cross_validation=json.dumps(found))
    backbone.write_annotator(network, fitted.weight, fitted.bias, args.out, {**settings, **about})
    log(f'{args.out}: scores of {len(names)} classes for every cell')
    head = OnnxHead(OnnxNetwork(args.out, 'OUT'), network.settings['img_size'], len(names))
    compare_cells(head, photo_features.transform(network), samples, f'{stem}.png')


if __name__ == '__main__':
    runtime.run(main, parser())
