"""Where the cells of an annotator look: the centre of what a cell's scores depend on, beside the centre of the cell.

    python benchmarks/receptive_field.py resnet18 resnet50 mobilenet_v2 lvvit_s [--img_size 448] [--seeds 5]
    python benchmarks/receptive_field.py dense.onnx [--images PHOTO ...]

For networks of paddle.vision and LV-ViTs (random weights, new ones for each seed): the centre of gravity of the
magnitude of the gradient of the central cells' scores, in noise images. For an ONNX file, which has no gradient: that
of the change of their scores when a patch is replaced by noise, patches tiling the image, in noise or in photos.
Offsets are in pixels, right and down positive: means over seeds, or over images, and standard deviations.

With random weights an offset is one of strides and padding: no kernel prefers a side. A kernel of odd size at stride 2
that is padded alike on both sides is centred half a pixel to the upper left of the pair of pixels it stands for; one
that is padded as TensorFlow does ("same": on the right and below, if one side must have more) half a pixel to the lower
right. A pixel there is as large as the stride that came before, so four or five of them add up.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
import paddle

from models import FAMILY, build_model
from util.args import Parser
from util.data import annotator
from util.data.images import open_rgb
from util.data.onnx_annotator import OnnxHead, OnnxNetwork
from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform

PATCH = 8  # pixels: side of a patch that is replaced


def centre_cells(side):
    """The one or four cells around the middle of side x side, as (rows, columns); their centre is the image's."""
    middle = [(side - 1) // 2, side // 2]
    return [(row, column) for row in sorted(set(middle)) for column in sorted(set(middle))]


def centre_of(weight):
    """(x, y) of the centre of gravity of weight [S, S], in pixels from the middle of the image."""
    side = len(weight)
    positions = np.arange(side) + 0.5 - side / 2
    return np.array([positions @ weight.sum(axis=0), positions @ weight.sum(axis=1)]) / weight.sum()


def by_gradient(name, size, seed):
    """(x, y) of the offset of the network `name` with the random weights of a seed."""
    paddle.seed(seed)
    if name in FAMILY:
        annotate = annotator.TokenHead(build_model(name, img_size=size, num_classes=10), name)
    else:
        annotate = annotator.PooledHead(getattr(annotator.zoo, name)(num_classes=10), name, size)
    images = paddle.randn([2, 3, size, size])
    images.stop_gradient = False
    scores = annotate(images)
    signs = paddle.to_tensor(np.random.default_rng(seed).choice([-1.0, 1.0], 10).astype('float32'))
    total = 0
    for row, column in centre_cells(annotate.side):
        (gradient,) = paddle.grad((scores[:, row * annotate.side + column] * signs).sum(), images, retain_graph=True)
        total = total + np.abs(gradient.numpy()).sum(axis=(0, 1))
    return centre_of(total), annotate.side


def by_occlusion(annotate, image):
    """(x, y) of the offset of an annotator, from an image, float32 [3, S, S]."""
    size = image.shape[-1]
    cells = [row * annotate.side + column for row, column in centre_cells(annotate.side)]
    other = np.random.default_rng(size).standard_normal(image.shape, dtype='float32')

    def scores(images):
        return annotate(paddle.to_tensor(np.stack(images))).numpy()[:, cells]

    before, change = scores([image])[0], np.zeros([size, size])
    for top in range(0, size, PATCH):
        images = [image.copy() for _ in range(0, size, PATCH)]
        for left, changed in zip(range(0, size, PATCH), images):
            changed[:, top : top + PATCH, left : left + PATCH] = other[:, top : top + PATCH, left : left + PATCH]
        for left, after in zip(range(0, size, PATCH), scores(images)):
            change[top : top + PATCH, left : left + PATCH] = np.abs(after - before).sum()
    return centre_of(change)


def measure(name, args):
    """(offsets [n, 2], pixels a cell)"""
    if not name.endswith('.onnx'):
        found = [by_gradient(name, args.img_size, seed) for seed in range(args.seeds)]
        return np.array([offset for offset, _ in found]), args.img_size / found[0][1]
    network = OnnxNetwork(name)
    said = network.settings
    size = said.get('img_size', args.img_size)
    annotate = OnnxHead(network, size)
    if args.images:
        how = said.get('interpolation', 'bicubic'), said.get('mean', IMAGENET_MEAN), said.get('std', IMAGENET_STD)
        transform = EvalTransform(size, 1.0, *how)
        images = [transform(open_rgb(path)) for path in args.images]
    else:
        noise = (np.random.default_rng(seed).standard_normal((3, size, size), 'float32') for seed in range(args.seeds))
        images = list(noise)
    return np.array([by_occlusion(annotate, image) for image in images]), size / annotate.side


def main(args):
    print('| annotator | cell | offset x | offset y | n |\n|---|---|---|---|---|')
    for name in args.names:
        offsets, cell = measure(name, args)
        (x, y), (dx, dy), n = offsets.mean(axis=0), offsets.std(axis=0), len(offsets)
        row = f'| {os.path.basename(name)} | {cell:g} | {x:+.1f} ± {dx:.1f} | {y:+.1f} ± {dy:.1f} | {n} |'
        print(row, flush=True)


def parser():
    parser = Parser('receptive_field.py', description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('names', nargs='+', metavar='NAME', help='of paddle.vision.models, an LV-ViT, or FILE.onnx')
    parser.add_argument('--img_size', default=448, type=int, help='an ONNX file may say its own')
    parser.add_argument('--seeds', default=5, type=int, help='weights, or noise images')
    parser.add_argument('--images', nargs='+', default=[], metavar='PHOTO', help='for ONNX files, in place of noise')
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
