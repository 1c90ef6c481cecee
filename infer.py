"""Classify images with an exported model through Paddle Inference; prints the same records as predict.py."""

import os

from util import runtime

import numpy as np
import paddle

from util import options
from util.data.images import find_images
from util.data.transforms import EvalTransform
from util.deploy import benchmark, calibration, decode, inference_yml, predictor, records
from util.errors import UserError
from util.logger import log, progress

WARM_UP = 3  # runs of each batch size before a benchmark counts


def parser():
    parser = runtime.Parser('infer.py', description=__doc__)
    group = parser.add_argument_group('model')
    group.add_argument('--model_file', required=True, metavar='FILE', help='model.pdmodel or model.json')
    group.add_argument('--params_file', required=True, metavar='FILE', help='model.pdiparams')
    group.add_argument('--config', default=None, metavar='FILE', help='inference.yml (default: beside the model)')
    group = parser.add_argument_group('images')
    group.add_argument(
        '--input_file', '--infer_imgs', nargs='+', required=True, metavar='IMG', help='files, folders, glob patterns'
    )
    group.add_argument('--input_size', default=None, type=int, help='as exported; another one is an error')
    group.add_argument('--crop_pct', default=None, type=float, help='default: as exported')
    group.add_argument('--interpolation', default=None, help='default: as exported')
    group.add_argument('-b', '--batch_size', default=1, type=options.count)
    options.add_records(parser)
    group = parser.add_argument_group('engine')
    group.add_argument(
        '--use_gpu', default=True, type=options.boolean, help='falls back to the CPU where there is no GPU'
    )
    group.add_argument('--gpu_mem', default=8000, type=options.count, help='MB of GPU memory to reserve')
    group.add_argument('--use_tensorrt', default=False, type=options.boolean)
    group.add_argument(
        '--engine',
        default='auto',
        choices=('auto', *predictor.CPU_ENGINES),
        help='on the CPU; auto (default): the fastest, measured once and remembered beside the model',
    )
    group.add_argument('--use_openvino', default=None, type=options.boolean, help='True: as --engine openvino')
    group.add_argument(
        '--enable_mkldnn',
        default=None,
        type=options.boolean,
        help='True: as --engine onednn; False: as --engine paddle',
    )
    group.add_argument('--cpu_threads', default=None, type=options.count, help='default: as OMP_NUM_THREADS')
    group.add_argument(
        '--precision',
        default='fp32',
        choices=('fp32', 'fp16', 'bf16', 'int8'),
        help='fp16: GPU; bf16: CPUs with avx512_bf16 or amx_bf16; int8: calibrated models',
    )
    group.add_argument('--ir_optim', default=True, type=options.boolean, help='let Paddle Inference rewrite the graph')
    group.add_argument('--enable_benchmark', default=False, type=options.boolean, help='report times of the stages')
    return parser


def read_settings(args):
    """The exported inference.yml with the flags laid over it."""
    settings = inference_yml.read_settings(
        args.config or os.path.join(os.path.dirname(args.model_file), 'inference.yml')
    )
    if args.input_size not in (None, settings['input_size']):
        raise UserError(f'--input_size {args.input_size}: the model was exported for {settings["input_size"]}')
    for flag in ('crop_pct', 'interpolation'):
        if getattr(args, flag) is not None:
            settings[flag] = getattr(args, flag)
    if args.label_list:
        settings['label_names'] = records.label_names(args.label_list, settings['nb_classes'])
    names = settings['label_names']
    if names and len(names) != settings['nb_classes']:
        raise UserError(
            f'{args.config or "inference.yml"}: {len(names)} label_names for {settings["nb_classes"]} classes'
        )
    return settings


def pick_engine(args, threads, size):
    """(engine, why) that the flags ask for; a fallback to the CPU is one line in the log."""
    if args.use_tensorrt or (args.use_gpu and predictor.gpu_is_there()):
        return ('tensorrt', '--use_tensorrt True') if args.use_tensorrt else ('gpu', '--use_gpu True')
    if args.use_gpu:
        log('--use_gpu True: no GPU, or a build of Paddle for CPUs; running on the CPU')
    if args.engine != 'auto':
        return args.engine, f'--engine {args.engine}'
    if args.use_openvino:
        return 'openvino', '--use_openvino True'
    if args.enable_mkldnn is not None:
        return 'onednn' if args.enable_mkldnn else 'paddle', f'--enable_mkldnn {args.enable_mkldnn}'
    if not args.ir_optim:
        return 'onednn', '--ir_optim False'
    predictor.check_asked('paddle', args.precision, args.model_file)
    return calibration.best_engine(
        args.model_file, args.params_file, args.precision, threads, (args.batch_size, 3, size, size)
    )


def create_predictor(args, settings):
    """The predictor that the flags ask for, checked against the files, this machine and this Paddle."""
    inference_yml.check(args.model_file, args.params_file, settings)
    threads = args.cpu_threads or int(os.environ['OMP_NUM_THREADS'])
    engine, why = pick_engine(args, threads, settings['input_size'])
    predictor.check_asked(engine, args.precision, args.model_file, args.ir_optim)
    if settings['precision'] == 'fp16' and predictor.on_cpu(engine):
        raise UserError(f'--model_file {args.model_file}: exported with --precision fp16, which needs a GPU')
    log(f'Paddle Inference {paddle.__version__}, {engine} ({why}), {args.precision}, {threads} CPU thread(s)')
    if args.precision == 'bf16':
        log('bf16: outputs differ by about 1 % of the largest; --precision fp32 is exact')
    return predictor.Predictor(
        args.model_file, args.params_file, engine, args.precision, threads, args.ir_optim, args.gpu_mem
    )


def start_benchmark(args, settings, run, files):
    """A timer for --enable_benchmark, after runs that do not count."""
    size = settings['input_size']
    for batch_size in {min(args.batch_size, len(files)), len(files) % args.batch_size} - {0}:
        for _ in range(WARM_UP):
            run(np.zeros((batch_size, 3, size, size), 'float32'))
    return benchmark.create(
        settings['model'], args.precision, args.batch_size, f'3,{size},{size}', len(files), run.config
    )


def main(args):
    settings = read_settings(args)
    files = find_images(args.input_file)
    transform = EvalTransform(settings['input_size'], settings['crop_pct'], settings['interpolation'])
    result, bad, timer = [], [], None
    with decode.Batches(files, transform, args.batch_size, ahead=not args.enable_benchmark) as batches:
        run = create_predictor(args, settings)
        if args.enable_benchmark:
            timer = start_benchmark(args, settings, run, files)
        decoded = iter(batches)
        for _ in progress(range(len(batches)), 'infer'):
            if timer:
                timer.start()
            good, images, left_out = next(decoded)
            bad += left_out
            if not good:
                continue
            if timer:
                timer.stamp()
            outputs = run(images)
            if outputs.shape[1] != settings['nb_classes']:
                raise UserError(
                    f'{args.model_file}: gives {outputs.shape[1]} classes, inference.yml says {settings["nb_classes"]}'
                )
            if timer:
                timer.stamp()
            result += records.records(
                good, outputs, settings['label_names'], args.topk, are_scores=settings['output'] == 'scores'
            )
            if timer:
                timer.end()
    records.show(result, args)
    if timer:
        timer.report()
    records.check_bad(bad, len(files), args.skip_bad)


if __name__ == '__main__':
    runtime.run(main, parser())
