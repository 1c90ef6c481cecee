"""Classify images with a checkpoint: files, folders and glob patterns; prints one record per image."""

from util import runtime

import paddle

from models import build_model, load_weights, published_defaults
from util import options
from util.data.images import find_images
from util.data.transforms import EvalTransform
from util.deploy import decode, records
from util.logger import log, progress


def parser():
    parser = runtime.Parser('predict.py', description=__doc__)
    options.add_model(parser)
    options.add_weights(parser)
    options.add_eval_transform(parser, '--train_interpolation')
    options.add_records(parser)
    parser.add_argument('--infer_imgs', nargs='+', required=True, metavar='IMG', help='files, folders, glob patterns')
    parser.add_argument('-b', '--batch_size', default=16, type=options.count)
    return parser


@paddle.no_grad()
def main(args):
    published_defaults(args)
    files = find_images(args.infer_imgs)
    names = records.label_names(args.label_list, args.nb_classes)
    transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation)
    result, bad = [], []
    with decode.Batches(files, transform, args.batch_size) as batches:
        model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
        log(load_weights(model, args))
        model.eval()
        for good, images, left_out in progress(batches, 'predict'):
            bad += left_out
            if good:
                logits = model(paddle.to_tensor(images))
                result += records.records(good, logits.numpy(), names, args.topk)
    records.show(result, args)
    records.check_bad(bad, len(files), args.skip_bad)


if __name__ == '__main__':
    runtime.run(main, parser())
