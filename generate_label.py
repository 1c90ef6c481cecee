"""Make token-label maps with a trained classifier: OUT/<class folder>/<image stem>.npy, and OUT/meta.json.

    python generate_label.py imagenet/ label_maps/ --model lvvit_s --resume checkpoint-best.pd
    python generate_label.py imagenet/ label_maps/ --model resnet50 --pretrained_weights resnet50.pdparams
    python generate_label.py photos/ label_maps/ --model dense.onnx --class_map imagenet_to_mine.txt

A map is [2, K, H, H]: scores and ids of the K best classes of each cell, best first, of the image's centre square.
DATA is a folder of class folders, or has one in train/. An interrupted run continues where it was: finished maps are
kept, unfinished ones never exist. On several processes through paddle.distributed.launch each labels its share.
"""

import argparse
import os
import sys

from util import runtime

import paddle

from models import FAMILY, build_model, published_weights
from util import dist
from util.args import Parser, add_weights, count
from util.data import annotator, listing
from util.data.class_map import MappedClasses, read_class_map
from util.data.label_writer import LabelWriter
from util.data.onnx_annotator import OnnxHead, OnnxNetwork
from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform
from util.errors import UserError
from util.logger import log
from util.weights import pretrained

ANY = sys.maxsize  # class ids of the data need not be the annotator's
# What flags are that are not given, unless the file of an ONNX annotator says otherwise.
DEFAULTS = {'img_size': 576, 'mean': IMAGENET_MEAN, 'std': IMAGENET_STD, 'interpolation': 'bicubic'}


def parser():
    parser = Parser('generate_label.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', metavar='DATA', help='images: class folders, in train/ if there is one')
    parser.add_argument('out', metavar='OUT', help='folder of the label maps')
    parser.add_argument(
        '--model',
        required=True,
        metavar='NAME',
        help='an LV-ViT, a classifier of paddle.vision.models that ends in a global pool and one linear layer, or an '
        'ONNX file (.onnx) of any network with dense output [B, C, H, H] or [B, N, C]',
    )
    add = add_weights(parser).add_argument
    add(
        '--pretrained_weights',
        default='',
        metavar='FILE',
        help='the same as --resume; with neither, the weights that Paddle downloads',
    )
    add(
        '--nb_classes',
        type=count,
        metavar='N',
        help="classes of the annotator (default: 1000; of an ONNX file: the file's)",
    )
    add('--transfer', action='store_true', help="an annotator of other classes: take their number from the file's head")
    add(
        '--class_map',
        default='',
        metavar='FILE',
        help="the annotator's classes into yours: lines 'annotator_class_id user_class_id'; classes not listed are "
        'left out, several may stand for one of yours',
    )
    add = parser.add_argument_group('images').add_argument
    add('--cls_label_path', metavar='FILE', help="list file 'path class_id' below DATA (default: all class folders)")
    add(
        '--img_size',
        type=count,
        metavar='S',
        help='side of the input (default: 576, or what an ONNX file says, as for the three below); '
        'LV-ViT: a cell is a token',
    )
    add(
        '--mean',
        type=float,
        nargs=3,
        metavar='M',
        help="of red, green and blue in 0-1, subtracted from the input (default: ImageNet's)",
    )
    add('--std', type=float, nargs=3, metavar='S', help="what the input is then divided by (default: ImageNet's)")
    add('--interpolation', help='bicubic (default), bilinear, nearest, lanczos')
    add('--crop_pct', default=1.0, type=float, help='only 1: maps cover the whole centre square')
    add('--num_workers', default=10, type=int, help='loader processes, at most one a core')
    parser.add_argument('--topk', default=5, type=count, help='classes per cell')
    parser.add_argument(
        '--relative_scores',
        action='store_true',
        help="less the mean of the classes that a map leaves out: training then gets the annotator's own probabilities",
    )
    parser.add_argument('-b', '--batch_size', default=32, type=count, help='images per batch (default: 32)')
    return parser


def read_samples(data, list_path):
    """(listing.Samples, number of class folders). The number is None for a list, whose ids are known for certain."""
    if list_path:
        return listing.read_list(data, list_path, ANY), None
    train = os.path.join(data, 'train')
    samples = listing.read_folder(train if os.path.isdir(train) else data, ANY)
    return samples, int(samples.labels.max()) + 1


def load_annotator(args):
    """(annotator, weights file) of --model with the weights that were asked for. Sets the flags of DEFAULTS that were
    not given. Raises UserError."""
    if args.model.lower().endswith('.onnx'):
        annotate, weights = load_onnx(args), args.model
    else:
        settle(args)
        annotate, weights = load_model(args)
    if args.class_map:
        annotate = MappedClasses(annotate, read_class_map(args.class_map, annotate.num_classes))
    return annotate, weights


def settle(args, said=()):
    """Set the flags of DEFAULTS that were not given, to what an ONNX file has said if it has."""
    for flag, value in {**DEFAULTS, **dict(said)}.items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)


def load_onnx(args):
    useless = {'resume': args.resume, 'pretrained_weights': args.pretrained_weights}
    useless.update(pretrained=args.pretrained, ema=args.ema)
    for flag, value in useless.items():
        if value:
            raise UserError(f'--{flag}: an ONNX file holds its weights; leave the flag out')
    network = OnnxNetwork(args.model)
    settle(args, network.settings)
    log(f'using {args.model} ({network.provider}); input: --img_size {args.img_size} {preprocessing(args)}')
    return OnnxHead(network, args.img_size, args.nb_classes)


def preprocessing(args):
    mean, std = (' '.join(f'{value:g}' for value in values) for values in (args.mean, args.std))
    return f'--mean {mean} --std {std} --interpolation {args.interpolation}'


def load_model(args):
    """An LV-ViT or a classifier of paddle.vision.models, as load_annotator."""
    if args.nb_classes is None:
        args.nb_classes = 1000
    given = {'--resume': args.resume, '--pretrained_weights': args.pretrained_weights, '--pretrained': args.pretrained}
    named = [flag for flag, value in given.items() if value]
    if len(named) > 1:
        raise UserError(f'{" and ".join(named)} both name the weights; give one')
    path = args.resume or args.pretrained_weights
    if args.pretrained and args.model in FAMILY:
        path = published_weights(args.model, args.img_size, nearest=True)
    if not path and (args.transfer or args.ema or args.model in FAMILY):
        raise UserError('--resume is missing: the checkpoint or state dict to use; or --pretrained')
    if args.model not in FAMILY:
        model, source = annotator.load_classifier(
            args.model, args.nb_classes, path, ema=args.ema, transfer=args.transfer
        )
        log(source)
        return annotator.PooledHead(model, args.model, args.img_size), path
    weights, source = pretrained.read_weights(path, args.ema)
    classes = annotator.head_classes(weights, 'head', path) if args.transfer else args.nb_classes
    model = build_model(args.model, img_size=args.img_size, num_classes=classes)
    log(f'using {source}')
    weights, notes = pretrained.fit_pos_embed(weights, model)
    for note in notes:
        log(note)
    pretrained.set_weights(model, weights, path)
    return annotator.TokenHead(model, args.model), path


def describe(args, annotate, weights):
    """What meta.json says of every map of the set."""
    settings = {
        'annotator': os.path.basename(args.model),
        'weights': os.path.basename(weights) or 'as Paddle offers them',
        'coverage': 'center',
        'size': args.img_size,
        'interpolation': args.interpolation,
        'shape': [2, min(args.topk, annotate.num_classes), annotate.side, annotate.side],
        'dtype': annotator.map_dtype(annotate.num_classes),
        'num_classes': annotate.num_classes,
        'weights_sha256': annotate.fingerprint(),
    }
    if [*args.mean, *args.std] != [*IMAGENET_MEAN, *IMAGENET_STD]:
        settings.update(mean=list(args.mean), std=list(args.std))
    if args.class_map:
        settings['class_map_sha256'] = annotate.map_fingerprint()
    if args.relative_scores:
        settings['scores'] = 'relative'
    return settings


@paddle.no_grad()
def main(args):
    _, world_size = dist.init()
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {runtime.CPU}')
    if args.crop_pct != 1:
        raise UserError(
            f'--crop_pct {args.crop_pct:g}: must be 1; a map covers the whole centre square, which is how '
            "training reads it (coverage 'center')"
        )
    samples, class_folders = read_samples(args.data, args.cls_label_path)
    annotate, weights = load_annotator(args)
    transform = EvalTransform(args.img_size, args.crop_pct, args.interpolation, args.mean, args.std)
    settings = describe(args, annotate, weights)
    writer = LabelWriter(args.out, samples, settings)
    side, classes = annotate.side, annotate.num_classes
    log(
        f'{args.model}: maps of {side}x{side} cells, {settings["shape"][1]} of {classes} classes, {settings["dtype"]}; '
        f'{len(samples)} images, {len(samples) - writer.missing.sum()} of them labelled before'
    )
    counts = writer.write(annotate, transform, args.batch_size, args.num_workers)
    log(f'{counts.written} maps written to {args.out}')
    if class_folders not in (None, classes):
        log(
            f'top-1 not known: {class_folders} class folders, but the annotator has {classes} classes; '
            'a list (--cls_label_path) gives the ids'
        )
    elif counts.judged:
        accuracy = 100 * counts.correct / counts.judged
        log(f'* Acc@1 {accuracy:.3f} of the mean over the cells, on {counts.judged} images labelled now')
        warning = annotator.chance_warning(counts.correct, counts.judged, classes)
        if warning and dist.is_main():
            print(f'warning: {warning}', file=sys.stderr, flush=True)
    if counts.undecodable:
        raise UserError(
            f'{counts.undecodable} of {len(samples)} images could not be decoded (named above) and have no map; '
            'all others have'
        )


if __name__ == '__main__':
    runtime.run(main, parser())
