"""Export a segmentation model for Paddle Inference with PaddleSeg's files: graph, weights and deploy.yaml."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

import paddle
import yaml

from seg import common
from util.args import Parser
from util.errors import UserError
from util.logger import log
from util.ranges import whole


def parser():
    parser = Parser('seg/export.py', description=__doc__)
    common.add_config(parser)
    common.add_model_path(parser)
    add = parser.add_argument
    add('--save_dir', default='output/seg_inference', metavar='DIR', help='folder of the exported files')
    help = 'default: any number, height and width'
    add('--input_shape', nargs=4, type=whole(at_least=-1), metavar=('N', 'C', 'H', 'W'), help=help)
    ops = ('argmax', 'softmax', 'none')
    add('--output_op', default='argmax', choices=ops, help='class ids (default), probabilities or scores')
    return parser


def main(args):
    common.load_paddleseg()
    from paddleseg.deploy.export import WrappedModel

    shape = args.input_shape or [None, 3, None, None]
    if args.input_shape and (0 in shape or shape[1] != 3 or shape[2] % 16 or shape[3] % 16):
        raise UserError(f'--input_shape {" ".join(map(str, shape))}: must be N 3 H W, H and W multiples of 16')
    built = common.builder(args)
    model = common.trained_model(args, built)
    if args.output_op != 'none':
        model = WrappedModel(model, args.output_op)
        model.eval()
    shape = [None if side == -1 else side for side in shape]
    graph = paddle.jit.to_static(
        model, input_spec=[paddle.static.InputSpec(shape, 'float32', name='x')], full_graph=True
    )
    paddle.jit.save(graph, os.path.join(args.save_dir, 'model'))

    names = [name for name in ('model.json', 'model.pdmodel') if os.path.exists(os.path.join(args.save_dir, name))]
    deploy = {
        'model': names[0],
        'params': 'model.pdiparams',
        'transforms': built.config.val_dataset_cfg.get('transforms', []),
        'input_shape': [-1 if side is None else side for side in shape],
        'output_op': args.output_op,
        'output_dtype': 'int32' if args.output_op == 'argmax' else 'float32',
    }
    with open(os.path.join(args.save_dir, 'deploy.yaml'), 'w', encoding='utf-8') as f:
        yaml.safe_dump({'Deploy': deploy}, f)
    log(f'{args.save_dir}: {names[0]}, model.pdiparams and deploy.yaml')


if __name__ == '__main__':
    runtime.run(main, parser())
