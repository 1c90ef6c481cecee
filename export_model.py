"""Export a checkpoint for Paddle Inference: model.pdmodel or model.json, model.pdiparams, and inference.yml."""

import os
import tempfile

from util import runtime

import paddle

from models import build_model, load_weights, published_defaults
from util import options
from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform
from util.deploy import export, inference_yml, records
from util.errors import UserError
from util.logger import log
from util.weights import checkpoint


def parser():
    parser = runtime.Parser('export_model.py', description=__doc__)
    options.add_model(parser)
    options.add_weights(parser)
    options.add_eval_transform(parser)
    parser.add_argument('--output_dir', '--output', default='', metavar='DIR', help='folder for the files')
    parser.add_argument(
        '--format',
        default='pdmodel',
        choices=('pdmodel', 'json', 'both'),
        help='pdmodel loads in Paddle 2.6 and 3 (default); json is the format of Paddle 3',
    )
    parser.add_argument('--fuse_softmax', action='store_true', help='let the network end in a softmax')
    parser.add_argument(
        '--precision', default='fp32', choices=('fp32', 'fp16'), help='of the weights; fp16 is for GPUs'
    )
    parser.add_argument('--label_list', default=None, metavar='FILE', help='class names to put into inference.yml')
    return parser


def check_asked(args):
    """Raises UserError for what this Paddle cannot write."""
    if args.format != 'pdmodel' and not inference_yml.PADDLE_3:
        raise UserError(f'--format {args.format}: model.json needs Paddle 3, this is {paddle.__version__}')
    if args.precision == 'fp16' and args.format != 'pdmodel':
        raise UserError(f'--precision fp16: Paddle converts .pdmodel only; leave out --format {args.format}')
    if args.precision == 'fp16' and not paddle.device.is_compiled_with_cuda():
        raise UserError('--precision fp16 needs a build of Paddle for GPUs, which alone can convert the weights')
    if not args.output_dir:
        raise UserError('--output_dir is missing: the folder for the exported files')


def write(model, args, folder):
    """Write model.* into a folder, each format compared with the model itself."""
    prefix, pairs = os.path.join(folder, 'model'), export.references(model)
    for kind in ('json', 'pdmodel'):
        if args.format in (kind, 'both'):
            export.save_graph(model, prefix, kind == 'json')
            worst = export.check_files(pairs, prefix, kind)
            log(
                f'model.{kind}: differs from the model by at most {worst:.1e} of the largest output '
                f'(batches of {", ".join(map(str, export.CHECKED_BATCHES))})'
            )
    if args.precision == 'fp16':
        export.halve(prefix)
        worst = export.check_fp16(pairs, prefix)
        log('float16: ' + ('not run, there is no GPU here' if worst is None else f'differs by at most {worst:.1e}'))


def main(args):
    check_asked(args)
    checkpoint.check_writable(args.output_dir)
    published_defaults(args)
    EvalTransform(args.input_size, args.crop_pct, args.interpolation)  # refuse what infer.py could not use
    names = records.label_names(args.label_list, args.nb_classes)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
    log(load_weights(model, args))
    if args.fuse_softmax:
        model = export.WithSoftmax(model)
    model.eval()
    settings = {
        'model': args.model,
        'input_size': args.input_size,
        'nb_classes': args.nb_classes,
        'crop_pct': args.crop_pct,
        'interpolation': args.interpolation,
        'mean': list(IMAGENET_MEAN),
        'std': list(IMAGENET_STD),
        'output': 'scores' if args.fuse_softmax else 'logits',
        'precision': args.precision,
        'label_names': names,
    }
    with tempfile.TemporaryDirectory(prefix='.export-', dir=args.output_dir) as folder:
        write(model, args, folder)
        files = sorted(os.listdir(folder))
        inference_yml.write_settings(folder, settings, [name for name in files if not name.endswith('.info')])
        for name in (*files, 'inference.yml'):
            os.replace(os.path.join(folder, name), os.path.join(args.output_dir, name))
    log(f'Model is saved in {args.output_dir}.')


if __name__ == '__main__':
    runtime.run(main, parser())
