"""Quantise a model to int8 with NNCF, for CPUs: weights and activations of its matrix products and convolutions.

    python tools/quantize.py --resume output/checkpoint-best.pd --images photos/train --output_dir export/int8

Photos such as the model will see give the range of each activation; they need no labels. Writes model.xml, model.bin
and inference.yml, which infer.py runs in OpenVINO. Needs Python 3.10 and `pip install -r requirements-deploy.txt`.
"""

import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np

from models import FAMILY, load_named
from tools import export_onnx
from util import files
from util.args import LABEL_LIST_HELP, Parser, add_eval_transform, add_model, add_normalisation, add_weights
from util.data.folders import find_images
from util.data.listing import NO_LIMIT, read_list
from util.data.loader import build_eval_loader, build_predict_loader
from util.data.transforms import EvalTransform
from util.deploy import inference_yml, int8
from util.deploy.records import decoded
from util.errors import UserError
from util.logger import log, progress
from util.ranges import not_negative, whole

FEWEST = 32  # images; fewer do not show the ranges of the activations


def parser():
    parser = Parser('tools/quantize.py', description=__doc__)
    add_model(parser, FAMILY)
    add = add_weights(parser).add_argument
    help = 'instead of a checkpoint: what tools/export_onnx.py wrote, with its inference.yml beside it'
    add('--onnx', default='', metavar='FILE', help=help)
    add_eval_transform(parser, FAMILY)
    add_normalisation(parser)
    add = parser.add_argument_group('calibration').add_argument
    help = "folder of images, or list of images, lines 'path class_id'; training images serve well"
    add('--images', required=True, metavar='PATH', help=help)
    help = 'how many images, spread evenly over the folder or list (default: 300)'
    add('--num_images', default=300, type=whole(at_least=FEWEST), metavar='N', help=help)
    add = parser.add_argument_group('accuracy').add_argument
    add('--data_path', default='.', metavar='DIR', help='folder of the images of list files (default: this one)')
    help = "list of validation images, lines 'path class_id': report top-1 on them before and after"
    add('--cls_label_path_val', default='', metavar='FILE', help=help)
    help = 'points of top-1 that may be lost; layers stay in float32 until it is met (default: no limit)'
    add('--max_drop', type=not_negative, metavar='POINTS', help=help)
    add = parser.add_argument_group('output').add_argument
    add('--output_dir', default='', metavar='DIR', help='folder for model.xml, model.bin and inference.yml')
    add('--label_list', metavar='FILE', help=LABEL_LIST_HELP)
    parser.add_config()
    return parser


def check(args):
    """Check the flags before anything is read. Raises UserError."""
    if not args.output_dir:
        raise UserError('--output_dir is missing: the folder for the quantised model')
    if args.max_drop is not None and not args.cls_label_path_val:
        raise UserError('--max_drop: needs --cls_label_path_val, the images on which top-1 is measured')
    given = [flag for flag in ('model', 'nb_classes', 'resume', 'pretrained', 'ema') if getattr(args, flag)]
    if args.onnx and given:
        raise UserError(f'--onnx {args.onnx}: has a model of its own; leave out --{" --".join(given)}')
    files.check_folder(args.output_dir, f'--output_dir {args.output_dir}')


# -- the model and the images ------------------------------------------------------------------------------------------


def exported(args, folder):
    """(ONNX file, settings of inference.yml) of --onnx, or of the checkpoint, exported into `folder`."""
    if args.onnx:
        path = os.path.join(os.path.dirname(args.onnx), 'inference.yml')
        if not os.path.isfile(args.onnx) or not os.path.isfile(path):
            raise UserError(
                f'--onnx {args.onnx}: no such file, or no inference.yml beside it; tools/export_onnx.py writes both'
            )
        names = ('input_size', 'crop_pct', 'interpolation', 'mean', 'std')
        flags = {name: getattr(args, name) for name in names}
        settings = inference_yml.find_settings(args.onnx, label_list=args.label_list, **flags)
        found = inference_yml.identity(args.onnx)
        if settings.pop('files').get('onnx', found) != found:
            raise UserError(f'--onnx {args.onnx}: not the file that {path} was written for; export it again')
        return args.onnx, settings
    model, names = load_named(args)
    path = os.path.join(folder, 'model.onnx')
    export_onnx.write(model, path, 'logits')
    return path, inference_yml.from_flags(args, names)


def calibration_paths(args):
    """--num_images paths, spread evenly over the folder or list --images."""
    if os.path.isfile(args.images):
        found = read_list(args.data_path, args.images, NO_LIMIT).paths
    else:
        found = find_images([args.images])
    chosen = np.unique(np.linspace(0, len(found) - 1, args.num_images).round().astype(int))
    return [found[i] for i in chosen]


def calibration_images(args, paths, transform):
    """[image float32 [1, 3, S, S]] of the paths. Raises UserError if too few of them can be decoded."""
    loader = build_predict_loader(paths, transform, batch_size=8, ahead=False)  # OpenVINO may crash in forked processes
    batches = [decoded(paths, batch)[1] for batch in progress(loader, 'calibration images')]
    images = [image[None] for batch in batches for image in batch]
    if len(images) < FEWEST:
        raise UserError(
            f'--images {args.images}: {len(images)} of {len(paths)} images can be decoded; calibration needs {FEWEST}'
        )
    log(f'calibration: {len(images)} images of {args.images}')
    return images


def write(openvino, network, folder, work, settings, others):
    """Write model.xml, model.bin and inference.yml into a folder: all of them or none. work: a folder inside of it."""
    openvino.save_model(network, os.path.join(work, 'model.xml'), compress_to_fp16=False)
    inference_yml.write_settings(work, settings, ['model.xml', 'model.bin'], others)
    for name in ('model.xml', 'model.bin', 'inference.yml'):
        os.replace(os.path.join(work, name), os.path.join(folder, name))
    log(f'{folder}: model.xml, model.bin and inference.yml; run them with infer.py --model_file')


def too_much(lost, max_drop):
    return max_drop is not None and lost > max_drop + 1e-6


def main(args):
    check(args)
    openvino, nncf = int8.libraries()
    paths, folder = calibration_paths(args), args.output_dir
    with tempfile.TemporaryDirectory(prefix='.quantize-', dir=folder) as work:
        onnx_file, settings = exported(args, work)
        settings['precision'] = 'int8'
        others = inference_yml.of_other_files(f'--output_dir {folder}', folder, settings, ['xml', 'bin'])
        network = int8.read_network(onnx_file, settings['input_size'])
        size, crop, mean, std = (settings[name] for name in ('input_size', 'crop_pct', 'mean', 'std'))
        transform = EvalTransform(size, crop, settings['interpolation'], mean, std)
        loader = labels = None
        if args.cls_label_path_val:
            samples = read_list(args.data_path, args.cls_label_path_val, settings['nb_classes'])
            loader, labels = build_eval_loader(samples, transform, batch_size=8, num_workers=0), samples.labels
        images = calibration_images(args, paths, transform)
        quantised = int8.quantise(nncf, network, images)
        batches = (lambda: (batch['image'].numpy() for batch in loader)) if loader else (lambda: images)
        compared = batches, labels, settings['output'] == 'scores'
        lost = int8.report(network, quantised, *compared)
        if too_much(lost, args.max_drop):
            log(f'--max_drop {args.max_drop:g}: int8 loses {lost:.2f} points; trying with layers in float32')
            quantised = int8.quantise_partly(nncf, network, images, loader, args.max_drop)
            lost = int8.report(network, quantised, *compared)
            if too_much(lost, args.max_drop) or not int8.has_int8(quantised):
                raise UserError(f'--max_drop {args.max_drop:g}: cannot be met with layers in int8; nothing is written')
        write(openvino, quantised, folder, work, settings, others)


if __name__ == '__main__':
    runtime.run(main, parser())
