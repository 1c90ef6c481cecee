"""Convert weights between PyTorch and Paddle, without PyTorch and without executing what a file asks for.

    python tools/convert_weight.py lvvit_s-26M-224-83.3.pth.tar lvvit_s.pdparams
    python tools/convert_weight.py output/checkpoint-best.pd lvvit_s.pth --ema
    python tools/convert_weight.py lvvit_s.pth lvvit_s.safetensors

IN is recognised by its content: .pth, .pt and .pth.tar of any PyTorch, .safetensors, .pdparams, our checkpoints. OUT is
what its name says: .pdparams in Paddle's layout; .pth, .pt, .pth.tar and .safetensors in PyTorch's, so that
load_state_dict takes them. Linear weights are transposed and BatchNorm's statistics renamed where the layouts differ;
numbers are never changed. Scripts take any of these files with --resume and --finetune as well.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
import paddle

import models
from util.errors import UserError
from util.logger import log
from util.weights import checkpoint, layout, pretrained, safetensors_file, torch_file

SHOWN = 20  # keys that are named one by one


def parser():
    parser = runtime.Parser(
        'convert_weight.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', metavar='IN', help='weights or a checkpoint of PyTorch, Paddle or this project')
    parser.add_argument('output', metavar='OUT', help='.pdparams, .pth, .pt, .pth.tar or .safetensors')
    parser.add_argument('--ema', action='store_true', help="the checkpoint's averaged weights")
    return parser


def write_torch(weights, path):
    torch_file.save(weights, path)


def write_safetensors(weights, path):
    safetensors_file.save(weights, path, {'format': 'pt'})


# suffix: (conversion to the layout of such files, writer)
FORMATS = {
    '.pdparams': (layout.to_paddle, checkpoint.save),
    '.safetensors': (layout.to_torch, write_safetensors),
    **dict.fromkeys(('.pth', '.pt', '.pth.tar'), (layout.to_torch, write_torch)),
}


def check_arrays(weights, path):
    """Raises UserError that names what is no array of numbers: every entry goes into the new file, or none does."""
    strange = [
        str(key)
        for key, value in weights.items()
        if not isinstance(key, str) or not isinstance(value, np.ndarray) or value.dtype.kind not in 'fiub'
    ]
    if strange or not weights:
        more = f' and {len(strange) - SHOWN} more' if len(strange) > SHOWN else ''
        raise UserError(
            f'{path}: not a state dict; no arrays of numbers: {", ".join(strange[:SHOWN]) or "it is empty"}{more}'
        )


def describe(weights):
    """Lines that say which LV-ViT `weights` (in Paddle's layout) are of, or what is wrong for the nearest one."""
    tokens = (np.shape(weights.get('pos_embed')) + (0, 0))[1] - 1
    classes = (np.shape(weights.get('head.bias')) + (0,))[0]
    size = 16 * max(1, round(max(0, tokens) ** 0.5))
    found = {}
    for name in models.FAMILY:
        with paddle.LazyGuard():  # shapes only: no memory for the weights
            own = models.build_model(name, img_size=size, num_classes=max(1, classes)).state_dict()
        found[name] = pretrained.misfits(own, weights)
        if not found[name]:
            return [f'they fit --model {name} --input_size {size} --nb_classes {classes}']
    name, problems = min(found.items(), key=lambda item: len(item[1]))
    if len(problems) > len(weights) // 2:
        return ['they are not those of an LV-ViT']
    more = [f'  and {len(problems) - SHOWN} more'] if len(problems) > SHOWN else []
    return [f'they do not fit {name}, the nearest LV-ViT:', *(f'  {problem}' for problem in problems[:SHOWN]), *more]


def main(args):
    suffix = next((suffix for suffix in FORMATS if args.output.endswith(suffix)), None)
    if suffix is None:
        raise UserError(f'{args.output}: the name must end in one of {", ".join(FORMATS)}, which says the format')
    convert, write = FORMATS[suffix]
    state = pretrained.read(args.input)
    key, weights, source = pretrained.choose(state, args.input, args.ema)
    log(source)
    if key and len(state) > 1:
        log(f'left out: {", ".join(str(other) for other in state if other != key)}')
    check_arrays(weights, args.input)
    weights, notes = convert(weights, args.input)
    for note in notes:
        log(note)
    write(weights, args.output)
    dtypes = sorted({str(value.dtype) for value in weights.values()})
    log(
        f'{args.output}: {len(weights)} tensors, {layout.count_parameters(weights) / 1e6:.2f} M parameters, '
        f'{", ".join(dtypes)}, {os.path.getsize(args.output) / 1e6:.1f} MB'
    )
    for line in describe(layout.to_paddle(weights, args.output)[0]):
        log(line)


if __name__ == '__main__':
    runtime.run(main, parser())
