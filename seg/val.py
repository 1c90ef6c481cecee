"""Evaluate a segmentation model with PaddleSeg: mIoU, accuracy and the IoU of each class."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

from seg import common, loader
from util.args import Parser
from util.ranges import natural


def parser():
    parser = Parser('seg/val.py', description=__doc__)
    common.add_config(parser)
    common.add_model_path(parser)
    common.add_inference(parser)
    parser.add_argument('--num_workers', default=0, type=natural, help='loader processes (default: 0)')
    common.add_check(parser)
    return parser


def main(args):
    common.load_paddleseg()
    from paddleseg.core import evaluate

    built = common.builder(args)
    how = common.inference(args, built.config)
    val_set = common.dataset(args, built, 'val_dataset')
    model = common.trained_model(args, built)
    with loader.in_paddleseg():
        evaluate(model, val_set, aug_eval=args.aug_eval, num_workers=args.num_workers, **how)


if __name__ == '__main__':
    runtime.run(main, parser())
