"""Checks of export and inference."""

import json

from paddle import inference

import training
from outcome import ROUNDOFF, NotRun, demand

TOPK = 10  # all classes, so that scores can be compared class by class


def export(bed, *flags):
    """Folder of the exported model; one for each set of flags."""
    folder = bed.folder / '-'.join(['export', *(flag.lstrip('-') for flag in flags)])
    if not folder.exists():
        weights = ['--resume', training.trained(bed).out / 'checkpoint-latest.pd']
        bed.call('export_model.py', *bed.of_model(), *weights, '--output_dir', folder, *flags)
    return folder


def predicted(bed):
    """What predict.py, which runs the model itself, says about the validation images in float32."""
    path = bed.folder / 'predicted.json'
    if not path.exists():
        weights = ['--resume', training.trained(bed).out / 'checkpoint-latest.pd']
        images = ['--infer_imgs', bed.scenes / 'val', '--topk', TOPK, '--save_json', path]
        bed.call('predict.py', *bed.of_model(), *weights, *images)
    return json.loads(path.read_text())


def largest_difference(ours, theirs):
    """Of the scores of all classes of all images, which both must have."""
    demand([record['file_name'] for record in ours] == [record['file_name'] for record in theirs], 'other images')
    demand(len(ours) > 0, 'no image')
    worst = 0.0
    for a, b in zip(ours, theirs):
        scores = dict(zip(b['class_ids'], b['scores']))
        demand(len(scores) == TOPK and sorted(a['class_ids']) == sorted(scores), f'{a["file_name"]}: other classes')
        worst = max([worst] + [abs(score - scores[c]) for c, score in zip(a['class_ids'], a['scores'])])
    return worst


def inferred(bed, folder, allowed, engine, *flags):
    """Run infer.py on an export; it must say that `engine` ran, and agree with predict.py."""
    path = bed.folder / 'inferred.json'
    model = ['--model_file', folder / 'model.pdmodel', '--params_file', folder / 'model.pdiparams']
    images = ['--input_file', bed.scenes / 'val', '--batch_size', 8, '--topk', TOPK, '--save_json', path]
    console = bed.call('infer.py', *model, *images, *flags)
    demand(f', {engine} (' in console, f'infer.py did not run on {engine}: …{console[-500:]}')
    worst = largest_difference(json.loads(path.read_text()), predicted(bed))
    demand(worst <= allowed, f'scores differ by {worst:.1e} from predict.py, allowed {allowed:.0e}')
    return f'scores {worst:.1e} from predict.py'


def fp32(bed):
    if bed.on_gpu:
        return inferred(bed, export(bed), 10 * ROUNDOFF['float16'], 'gpu')  # TensorFloat-32 has as many bits
    return inferred(bed, export(bed), 1e-4, 'paddle', '--use_gpu', False, '--engine', 'paddle')


def fp16(bed):
    bed.needs_gpu('--precision fp16')
    return inferred(bed, export(bed), 10 * ROUNDOFF['float16'], 'gpu', '--precision', 'fp16')


def exported_fp16(bed):
    bed.needs_gpu('export_model.py --precision fp16')
    return inferred(bed, export(bed, '--precision', 'fp16'), 10 * ROUNDOFF['float16'], 'gpu', '--precision', 'fp16')


def tensorrt(precision):
    def check(bed):
        bed.needs_gpu('TensorRT')
        if not any(inference.get_trt_compile_version()):
            raise NotRun('this wheel of Paddle was built without TensorRT')
        flags = ['--use_tensorrt', True, '--precision', precision]
        return inferred(bed, export(bed), 10 * ROUNDOFF['float16'], 'tensorrt', *flags)

    return check


CHECKS = {
    'infer.py, fp32': fp32,
    'infer.py, --precision fp16': fp16,
    'infer.py, TensorRT fp32': tensorrt('fp32'),
    'infer.py, TensorRT fp16': tensorrt('fp16'),
    'export --precision fp16, and infer.py': exported_fp16,
}
