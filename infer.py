"""Classify images with an exported model, in Paddle Inference, ONNX Runtime or OpenVINO; prints the same records as
predict.py."""

from util import runtime

from util.args import Parser, add_records, boolean
from util.data.folders import find_images
from util.data.loader import build_predict_loader
from util.deploy import benchmark, engines, records
from util.deploy.predictor import Predictor
from util.ranges import count, positive, probability, share


def parser():
    parser = Parser('infer.py', description=__doc__)
    add = parser.add_argument_group('model').add_argument
    add('--model_file', required=True, metavar='FILE', help='model.pdmodel, model.json, model.onnx or model.xml')
    add('--params_file', metavar='FILE', help='model.pdiparams of .pdmodel and .json (default: beside the model)')
    add('-c', '--config', metavar='FILE', help='inference.yml (default: beside the model)')
    add = parser.add_argument_group('images (default: the values in inference.yml)').add_argument
    add('--input_file', '--infer_imgs', nargs='+', required=True, metavar='IMG', help='files, folders, glob patterns')
    add('--input_size', type=count, help='side in pixels, as exported (without inference.yml: 224)')
    help = 'side of the centre crop over the short side (without inference.yml: 0.9)'
    add('--crop_pct', type=share, help=help)
    add('--interpolation', '--train_interpolation', help='filter of the resize (without inference.yml: bicubic)')
    add('--mean', type=probability, nargs=3, metavar='M', help="RGB mean in 0-1 (without inference.yml: ImageNet's)")
    add('--std', type=positive, nargs=3, metavar='S', help="RGB std in 0-1 (without inference.yml: ImageNet's)")
    add('-b', '--batch_size', default=1, type=count, metavar='N', help='images per batch (default: 1)')
    add_records(parser)
    add = parser.add_argument_group('engine').add_argument
    help = 'True (default): the GPU if there is one, else the CPU; .onnx and .xml run on the CPU'
    add('--use_gpu', default=True, type=boolean, help=help)
    add('--gpu_mem', default=8000, type=count, help='MB of GPU memory to reserve (default: 8000)')
    add('--use_tensorrt', default=False, type=boolean, help='True: TensorRT on the GPU (default: False)')
    help = (
        'engine for CPUs; auto (default): the first of this list that is installed and can run the model. The first '
        'three are inside Paddle and run .pdmodel and .json; onnxruntime runs .onnx, openvino .xml and .onnx'
    )
    add('--engine', default='auto', choices=('auto', *engines.CPU_ENGINES), help=help)
    add('--enable_mkldnn', type=boolean, help='True: like --engine onednn; False: like --engine paddle')
    add('--cpu_threads', type=count, help='CPU threads (default: OMP_NUM_THREADS)')
    help = (
        'fp32 (default) or, for CPUs with avx512_bf16 or amx_bf16, bf16: of what the model has not quantised; int8: '
        'the same as fp32, but the model must be quantised (tools/quantize.py); fp16 for GPUs'
    )
    add('--precision', default='fp32', choices=('fp32', 'fp16', 'bf16', 'int8'), help=help)
    add('--ir_optim', default=True, type=boolean, help='True (default): let Paddle Inference optimise the graph')
    add('--enable_benchmark', default=False, type=boolean, help='True: report the time of each stage (default: False)')
    return parser


def main(args):
    records.check_targets(args.save_json, args.save_csv)
    paths = find_images(args.input_file)
    predictor = Predictor(
        args.model_file,
        args.params_file,
        args.config,
        args.label_list,
        engine=args.engine,
        precision=args.precision,
        threads=args.cpu_threads,
        input_size=args.input_size,
        crop_pct=args.crop_pct,
        interpolation=args.interpolation,
        mean=args.mean,
        std=args.std,
        use_gpu=args.use_gpu,
        use_tensorrt=args.use_tensorrt,
        enable_mkldnn=args.enable_mkldnn,
        ir_optim=args.ir_optim,
        gpu_mem=args.gpu_mem,
    )
    loader = build_predict_loader(paths, predictor.transform, args.batch_size, ahead=not args.enable_benchmark)
    network, names = predictor.network, predictor.settings['label_names']
    if args.enable_benchmark:
        timer = benchmark.create(predictor, args.precision, args.batch_size, len(paths))
        result = benchmark.classify(paths, loader, network, names, args.topk, timer, predictor.are_scores)
    else:
        result = records.classify(paths, loader, network, names, args.topk, 'infer', predictor.are_scores)
    records.print_and_save(result, args.save_json, args.save_csv)
    if args.enable_benchmark:
        timer.report()
    records.check_undecoded(len(paths), len(result), args.skip_bad)


if __name__ == '__main__':
    runtime.run(main, parser())
