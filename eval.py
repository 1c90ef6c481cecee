"""Evaluate a checkpoint, or all of a folder, on a validation set, on one process or on several.

docs/evaluation.md says how it counts.
"""

from util import runtime

import argparse
import os

import paddle

from engine import predict_all
from models import FAMILY, load_model, weights_file
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
)
from util.data import loader, validation
from util.data.transforms import EvalTransform
from util.errors import UserError
from util.logger import log
from util.ranges import count
from util.train.amp import Amp
from util.weights import checkpoint, settings
from util.weights.load import read


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


class ValidationSet:
    """The validation set as a model needs it: its size, transform and number of classes, and the names of its classes.

    args: flags, those of the model set. names: of the model's classes by id, or None. ranks: (rank, processes).
    """

    def __init__(self, args, names, ranks):
        self.needs = _needs(args, names)
        listed = read_class_list(args, names)
        self.classes = sorted(listed.values()) if listed else list(range(args.nb_classes))  # those that count
        self.loader = new_eval_loader(args, *ranks, args.image_backend, names, listed)
        self.images = self.loader.dataset.samples.paths
        self.real = read_real_labels(args, self.images, set(self.classes))
        self.names = class_names.to_show(args.label_list, names, args.nb_classes)  # {class id: name}

    def suits(self, args, names):
        """Whether it is right for another model too."""
        return self.needs == _needs(args, names)


def _needs(args, names):
    return names, [getattr(args, name) for name in settings.KINDS if name != 'model']


def describe(args, images):
    """A line for the log about the model, the number of images, and the transform."""
    interpolation = args.interpolation.replace('random', 'bicubic')  # the transform takes random as bicubic
    resize = f'{interpolation}, short side to {new_transform(args, args.image_backend).short_side}'
    if args.image_backend != 'pil':
        resize += f', by {args.image_backend}'
    return f'{args.model}: {images} images, input {args.input_size}, crop_pct {args.crop_pct} ({resize})'


def write_tables(args, predictions, data, topk):
    """Write the files of --per_class, --confusion and --save_predictions. data: ValidationSet."""
    if args.per_class:
        metrics.write_per_class(args.per_class, predictions, data.classes, data.names, topk)
    if args.confusion:
        metrics.write_confusion(args.confusion, predictions, data.classes)
    if args.save_predictions:
        metrics.write_predictions(args.save_predictions, predictions, data.images, max(topk))


def main(args):
    check(args)
    weights = weights_file(args)
    several = os.path.isdir(weights)
    topk = sorted(set(args.topk or (1, 5)))
    ranks = dist.init()
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {ranks[1]} process(es). {runtime.CPU}')
    amp = Amp(args.use_amp, args.amp_dtype, args.amp_level)
    results, data = [], None
    for path in checkpoint.of_folder(weights) if several else [weights]:
        own, state = argparse.Namespace(**vars(args)), read(path)
        model = load_model(own, state, path)
        names = class_names.of_checkpoint(state, path, own.nb_classes)
        if max(topk) > own.nb_classes and args.topk:
            raise UserError(f'--topk {max(topk)}: there are only {own.nb_classes} classes in {path}')
        warn_of_list(own, state, names, path)
        if data is None or not data.suits(own, names):
            data = ValidationSet(own, names, ranks)
            log(describe(own, len(data.images)))
        predictions = predict_all(data.loader, model, max(topk), amp=amp, shared=True, classes=data.classes)
        stats = metrics.report(predictions, topk)
        if 1 in topk:
            metrics.log_accuracy('network', stats['acc1'], len(data.images))
        if data.real:
            stats.update(real_labels.report(predictions, data.real, topk))
        epoch = state.get('epoch')
        result = {'checkpoint': own.model if args.pretrained else path}
        result['epoch'] = epoch if isinstance(epoch, int) else ''  # weights alone have none
        results.append({**result, 'images': len(data.images), **stats})
        if args.results_file and dist.is_main():
            metrics.write_results(args.results_file, results)  # after each: the next may be unreadable
    if several:
        metrics.log_results(results)
    if dist.is_main():
        write_tables(args, predictions, data, topk)


if __name__ == '__main__':
    runtime.run(main, parser())
