"""Convert weights between PyTorch and Paddle, without PyTorch and without executing anything that a file asks for.

    python tools/convert_weight.py lvvit_s-26M-224-83.3.pth.tar lvvit_s.pdparams
    python tools/convert_weight.py output/checkpoint-best.pd lvvit_s.safetensors --ema

IN is recognised by its content: .pth, .pt and .pth.tar of any PyTorch, .safetensors, .pdparams, our checkpoints. The
ending of OUT gives the format: .pdparams in Paddle's layout, or .safetensors in PyTorch's layout, which timm and
Hugging Face read too; in PyTorch: model.load_state_dict(safetensors.torch.load_file(OUT)). Where the layouts differ,
Linear weights are transposed, the statistics of BatchNorm renamed, and its num_batches_tracked left out or added as 0.
bfloat16 becomes float32. No other number is changed. OUT keeps the names of the classes and what the checkpoint says of
its model and images. The scripts of this project read all of these files without conversion.
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
import safetensors.numpy

import models
from util import class_names, files
from util.args import Parser
from util.errors import UserError
from util.logger import log
from util.weights import checkpoint, settings, torch_file
from util.weights.fit import HEADS, without_prefix
from util.weights.load import choose, read_as_written
from util.weights.torch_file import PADDLE, TORCH

SHOWN = 20  # differences that are listed


def parser():
    parser = Parser('tools/convert_weight.py', description=__doc__)
    parser.add_argument('input', metavar='IN', help='weights or a checkpoint of PyTorch, Paddle or this project')
    parser.add_argument('output', metavar='OUT', help='.pdparams or .safetensors')
    parser.add_argument('--ema', action='store_true', help="the checkpoint's averaged weights")
    return parser


def check_output(path):
    """Raise UserError unless the ending of `path` is a format that this script writes."""
    if not path.endswith(('.pdparams', '.safetensors')):
        raise UserError(
            f'{path}: must end in .pdparams or .safetensors (PyTorch reads it with safetensors.torch.load_file)'
        )


def check_arrays(weights, path):
    """Raise UserError unless all entries are arrays of numbers."""
    strange = [
        str(key)
        for key, value in weights.items()
        if not isinstance(key, str) or not isinstance(value, np.ndarray) or value.dtype.kind not in 'fiub'
    ]
    if strange:
        raise UserError(
            f'{path}: not a state dict; {len(strange)} entries are not arrays of numbers, the first is {strange[0]}'
        )


def write_pdparams(weights, path, kept):
    """Write weights in Paddle's layout, and the entries `kept`, which Paddle ignores."""
    checkpoint.save({**weights, **kept}, path)


def write_safetensors(weights, path, kept):
    """Write weights in PyTorch's layout. The metadata holds the entries `kept` as JSON."""
    arrays = {key: np.asarray(value, order='C') for key, value in weights.items()}
    metadata = {'format': 'pt', **{name: json.dumps(value) for name, value in kept.items()}}
    files.write(path, safetensors.numpy.save(arrays, metadata))


def entries_to_keep(state, path):
    """The entries of a checkpoint beside the weights that OUT keeps: class names and settings."""
    found = settings.of_file(state, path, models.FAMILY)
    kept = {class_names.KEY: state.get(class_names.KEY), settings.KEY: found}
    return {name: value for name, value in kept.items() if value}


def describe(weights):
    """Lines for the log: the LV-ViT that weights in Paddle's layout fit, or how they differ from the nearest one."""
    flags, problems = models.nearest_model(weights)
    if not problems:
        return [f'these weights fit {flags}']
    if len(problems) > len(weights) // 2:
        return ['these are not weights of an LV-ViT']
    lines = [f'these weights do not fit {flags}, the nearest LV-ViT:', *(f'  {line}' for line in problems[:SHOWN])]
    if len(problems) > SHOWN:
        lines.append(f'  and {len(problems) - SHOWN} more')
    return lines


def main(args):
    check_output(args.output)
    state, layout = read_as_written(args.input)
    weights, source = choose(state, args.input, args.ema)
    log(source)
    kept = entries_to_keep(state, args.input)
    left_out = [str(key) for key, value in state.items() if value is not weights and key not in kept]
    if weights is not state and left_out:
        log(f'left out: {", ".join(left_out)}')
    check_arrays(weights, args.input)
    weights = without_prefix(weights, args.input, HEADS)  # of an LV-ViT
    weights = without_prefix(weights, args.input)  # of another network
    broken = [name for name, value in weights.items() if not np.isfinite(value).all()]
    if broken:
        log(f'warning: {len(broken)} of the weights are not finite, among them {broken[0]}')
    if args.output.endswith('.pdparams'):
        new_layout, convert, write = PADDLE, torch_file.to_paddle, write_pdparams
    else:
        new_layout, convert, write = TORCH, torch_file.to_torch, write_safetensors
    if layout != new_layout:
        converted = convert(weights)
        if len(converted) < len(weights):
            log(f'left out, because Paddle has no such tensor: {len(weights) - len(converted)} num_batches_tracked')
        if len(converted) > len(weights):
            log(f'added, because PyTorch requires them: {len(converted) - len(weights)} num_batches_tracked = 0')
        weights = converted
    write(weights, args.output, kept)
    dtypes = sorted({str(value.dtype) for value in weights.values()})
    log(
        f'{args.output}: {len(weights)} tensors, {torch_file.count_parameters(weights) / 1e6:.2f} M parameters, '
        f'{", ".join(dtypes)}, {os.path.getsize(args.output) / 1e6:.1f} MB'
    )
    if settings.KEY in kept:
        log(f'kept: {settings.describe(kept[settings.KEY])}')
    for line in describe(weights if new_layout == PADDLE else torch_file.to_paddle(weights)):
        log(line)


if __name__ == '__main__':
    runtime.run(main, parser())
