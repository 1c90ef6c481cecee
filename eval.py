"""Evaluate a checkpoint on a validation set, on one process or on several."""
from util import runtime

CPU = runtime.prepare()
import paddle  # noqa: E402

from engine import evaluate  # noqa: E402
from models import build_model, default_crop_pct  # noqa: E402
from util import dist, loader, options, pretrained  # noqa: E402
from util.amp import Amp  # noqa: E402
from util.logger import log  # noqa: E402


def parser():
    parser = runtime.Parser('eval.py', description=__doc__)
    options.add_model(parser)
    options.add_weights(parser)
    options.add_data(parser)
    options.add_eval_transform(parser, '--train_interpolation')
    options.add_amp(parser)
    parser.add_argument('--batch_size', default=64, type=options.count)
    parser.add_argument('--dist_eval', action='store_true', help='accepted for old commands; processes always share')
    return parser


def main(args):
    rank, world_size = dist.init()
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {CPU}')
    crop_pct = default_crop_pct(args.model) if args.crop_pct is None else args.crop_pct
    val_loader = loader.build_eval_loader(args, crop_pct, rank, world_size)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
    log(pretrained.load_into(model, args.resume, args.ema))
    log(f'{args.model}: input {args.input_size}, crop_pct {crop_pct}, {args.interpolation}')
    evaluate(model, val_loader, Amp(args.use_amp, args.amp_dtype, args.amp_level), shared=True)


if __name__ == '__main__':
    runtime.run(main, parser())
