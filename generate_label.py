"""Make token-label maps with a trained classifier: OUT/<class folder>/<image stem>.npy, and OUT/meta.json.

    python generate_label.py imagenet/ label_maps/ --model lvvit_s --resume checkpoint-best.pd
    python generate_label.py imagenet/ label_maps/ --model resnet50 --pretrained_weights resnet50.pdparams

A map is [2, K, H, H]: scores and ids of the K best classes of each cell, best first, of the image's centre square.
DATA is a folder of class folders, or has one in train/. An interrupted run continues where it was: finished maps are
kept, unfinished ones never exist. On several processes through paddle.distributed.launch each labels its share.
"""

import argparse
import io
import json
import os
import sys

from util import runtime

import numpy as np
import paddle

from models import FAMILY, build_model, published_weights
from util import dist, options
from util.data import annotator, datasets
from util.data.label_maps import map_name
from util.data.loader import Loader
from util.data.transforms import EvalTransform
from util.errors import UserError
from util.logger import log, progress
from util.files import read_json
from util.weights import pretrained

ANY = sys.maxsize  # class ids of the data need not be the annotator's
RESULTS = ('complete', 'maps', 'undecodable')  # what meta.json says beside the settings


def parser():
    parser = runtime.Parser(
        'generate_label.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', metavar='DATA', help='images: class folders, in train/ if there is one')
    parser.add_argument('out', metavar='OUT', help='folder of the label maps')
    parser.add_argument(
        '--model',
        required=True,
        metavar='NAME',
        help='an LV-ViT, or a classifier of paddle.vision.models that ends in a global pool and one linear layer',
    )
    weights = options.add_weights(parser)
    weights.add_argument(
        '--pretrained_weights',
        default='',
        metavar='FILE',
        help='the same as --resume; with neither, the weights that Paddle downloads',
    )
    weights.add_argument('--nb_classes', default=1000, type=options.count, help='classes of the annotator')
    weights.add_argument(
        '--transfer', action='store_true', help="an annotator of other classes: take their number from the file's head"
    )
    images = parser.add_argument_group('images')
    images.add_argument(
        '--cls_label_path',
        default=None,
        metavar='FILE',
        help="list file 'path class_id' below DATA (default: all class folders)",
    )
    images.add_argument('--img_size', default=576, type=options.count, help='side of the input; LV-ViT: 16 a cell')
    images.add_argument('--crop_pct', default=1.0, type=float, help='only 1: maps cover the whole centre square')
    images.add_argument('--interpolation', default='bicubic', help='bicubic, bilinear, nearest, lanczos')
    images.add_argument('--num_workers', default=10, type=int, help='loader processes, at most one a core')
    parser.add_argument('--topk', default=5, type=options.count, help='classes per cell')
    parser.add_argument('-b', '--batch_size', default=32, type=options.count)
    return parser


def read_samples(data, list_path):
    """([(path, class id)], number of class folders). The number is None for a list, whose ids are known for certain."""
    if list_path:
        return datasets.read_list(data, list_path, ANY), None
    train = os.path.join(data, 'train')
    samples = datasets.read_folder(train if os.path.isdir(train) else data, ANY)
    return samples, samples[-1][1] + 1


def map_paths(out, samples):
    """The file of each sample's map. Raises UserError if two images would share one."""
    owners = {}
    for image, _ in samples:
        path = os.path.join(out, *map_name(image).split('/')) + '.npy'
        if path in owners:
            raise UserError(f'{image}: its label map would be that of {owners[path]} ({path}); rename one of them')
        owners[path] = image
    return list(owners)


def load_annotator(args):
    """(annotator, weights file) of --model with the weights that were asked for. Raises UserError."""
    given = {'--resume': args.resume, '--pretrained_weights': args.pretrained_weights, '--pretrained': args.pretrained}
    named = [flag for flag, value in given.items() if value]
    if len(named) > 1:
        raise UserError(f'{" and ".join(named)} both name the weights; give one')
    path = args.resume or args.pretrained_weights
    if args.pretrained and args.model in FAMILY:
        path = published_weights(args.model, args.img_size, nearest=True)
    if not path and (args.transfer or args.ema or args.model in FAMILY):
        raise UserError('--resume is missing: the checkpoint or state dict to use')
    if args.model not in FAMILY:
        model, source = annotator.load_classifier(args.model, args.nb_classes, path, args.ema, args.transfer)
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


def check_set(out, settings):
    """Raise UserError unless `out` is new, empty, or a set of label maps begun with the same settings."""
    meta = os.path.join(out, 'meta.json')
    if not os.path.isdir(out) or not any(not name.startswith('.') for name in os.listdir(out)):
        return
    if not os.path.exists(meta):
        raise UserError(
            f'{out}: not empty, and no set of label maps begun here (it has no meta.json); choose another folder'
        )
    begun = read_json(meta)
    if not isinstance(begun, dict):
        raise UserError(f'{meta}: not the readable description of a set of label maps')
    for key in [*settings, *begun]:
        if key not in RESULTS and settings.get(key) != begun.get(key):
            raise UserError(
                f"{meta}: this set was begun with '{key}' {json.dumps(begun.get(key))}, not "
                f'{json.dumps(settings.get(key))}; a set is of one kind, choose another folder'
            )


def npy(array):
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(path, data):
    """All of a file or none: a temporary one beside it, renamed. Raises UserError."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f'.{name}.tmp')
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, 'wb') as f:
            f.write(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f'{path}: could not be written ({error.strerror or error}); the maps finished so far are kept')


def write_meta(out, settings, **results):
    """OUT/meta.json, on the first process: the settings that all maps share, and RESULTS."""
    if dist.is_main():
        write(os.path.join(out, 'meta.json'), (json.dumps({**settings, **results}, indent=1) + '\n').encode())


def count_maps(out):
    return sum(name.endswith('.npy') and not name.startswith('.') for _, _, names in os.walk(out) for name in names)


def label_images(annotate, loader, batches, paths, missing, settings):
    """Write the missing maps of this process. Returns counts: maps written, undecodable images, judged, correct.

    loader yields the `batches` (lists of sample numbers); paths: the map of each sample; missing: numbers of those to
    be written. Judged are images whose class is one of the annotator's, correct those where this class has
    the highest mean score over all cells. Raises UserError for scores that are not finite.
    """
    written = undecodable = judged = correct = 0
    for batch, numbers in zip(loader, progress(batches, 'batches')):
        scores = annotate(batch['image'])
        maps = annotator.top_maps(scores, settings['shape'][1], settings['dtype'])
        guesses = scores.mean(axis=1).argmax(axis=-1).numpy()
        for number, label, guess, array in zip(numbers, batch['label'].numpy(), guesses, maps):
            if number not in missing:
                continue
            if label < 0:
                undecodable += 1
                continue
            if not np.isfinite(array).all():
                raise UserError(
                    f'{paths[number]}: scores that are not finite in {settings["dtype"]}; '
                    "are the annotator's weights good?"
                )
            write(paths[number], npy(array))
            written += 1
            judged += int(label < annotate.num_classes)
            correct += int(label == guess)
    return written, undecodable, judged, correct


@paddle.no_grad()
def main(args):
    rank, world_size = dist.init()
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {runtime.CPU}')
    if args.crop_pct != 1:
        raise UserError(
            f'--crop_pct {args.crop_pct:g}: must be 1; a map covers the whole centre square, which is how '
            "training reads it (coverage 'center')"
        )
    transform = EvalTransform(args.img_size, args.crop_pct, args.interpolation)
    samples, folders = read_samples(args.data, args.cls_label_path)
    paths = map_paths(args.out, samples)
    annotate, weights = load_annotator(args)
    side, classes = annotate.side, annotate.num_classes
    settings = {
        'annotator': args.model,
        'weights': os.path.basename(weights) or 'as Paddle offers them',
        'coverage': 'center',
        'size': args.img_size,
        'interpolation': args.interpolation,
        'shape': [2, min(args.topk, classes), side, side],
        'dtype': annotator.map_dtype(classes),
        'num_classes': classes,
        'weights_sha256': annotator.fingerprint(annotate.model),
    }
    check_set(args.out, settings)
    whole = len(npy(np.zeros(settings['shape'], settings['dtype'])))
    missing = {i for i, path in enumerate(paths) if not (os.path.isfile(path) and os.path.getsize(path) == whole)}
    dist.barrier()  # nobody writes before everybody has looked
    write_meta(args.out, settings, complete=False)
    dist.barrier()  # and no map is there without its meta.json

    # The batches of the whole set are dealt out, and one with a map missing is computed as a whole: so a map depends
    # neither on interruptions nor on who computes it, not even in the last bit (with as many threads).
    starts = range(0, len(paths), args.batch_size)
    batches = [list(range(i, min(i + args.batch_size, len(paths)))) for i in starts[rank::world_size]]
    batches = [batch for batch in batches if not missing.isdisjoint(batch)]
    log(
        f'{args.model}: maps of {side}x{side} cells, {settings["shape"][1]} of {classes} classes, {settings["dtype"]}; '
        f'{len(paths)} images, {len(paths) - len(missing)} of them labelled before'
    )
    loader = Loader(datasets.EvalDataset(samples, transform, skip_bad=True), batches, args.num_workers)
    counts = label_images(annotate, loader, batches, paths, missing, settings)
    written, undecodable, judged, correct = map(int, dist.all_sum(counts))

    write_meta(args.out, settings, complete=True, maps=count_maps(args.out), undecodable=undecodable)
    log(f'{written} maps written to {args.out}')
    if folders not in (None, classes):
        log(
            f'top-1 not known: {folders} class folders, but the annotator has {classes} classes; '
            'a list (--cls_label_path) gives the ids'
        )
    elif judged:
        log(f'* Acc@1 {100 * correct / judged:.3f} of the mean over the cells, on {judged} images labelled now')
    if undecodable:
        raise UserError(
            f'{undecodable} of {len(paths)} images could not be decoded (named above) and have no map; all others have'
        )


if __name__ == '__main__':
    runtime.run(main, parser())
