"""From a label map (util/data/label_maps.py) and the transform's matrix to the target of every token.

A label map is a float16 array [2, K, H, W]: scores (raw logits) and class ids of the K best classes of each cell, row =
y, column = x. For one image there is one sampling matrix A [1+N, H·W] (row 0 = the whole crop, for the class token);
the logits of its tokens are A @ M with M [H·W, C] the scattered scores, and the targets softmax(A @ M).

Four of five transforms only flip, crop and shift. There a cell's weight is that of its row times that of its column,
and M is multiplied by these two small matrices in turn instead of by their product A.

Classes that no cell of the crop lists score 0 everywhere and so share one probability: a target is kept as the
probabilities of the U listed classes and that floor. That is exact and small: a whole map of 1,000 classes lists 100
to 300.
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


def _interpolate(position, size):
    """Bilinear interpolation along one axis of `size` cells. position: in cells, whole numbers being cell centres.

    Returns (cell before, cell after, weight of the one after, whether the position counts), each shaped as `position`.
    At the edges RoIAlign's rule holds: a position up to one cell beyond the centre of the outermost cell takes its
    value, further out it counts for nothing.
    """
    inside = (position >= -1.0) & (position <= size)
    position = np.clip(position, 0.0, size - 1.0)
    before = np.minimum(position.astype('int64'), max(size - 2, 0))
    after = np.minimum(before + 1, size - 1)
    return before, after, position - before, inside


def _samples(step, token):
    """How many samples RoIAlign takes along an edge of `token` pixels, each of which is the vector `step` in cells."""
    return max(1, math.ceil(math.hypot(*step) * token - 1e-9))


def _average_over_tokens(to_map, side, grid, height, width):
    """Weights [grid², height·width] of a map's cells in each of grid² tokens of an input of `side` pixels.

    to_map [3, 3]: input pixels to map cells, (0, 0) the map's upper left corner. Averages bilinear samples on a regular
    lattice inside each token, as many along each of its edges as the edge is cells long, rounded up (RoIAlign, aligned,
    with adaptive sampling, for any affine `to_map` instead of a box).
    """
    token = side / grid  # pixels
    across, down = _samples(to_map[:2, 0], token), _samples(to_map[:2, 1], token)  # along its upper and left edge
    # the samples: their pixels, and their places on the map in cells, a cell's centre being a whole number
    xs = (np.arange(grid * across) + 0.5) * (token / across)
    ys = (np.arange(grid * down) + 0.5) * (token / down)
    u = to_map[0, 0] * xs[None, :] + to_map[0, 1] * ys[:, None] + (to_map[0, 2] - 0.5)
    v = to_map[1, 0] * xs[None, :] + to_map[1, 1] * ys[:, None] + (to_map[1, 2] - 0.5)
    left, right, right_share, inside_x = _interpolate(u, width)
    above, below, below_share, inside_y = _interpolate(v, height)
    # each sample gives to four cells, by its distance to them; a token's samples together give 1
    cells = np.stack([above * width + left, above * width + right, below * width + left, below * width + right])
    left_share, above_share = 1 - right_share, 1 - below_share
    shares = [above_share * left_share, above_share * right_share, below_share * left_share, below_share * right_share]
    weights = np.stack(shares) * ((inside_x & inside_y) / (across * down))
    # summed up for every pair of a token and a cell, which bincount sees as one number
    owner = (np.arange(grid * down) // down)[:, None] * grid + (np.arange(grid * across) // across)[None, :]
    pairs = owner * (height * width) + cells
    total = np.bincount(pairs.ravel(), weights.ravel(), minlength=grid * grid * height * width)
    return total.reshape(grid * grid, -1)


def _average_along_axis(scale, offset, side, grid, size):
    """The same along one axis: weights [1+grid, size] of a map's columns (or rows), row 0 in the whole input.

    Pixel x of the input is at scale · x + offset on the map, in cells.
    """
    token = side / grid  # pixels
    whole, each = _samples([scale], side), _samples([scale], token)
    xs = np.concatenate([np.arange(whole) + 0.5, np.arange(grid * each) + 0.5])
    xs[:whole] *= side / whole
    xs[whole:] *= token / each
    before, after, after_share, inside = _interpolate(scale * xs + (offset - 0.5), size)
    owner = np.concatenate([np.zeros(whole, 'int64'), 1 + np.arange(grid * each) // each])
    after_share, before_share = after_share * inside, (1 - after_share) * inside
    pairs = np.concatenate([owner * size + before, owner * size + after])
    total = np.bincount(pairs, np.concatenate([before_share, after_share]), minlength=(1 + grid) * size)
    total = total.reshape(1 + grid, size)
    total[0] /= whole
    total[1:] /= each
    return total.astype('float32')


def _to_map(matrix, covered, map_shape):
    """Input pixels to map cells [3, 3]; the arguments are those of sampling_matrix."""
    height, width = map_shape
    x, y, w, h = covered
    return np.array([[width / w, 0, -x * width / w], [0, height / h, -y * height / h], [0, 0, 1.0]]) @ matrix


def sampling_matrix(matrix, side, grid, covered, map_shape):
    """A [1+N, H·W] float32, N = grid²: row 0 the whole input, rows 1… its tokens in row-major order.

    matrix: input pixels to source pixels [3, 3]; side: input size in pixels; grid: tokens a side;
    covered: (x, y, width, height) of the source that the map covers; map_shape: (H, W).
    """
    height, width = map_shape
    to_map = _to_map(matrix, covered, map_shape)
    whole = _average_over_tokens(to_map, side, 1, height=height, width=width)
    tokens = _average_over_tokens(to_map, side, grid, height=height, width=width)
    return np.concatenate([whole, tokens]).astype('float32')


# -- targets ----------------------------------------------------------------------------------------------------------


def token_target(scores, ids, num_classes, matrix, side, grid, covered):
    """The SparseTarget of a label map seen through a transform.

    scores float32, ids int64: [K, H, W]; the other arguments are those of sampling_matrix.
    """
    _, height, width = scores.shape
    to_map = _to_map(matrix, covered, (height, width))
    if to_map[0, 1] or to_map[1, 0]:  # turned or sheared
        sampling = sampling_matrix(matrix, side, grid, covered, map_shape=(height, width))
        return sparse_target(scores, ids, sampling, num_classes)
    down = _average_along_axis(to_map[1, 1], to_map[1, 2], side, grid, height)
    across = _average_along_axis(to_map[0, 0], to_map[0, 2], side, grid, width)
    return _separable_target(scores, ids, down, across, num_classes)


def sparse_target(scores, ids, sampling, num_classes):
    """softmax(sampling @ M) as a SparseTarget, M [H·W, C] being `scores` at `ids` and 0 elsewhere.

    scores, ids: [K, H, W]; sampling: [1+N, H·W].
    """
    best = len(scores)  # K
    cells = np.flatnonzero(sampling.any(axis=0))  # the others do not count
    scores, ids = scores.reshape(best, -1)[:, cells], ids.reshape(best, -1)[:, cells]
    listed, place = _listed_classes(ids, num_classes)
    compact = np.zeros((listed.size, cells.size), 'float32')  # Mᵀ without the classes that no cell lists
    compact[place, np.arange(cells.size)] = scores
    return _softmax(compact @ sampling[:, cells].T, listed, num_classes)


def _separable_target(scores, ids, down, across, num_classes):
    """sparse_target for a transform that neither turns nor shears: there a cell's weight is its row's times its
    column's. down [1+grid, H], across [1+grid, W]: the weights of rows and columns, first in the whole input.
    """
    rows, columns = np.flatnonzero(down.any(axis=0)), np.flatnonzero(across.any(axis=0))  # the others do not count
    cells = np.ix_(np.arange(len(scores)), rows, columns)
    scores, ids = scores[cells], ids[cells]
    listed, place = _listed_classes(ids, num_classes)
    compact = np.zeros((rows.size, listed.size, columns.size), 'float32')
    compact[np.arange(rows.size)[:, None], place, np.arange(columns.size)] = scores
    lines, grid = len(across), len(across) - 1
    by_column = compact.reshape(rows.size * listed.size, columns.size) @ across[:, columns].T  # [rows · U, 1+grid]
    by_both = down[:, rows] @ by_column.reshape(rows.size, listed.size * lines)  # [1+grid, U · (1+grid)]
    by_both = by_both.reshape(lines, listed.size, lines).transpose(1, 0, 2)
    logits = np.empty((listed.size, 1 + grid * grid), 'float32')
    logits[:, 0] = by_both[:, 0, 0]
    logits[:, 1:] = by_both[:, 1:, 1:].reshape(listed.size, grid * grid)
    return _softmax(logits, listed, num_classes)


def _listed_classes(ids, num_classes):
    """(the classes among `ids` in ascending order, int64 [U], the place of each of `ids` among them).

    Where there are no ids, class 0 stands for all the classes, which are equal.
    """
    table = np.zeros(num_classes, 'int64')
    table[ids] = 1
    listed = np.flatnonzero(table) if ids.size else np.zeros(1, 'int64')
    table[listed] = np.arange(listed.size)
    return listed, table[ids]


def _softmax(logits, listed, num_classes):
    """The SparseTarget of logits [U, 1+N] of the listed classes, the logits of all others being 0. Overwrites them."""
    unlisted = num_classes - listed.size
    top = logits.max(axis=0)
    if unlisted:
        top = np.maximum(top, 0.0)
    logits -= top
    weights, floor = np.exp(logits, out=logits), np.exp(-top)
    total = weights.sum(axis=0) + unlisted * floor
    weights /= total
    return SparseTarget(listed, weights, floor / total)


def no_target(grid):
    """Stands in for the target of an image without a map: all zeros."""
    rows = 1 + grid * grid
    return SparseTarget(np.zeros(1, 'int64'), np.zeros((1, rows), 'float32'), np.zeros(rows, 'float32'))


def stack_targets(targets):
    """SparseTargets of a batch as one: ids [B, U], listed [B, U, 1+N], floor [B, 1+N].

    Those with fewer listed classes repeat theirs, which dense_target then writes twice, with the same values.
    """
    longest = max(t.ids.size for t in targets)
    repeat = [np.arange(longest) % t.ids.size for t in targets]
    return SparseTarget(
        np.stack([t.ids[r] for t, r in zip(targets, repeat)]),
        np.stack([t.listed[r] for t, r in zip(targets, repeat)]),
        np.stack([t.floor for t in targets]),
    )


def smooth(target, smoothing, num_classes):
    """Probabilities t, of any shape, as t·(1 − ε + ε/C) + ε/C; as in the original, a row then sums to 1 + ε/C."""
    off = smoothing / num_classes
    return target * (1.0 - smoothing + off) + off


def dense_target(ids, listed, floor, num_classes, smoothing=0.0):
    """Smoothed targets as a float32 tensor [B, 1+N, C] from the tensors of `stack_targets`."""
    batch, width, rows = listed.shape
    floor, listed = smooth(floor, smoothing, num_classes), smooth(listed, smoothing, num_classes)
    # Every class of every image is one contiguous row of 1+N numbers: the listed ones are copied over in whole rows.
    dense = floor.unsqueeze(1).expand([batch, num_classes, rows]).reshape([batch * num_classes, rows])
    where = (ids + paddle.arange(batch).unsqueeze(-1) * num_classes).flatten()
    dense = paddle.scatter_(dense, where, listed.reshape([batch * width, rows]), overwrite=True)
    return dense.reshape([batch, num_classes, rows]).transpose([0, 2, 1])
