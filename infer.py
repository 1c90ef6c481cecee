"""Classify images with an exported model through Paddle Inference; prints the same records as predict.py."""
import os

from util import runtime

CPU = runtime.prepare()
import paddle  # noqa: E402
import yaml  # noqa: E402
from paddle import inference  # noqa: E402

from util import classify, options  # noqa: E402
from util.benchmark import Benchmark  # noqa: E402
from util.logger import log, progress  # noqa: E402
from util.runtime import UserError  # noqa: E402
from util.transforms import EvalTransform  # noqa: E402


def parser():
    parser = runtime.Parser('infer.py', description=__doc__)
    parser.add_argument('--model_file', required=True, metavar='FILE', help='model.pdmodel or model.json')
    parser.add_argument('--params_file', required=True, metavar='FILE', help='model.pdiparams')
    parser.add_argument('--config', default=None, metavar='FILE', help='inference.yml (default: beside the model)')
    parser.add_argument('--input_file', '--infer_imgs', nargs='+', required=True, metavar='IMG',
                        help='files, folders, glob patterns')
    parser.add_argument('--input_size', default=None, type=int, help='default: as exported')
    parser.add_argument('--crop_pct', default=None, type=float, help='default: as exported')
    parser.add_argument('--interpolation', default=None, help='default: as exported')
    options.add_records(parser)
    parser.add_argument('-b', '--batch_size', default=1, type=options.count)
    parser.add_argument('--use_gpu', default=True, type=options.boolean,
                        help='falls back to the CPU where there is no GPU')
    parser.add_argument('--gpu_mem', default=8000, type=int, help='MB of GPU memory to reserve')
    parser.add_argument('--precision', default='fp32', choices=('fp32', 'fp16', 'int8'))
    parser.add_argument('--ir_optim', default=True, type=options.boolean, help='let Paddle Inference rewrite the graph')
    parser.add_argument('--use_tensorrt', default=False, type=options.boolean)
    parser.add_argument('--enable_mkldnn', default=True, type=options.boolean, help='oneDNN on the CPU')
    parser.add_argument('--cpu_threads', default=None, type=int, help='default: as OMP_NUM_THREADS')
    parser.add_argument('--enable_benchmark', default=False, type=options.boolean, help='report times of the stages')
    return parser


def read_settings(args):
    """The exported inference.yml with the flags laid over it."""
    path = args.config or os.path.join(os.path.dirname(args.model_file), 'inference.yml')
    kinds = {'model': str, 'input_size': int, 'nb_classes': int, 'crop_pct': float, 'interpolation': str,
             'label_names': dict}
    try:
        with open(path, encoding='utf-8') as f:
            settings = yaml.safe_load(f)
        settings = {key: kind(settings[key]) for key, kind in kinds.items()}
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); export_model.py writes it beside the model')
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: not the inference.yml that export_model.py writes ({error})')
    settings.update({k: v for k, v in vars(args).items() if k in settings and v is not None})
    return settings


def create_predictor(args):
    """(predictor, device name) for the exported files."""
    for flag, path in (('--model_file', args.model_file), ('--params_file', args.params_file)):
        if not os.path.isfile(path):
            raise UserError(f'{flag} {path}: no such file')
    is_json = args.model_file.endswith('.json')
    if is_json and int(paddle.__version__.split('.')[0]) < 3:
        raise UserError(f'--model_file {args.model_file}: Paddle {paddle.__version__} reads .pdmodel only; '
                        'export with --format pdmodel')
    if args.precision == 'int8':
        raise UserError('--precision int8 needs a quantised model, which export_model.py does not make')
    config = inference.Config(args.model_file, args.params_file)
    config.disable_glog_info()
    use_gpu = args.use_gpu and paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if use_gpu:  # written for GPUs but not run on one so far
        precision = inference.PrecisionType.Half if args.precision == 'fp16' else inference.PrecisionType.Float32
        config.enable_use_gpu(args.gpu_mem, 0, precision)
        if args.use_tensorrt:
            config.enable_tensorrt_engine(max_batch_size=args.batch_size, precision_mode=precision)
    else:
        if args.use_gpu:
            log('--use_gpu: no GPU or a CPU build of Paddle, running on the CPU')
        if args.use_tensorrt:
            raise UserError('--use_tensorrt needs a GPU and a Paddle built with TensorRT')
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(args.cpu_threads or int(os.environ['OMP_NUM_THREADS']))
        if args.enable_mkldnn:
            config.enable_mkldnn()
        elif hasattr(config, 'disable_mkldnn'):
            config.disable_mkldnn()
    config.switch_ir_optim(args.ir_optim)
    if not is_json:  # raises for .json on Paddle 3.3
        config.enable_memory_optim()
    return inference.create_predictor(config), 'gpu' if use_gpu else 'cpu'


def main(args):
    settings = read_settings(args)
    files = classify.find_images(args.input_file)
    names = settings['label_names']
    if args.label_list:
        names = classify.label_names(args.label_list, settings['nb_classes'])
    transform = EvalTransform(settings['input_size'], settings['crop_pct'], settings['interpolation'])
    predictor, device = create_predictor(args)
    image = predictor.get_input_handle(predictor.get_input_names()[0])
    logits = predictor.get_output_handle(predictor.get_output_names()[0])
    benchmark = Benchmark()
    result = []
    for start in progress(range(0, len(files), args.batch_size), 'infer'):
        batch = files[start:start + args.batch_size]
        benchmark.start()
        image.copy_from_cpu(classify.load_batch(batch, transform))
        benchmark.stamp()
        predictor.run()
        output = logits.copy_to_cpu()
        benchmark.stamp()
        result += classify.records(batch, output, names, args.topk)
        benchmark.end(len(batch))
    print(result)
    if args.save_json:
        classify.save_json(result, args.save_json)
    if args.enable_benchmark:
        log(benchmark.report(model=settings['model'], paddle=paddle.__version__, device=device,
                             precision=args.precision, batch_size=args.batch_size, cpu_threads=args.cpu_threads or
                             os.environ['OMP_NUM_THREADS'], mkldnn=args.enable_mkldnn, ir_optim=args.ir_optim))


if __name__ == '__main__':
    runtime.run(main, parser())
