"""Make label maps with a trained classifier: OUT/cat/a.npy for the image cat/a.jpg, and so on, and OUT/meta.json.

    python generate_label.py imagenet/ label_maps/ --resume checkpoint-best.pd
    python generate_label.py imagenet/ label_maps/ --model resnet50 --resume resnet50.pdparams
    python generate_label.py photos/ label_maps/ --model dense.onnx --class_map imagenet_to_mine.txt

A map is an array [2, K, H, H] of the image's centre square: scores and ids of the K best classes of each cell, best
first. DATA is a folder of class folders, or has such a folder train/. An interrupted run continues where it stopped.
Several processes, started by paddle.distributed.launch, share the images.
"""

import os
import sys

from util import runtime

import numpy as np
import paddle

from models import FAMILY, load_model, naming_what_fits, weights_file
from util import class_names, dist
from util.args import Parser, add_weights
from util.data import annotator, listing
from util.data.class_map import MappedClasses, read_class_map
from util.data.label_writer import LabelWriter
from util.data.onnx_annotator import OnnxHead, OnnxNetwork
from util.data.transforms import EvalTransform
from util.errors import UserError, shorten
from util.logger import log
from util.ranges import count, natural, positive, probability
from util.weights.load import choose, read
from util.weights.settings import IMAGENET_MEAN, IMAGENET_STD, of_file

UNKNOWN = sys.maxsize  # class id of images that are of none of the annotator's classes
# Values of flags that were not given; the metadata of an ONNX file comes first.
DEFAULTS = {'img_size': 576, 'mean': IMAGENET_MEAN, 'std': IMAGENET_STD, 'interpolation': 'bicubic'}


def parser():
    parser = Parser('generate_label.py', description=__doc__)
    parser.add_argument('data', metavar='DATA', help='images: class folders, in train/ if there is such a folder')
    parser.add_argument('out', metavar='OUT', help='folder of the label maps')
    parser.add_argument(
        '--model',
        metavar='NAME',
        help='an LV-ViT (default: that of --resume), a classifier of paddle.vision.models that ends in a global pool '
        'and one linear layer, or an ONNX file (.onnx) of any network with dense output [B, C, H, H] or [B, N, C]',
    )
    add = add_weights(parser, '; without it a classifier of paddle.vision.models gets those that Paddle offers')
    add = add.add_argument
    add('--nb_classes', type=count, metavar='N', help='classes of the annotator (default: as its file says, else 1000)')
    add('--transfer', action='store_true', help='take the number of classes from the head in the weights file')
    add(
        '--class_map',
        default='',
        metavar='FILE',
        help="map the annotator's classes to yours: lines 'annotator_class_id user_class_id'; classes that are not "
        'listed are left out, several may map to one of yours',
    )
    add = parser.add_argument_group('images').add_argument
    add('--cls_label_path', metavar='FILE', help="list file 'path class_id' below DATA (default: all class folders)")
    add(
        '--img_size',
        '--input_size',
        type=count,
        metavar='S',
        help='side of the input in pixels (default: 576). A checkpoint of main.py and the metadata of an ONNX file '
        'have other defaults for this flag and the next three',
    )
    add('--mean', type=probability, nargs=3, metavar='M', help="of red, green and blue in 0-1 (default: ImageNet's)")
    add('--std', type=positive, nargs=3, metavar='S', help="of red, green and blue in 0-1 (default: ImageNet's)")
    add('--interpolation', help='bicubic (default), bilinear, nearest, lanczos')
    add('--num_workers', default=10, type=natural, help='loader processes, at most the cores of the machine')
    parser.add_argument('--topk', default=5, type=count, help='classes per cell')
    parser.add_argument(
        '--relative_scores',
        action='store_true',
        help='subtract the mean of the classes that a map leaves out: training then sees the probabilities of the '
        'annotator',
    )
    parser.add_argument('-b', '--batch_size', default=32, type=count, help='images per batch (default: 32)')
    return parser


def load_annotator(args):
    """(annotator, weights file, class names by id or None) of --model. Sets the flags of DEFAULTS that were not given.

    Raises UserError.
    """
    if args.model and args.model.lower().endswith('.onnx'):
        annotate, weights, names = load_onnx(args)
    elif args.model is None or args.model in FAMILY:
        annotate, weights, names = load_lv_vit(args)
    else:
        annotate, weights, names = load_classifier(args)
    if args.class_map:
        annotate, names = MappedClasses(annotate, read_class_map(args.class_map, annotate.num_classes)), None
    return annotate, weights, names


def set_defaults(args, values):
    """Give the flags in `values`, {flag: value}, their values if they were not given."""
    for flag, value in values.items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)


def load_onnx(args):
    """(OnnxHead, FILE, class names or None) of --model FILE.onnx."""
    for flag in ('resume', 'pretrained', 'ema'):
        if getattr(args, flag):
            raise UserError(f'--{flag}: an ONNX file holds its weights; leave the flag out')
    network = OnnxNetwork(args.model)
    set_defaults(args, {**DEFAULTS, **network.settings})
    mean, std = (' '.join(f'{value:g}' for value in values) for values in (args.mean, args.std))
    log(
        f'using {args.model} ({network.provider}); input: --img_size {args.img_size} --mean {mean} --std {std} '
        f'--interpolation {args.interpolation}'
    )
    annotate = OnnxHead(network, args.img_size, args.nb_classes)
    names = class_names.of_checkpoint({class_names.KEY: network.class_names}, args.model, annotate.num_classes)
    return annotate, args.model, names


def load_classifier(args):
    """(PooledHead, weights file or '', None) of a classifier of paddle.vision.models."""
    set_defaults(args, {**DEFAULTS, 'nb_classes': 1000})
    if args.resume and args.pretrained:
        raise UserError('--pretrained and --resume both name the weights; give one')
    if not args.resume and (args.transfer or args.ema):
        raise UserError('--resume is missing: the checkpoint or state dict to use')
    with naming_what_fits():
        model = annotator.load_classifier(
            args.model, args.nb_classes, args.resume, ema=args.ema, transfer=args.transfer
        )
    return annotator.PooledHead(model, args.model, args.img_size), args.resume, None


def load_lv_vit(args):
    """(TokenHead, weights file, class names or None) of an LV-ViT."""
    args.input_size = args.img_size or (DEFAULTS['img_size'] if args.pretrained else None)
    path = weights_file(args, nearest=True)
    state = read(path)
    if args.input_size is None and not of_file(state, path, FAMILY):
        args.input_size = DEFAULTS['img_size']
    if args.transfer:
        args.nb_classes = annotator.head_classes(choose(state, path, args.ema)[0], 'head', path)
    model = load_model(args, state, path)
    args.img_size = args.input_size
    return annotator.TokenHead(model, args.model), path, class_names.of_checkpoint(state, path, args.nb_classes)


def describe(args, annotate, weights, names):
    """What meta.json says of all maps of the set. names: of the annotator's classes, by id, or None."""
    settings = {
        'annotator': os.path.basename(args.model),
        'weights': os.path.basename(weights) or 'as Paddle offers them',
        'coverage': 'center',
        'size': args.img_size,
        'interpolation': args.interpolation,
        'shape': [2, min(args.topk, annotate.num_classes), annotate.side, annotate.side],
        'dtype': annotator.map_dtype(annotate.num_classes),
        'num_classes': annotate.num_classes,
    }
    if isinstance(annotate, OnnxHead) and annotate.backbone:
        settings['backbone_sha256'] = annotate.backbone
    settings['weights_sha256'] = annotate.fingerprint()
    if [*args.mean, *args.std] != [*IMAGENET_MEAN, *IMAGENET_STD]:
        settings.update(mean=list(args.mean), std=list(args.std))
    if args.class_map:
        settings['class_map_sha256'] = annotate.map_fingerprint()
    if names:
        settings[class_names.KEY] = names
    if args.relative_scores:
        settings['scores'] = 'relative'
    return settings


def use_ids_of(names, samples):
    """Give samples of class folders the annotator's class ids, by its class names; UNKNOWN where it has none."""
    ids = {name: i for i, name in enumerate(names)}
    by_folder = np.array([ids.get(folder, UNKNOWN) for folder in samples.class_names], 'int64')
    labelled = ~samples.unlabelled
    samples.labels[labelled] = by_folder[samples.labels[labelled]]
    unknown = [folder for folder in samples.class_names if folder not in ids]
    if unknown:
        log(
            f'{len(unknown)} of the {len(samples.class_names)} class folders are no classes of the annotator: '
            f'{shorten(unknown)}; their images get maps, but do not count for its top-1'
        )


def report_accuracy(counts, num_classes, class_folders, has_labels):
    """Log the top-1 accuracy of the annotator, and warn if it may be luck.

    class_folders: the number of class folders, or None if a list or class names gave the class ids. The ids of folders
    are those of the annotator only if there are as many folders as classes.
    """
    if not has_labels:
        log('top-1 not known: no image has a label')
    elif class_folders not in (None, num_classes):
        log(
            f'top-1 not known: {class_folders} class folders, but the annotator has {num_classes} classes; '
            'a list (--cls_label_path) gives the ids'
        )
    elif counts.labelled:
        accuracy = 100 * counts.correct / counts.labelled
        log(f'* Acc@1 {accuracy:.3f} of the mean over the cells, on {counts.labelled} images labelled now')
        warning = annotator.chance_warning(counts.correct, counts.labelled, num_classes)
        if warning and dist.is_main():
            print(f'warning: {warning}', file=sys.stderr, flush=True)


@paddle.no_grad()
def main(args):
    _, world_size = dist.init()
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {runtime.CPU}')
    samples = listing.read_photos(args.data, args.cls_label_path)
    annotate, weights, names = load_annotator(args)
    has_ids = bool(args.cls_label_path or names)
    if names and samples.class_names:
        use_ids_of(names, samples)
    transform = EvalTransform(args.img_size, 1.0, args.interpolation, args.mean, args.std)  # the whole centre square
    settings = describe(args, annotate, weights, names)
    writer = LabelWriter(args.out, samples, settings)
    side, classes = annotate.side, annotate.num_classes
    log(
        f'{args.model}: maps of {side}x{side} cells, {settings["shape"][1]} of {classes} classes, {settings["dtype"]}; '
        f'{len(samples)} images, {len(samples) - writer.missing.sum()} of them labelled before'
    )
    counts = writer.write(annotate, transform, args.batch_size, args.num_workers)
    log(f'{counts.written} maps written to {args.out}')
    class_folders = None if has_ids else len(samples.class_names)
    report_accuracy(counts, classes, class_folders, not samples.unlabelled.all())
    if counts.undecodable:
        raise UserError(
            f'{counts.undecodable} of {len(samples)} images could not be read or decoded (named above) and have no '
            'map; all others have one'
        )


if __name__ == '__main__':
    runtime.run(main, parser())
