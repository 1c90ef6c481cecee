"""Evaluate a checkpoint, or all of a folder, on a validation set, on one process or on several.

docs/evaluation.md says how it counts.
"""

from util import runtime

import os

import paddle

from engine import answer
from models import build_model, load_weights, published_defaults
from util import dist, metrics, options
from util.data import listing, loader
from util.data.transforms import EvalTransform
from util.deploy import records
from util.logger import log
from util.train.amp import Amp
from util.weights import checkpoint


def parser():
    parser = runtime.Parser('eval.py', description=__doc__)
    options.add_model(parser)
    options.add_weights(parser, '; or a folder: all of them in it, one after the other')
    options.add_data(parser)
    options.add_eval_transform(parser, '--train_interpolation')
    options.add_normalisation(parser)
    options.add_amp(parser)
    options.add_protocols(parser)
    parser.add_argument('--batch_size', default=64, type=options.count)
    parser.add_argument('--dist_eval', action='store_true', help='accepted for old commands; processes always share')
    parser.add_config()
    return parser


def new_eval_loader(args, rank=0, world_size=1):
    """The loader of the validation set that the flags describe, or of the share of process `rank`."""
    samples = listing.read_samples(args.data_path, 'val', args.cls_label_path_val, args.nb_classes)
    transform = EvalTransform(
        args.input_size, args.crop_pct, args.interpolation, args.mean, args.std, args.image_backend
    )
    return loader.build_eval_loader(
        samples, transform, args.batch_size, args.num_workers, args.prefetch_factor, rank, world_size
    )


def main(args):
    published_defaults(args)
    several = os.path.isdir(args.resume)
    metrics.check_flags(args, several)
    paths = checkpoint.of_folder(args.resume) if several else [args.resume]
    topk = sorted(set(args.topk or (1, 5)))
    names = records.class_names(args.label_list, args.nb_classes)
    rank, world_size = dist.init()
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {runtime.CPU}')
    val_loader = new_eval_loader(args, rank, world_size)
    images = val_loader.dataset.samples.paths
    real = metrics.read_real(args.real_labels, images, args.nb_classes) if args.real_labels else None
    resize = f'{args.interpolation.replace("random", "bicubic")}, short side to {val_loader.dataset.transform.short}'
    if args.image_backend != 'pil':
        resize += f', by {args.image_backend}'
    amp = Amp(args.use_amp, args.amp_dtype, args.amp_level)
    results = []
    for path in paths:
        args.resume = path
        model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
        log(load_weights(model, args))
        log(f'{args.model}: {len(images)} images, input {args.input_size}, crop_pct {args.crop_pct} ({resize})')
        answers = answer(model, val_loader, max(topk), amp=amp, shared=True)
        stats = metrics.report(answers, topk)
        if 1 in topk:
            metrics.log_accuracy('network', stats['acc1'], len(images))
        if real:
            stats.update(metrics.report_real(answers, real, topk))
        results.append({'checkpoint': path or args.model, 'images': len(images), **stats})
        if args.results_file and dist.is_main():
            metrics.write_results(args.results_file, results)  # what is known, should the next one not be readable
    if several:
        metrics.log_results(results)
    if dist.is_main():
        metrics.write_tables(args, answers, images, names=names, topk=topk)


if __name__ == '__main__':
    runtime.run(main, parser())
