"""Evaluate a checkpoint, or all of a folder, on a validation set, on one process or on several.

docs/evaluation.md says how it counts.
"""

from util import runtime

import os

import paddle

from engine import predict_all
from models import FAMILY, build_model, published_weights
from util import dist, files, metrics, real_labels
from util.args import (
    Parser,
    add_amp,
    add_data,
    add_eval_transform,
    add_model,
    add_normalisation,
    add_protocols,
    add_weights,
    complete_model,
    weights_file,
)
from util.data import listing, loader
from util.data.transforms import EvalTransform
from util.deploy import records
from util.errors import UserError
from util.logger import log
from util.ranges import count
from util.train.amp import Amp
from util.weights import checkpoint
from util.weights.load import load


def parser():
    parser = Parser('eval.py', description=__doc__)
    add_model(parser, FAMILY)
    add_weights(parser, '; or a folder: all of them in it, one after the other')
    add_data(parser)
    add_eval_transform(parser, FAMILY, '--train_interpolation')
    add_normalisation(parser)
    add_amp(parser)
    add_protocols(parser)
    parser.add_argument(
        '--batch_size', default=64, type=count, metavar='N', help='images per batch and process (default: 64)'
    )
    parser.add_argument('--dist_eval', action='store_true', help='no effect: the processes always share the evaluation')
    parser.add_config()
    return parser


def new_eval_loader(args, rank=0, world_size=1, backend='pil'):
    """The loader of the validation set that the flags describe; with several processes, of the part of process `rank`.

    backend: the library that reads the images. main.py always uses pil, so that its accuracies compare with published
    ones.
    """
    samples = listing.read_samples(args.data_path, 'val', args.cls_label_path_val, args.nb_classes)
    transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation, args.mean, args.std, backend)
    return loader.build_eval_loader(
        samples, transform, args.batch_size, args.num_workers, args.prefetch_factor, rank, world_size
    )


def check(args):
    """Check the flags before anything is read. Raises UserError."""
    if args.topk and max(args.topk) > args.nb_classes:
        raise UserError(f'--topk {max(args.topk)}: there are only {args.nb_classes} classes (--nb_classes)')
    names = ('per_class', 'confusion', 'save_predictions', 'results_file')
    outputs = {f'--{name}': getattr(args, name) for name in names if getattr(args, name)}
    of_one_checkpoint = [flag for flag in outputs if flag != '--results_file']
    if of_one_checkpoint and os.path.isdir(args.resume):
        raise UserError(
            f'{", ".join(of_one_checkpoint)}: needs one checkpoint, but --resume {args.resume} is a folder; '
            'use --results_file'
        )
    for flag, path in outputs.items():
        files.check_target(flag, path)
    if len(set(map(os.path.realpath, outputs.values()))) < len(outputs):
        raise UserError(f'{" and ".join(outputs)} must name different files')


def main(args):
    complete_model(args, FAMILY[args.model])
    check(args)
    weights = weights_file(args, published_weights)
    several = os.path.isdir(weights)
    paths = checkpoint.of_folder(weights) if several else [weights]
    topk = sorted(set(args.topk or (1, 5)))
    names = records.class_names(args.label_list, args.nb_classes)
    rank, world_size = dist.init()
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {runtime.CPU}')
    val_loader = new_eval_loader(args, rank, world_size, args.image_backend)
    images = val_loader.dataset.samples.paths
    real = real_labels.read(args.real_labels, images, args.nb_classes) if args.real_labels else None
    interpolation = args.interpolation.replace('random', 'bicubic')  # the transform takes random as bicubic
    resize = f'{interpolation}, short side to {val_loader.dataset.transform.short_side}'
    if args.image_backend != 'pil':
        resize += f', by {args.image_backend}'
    amp = Amp(args.use_amp, args.amp_dtype, args.amp_level)
    results = []
    for path in paths:
        model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
        load(model, path, args.ema)
        log(f'{args.model}: {len(images)} images, input {args.input_size}, crop_pct {args.crop_pct} ({resize})')
        predictions = predict_all(val_loader, model, max(topk), amp=amp, shared=True)
        stats = metrics.report(predictions, topk)
        if 1 in topk:
            metrics.log_accuracy('network', stats['acc1'], len(images))
        if real:
            stats.update(real_labels.report(predictions, real, topk))
        results.append({'checkpoint': args.model if args.pretrained else path, 'images': len(images), **stats})
        if args.results_file and dist.is_main():
            metrics.write_results(args.results_file, results)  # after each: the next may be unreadable
    if several:
        metrics.log_results(results)
    if dist.is_main():
        if args.per_class:
            metrics.write_per_class(args.per_class, predictions, args.nb_classes, names, topk)
        if args.confusion:
            metrics.write_confusion(args.confusion, predictions, args.nb_classes)
        if args.save_predictions:
            metrics.write_predictions(args.save_predictions, predictions, images, max(topk))


if __name__ == '__main__':
    runtime.run(main, parser())
