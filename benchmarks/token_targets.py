"""Token targets from top-K maps: the dense way of the earlier Paddle port against this project's, side by side.

    python benchmarks/token_targets.py [--batch_size 32 128] [--repeat 7] [--classes 1000]
    python benchmarks/token_targets.py --loss          and then the loss, on expanded targets or on the sparse ones

The dense way is written out from its description: one-hot [B·K·H·W, C], summed over K, RoIAlign for the tokens and for
the whole crop, softmax, concatenation. Ours is what a training step does: sampling and softmax over the listed classes
per image (in training this part runs in the loader's processes), stacking, expansion on the device. Same maps,
same boxes, one process, alternating; medians, and the peak of the process's resident memory above what it held before.
"""

import argparse
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
import paddle
import paddle.nn.functional as F

from util.data.token_label import dense_target, stack_targets, token_target
from util.data.transforms import crop_matrix, random_crop_box
from util.train.loss import soft_cross_entropy

SIDE, GRID, CELLS, TOPK = 224, 14, 18, 5


def inputs(batch, classes, rng):
    """Maps of about 200 classes each, as EfficientNet-Lite0 makes of ImageNet's images, and random crop boxes."""
    maps, boxes = [], []
    for _ in range(batch):
        palette = rng.permutation(classes)[:250]
        order = rng.random((250, CELLS, CELLS)) + rng.gamma(1.0, 0.03, (250, 1, 1))
        ids = palette[np.argsort(-order, axis=0)[:TOPK]]
        scores = -np.sort(-rng.gamma(2.0, 2.0, (TOPK, CELLS, CELLS)), axis=0)
        maps.append(np.stack([scores, ids]).astype('float16'))
        boxes.append(random_crop_box(SIDE, SIDE, rng))
    return maps, boxes


def dense_way(maps, boxes, classes):
    top = paddle.to_tensor(np.stack(maps).astype('float32'))
    batch = top.shape[0]
    one_hot = F.one_hot(top[:, 1].astype('int64').flatten(), classes)
    weighted = one_hot * top[:, 0].flatten().unsqueeze(-1)
    full = weighted.reshape([batch, TOPK, CELLS, CELLS, classes]).sum(axis=1).transpose([0, 3, 1, 2])
    roi = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], 'float32') * (CELLS / SIDE)
    roi, count = paddle.to_tensor(roi), paddle.ones([batch], 'int32')
    tokens = paddle.vision.ops.roi_align(full, roi, count, GRID, aligned=True).flatten(2)
    whole = paddle.vision.ops.roi_align(full, roi, count, 1, aligned=True).flatten(2)
    return F.softmax(paddle.concat([whole, tokens], axis=2), axis=1).transpose([0, 2, 1])


def stacked(maps, boxes, classes):
    targets = []
    for array, box in zip(maps, boxes):
        matrix = crop_matrix(box, SIDE, SIDE, SIDE)
        scores, ids = array[0].astype('float32'), array[1].astype('int64')
        targets.append(
            token_target(scores, ids, classes, matrix=matrix, side=SIDE, grid=GRID, covered=(0, 0, SIDE, SIDE))
        )
    return tuple(map(paddle.to_tensor, stack_targets(targets)))


def our_way(maps, boxes, classes):
    return dense_target(*stacked(maps, boxes, classes), classes)


def expanded_loss(logits, sparse, classes, once):
    return soft_cross_entropy(logits, dense_target(*sparse, classes))


def sparse_loss(logits, sparse, classes, once):
    """The same without expanding: only the listed classes' logits, their sum, and one log-sum are needed."""
    ids, listed, floor = sparse
    excess = (listed.transpose([0, 2, 1]) - floor.unsqueeze(-1)) * once.unsqueeze(1).astype('float32')
    picked = paddle.take_along_axis(logits, ids.unsqueeze(1).expand(excess.shape), 2)
    asked = (excess * picked).sum(-1) + floor * logits.sum(-1)
    return (paddle.logsumexp(logits, -1) - asked).mean()


def compare_losses(batch, classes, repeat):
    """Forward and backward of both losses on the targets of one batch."""
    rng = np.random.default_rng(batch)
    maps, boxes = inputs(batch, classes, rng)
    sparse = stacked(maps, boxes, classes)
    listed = [len(np.unique(array[1])) for array in maps]
    once = paddle.to_tensor(np.arange(max(listed))[None, :] < np.array(listed)[:, None])  # no class counts twice
    logits = paddle.to_tensor(rng.standard_normal((batch, 1 + GRID**2, classes), dtype='float32'))
    logits.stop_gradient = False
    times, values = {}, {}
    for way in (expanded_loss, sparse_loss) * repeat:
        start = time.perf_counter()
        loss = way(logits, sparse, classes, once)
        loss.backward()
        times.setdefault(way.__name__, []).append(time.perf_counter() - start)
        values[way.__name__] = loss.item()
        logits.clear_grad()
    print(
        f'batch {batch}, {np.mean(listed):.0f} listed classes an image, forward and backward: '
        + ', '.join(f'{name} {1000 * np.median(t):.0f} ms ({values[name]:.4f})' for name, t in times.items())
    )


def resident():
    with open('/proc/self/statm') as f:
        return int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


def peak_of(call):
    """(result, peak resident MB above the start), sampled every half millisecond."""
    start, peak, done = resident(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.0005):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=watch)
    thread.start()
    result = call()
    done.set()
    thread.join()
    return result, max(peak[0], resident()) - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batch_size', nargs='+', type=int, default=[32, 128])
    parser.add_argument('--repeat', type=int, default=7)
    parser.add_argument('--classes', type=int, default=1000)
    parser.add_argument('--loss', action='store_true', help='compare the two forms of the loss instead')
    args = parser.parse_args()
    print(f'Paddle {paddle.__version__}. {runtime.CPU}. {args.classes} classes, {args.repeat} runs of each')
    if args.loss:
        compare_losses(args.batch_size[0], args.classes, args.repeat)
        return
    # give freed memory back at once, so that a run's peak is its own
    paddle.set_flags({'FLAGS_eager_delete_tensor_gb': 0.0})
    for batch in args.batch_size:
        maps, boxes = inputs(batch, args.classes, np.random.default_rng(batch))
        ways = {'dense': dense_way, 'ours': our_way}
        times, peaks = {name: [] for name in ways}, {}
        for _ in range(args.repeat):
            for name, way in ways.items():
                start = time.perf_counter()
                way(maps, boxes, args.classes)
                times[name].append(time.perf_counter() - start)
        results = {}
        for name, way in ways.items():  # apart from the timing, which the watching thread would disturb
            results[name], peaks[name] = peak_of(lambda: way(maps, boxes, args.classes))
            results[name] = results[name].numpy()
        ms = {name: 1000 * float(np.median(t)) for name, t in times.items()}
        worst = np.abs(results['dense'] - results['ours']).max()
        print(
            f'batch {batch}: dense {ms["dense"]:.0f} ms, {peaks["dense"]:.0f} MB; ours {ms["ours"]:.1f} ms, '
            f'{peaks["ours"]:.0f} MB; {ms["dense"] / ms["ours"]:.1f}x faster, '
            f'memory {peaks["ours"] / peaks["dense"]:.3f}; largest difference {worst:.1e}'
        )


if __name__ == '__main__':
    main()
