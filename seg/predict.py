"""Predict what each pixel of images shows, by PaddleSeg: coloured masks, alone and over the images."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

from seg import kit
from util.errors import UserError


def parser():
    parser = runtime.Parser('seg/predict.py', description=__doc__)
    add = kit.add_config(parser)
    kit.add_model_path(add)
    kit.add_inference(add)
    add('--image_path', required=True, metavar='PATH', help='an image, a folder, or a list of images')
    add('--save_dir', default='output/seg_predict', metavar='DIR')
    return parser


def main(args):
    kit.load()
    from paddleseg.core import predict
    from paddleseg.transforms import Compose
    from paddleseg.utils import get_image_list

    if not os.path.exists(args.image_path):
        raise UserError(f'--image_path {args.image_path}: no such image, folder or list')
    built = kit.builder(args)
    how = kit.inference(args, built.config)
    model = kit.trained_model(args, built)
    with kit.our_errors():
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
