"""Classify images with an exported model through Paddle Inference; prints the same records as predict.py."""

from util import runtime

import numpy as np


from util.args import Parser, add_records, boolean, count
from util.data.images import find_images
from util.data.loader import build_predict_loader
from util.data.transforms import EvalTransform
from util.deploy import benchmark, engines, inference_yml, predictor, records


def parser():
    parser = Parser('infer.py', description=__doc__)
    add = parser.add_argument_group('model').add_argument
    add('--model_file', required=True, metavar='FILE', help='model.pdmodel or model.json')
    add('--params_file', required=True, metavar='FILE', help='model.pdiparams')
    add('-c', '--config', metavar='FILE', help='inference.yml (default: beside the model)')
    title = 'images (defaults: as exported; without an inference.yml those of LV-ViT)'
    add = parser.add_argument_group(title).add_argument
    add('--input_file', '--infer_imgs', nargs='+', required=True, metavar='IMG', help='files, folders, glob patterns')
    add('--input_size', type=count, help='224; another than exported is an error')
    add('--crop_pct', type=float, help='0.9')
    add('--interpolation', '--train_interpolation', help='bicubic')
    add('--mean', type=float, nargs=3, metavar='M', help="of RGB in 0-1; ImageNet's")
    add('--std', type=float, nargs=3, metavar='S', help="of RGB in 0-1; ImageNet's")
    add('-b', '--batch_size', default=1, type=count, metavar='N', help='images per batch (default: 1)')
    add_records(parser)
    add = parser.add_argument_group('engine').add_argument
    add('--use_gpu', default=True, type=boolean, help='without a GPU: the CPU')
    add('--gpu_mem', default=8000, type=count, help='MB of GPU memory to reserve')
    add('--use_tensorrt', default=False, type=boolean, help='True: run on TensorRT (GPU only)')
    add(
        '--engine',
        default='auto',
        choices=('auto', *engines.CPU_ENGINES),
        help='on the CPU; auto (default): the first of the others that this Paddle has and that takes the model',
    )
    add('--use_openvino', type=boolean, help='True: as --engine openvino')
    add('--enable_mkldnn', type=boolean, help='True: as --engine onednn; False: as --engine paddle')
    add('--cpu_threads', type=count, help='default: as OMP_NUM_THREADS')
    add(
        '--precision',
        default='fp32',
        choices=('fp32', 'fp16', 'bf16', 'int8'),
        help='fp16: GPU; bf16: CPUs with avx512_bf16 or amx_bf16; int8: calibrated models',
    )
    add('--ir_optim', default=True, type=boolean, help='let Paddle Inference rewrite the graph')
    add('--enable_benchmark', default=False, type=boolean, help='report times of the stages')
    return parser


def main(args):
    settings = inference_yml.find_settings(args)
    size = settings['input_size']
    files = find_images(args.input_file)
    transform = EvalTransform(
        size, settings['crop_pct'], settings['interpolation'], mean=settings['mean'], std=settings['std']
    )
    network = predictor.create(args, settings)
    if settings['nb_classes'] is None:  # no inference.yml
        inference_yml.complete(settings, network(np.zeros([1, 3, size, size], 'float32')), args.label_list)
    timer = benchmark.create(args, settings, network, len(files)) if args.enable_benchmark else None
    result = records.classify(
        files,
        loader=build_predict_loader(files, transform, args.batch_size, ahead=not args.enable_benchmark),
        network=network,
        names=settings['label_names'],
        topk=args.topk,
        title='infer',
        are_scores=settings['output'] == 'scores',
        timer=timer,
    )
    records.print_and_save(result, args.save_json)
    if timer:
        timer.report()
    records.refuse_undecoded(len(files), len(result), args.skip_bad)


if __name__ == '__main__':
    runtime.run(main, parser())
