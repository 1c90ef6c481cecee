"""From a label map (util/data/label_maps.py) and the transform's matrix to the target of every token.

A label map is a float16 array [2, K, H, W]: scores (raw logits) and class ids of the K best classes of each cell, row =
y, column = x. For one image there is one sampling matrix A [1+N, H·W] (row 0 = the whole crop, for the class token);
the logits of its tokens are A @ M with M [H·W, C] the scattered scores, and the targets softmax(A @ M).

Classes that no cell lists score 0 everywhere and so share one probability: a target is kept as the probabilities of
the U listed classes and that floor. That is exact and small, U being 100 to 300 in maps of 1,000 classes.
"""

import math
from typing import NamedTuple

import numpy as np
import paddle


class SparseTarget(NamedTuple):
    """Targets of one image: class ids[u] has probability listed[u, n] in row n, every other class floor[n].

    Row 0 is the class token's, row 1 + i token i's.
    """

    ids: np.ndarray  # int64 [U]
    listed: np.ndarray  # float32 [U, 1+N]
    floor: np.ndarray  # float32 [1+N]


def _axis_cells(position, size):
    """Bilinear interpolation along one axis: (low cell, high cell, weight of high, inside).

    The edge rule is RoIAlign's: up to half a cell beyond the outermost cell centres' cells the edge value holds,
    further out there is nothing.
    """
    inside = (position >= -1.0) & (position <= size)
    position = np.clip(position, 0.0, size - 1.0)
    low = np.minimum(position.astype('int64'), max(size - 2, 0))
    return low, np.minimum(low + 1, size - 1), position - low, inside


def _pooled(to_map, side, n, height, width):
    """Weights [n², H·W] of the map's cells in each of n² tokens of an input of `side` pixels.

    Averages bilinear samples on a regular grid inside each token, as many along each of its edges as the edge is
    cells long (RoIAlign, aligned, with adaptive sampling, for any affine `to_map` instead of a box).
    """
    step = side / n
    across, down = (max(1, math.ceil(math.hypot(*to_map[:2, k]) * step - 1e-9)) for k in (0, 1))
    xs = (np.arange(n * across) + 0.5) * (step / across)
    ys = (np.arange(n * down) + 0.5) * (step / down)
    u = to_map[0, 0] * xs[None, :] + to_map[0, 1] * ys[:, None] + (to_map[0, 2] - 0.5)
    v = to_map[1, 0] * xs[None, :] + to_map[1, 1] * ys[:, None] + (to_map[1, 2] - 0.5)
    x0, x1, fx, inside_x = _axis_cells(u, width)
    y0, y1, fy, inside_y = _axis_cells(v, height)
    weight = (inside_x & inside_y) / (across * down)
    token = (np.arange(n * down) // down)[:, None] * n + (np.arange(n * across) // across)[None, :]
    base = token * (height * width)
    cells = np.stack([base + y0 * width + x0, base + y0 * width + x1, base + y1 * width + x0, base + y1 * width + x1])
    weights = np.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]) * weight
    return np.bincount(cells.ravel(), weights.ravel(), minlength=n * n * height * width).reshape(n * n, -1)


def sampling_matrix(matrix, side, tokens, covered, map_shape):
    """A [1+N, H·W] float32, N = tokens²: row 0 the whole input, rows 1… its tokens in row-major order.

    matrix: input pixels to source pixels [3, 3]; side: input size in pixels; covered: (x, y, width, height) of the
    source that the map covers; map_shape: (H, W).
    """
    height, width = map_shape
    x, y, w, h = covered
    to_map = np.array([[width / w, 0, -x * width / w], [0, height / h, -y * height / h], [0, 0, 1.0]]) @ matrix
    rows = _pooled(to_map, side, 1, height, width), _pooled(to_map, side, tokens, height, width)
    return np.concatenate(rows).astype('float32')


def sparse_target(scores, ids, sampling, num_classes):
    """softmax(sampling @ M) as a SparseTarget, M [H·W, C] being `scores` at `ids` and 0 elsewhere.

    scores, ids: [K, H, W]; sampling: [1+N, H·W].
    """
    listed, row = np.unique(ids, return_inverse=True)
    compact = np.zeros((listed.size, scores[0].size), 'float32')
    compact[row.reshape(len(scores), -1), np.arange(scores[0].size)] = scores.reshape(len(scores), -1)
    logits = compact @ sampling.T
    absent = num_classes - listed.size  # classes of score 0 everywhere
    top = logits.max(axis=0)
    if absent:
        top = np.maximum(top, 0.0)
    weights, floor = np.exp(logits - top), np.exp(-top)
    total = weights.sum(axis=0) + absent * floor
    return SparseTarget(listed.astype('int64'), weights / total, floor / total)


def no_target(tokens):
    """Stands in for the target of an image without a map: all zeros."""
    rows = 1 + tokens * tokens
    return SparseTarget(np.zeros(1, 'int64'), np.zeros((1, rows), 'float32'), np.zeros(rows, 'float32'))


def stack_targets(targets):
    """SparseTargets of a batch as one: ids [B, U], listed [B, U, 1+N], floor [B, 1+N]; shorter ones repeat entries."""
    width = max(t.ids.size for t in targets)
    repeat = [np.arange(width) % t.ids.size for t in targets]
    return SparseTarget(
        np.stack([t.ids[r] for t, r in zip(targets, repeat)]),
        np.stack([t.listed[r] for t, r in zip(targets, repeat)]),
        np.stack([t.floor for t in targets]),
    )


def dense_target(ids, listed, floor, num_classes, smoothing=0.0):
    """Smoothed targets as a float32 tensor [B, 1+N, C] from the tensors of `stack_targets`.

    A probability t becomes t·(1 − ε + ε/C) + ε/C; as in the original, each row then sums to 1 + ε/C.
    """
    off = smoothing / num_classes
    on = 1.0 - smoothing + off
    batch, width, rows = listed.shape
    # one memory-contiguous row of 1+N numbers per class, so that listed classes are copied over in whole rows
    dense = (floor * on + off).unsqueeze(1).expand([batch, num_classes, rows]).reshape([batch * num_classes, rows])
    where = (ids + paddle.arange(batch).unsqueeze(-1) * num_classes).flatten()
    dense = paddle.scatter_(dense, where, (listed * on + off).reshape([batch * width, rows]), overwrite=True)
    return dense.reshape([batch, num_classes, rows]).transpose([0, 2, 1])
