"""The speed of making samples: on one core, by stage, and with loader processes; compared with the original and timm.

    python benchmarks/input.py OUT --data_path DIR [--list FILE] [--token_label_data DIR] [--no_reference] …

DIR has train/ with a folder for each class; with --list the paths of the list are relative to DIR. The training and the
evaluation transform both use these images. With --token_label_data there are arms with label maps. With the packages of
tests/parity installed, `tlt` (the original) and timm are among the arms.

One core: the work of a loader process, up to a batch of bytes, token targets and the draws of erasing. `tlt` makes
bytes, as with its GPU prefetcher, or floats, as without; it makes its targets later, on the GPU. The arms take turns,
--rounds times; speeds are medians over the rounds, ratios are medians of the ratios of each round. Decoding alone is an
upper limit of the speed.

Processes: images/s in batches of 32 that the main process receives from --processes loader processes, the processor
time that receiving costs it, and images/s of as many processes that keep their batches to themselves.
A slow disk: reading an image takes 5 ms more. How long a training step waits for its batch then (`data:` in the log),
if a step takes 1.1 times as long as two loader processes need for a batch.

OUT receives input.json, input.md, input.png, and profile_pil.txt and profile_cv2.txt, which name the functions in which
training samples spend their time.
"""

import argparse
import cProfile
import functools
import json
import pstats
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

import numpy as np
from PIL import Image
from tqdm import tqdm

import main as trainer
from benchmarks.clock import Clock
from benchmarks.input_processes import BATCH, apart, from_processes, make, slow_disk
from benchmarks.input_report import BACKENDS, STAGES, draw, table
from util import files
from util.args import Parser
from util.data import images, transforms
from util.data.datasets import EvalDataset
from util.data.images import open_rgb
from util.data.loader import collate
from util.errors import UserError
from util.ranges import count

SIZE = 224


def parser():
    parser = Parser('benchmarks/input.py', description=__doc__)
    add = parser.add_argument
    add('out', metavar='OUT', help='folder for the table and the figure')
    add('--data_path', required=True, metavar='DIR', help='folder of the images: DIR/train/CLASS/, or as --list says')
    add('--list', default='', metavar='FILE', help="lines 'path class_id' (default: the folders of DIR/train)")
    add('--token_label_data', default='', metavar='DIR', help='label maps of the images')
    add('--nb_classes', default=1000, type=count, help='number of classes (default: 1000)')
    add('--rounds', default=5, type=count, help='rounds of the measurement (default: 5)')
    add('--images', default=128, type=count, help='images per arm and round (default: 128)')
    add('--processes', default=[1, 2], type=count, nargs='+', metavar='N', help='loader processes (default: 1 2)')
    add('--no_reference', action='store_true', help='without tlt and timm')
    return parser


# -- arms: functions without arguments that make --images samples ------------------------------------------------------


def flags(args, backend, workers=0):
    """The flags of main.py for the published recipe."""
    line = ['--data_path', args.data_path, '--nb_classes', args.nb_classes, '--batch_size', BATCH, '--crop_pct', 0.9]
    line += ['--cls_label_path_train', args.list, '--cls_label_path_val', args.list, '--train_interpolation', 'random']
    line += ['--input_size', SIZE, '--mixup', 0, '--cutmix', 0, '--image_backend', backend, '--num_workers', workers]
    if args.token_label_data:
        line += ['--token_label', '--token_label_data', args.token_label_data]
    chosen = trainer.parser().parse_args([str(word) for word in line])
    trainer.complete(chosen)
    return chosen


def our_arms(args):
    arms = {}
    for backend in BACKENDS:
        chosen = flags(args, backend)
        training = trainer.new_train_loader(chosen).dataset
        arms[f'training, {backend}'] = functools.partial(make, training, args.images)
        if args.token_label_data:
            without = trainer.new_train_loader(argparse.Namespace(**{**vars(chosen), 'token_label': False})).dataset
            arms[f'training without maps, {backend}'] = functools.partial(make, without, args.images)
        evaluation = EvalDataset(training.samples, transforms.EvalTransform(SIZE, 0.9, backend=backend))
        arms[f'evaluation, {backend}'] = functools.partial(make, evaluation, args.images)
        arms[f'decoding, {backend}'] = functools.partial(decode_all, training.samples, backend, args.images)
    return arms


def decode_all(samples, backend, images):
    for i in range(images):
        path, _ = samples[i % len(samples)]
        if backend == 'pil':
            open_rgb(path)
        else:
            transforms.renderer(backend).open_image(path).decode()


def reference_arms(args, samples):
    """The same images through the transforms of tlt and timm, up to their batches."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / 'tests'))
    from parity import original

    if original.ABSENT:
        raise UserError(f'{original.REASON}; or leave it out: --no_reference')
    theirs = original.load()
    torch, factory = theirs.torch, theirs.tlt.data.label_transforms_factory
    paths = [samples[i % len(samples)][0] for i in range(args.images)]

    def label_map(path):
        stem = Path(args.token_label_data, *Path(path).parts[-2:]).with_suffix('')
        if stem.with_suffix('.pt').exists():
            return torch.load(stem.with_suffix('.pt')).float()
        return torch.from_numpy(np.load(stem.with_suffix('.npy'))).float()

    def stack(parts):
        return np.stack(parts) if isinstance(parts[0], np.ndarray) else torch.stack(parts)

    def training(transform):
        for start in range(0, args.images, BATCH):
            batch = paths[start : start + BATCH]
            pairs = [transform(Image.open(path).convert('RGB'), label_map(path)) for path in batch]
            for parts in zip(*pairs):
                stack(parts)

    def evaluation(transform):
        for start in range(0, args.images, BATCH):
            stack([transform(Image.open(path).convert('RGB')) for path in paths[start : start + BATCH]])

    published = dict(is_training=True, auto_augment='rand-m9-mstd0.5-inc1', interpolation='random', re_prob=0.25)
    arms = {}
    for kind, prefetcher in (('bytes', True), ('floats', False)):
        if args.token_label_data:
            transform = factory.create_token_label_transform(
                SIZE, use_prefetcher=prefetcher, re_mode='pixel', **published
            )
            arms[f'training, tlt, {kind}'] = functools.partial(training, transform)
        how = dict(is_training=False, crop_pct=0.9, interpolation='bicubic', use_prefetcher=prefetcher)
        transform = theirs.timm.data.create_transform(SIZE, **how)
        arms[f'evaluation, timm, {kind}'] = functools.partial(evaluation, transform)
    return arms


def seconds(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# -- stages -----------------------------------------------------------------------------------------------------------


def by_stage(args, backend):
    """{stage: ms an image} of training samples."""
    dataset, clock = trainer.new_train_loader(flags(args, backend)).dataset, Clock(STAGES)
    transform, maps = dataset.transform, dataset.label_maps
    render = transforms.renderer(backend)
    watched = [(render, 'open_image', 'decode'), (transform, 'draw', 'augment, crop')]
    watched += [(transform, 'render', 'augment, crop'), (transforms, 'draw_erasing', 'erase')]
    if maps:
        watched += [(dataset, '_target', 'targets'), (maps, 'read', 'label map')]
    if backend == 'cv2':
        watched.append((images.JpegFile, 'decode', 'decode'))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in watched]
    for owner, name, stage in watched:
        setattr(owner, name, clock.watch(stage, getattr(owner, name)))
    try:
        samples = [dataset[i % len(dataset)] for i in range(args.images)]
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
    for start in range(0, args.images, BATCH):
        batch = clock.watch('batch', collate)(samples[start : start + BATCH])
        clock.watch('normalise', transforms.network_input)(batch, transform.mean, transform.std)
    return {stage: 1000 * spent / args.images for stage, spent in clock.spent.items()}


def write_profile(args, backend):
    dataset, profiler = trainer.new_train_loader(flags(args, backend)).dataset, cProfile.Profile()
    profiler.runcall(make, dataset, args.images)
    with open(Path(args.out, f'profile_{backend}.txt'), 'w') as f:
        f.write(f'{args.images} training samples\n')
        pstats.Stats(profiler, stream=f).sort_stats('tottime').print_stats(25)


# -- results ----------------------------------------------------------------------------------------------------------


def main(args):
    files.check_folder(args.out, f'OUT {args.out}')
    arms = our_arms(args)
    samples = trainer.new_train_loader(flags(args, 'pil')).dataset.samples
    if not args.no_reference:
        arms.update(reference_arms(args, samples))
    for arm in arms.values():  # files into memory, tables of the libraries
        arm()
    rounds, stages, rates, apart_rates, costs = [], [], [], [], []
    for _ in tqdm(range(args.rounds), 'one core, rounds'):
        rounds.append({name: args.images / seconds(arm) for name, arm in arms.items()})
        stages.append({backend: by_stage(args, backend) for backend in BACKENDS})
    for _ in tqdm(range(args.rounds), 'processes, rounds'):
        flows, apart_rate = {}, {}
        for backend in BACKENDS:
            dataset = trainer.new_train_loader(flags(args, backend)).dataset
            for workers in args.processes:
                name = f'{backend}, {workers}'
                flows[name] = from_processes(dataset, workers, 4 * args.images)
                apart_rate[name] = apart(dataset, workers, 4 * args.images)
        rates.append({name: flow.rate for name, flow in flows.items()})
        costs.append({name: 1000 * flow.cost for name, flow in flows.items()})
        apart_rates.append(apart_rate)
    result = {
        'images': args.images,
        'rounds': args.rounds,
        'one core, images/s': medians(rounds),
        'each round': rounds,
        'ratios': ratios(rounds),
        'processes, images/s': medians(rates),
        'processes that hand nothing over, images/s': medians(apart_rates),
        'main process, ms of processor time an image': medians(costs),
        'stages, ms': {backend: medians([row[backend] for row in stages]) for backend in BACKENDS},
        'slow disk': slow_disk(trainer.new_train_loader(flags(args, 'pil')).dataset, 2 * args.images),
    }
    Path(args.out, 'input.json').write_text(json.dumps(result, indent=1) + '\n')
    for backend in BACKENDS:
        write_profile(args, backend)
    text = table(result)
    Path(args.out, 'input.md').write_text(text + '\n')
    print(text)
    draw(result, Path(args.out, 'input.png'))


def medians(rows):
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def ratios(rounds):
    """{'a / b': median over the rounds of a's speed over b's} of ours over the reference's."""
    found = {}
    for task in ('training', 'evaluation'):
        others = [name for name in rounds[0] if name.startswith((f'{task}, tlt', f'{task}, timm'))]
        for backend in BACKENDS:
            for other in others:
                ours = f'{task}, {backend}'
                found[f'{ours} / {other}'] = statistics.median(row[ours] / row[other] for row in rounds)
    return found


if __name__ == '__main__':
    runtime.run(main, parser())
