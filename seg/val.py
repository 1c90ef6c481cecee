"""Evaluate a segmentation model by PaddleSeg: mIoU, accuracy and the IoU of each class."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

from seg import kit


def parser():
    parser = runtime.Parser('seg/val.py', description=__doc__)
    add = kit.add_config(parser)
    kit.add_model_path(add)
    kit.add_inference(add)
    add('--num_workers', default=0, type=int)
    kit.add_check(add)
    return parser


def main(args):
    kit.load()
    from paddleseg.core import evaluate

    built = kit.builder(args)
    how = kit.inference(args, built.config)
    val_set = kit.dataset(args, built, 'val_dataset')
    model = kit.trained_model(args, built)
    with kit.our_errors():
        evaluate(model, val_set, aug_eval=args.aug_eval, num_workers=args.num_workers, **how)


if __name__ == '__main__':
    runtime.run(main, parser())
