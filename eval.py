"""Evaluate a checkpoint, or all of a folder, on a validation set, on one process or on several.

docs/evaluation.md says how it counts.
"""

from util import runtime

import os

import paddle

from engine import predict_all
from models import FAMILY, build_model, published_weights
from util import class_names, dist, files, metrics, real_labels
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
from util.data import loader, validation
from util.data.transforms import EvalTransform
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


def new_eval_loader(args, rank=0, world_size=1, backend='pil', names=None, listed=None):
    """The loader of the validation set that the flags describe; with several processes, of the part of process `rank`.

    backend: the library that reads the images. main.py always uses pil, so that its accuracies compare with published
    ones. names: of the model's classes, by id; listed: {class folder: class id} of --class_list. See read_validation.
    """
    samples = validation.read_validation(args.data_path, args.cls_label_path_val, args.nb_classes, names, listed)
    return loader.build_eval_loader(
        samples, new_transform(args, backend), args.batch_size, args.num_workers, args.prefetch_factor, rank, world_size
    )


def new_transform(args, backend):
    """The evaluation transform that the flags describe."""
    return EvalTransform(args.input_size, args.crop_pct, args.interpolation, args.mean, args.std, backend)


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


def read_class_list(args, names):
    """{class folder: class id} of --class_list; None without the flag. names: of the checkpoint, or None."""
    if not args.class_list:
        return None
    of_train = validation.train_classes(args.data_path)
    if names is None and len(of_train) == args.nb_classes:
        names = of_train
    listed = class_names.read_class_list(args.class_list, names, args.nb_classes)
    if args.topk and max(args.topk) > len(listed):
        raise UserError(f'--topk {max(args.topk)}: --class_list {args.class_list} has only {len(listed)} classes')
    log(f'--class_list {args.class_list}: {len(listed)} of {args.nb_classes} classes count, other logits are left out')
    return listed


def warn_of_list(args, state, names, path):
    """Log that the class ids of folders are uncertain for a checkpoint without names that a list file trained."""
    flags = state.get('args')
    trained_on = flags.get('cls_label_path_train') if isinstance(flags, dict) else None
    if trained_on and not names and not args.cls_label_path_val:
        log(
            f'warning: {path} was trained on the list file {trained_on} and has no class names; if its class ids are '
            'not those of the sorted folders, give --cls_label_path_val'
        )


def read_real_labels(args, images, classes):
    """The ReaL labels of the images among the classes that count; None without --real_labels."""
    if not args.real_labels:
        return None
    real = real_labels.read(args.real_labels, images, args.nb_classes)
    return [[i for i in ids if i in classes] for ids in real]


def main(args):
    complete_model(args, FAMILY[args.model])
    check(args)
    weights = weights_file(args, published_weights)
    several = os.path.isdir(weights)
    paths = checkpoint.of_folder(weights) if several else [weights]
    topk = sorted(set(args.topk or (1, 5)))
    rank, world_size = dist.init()
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {runtime.CPU}')
    interpolation = args.interpolation.replace('random', 'bicubic')  # the transform takes random as bicubic
    resize = f'{interpolation}, short side to {new_transform(args, args.image_backend).short_side}'
    if args.image_backend != 'pil':
        resize += f', by {args.image_backend}'
    amp = Amp(args.use_amp, args.amp_dtype, args.amp_level)
    results, val_loader, names = [], None, None
    for path in paths:
        model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
        state = load(model, path, args.ema)
        before, names = names, class_names.of_checkpoint(state, path, args.nb_classes)
        warn_of_list(args, state, names, path)
        if val_loader is None or names != before:  # the names give the class ids of the folders
            listed = read_class_list(args, names)
            classes = sorted(listed.values()) if listed else list(range(args.nb_classes))
            val_loader = new_eval_loader(args, rank, world_size, args.image_backend, names, listed)
            images = val_loader.dataset.samples.paths
            real = read_real_labels(args, images, set(classes))
            shown_names = class_names.to_show(args.label_list, names, args.nb_classes)
            log(f'{args.model}: {len(images)} images, input {args.input_size}, crop_pct {args.crop_pct} ({resize})')
        predictions = predict_all(val_loader, model, max(topk), amp=amp, shared=True, classes=classes)
        stats = metrics.report(predictions, topk)
        if 1 in topk:
            metrics.log_accuracy('network', stats['acc1'], len(images))
        if real:
            stats.update(real_labels.report(predictions, real, topk))
        epoch = state.get('epoch')
        result = {'checkpoint': args.model if args.pretrained else path}
        result['epoch'] = epoch if isinstance(epoch, int) else ''  # weights alone have none
        results.append({**result, 'images': len(images), **stats})
        if args.results_file and dist.is_main():
            metrics.write_results(args.results_file, results)  # after each: the next may be unreadable
    if several:
        metrics.log_results(results)
    if dist.is_main():
        if args.per_class:
            metrics.write_per_class(args.per_class, predictions, classes, shown_names, topk)
        if args.confusion:
            metrics.write_confusion(args.confusion, predictions, classes)
        if args.save_predictions:
            metrics.write_predictions(args.save_predictions, predictions, images, max(topk))


if __name__ == '__main__':
    runtime.run(main, parser())
