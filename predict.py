"""Classify images with a checkpoint: files, folders and glob patterns; prints one record per image."""
from util import runtime

CPU = runtime.prepare()
import paddle  # noqa: E402

from models import build_model, default_crop_pct  # noqa: E402
from util import classify, options, pretrained  # noqa: E402
from util.logger import log, progress  # noqa: E402
from util.transforms import EvalTransform  # noqa: E402


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
    files = classify.find_images(args.infer_imgs)
    names = classify.label_names(args.label_list, args.nb_classes)
    crop_pct = default_crop_pct(args.model) if args.crop_pct is None else args.crop_pct
    transform = EvalTransform(args.input_size, crop_pct, args.interpolation)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
    log(pretrained.load_into(model, args.resume, args.ema))
    model.eval()
    result = []
    for start in progress(range(0, len(files), args.batch_size), 'predict'):
        batch = files[start:start + args.batch_size]
        logits = model(paddle.to_tensor(classify.load_batch(batch, transform)))
        result += classify.records(batch, logits.numpy(), names, args.topk)
    print(result)
    if args.save_json:
        classify.save_json(result, args.save_json)


if __name__ == '__main__':
    runtime.run(main, parser())
