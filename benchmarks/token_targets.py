"""Token targets from top-K maps: the dense way of the earlier Paddle port against this project's, side by side.

    python benchmarks/token_targets.py [--batch_size 32 128] [--repeat 7] [--classes 1000]

The dense way is written out from its description: one-hot [B·K·H·W, C], summed over K, RoIAlign for the tokens and for
the whole crop, softmax, concatenation. Ours is what a training step does: sampling matrix and softmax over the listed
classes per image (in training this part runs in the loader's processes), stacking, expansion on the device. Same maps,
same boxes, one process, alternating; medians, and the peak of the process's resident memory above what it held before.
"""
import argparse
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime  # noqa: E402

CPU = runtime.prepare()
import numpy as np  # noqa: E402
import paddle  # noqa: E402
import paddle.nn.functional as F  # noqa: E402

from util.token_label import dense_target, sampling_matrix, sparse_target, stack_targets  # noqa: E402
from util.transforms import crop_matrix, random_crop_box  # noqa: E402

SIDE, TOKENS, CELLS, TOPK = 224, 14, 18, 5


def inputs(batch, classes, rng):
    """Maps with neighbouring cells alike, as real ones are (about 200 classes each), and random crop boxes."""
    maps, boxes = [], []
    for _ in range(batch):
        palette = rng.permutation(classes)[:200]
        order = rng.random((200, CELLS, CELLS)) + rng.gamma(1.0, 0.4, (200, 1, 1))
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
    tokens = paddle.vision.ops.roi_align(full, roi, count, TOKENS, aligned=True).flatten(2)
    whole = paddle.vision.ops.roi_align(full, roi, count, 1, aligned=True).flatten(2)
    return F.softmax(paddle.concat([whole, tokens], axis=2), axis=1).transpose([0, 2, 1])


def our_way(maps, boxes, classes):
    targets = []
    for array, box in zip(maps, boxes):
        sampling = sampling_matrix(crop_matrix(box, SIDE, SIDE, SIDE), SIDE, TOKENS, (0, 0, SIDE, SIDE), (CELLS, CELLS))
        targets.append(sparse_target(array[0].astype('float32'), array[1].astype('int64'), sampling, classes))
    return dense_target(*map(paddle.to_tensor, stack_targets(targets)), classes)


def resident():
    with open('/proc/self/statm') as f:
        return int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2 ** 20


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
    args = parser.parse_args()
    print(f'Paddle {paddle.__version__}. {CPU}. {args.classes} classes, {args.repeat} runs of each')
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
        print(f"batch {batch}: dense {ms['dense']:.0f} ms, {peaks['dense']:.0f} MB; ours {ms['ours']:.1f} ms, "
              f"{peaks['ours']:.0f} MB; {ms['dense'] / ms['ours']:.1f}x faster, "
              f"memory {peaks['ours'] / peaks['dense']:.3f}; largest difference {worst:.1e}")


if __name__ == '__main__':
    main()
