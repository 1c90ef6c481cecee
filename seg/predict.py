"""Predict the class of each pixel with PaddleSeg: writes coloured masks, alone and over the images."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

from seg import common
from util.args import Parser
from util.errors import UserError


def parser():
    parser = Parser('seg/predict.py', description=__doc__)
    common.add_config(parser)
    common.add_model_path(parser)
    common.add_inference(parser)
    add = parser.add_argument
    add('--image_path', required=True, metavar='PATH', help='an image, a folder, or a list of images')
    add('--save_dir', default='output/seg_predict', metavar='DIR', help='folder of the masks')
    return parser


def main(args):
    common.load_paddleseg()
    from paddleseg.core import predict
    from paddleseg.transforms import Compose
    from paddleseg.utils import get_image_list

    if not os.path.exists(args.image_path):
        raise UserError(f'--image_path {args.image_path}: no such image, folder or list')
    built = common.builder(args)
    how = common.inference(args, built.config)
    model = common.trained_model(args, built)
    with common.our_errors():
        images, folder = get_image_list(args.image_path)
        predict(
            model,
            model_path=args.model_path,
            transforms=Compose(built.val_transforms),
            image_list=images,
            image_dir=folder,
            save_dir=args.save_dir,
            aug_pred=args.aug_eval,
            **how,
        )


if __name__ == '__main__':
    runtime.run(main, parser())
