"""--image_backend cv2 against pil: how far its pixels are, and what decoding costs. docs/performance.md has the output.

    python benchmarks/image_backend.py FOLDER [--input_size 224] [--images 100] [--draws 3] [--output FILE.md]

FOLDER: JPEGs, searched recursively. Pixels: the mean absolute difference in grey levels (0-255) between the backends
given the same draws, averaged over images and draws, with its 95th percentile; for each op alone at the levels of
rand-m9-mstd0.5-inc1 under the recipe's crops, for the whole recipe, and for evaluation at crop_pct 0.9. Decoding: each
image by each decoder in turn, five times around; the mean over images of the fastest; in one process, and in two at a
time. Writes Markdown tables.
"""

import argparse
import multiprocessing
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import cv2
import numpy as np
import PIL
import simplejpeg

from util import files
from util.data import jpeg
from util.data.auto_augment import NAMES, noisy
from util.data.images import find_images, open_rgb
from util.data.transforms import EvalTransform, TrainTransform

FILTERS = ('bicubic', 'bilinear')


def parser():
    parser = runtime.Parser('image_backend.py', description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--input_size', default=224, type=int)
    parser.add_argument('--images', default=100, type=int, help='at most so many, spread over the folder')
    parser.add_argument('--draws', default=3, type=int, help='of each op for each image')
    parser.add_argument('--output', default='', metavar='FILE', help='write the tables to a file too')
    return parser


# -- pixels -----------------------------------------------------------------------------------------------------------


def differences(paths, size, interpolation, count):
    """{what: [mean absolute difference of an image]}."""
    quiet = dict(aa='', jitter=0)
    pillow, plain = TrainTransform(size, interpolation), TrainTransform(size, interpolation, **quiet)
    opencv = TrainTransform(size, interpolation, backend='cv2')
    evaluations = [EvalTransform(size, 0.9, interpolation, backend=backend) for backend in ('pil', 'cv2')]
    found = {what: [] for what in ['no op', *NAMES, 'the recipe', 'evaluation']}
    for number, path in enumerate(paths):
        image, file = open_rgb(path), jpeg.open_image(path)
        for draw in range(count):
            for what in ['no op', *NAMES, 'the recipe']:
                rng = np.random.default_rng([draw, number])
                draws = (pillow if what == 'the recipe' else plain).draw(image.size, rng)
                if what in NAMES:
                    level = noisy(pillow.augment.magnitude, pillow.augment.std, rng)
                    draws = draws._replace(ops=[*draws.ops, pillow.augment.op(what, level, image.size, rng)])
                found[what].append(distance(pillow.render(image, draws), opencv.render(file, draws)))
        found['evaluation'].append(distance(*(transform.load(path) for transform in evaluations)))
    return found


def distance(a, b):
    return np.abs(a.astype('int16') - b).mean()


def pixel_table(paths, size, count):
    by_filter = [differences(paths, size, interpolation, count) for interpolation in FILTERS]
    rows = ['| | ' + ' | '.join(f'{name}: mean | 95 %' for name in FILTERS) + ' |', '|---|---|---|---|---|']
    for what in by_filter[0]:
        cells = [f'{np.mean(found[what]):.2f} | {np.quantile(found[what], 0.95):.2f}' for found in by_filter]
        rows.append(f'| {what} | {" | ".join(cells)} |')
    return rows


# -- decoding ---------------------------------------------------------------------------------------------------------


def by_opencv(path):
    return cv2.imdecode(np.fromfile(path, 'uint8'), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def by_simplejpeg(most):
    return lambda path: jpeg.open_image(path).decode(most)


DECODERS = {
    'Pillow': open_rgb,
    'OpenCV, which takes a truncated file for a good one': by_opencv,
    'simplejpeg, refusing what Pillow refuses': by_simplejpeg(1),
    'the same, half the size': by_simplejpeg(2),
    'the same, an eighth': by_simplejpeg(8),
}


def decoding(paths):
    """{decoder: ms an image}"""
    fastest = {name: np.full(len(paths), np.inf) for name in DECODERS}
    for _ in range(5):
        for number, path in enumerate(paths):
            for name, decode in DECODERS.items():
                start = time.perf_counter()
                decode(path)
                fastest[name][number] = min(fastest[name][number], time.perf_counter() - start)
    return {name: 1000 * seconds.mean() for name, seconds in fastest.items()}


def decoder_table(paths):
    alone = decoding(paths)
    with multiprocessing.get_context('fork').Pool(2) as pool:
        first, second = pool.map(decoding, [paths, paths], chunksize=1)
    rows = ['| decoder | ms an image | of Pillow | two processes at a time: ms | of Pillow |', '|---|--:|--:|--:|--:|']
    both = {name: (first[name] + second[name]) / 2 for name in DECODERS}
    for name in DECODERS:
        cells = [f'{times[name]:.2f} | {times[name] / times["Pillow"]:.2f}' for times in (alone, both)]
        rows.append(f'| {name} | {" | ".join(cells)} |')
    return rows


def main(args):
    paths = find_images([args.folder])
    paths = paths[:: max(1, len(paths) // args.images)][: args.images]
    versions = f'Pillow {PIL.__version__}, OpenCV {cv2.__version__}, simplejpeg {simplejpeg.__version__}'
    lines = [f'{len(paths)} images, {args.draws} draws of each op, {args.input_size} px. {versions}.', '']
    lines += [*pixel_table(paths, args.input_size, args.draws), '', *decoder_table(paths)]
    print('\n'.join(lines))
    if args.output:
        files.write(args.output, '\n'.join([*lines, '']).encode())


if __name__ == '__main__':
    runtime.run(main, parser())
