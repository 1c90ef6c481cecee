"""Classify images with a checkpoint: files, folders and glob patterns; prints one record per image."""

from util import runtime

import os

import paddle

from models import FAMILY, load_named
from util.args import Parser, add_eval_transform, add_model, add_normalisation, add_records, add_weights
from util.data.folders import find_images
from util.data.loader import build_predict_loader
from util.data.transforms import EvalTransform
from util.deploy import records
from util.ranges import count

PHOTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'demo', 'chelsea.png')


def parser():
    parser = Parser('predict.py', description=__doc__)
    add_model(parser, FAMILY)
    add_weights(parser)
    add_eval_transform(parser, FAMILY, '--train_interpolation')
    add_normalisation(parser)
    add_records(parser)
    parser.add_argument(
        '--infer_imgs',
        nargs='+',
        default=[PHOTO],
        metavar='IMG',
        help='files, folders, glob patterns (default: demo/chelsea.png)',
    )
    parser.add_argument(
        '-b', '--batch_size', default=16, type=count, metavar='N', help='images per batch (default: 16)'
    )
    parser.add_config()
    return parser


@paddle.no_grad()
def main(args):
    records.check_targets(args.save_json, args.save_csv)
    paths = find_images(args.infer_imgs)
    model, names = load_named(args)
    transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation, mean=args.mean, std=args.std)
    result = records.classify(
        paths,
        loader=build_predict_loader(paths, transform, args.batch_size),
        network=lambda images: model(paddle.to_tensor(images)).numpy(),
        names=names,
        topk=args.topk,
        title='predict',
    )
    records.print_and_save(result, args.save_json, args.save_csv)
    records.check_undecoded(len(paths), len(result), args.skip_bad)


if __name__ == '__main__':
    runtime.run(main, parser())
