"""Make an annotator for your classes from any pretrained network and some labelled photos.

    python tools/fit_annotator.py backbone.onnx PHOTOS annotator.onnx
    python generate_label.py PHOTOS maps --model annotator.onnx --relative_scores

BACKBONE gives features of cells: an ONNX file, such as tools/export_dense_onnx.py --features writes, or a classifier of
paddle.vision.models. A linear classifier of the mean over the cells learns the classes. OUT is BACKBONE with this
classifier behind every cell. Beside OUT, <name>.features/ keeps the features, and <name>.png shows twelve photos and
their maps. The same command continues an interrupted run. Needs `pip install onnx onnxruntime scikit-learn`.
"""

import hashlib
import importlib
import json
import os
import sys
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np

from tools import annotator_report, linear_classifier, paddle_features, photo_features
from tools.backbone import Backbone, write_annotator
from util import class_names, files
from util.args import Parser
from util.data import listing
from util.data.annotator import CLASSIFIERS
from util.data.onnx_annotator import OnnxHead, OnnxNetwork
from util.errors import UserError, one_line
from util.logger import log
from util.ranges import count, natural, positive, probability

INSTALL = 'pip install onnx onnxruntime scikit-learn'
FEWEST = 10  # labelled photos of a class


def parser():
    parser = Parser('tools/fit_annotator.py', description=__doc__)
    add = parser.add_argument
    add(
        'backbone',
        metavar='BACKBONE',
        help='ONNX file with output [B, C, H, H], [B, H, H, C] or [B, N, C], or the name of a classifier of '
        'paddle.vision.models (needs Paddle 3 and paddle2onnx)',
    )
    add('photos', metavar='PHOTOS', help='labelled photos: class folders, in train/ if there is such a folder')
    add('out', metavar='OUT', help='the ONNX file to write')
    add('--cls_label_path', metavar='FILE', help="list file 'path class_id' below PHOTOS (default: all class folders)")
    add('--label_list', metavar='FILE', help="names of the classes of --cls_label_path: lines 'id name'")
    help = 'weights of a classifier of paddle.vision.models (default: those that Paddle offers)'
    add('--resume', default='', metavar='FILE', help=help)
    add = parser.add_argument_group("images (default: what BACKBONE's metadata says)").add_argument
    add('--img_size', type=count, metavar='S', help='side of the input in pixels (paddle.vision.models: 288)')
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


def check(args):
    """Raise UserError for flags and files that do not fit, and for missing packages, before any long step."""
    if not args.out.lower().endswith('.onnx'):
        raise UserError(f'OUT {args.out}: must end in .onnx')
    files.check_target('OUT', args.out)
    if args.label_list and not args.cls_label_path:
        raise UserError('--label_list: names the classes of --cls_label_path; class folders have their own names')
    if args.backbone.lower().endswith('.onnx'):
        if not os.path.isfile(args.backbone):
            raise UserError(f'BACKBONE {args.backbone}: no such file')
        if args.resume:
            raise UserError('--resume: an ONNX file holds its weights; leave the flag out')
    elif args.backbone not in CLASSIFIERS:
        raise UserError(
            f'BACKBONE {args.backbone}: neither an ONNX file (.onnx) nor a classifier of paddle.vision.models '
            f'({", ".join(CLASSIFIERS)})'
        )
    try:
        for name in ('onnx', 'sklearn'):
            importlib.import_module(name)
    except ImportError as error:
        raise UserError(f'needs onnx, onnxruntime and scikit-learn ({one_line(error)}); run `{INSTALL}`')


# -- the photos -------------------------------------------------------------------------------------------------------


def labelled_samples(photos, list_path, label_list):
    """Samples of the photos with a label, with class_names. Raises UserError for too few classes or photos."""
    samples = listing.read_photos(photos, list_path)
    classes = int(samples.labels.max()) + 1
    if label_list:
        samples.class_names = list(class_names.to_show(label_list, None, classes).values())
        repeated = [name for name, times in Counter(samples.class_names).items() if times > 1]
        if repeated:
            raise UserError(f'--label_list {label_list}: several classes have the name {repeated[0]}')
    chosen = part(samples, samples.labels >= 0)
    check_classes(chosen.labels, names_of(chosen), photos)
    return chosen


def names_of(samples):
    """The names of the classes by id, or the ids if they have no names."""
    return samples.class_names or [str(i) for i in range(int(samples.labels.max(initial=-1)) + 1)]


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
            f'PHOTOS {photos}: class {names[worst]} has {numbers[worst]} labelled photos to learn from; every class '
            f'needs {FEWEST} ({few} of {len(names)} classes have fewer)'
        )


# -- OUT --------------------------------------------------------------------------------------------------------------


def open_backbone(args, stem):
    """The Backbone. A classifier of paddle.vision.models is exported to <stem>.backbone.onnx first."""
    path = args.backbone
    if not path.lower().endswith('.onnx'):
        path = f'{stem}.backbone.onnx'
        paddle_features.export(args.backbone, args.resume, path, args.img_size)
    given = {key: getattr(args, key) for key in ('img_size', 'mean', 'std', 'interpolation')}
    backbone = Backbone(path, given, args.prefix_tokens)
    layout = backbone.layout
    log(
        f'{args.backbone}: {layout.side}x{layout.side} cells with {layout.channels} features each; input: '
        + ' '.join(f'--{key} {value}' for key, value in backbone.settings_text().items())
    )
    return backbone


def is_fitted(out, about):
    """Whether the file OUT was fitted with the same photos and backbone. Raises UserError if it was with others."""
    if not os.path.exists(out):
        return False
    begun = OnnxNetwork(out, 'OUT').metadata
    if begun.get('backbone_sha256') != about['backbone_sha256']:
        what = 'BACKBONE has changed since it was made'
    elif begun.get('fitted_on') != about['fitted_on']:
        what = 'photos, labels or flags have changed since it was made'
    else:
        return True
    raise UserError(f'OUT {out}: {what}; choose another OUT, or delete it and the maps made with it')


def identify(backbone, samples):
    """16 hex digits that identify what the classifier depends on."""
    photos = photo_features.digest(backbone, samples, range(len(samples)))
    state = [photos, samples.class_names, samples.labels.tolist()]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]


def main(args):
    check(args)
    samples = labelled_samples(args.photos, args.cls_label_path, args.label_list)
    names, stem = names_of(samples), os.path.splitext(args.out)[0]
    backbone = open_backbone(args, stem)
    about = {'backbone': os.path.basename(args.backbone), 'backbone_sha256': backbone.network.fingerprint()}
    about.update(fitted_on=identify(backbone, samples), **backbone.settings_text())
    if samples.class_names:
        about[class_names.KEY] = json.dumps(names)
    if is_fitted(args.out, about) and os.path.exists(f'{stem}.png'):
        return log(f'{args.out}: fitted before with the same photos')
    features = photo_features.compute(backbone, samples, f'{stem}.features', args.batch_size, args.num_workers)
    readable = ~np.isnan(features).any(axis=(1, 2))
    if not readable.all():
        log(f'{(~readable).sum()} photos cannot be decoded (named above); the annotator is fitted without them')
        samples, features = part(samples, readable), features[readable]
        check_classes(samples.labels, names, args.photos)
    fitted = linear_classifier.fit(features[:, 0], features[:, 1], samples.labels)
    annotator_report.log_accuracy(fitted, samples.labels, names)
    found = {'photos': len(samples), 'right': int((fitted.guesses == samples.labels).sum()), 'C': fitted.strength}
    about['cross_validation'] = json.dumps(found)
    write_annotator(backbone, fitted.weight, fitted.bias, args.out, about)
    log(f'{args.out}: scores of {len(names)} classes for every cell')
    head = OnnxHead(OnnxNetwork(args.out, 'OUT'), backbone.settings['img_size'], len(names))
    annotator_report.compare_cells(head, photo_features.transform(backbone), samples, names, f'{stem}.png')


if __name__ == '__main__':
    runtime.run(main, parser())
