"""Write random weights of a fixed seed, the same on every machine and Paddle version.

results/ has the predictions of a model with these weights, for comparison. The weights are large enough that the scores
of an image differ clearly from each other and from those of other images.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
import paddle

from models import FAMILY, build_model
from util.args import Parser, add_model
from util.errors import UserError, one_line
from util.logger import log
from util.weights import settings

HEAD = 3.0  # standard deviation of the class token's logits


def parser():
    parser = Parser('test_tipc/seed_weights.py', description=__doc__)
    add_model(parser, FAMILY)
    parser.add_argument('--output', required=True, metavar='FILE', help='the .pdparams to write')
    return parser


def draw(name, shape, rng):
    """float32 array for the weight `name`: Linear and convolution keep the variance, norms are the identity."""
    if len(shape) == 1:
        is_scale = name.endswith(('weight', '_variance'))
        return np.full(shape, 1.0 if is_scale else 0.0, 'float32')
    if name in ('cls_token', 'pos_embed'):
        scale = 0.5
    elif len(shape) == 4:
        scale = (2 / np.prod(shape[1:])) ** 0.5
    else:
        scale = {'head.weight': HEAD, 'aux_head.weight': HEAD / 2}.get(name, 1.0) / shape[0] ** 0.5
    return (rng.standard_normal(shape) * scale).astype('float32')


def main(args):
    settings.complete(args, FAMILY)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
    rng = np.random.RandomState(0)  # its numbers are frozen for all versions of numpy
    state = {name: draw(name, value.shape, rng) for name, value in sorted(model.state_dict().items())}
    model.set_state_dict(state)
    try:
        paddle.save(model.state_dict(), args.output)
    except (OSError, ValueError) as error:
        raise UserError(f'--output {args.output}: cannot be written to ({one_line(error)})')
    log(f'wrote {args.output}')


if __name__ == '__main__':
    runtime.run(main, parser())
