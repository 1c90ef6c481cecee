"""Export a checkpoint for Paddle Inference: model.pdmodel or model.json, model.pdiparams, and inference.yml."""
import os

from util import runtime

CPU = runtime.prepare()
import paddle  # noqa: E402
import yaml  # noqa: E402

from models import build_model, default_crop_pct  # noqa: E402
from util import checkpoint, classify, options, pretrained  # noqa: E402
from util.logger import log  # noqa: E402
from util.runtime import UserError  # noqa: E402
from util.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform  # noqa: E402

PADDLE_3 = int(paddle.__version__.split('.')[0]) >= 3


def parser():
    parser = runtime.Parser('export_model.py', description=__doc__)
    options.add_model(parser)
    options.add_weights(parser)
    options.add_eval_transform(parser)
    parser.add_argument('--output_dir', '--output', default='', metavar='DIR', help='folder for the files')
    parser.add_argument('--format', default='pdmodel', choices=('pdmodel', 'json', 'both'),
                        help='pdmodel loads in Paddle 2.6 and 3 (default); json is the format of Paddle 3')
    parser.add_argument('--label_list', default=None, metavar='FILE', help='class names to put into inference.yml')
    return parser


def save_graph(model, prefix, as_json):
    """Write <prefix>.json or <prefix>.pdmodel, and <prefix>.pdiparams, for batches of any size."""
    spec = [paddle.static.InputSpec([None, 3, model.img_size, model.img_size], 'float32', name='image')]

    def save():
        static = paddle.jit.to_static(model, input_spec=spec, full_graph=True)
        paddle.jit.save(static, prefix)
    if PADDLE_3 and not as_json:
        with paddle.pir_utils.OldIrGuard():  # the intermediate representation that .pdmodel belongs to
            save()
    else:
        save()


def main(args):
    if args.format != 'pdmodel' and not PADDLE_3:
        raise UserError(f'--format {args.format}: model.json needs Paddle 3, this is {paddle.__version__}')
    if not args.output_dir:
        raise UserError('--output_dir is missing: the folder for the exported files')
    checkpoint.check_writable(args.output_dir)
    crop_pct = default_crop_pct(args.model) if args.crop_pct is None else args.crop_pct
    EvalTransform(args.input_size, crop_pct, args.interpolation)  # refuse what infer.py could not use
    names = classify.label_names(args.label_list, args.nb_classes)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
    log(pretrained.load_into(model, args.resume, args.ema))
    model.eval()
    prefix = os.path.join(args.output_dir, 'model')
    for kind in ('json', 'pdmodel'):
        if args.format in (kind, 'both'):
            save_graph(model, prefix, kind == 'json')
            log(f'wrote {prefix}.{kind} and {prefix}.pdiparams')
    settings = {'model': args.model, 'input_size': args.input_size, 'nb_classes': args.nb_classes,
                'crop_pct': crop_pct, 'interpolation': args.interpolation,
                'mean': list(IMAGENET_MEAN), 'std': list(IMAGENET_STD), 'label_names': names}
    with open(os.path.join(args.output_dir, 'inference.yml'), 'w', encoding='utf-8') as f:
        yaml.safe_dump(settings, f, sort_keys=False, allow_unicode=True)
    log(f'Model is saved in {args.output_dir}.')


if __name__ == '__main__':
    runtime.run(main, parser())
