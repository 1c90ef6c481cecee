"""Export a checkpoint for Paddle Inference: model.pdmodel or model.json, model.pdiparams, and inference.yml."""

from util import runtime

from models import FAMILY, load_named
from util import files
from util.args import Parser, add_eval_transform, add_model, add_normalisation, add_weights
from util.data.transforms import check_eval_transform
from util.deploy import export, inference_yml


def parser():
    parser = Parser('export_model.py', description=__doc__)
    add_model(parser, FAMILY)
    add_weights(parser)
    add_eval_transform(parser, FAMILY)
    add_normalisation(parser)
    add = parser.add_argument
    add('--output_dir', '--output', default='', metavar='DIR', help='folder for the files')
    help = 'pdmodel loads in Paddle 2.6 and 3 (default); json is the format of Paddle 3'
    add('--format', default='pdmodel', choices=('pdmodel', 'json', 'both'), help=help)
    add('--fuse_softmax', action='store_true', help='add a softmax to the end of the network')
    add('--precision', default='fp32', choices=('fp32', 'fp16'), help='of the weights: fp32 (default); fp16 for GPUs')
    add('--label_list', metavar='FILE', help='class names to put into inference.yml')
    parser.add_config()
    return parser


def main(args):
    export.check_flags(args.format, args.precision, args.output_dir)
    files.check_folder(args.output_dir, f'--output_dir {args.output_dir}')
    model, names = load_named(args)
    check_eval_transform(args.crop_pct, args.interpolation, args.mean, args.std)
    if args.fuse_softmax:
        model = export.WithSoftmax(model)
        model.eval()
    output = 'scores' if args.fuse_softmax else 'logits'
    settings = inference_yml.from_flags(args, names, output, args.precision)
    export.write_export(model, args.output_dir, settings, args.format)


if __name__ == '__main__':
    runtime.run(main, parser())
