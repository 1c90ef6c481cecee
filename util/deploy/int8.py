"""Quantisation of a network to int8 by NNCF for OpenVINO, and how its answers differ from those of float32."""

import logging
import os

import numpy as np

from util.deploy.network import has_bf16
from util.deploy.openvino_engine import core
from util.deploy.records import softmax
from util.errors import UserError, one_line
from util.logger import log, progress


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


def read_network(path, size):
    """The network of an ONNX file. Raises UserError unless its input is image float32 [batch, 3, size, size]."""
    try:
        network = core().read_model(path)
    except Exception as error:  # of C++
        raise UserError(f'--onnx {path}: OpenVINO cannot read it ({one_line(str(error).strip().splitlines()[-1])})')
    inputs = network.inputs
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


def accuracy(model, batches):
    """(top-1 as a share, [[outputs float32 [B, C]] of each batch]), as NNCF's accuracy control wants it.

    model: an openvino.CompiledModel. batches: of an evaluation loader.
    """
    outputs, hits = [], []
    for batch in batches:
        outputs.append([np.array(model(batch['image'].numpy())[0])])
        hits.append(outputs[-1][0].argmax(axis=1) == batch['label'].numpy())
    return float(np.concatenate(hits).mean()), outputs


def quantise(nncf, network, images):
    """The network with int8 weights and activations. images: for calibration, a list of float32 [1, 3, S, S]."""
    nncf.set_log_level(logging.WARNING)
    return nncf.quantize(network, nncf.Dataset(images), **settings(nncf, images))


def quantise_partly(nncf, network, images, loader, max_drop):
    """As `quantise`, but layers stay in float32 until at most max_drop points of top-1 on `loader` are lost.

    Without SmoothQuant: NNCF 3.4 gives a layer that returns to float32 its first weights, not the smoothed ones, which
    breaks the network. NNCF's log names the layers.
    """
    nncf.set_log_level(logging.INFO)
    off = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    return nncf.quantize_with_accuracy_control(
        network,
        nncf.Dataset(images),
        nncf.Dataset(loader, lambda batch: batch['image'].numpy()),
        accuracy,
        max_drop=max_drop / 100,
        advanced_quantization_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(num_ranking_workers=1),
        **settings(nncf, images),
    )


def settings(nncf, images):
    return {
        'preset': nncf.QuantizationPreset.PERFORMANCE,  # symmetric: MIXED is slower and less exact for these networks
        'model_type': nncf.ModelType.TRANSFORMER,  # with SmoothQuant
        'subset_size': len(images),
    }


def report(network, quantised, batches, labels, are_scores):
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
        run = core().compile_model(model, 'CPU', properties)
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
