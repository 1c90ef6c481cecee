"""Quantise a model to int8 with NNCF, for CPUs: weights and activations of its matrix products and convolutions.

    python tools/quantize.py --resume output/checkpoint-best.pd --images photos/train --output_dir export/int8

Photos such as the model will see give the range of each activation; they need no labels. Writes model.xml, model.bin
and inference.yml, which infer.py runs in OpenVINO. Needs Python 3.10 and `pip install -r requirements-deploy.txt`.
"""

import logging
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
from util.deploy import inference_yml
from util.deploy.network import has_bf16
from util.deploy.records import decoded, softmax
from util.errors import UserError, one_line
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


def libraries():
    """The modules (openvino, nncf). Raises UserError with the pip command if one is missing."""
    os.environ.setdefault('NNCF_CI', '1')  # else NNCF reports every use to a server
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise UserError(
            f'needs nncf and openvino, on Python 3.10 or newer ({one_line(error)}); '
            '`pip install -r requirements-deploy.txt`'
        )
    return openvino, nncf


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


def read_network(openvino, path, settings):
    """The network of an ONNX file. Raises UserError unless its input is image float32 [batch, 3, S, S]."""
    try:
        network = openvino.Core().read_model(path)
    except Exception as error:  # of C++
        raise UserError(f'--onnx {path}: OpenVINO cannot read it ({one_line(str(error).strip().splitlines()[-1])})')
    size, inputs = settings['input_size'], network.inputs
    names = [name for value in inputs for name in value.get_names()]
    shapes = [str(value.partial_shape) for value in inputs]
    if names != ['image'] or shapes != [f'[?,3,{size},{size}]']:
        raise UserError(
            f'--onnx {path}: must have one input, image [?,3,{size},{size}], by its inference.yml; has '
            f'{one_line(", ".join(names))} {" ".join(shapes)}'
        )
    if has_int8(network):
        raise UserError(f'--onnx {path}: is quantised already; give the model in float32')
    return network


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
    loader = build_predict_loader(paths, transform, batch_size=8)
    batches = [decoded(paths, batch)[1] for batch in progress(loader, 'calibration images')]
    images = [image[None] for batch in batches for image in batch]
    if len(images) < FEWEST:
        raise UserError(
            f'--images {args.images}: {len(images)} of {len(paths)} images can be decoded; calibration needs {FEWEST}'
        )
    log(f'calibration: {len(images)} images of {args.images}')
    return images


# -- quantisation and accuracy -----------------------------------------------------------------------------------------


def accuracy(model, batches):
    """(top-1 as a share, [[outputs float32 [B, C]] of each batch]), as NNCF's accuracy control wants it.

    model: an openvino.CompiledModel. batches: of an evaluation loader.
    """
    outputs, hits = [], []
    for batch in batches:
        outputs.append([np.array(model(batch['image'].numpy())[0])])
        hits.append(outputs[-1][0].argmax(axis=1) == batch['label'].numpy())
    return float(np.concatenate(hits).mean()), outputs


def quantise(nncf, network, images, loader=None, max_drop=None):
    """The network with int8 weights and activations.

    images: for calibration. max_drop: points of top-1 on the images of `loader` that it may lose, or None.
    """
    nncf.set_log_level(logging.WARNING if max_drop is None else logging.INFO)  # which layers stay in float32
    settings = {
        'preset': nncf.QuantizationPreset.PERFORMANCE,  # symmetric: MIXED is slower and less exact for these networks
        'model_type': nncf.ModelType.TRANSFORMER,  # with SmoothQuant
        'subset_size': len(images),
    }
    calibration = nncf.Dataset(images)
    if max_drop is None:
        return nncf.quantize(network, calibration, **settings)
    return nncf.quantize_with_accuracy_control(
        network,
        calibration,
        nncf.Dataset(loader, lambda batch: batch['image'].numpy()),
        accuracy,
        max_drop=max_drop / 100,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(num_ranking_workers=1),
        **settings,
    )


def report(openvino, network, quantised, batches, labels, are_scores):
    """Log how the answers of int8, and of bfloat16 if this processor has it, differ from those of float32.

    batches: a function that returns an iterable of images float32 [B, 3, S, S]. labels: int64 [N], or None.
    Returns the points of top-1 that int8 loses; 0 without labels.
    """
    kinds = {'float32': (network, 'f32'), 'int8': (quantised, 'f32')}
    if has_bf16():
        kinds.update({'bf16': (network, 'bf16'), 'int8, the rest bf16': (quantised, 'bf16')})
    scores, top1 = {}, {}
    for name, (model, precision) in kinds.items():
        properties = {
            'INFERENCE_NUM_THREADS': int(os.environ['OMP_NUM_THREADS']),
            'INFERENCE_PRECISION_HINT': precision,
        }
        run = openvino.Core().compile_model(model, 'CPU', properties)
        outputs = np.concatenate([np.array(run(images)[0]) for images in progress(batches(), name)])
        scores[name] = outputs if are_scores else softmax(outputs)
        best = outputs.argmax(axis=1)
        text = f'{name}:'
        if labels is not None:
            top1[name] = 100 * (best == labels).mean()
            text += f' top-1 {top1[name]:.2f} % on {len(best)} images;'
        changed = int((best != scores['float32'].argmax(axis=1)).sum())
        largest = np.abs(scores[name] - scores['float32']).max()
        if name != 'float32':
            text += f' another best class for {changed} of {len(best)} images, scores differ by at most {largest:.3f}'
        if labels is not None or name != 'float32':
            log(text.rstrip(';'))
    return top1['float32'] - top1['int8'] if top1 else 0.0


def has_int8(network):
    return any(node.get_type_name() == 'FakeQuantize' for node in network.get_ops())


def main(args):
    check(args)
    openvino, nncf = libraries()
    paths = calibration_paths(args)
    with tempfile.TemporaryDirectory(prefix='.quantize-', dir=args.output_dir) as work:
        onnx_file, settings = exported(args, work)
        quantised_settings = {**settings, 'precision': 'int8'}
        named = f'--output_dir {args.output_dir}'
        others = inference_yml.of_other_files(named, args.output_dir, quantised_settings, ['xml', 'bin'])
        network = read_network(openvino, onnx_file, settings)
        size, crop, mean, std = (settings[name] for name in ('input_size', 'crop_pct', 'mean', 'std'))
        transform, loader = EvalTransform(size, crop, settings['interpolation'], mean, std), None
        if args.cls_label_path_val:
            samples = read_list(args.data_path, args.cls_label_path_val, settings['nb_classes'])
            loader = build_eval_loader(samples, transform, batch_size=8, num_workers=0)
        images = calibration_images(args, paths, transform)
        quantised = quantise(nncf, network, images, loader, args.max_drop)
        batches, labels = (lambda: images), None
        if loader:
            batches, labels = (lambda: (batch['image'].numpy() for batch in loader)), loader.dataset.samples.labels
        lost = report(openvino, network, quantised, batches, labels, settings['output'] == 'scores')
        if args.max_drop is not None and (lost > args.max_drop + 1e-6 or not has_int8(quantised)):
            raise UserError(
                f'--max_drop {args.max_drop:g}: cannot be met; '
                + (f'{lost:.2f} points of top-1 are lost' if has_int8(quantised) else 'no layer may be int8')
                + '; nothing is written'
            )
        openvino.save_model(quantised, os.path.join(work, 'model.xml'), compress_to_fp16=False)
        inference_yml.write_settings(work, quantised_settings, ['model.xml', 'model.bin'], others)
        for name in ('model.xml', 'model.bin', 'inference.yml'):
            os.replace(os.path.join(work, name), os.path.join(args.output_dir, name))
    log(f'{args.output_dir}: model.xml, model.bin and inference.yml; run them with infer.py --model_file')


if __name__ == '__main__':
    runtime.run(main, parser())
