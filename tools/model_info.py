"""Parameters and multiply-accumulate operations (MACs) of the models.

    python tools/model_info.py                                      every published model and size, and the baselines
    python tools/model_info.py --model lvvit_s --input_size 384     one
    python tools/model_info.py --model lvvit_l --parts              MACs of stem, blocks and heads

MACs are those of one image in evaluation: convolutions, linear layers and the two matrix products of attention.
Biases, norms, activations and softmax do not count. The published figures (2.9, 6.6, 12.7, 157 G) follow the original's
count, a column of the table. It adds biases, norms, activations, softmax and dropout, with 1 to 8 operations a value,
and leaves out the heads (tests/parity/test_weights.py).
"""

import math
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import paddle
from paddle import nn

import lv_vit
import models
from util.args import Parser
from util.ranges import count

# (model, size): (M parameters, top-1) as the original and the port publish them
PUBLISHED = {
    ('lvvit_t', 224): (8.53, 79.1),
    ('lvvit_s', 224): (26.15, 83.3),
    ('lvvit_s', 384): (26.30, 84.4),
    ('lvvit_m', 224): (55.83, 84.0),
    ('lvvit_m', 384): (56.03, 85.4),
    ('lvvit_m', 448): (56.13, 85.5),
    ('lvvit_l', 448): (150.47, 86.2),
    ('lvvit_l', 512): (150.66, 86.4),
}
BASELINES = [('vit', 224), ('lvvit', 224), ('lvvit_nano', 48)]
HEADER = ('model', 'size', 'params (M)', 'GMACs', "by the original's count", 'published params', 'published top-1')


def parser():
    parser = Parser('tools/model_info.py', description=__doc__)
    parser.add_argument('--model', metavar='NAME', help='one model (default: all)')
    size = 'side of its input (default: its published sizes, else 224)'
    parser.add_argument('--input_size', type=count, help=size)
    parser.add_argument('--nb_classes', default=1000, type=count, help='number of classes (default: 1000)')
    parser.add_argument('--parts', action='store_true', help='print the MACs of stem, blocks and heads')
    return parser


def build(name, size, classes=1000):
    """A model with shapes but without memory for its weights."""
    with paddle.LazyGuard():
        return models.build_model(name, img_size=size, num_classes=classes)


def count_macs(model):
    """{'stem', 'linear layers', 'attention', 'heads': MACs of one image in evaluation} of an LV_ViT."""
    patches, side = model.grid**2, model.img_size
    macs = dict.fromkeys(('stem', 'linear layers', 'attention', 'heads'), 0)
    for layer in model.patch_embed.sublayers():  # in the order in which they run
        if isinstance(layer, nn.Conv2D):
            out, fan_in, *kernel = layer.weight.shape
            side = (side + 2 * layer._padding - kernel[0]) // layer._stride[0] + 1
            macs['stem'] += side**2 * out * fan_in * math.prod(kernel)
    for layer in model.blocks.sublayers():
        if isinstance(layer, nn.Linear):
            macs['linear layers'] += (patches + 1) * math.prod(layer.weight.shape)
        elif isinstance(layer, lv_vit.Attention):  # q·k of all pairs of tokens, then their mean of v
            macs['attention'] += 2 * (patches + 1) ** 2 * layer.num_heads * layer.head_dim
    macs['heads'] += math.prod(model.head.weight.shape)
    if model.return_dense:
        macs['heads'] += patches * math.prod(model.aux_head.weight.shape)
    return macs


def original_count(model):
    """The original's figure for count_macs: its `flops()` of the stem and of all blocks."""
    macs, num_tokens = count_macs(model), model.grid**2 + 1
    operations = 0
    for block in model.blocks:
        dim, hidden = block.mlp.fc1.weight.shape
        operations += num_tokens * block.attn.num_heads * (5 + 4 + 1)  # softmax, dropout and scale of the scores
        operations += 2 * dim * (5 + 1 + 4 + 1)  # of each branch: norm, bias, dropout, residual
        operations += hidden * (8 + 1)  # GELU and bias
    return macs['stem'] + macs['linear layers'] + macs['attention'] + num_tokens * operations


def row(name, size, classes=1000):
    """The cells of HEADER for a model."""
    model = build(name, size, classes)
    params, top1 = PUBLISHED.get((name, size), ('', '')) if classes == 1000 else ('', '')
    return (
        name,
        str(size),
        f'{models.count_parameters(model) / 1e6:.2f}',
        f'{sum(count_macs(model).values()) / 1e9:.2f}',
        f'{original_count(model) / 1e9:.2f}',
        f'{params:.2f}' if params else '',
        str(top1),
    )


def pairs(name=None, size=None):
    """The (model, size) to show: those of PUBLISHED and BASELINES that match, else all models of this name and size."""
    known = [pair for pair in [*PUBLISHED, *BASELINES] if name in (None, pair[0]) and size in (None, pair[1])]
    return known or [(other, size or 224) for other in ([name] if name else models.FAMILY)]


def table(rows):
    """Lines of a table of HEADER and rows."""
    lines = [HEADER, *rows]
    widths = [max(len(cells[i]) for cells in lines) for i in range(len(HEADER))]
    formatted = []
    for name, *numbers in lines:
        cells = [name.ljust(widths[0])] + [number.rjust(width) for number, width in zip(numbers, widths[1:])]
        formatted.append('  '.join(cells).rstrip())
    return formatted


def main(args):
    chosen = pairs(args.model, args.input_size)
    print('\n'.join(table([row(*pair, args.nb_classes) for pair in chosen])))
    if args.parts:
        for name, size in chosen:
            macs = count_macs(build(name, size, args.nb_classes))
            parts = ', '.join(f'{part} {count / 1e9:.2f}' for part, count in macs.items())
            print(f'{name} at {size}: {parts} GMACs')


if __name__ == '__main__':
    runtime.run(main, parser())
