"""From a label map to the target of every token.

A label map (util/data/label_maps.py) holds class scores for H x W cells of a source image. The train transform is a 3x3
matrix from pixels of the network's input to pixels of the source (util/data/transforms.py). The target of a token is
read from the map where the token's pixels come from:

    logits = A @ M        targets = softmax(logits), over the classes

    A [1+N, H·W]   the sampling matrix: the weight of each cell of the map in each token. Row 0 is the whole input, for
                   the class token; rows 1 to N are the N = grid² tokens in row-major order.
    M [H·W, C]     the map: the scores of the K listed classes of each cell, 0 for all other classes.

Two facts make this cheap. Both are exact:

- Classes that no cell of the crop lists have logit 0 in every token, so within a token they share one probability, the
  `floor`. A SparseTarget holds the floor and the probabilities of the U listed classes (U is 100 to 300 for a whole map
  of 1,000 classes).
- If the transform neither rotates nor shears (four of five do not), the weight of a cell is the weight of its row times
  the weight of its column. M is then multiplied by these two small matrices, and A is never built.
"""

import math
from typing import NamedTuple

import numpy as np
import paddle


class SparseTarget(NamedTuple):
    """Targets of one image. In row n, class ids[u] has probability listed[u, n] and every other class floor[n].

    Row 0 is the class token, row 1 + i is token i.
    """

    ids: np.ndarray  # int64 [U], the listed classes
    listed: np.ndarray  # float32 [U, 1+N]
    floor: np.ndarray  # float32 [1+N]


def token_target(scores, ids, num_classes, matrix, side, grid, covered):
    """The SparseTarget of an image whose label map is (scores, ids), after a transform.

    scores float32, ids int64: [K, H, W];
    matrix: float64 [3, 3], pixels of the input to pixels of the source;
    side: of the input, in pixels; grid: tokens a side;
    covered: (x, y, width, height) in pixels, the part of the source that the map covers.
    """
    _, height, width = scores.shape
    to_map = _input_to_map(matrix, covered, (height, width))
    if to_map[0, 1] or to_map[1, 0]:  # rotated or sheared
        sampling = sampling_matrix(matrix, side, grid, covered, map_shape=(height, width))
        return sparse_target(scores, ids, sampling, num_classes)
    rows = _axis_weights(to_map[1, 1], to_map[1, 2], side, grid, height)
    columns = _axis_weights(to_map[0, 0], to_map[0, 2], side, grid, width)
    return _separable_target(scores, ids, rows, columns, num_classes)


def no_target(grid):
    """The SparseTarget of an image without a label map: all zeros."""
    rows = 1 + grid * grid
    return SparseTarget(np.zeros(1, 'int64'), np.zeros((1, rows), 'float32'), np.zeros(rows, 'float32'))


# -- from a map and weights to probabilities --------------------------------------------------------------------------


def sparse_target(scores, ids, sampling, num_classes):
    """softmax(sampling @ M) as a SparseTarget, where M [H·W, C] holds `scores` at `ids` and 0 elsewhere.

    scores, ids: [K, H, W]; sampling: [1+N, H·W].
    """
    cells = np.flatnonzero(sampling.any(axis=0))  # those with a weight in some token
    scores, ids = scores.reshape(len(scores), -1)[:, cells], ids.reshape(len(ids), -1)[:, cells]  # [K, cells]
    classes, index = _listed_classes(ids, num_classes)
    dense = np.zeros((classes.size, cells.size), 'float32')  # M without the empty rows and columns, transposed
    dense[index, np.arange(cells.size)] = scores
    return _softmax(dense @ sampling[:, cells].T, classes, num_classes)


def _separable_target(scores, ids, row_weights, column_weights, num_classes):
    """sparse_target if the weight of a cell is the weight of its row times the weight of its column.

    row_weights [1+grid, H], column_weights [1+grid, W]: entry 0 is the whole input, 1 + i row (or column) i of tokens.
    """
    rows, columns = np.flatnonzero(row_weights.any(axis=0)), np.flatnonzero(column_weights.any(axis=0))
    used = np.ix_(np.arange(len(scores)), rows, columns)
    scores, ids = scores[used], ids[used]  # [K, rows, columns]
    classes, index = _listed_classes(ids, num_classes)
    dense = np.zeros((rows.size, classes.size, columns.size), 'float32')
    dense[np.arange(rows.size)[:, None], index, np.arange(columns.size)] = scores

    grid = len(row_weights) - 1
    logits = dense.reshape(rows.size * classes.size, columns.size) @ column_weights[:, columns].T
    logits = row_weights[:, rows] @ logits.reshape(rows.size, classes.size * (1 + grid))
    logits = logits.reshape(1 + grid, classes.size, 1 + grid).transpose(1, 0, 2)  # [U, token row, token column]
    whole_and_tokens = np.empty((classes.size, 1 + grid * grid), 'float32')
    whole_and_tokens[:, 0] = logits[:, 0, 0]
    whole_and_tokens[:, 1:] = logits[:, 1:, 1:].reshape(classes.size, grid * grid)
    return _softmax(whole_and_tokens, classes, num_classes)


def _listed_classes(ids, num_classes):
    """(classes int64 [U], index): the distinct `ids` in ascending order, and ids == classes[index].

    If there are no ids (the crop lies outside the map), classes is [0]: all classes are equal then.
    """
    position = np.zeros(num_classes, 'int64')
    position[ids] = 1
    classes = np.flatnonzero(position) if ids.size else np.zeros(1, 'int64')
    position[classes] = np.arange(classes.size)
    return classes, position[ids]


def _softmax(logits, classes, num_classes):
    """The SparseTarget of logits [U, 1+N] of the listed classes; all other classes have logit 0. Overwrites logits."""
    unlisted = num_classes - classes.size
    top = logits.max(axis=0)
    if unlisted:
        top = np.maximum(top, 0.0)
    logits -= top
    weights, floor = np.exp(logits, out=logits), np.exp(-top)
    total = weights.sum(axis=0) + unlisted * floor
    weights /= total
    return SparseTarget(classes, weights, floor / total)


# -- the sampling matrix ----------------------------------------------------------------------------------------------
# RoIAlign (aligned, adaptive sampling), for any affine transform instead of a box: the weights of a token average
# bilinear samples on a regular lattice inside it. It has as many samples along an edge as the edge is cells long on the
# map, rounded up.


def _input_to_map(matrix, covered, map_shape):
    """float64 [3, 3]: pixels of the input to cells of the map, with (0, 0) the upper left corner of either."""
    height, width = map_shape
    x, y, w, h = covered
    return np.array([[width / w, 0, -x * width / w], [0, height / h, -y * height / h], [0, 0, 1.0]]) @ matrix


def sampling_matrix(matrix, side, grid, covered, map_shape):
    """A [1+N, H·W] float32, with N = grid². map_shape: (H, W); for the other arguments see token_target."""
    to_map = _input_to_map(matrix, covered, map_shape)
    whole = _token_weights(to_map, side, 1, map_shape)
    tokens = _token_weights(to_map, side, grid, map_shape)
    return np.concatenate([whole, tokens]).astype('float32')


def _token_weights(to_map, side, grid, map_shape):
    """Weights [grid², H·W] of the map's cells in each of grid² tokens. to_map: see _input_to_map."""
    height, width = map_shape
    token = side / grid  # pixels
    across, down = _sample_count(to_map[:2, 0], token), _sample_count(to_map[:2, 1], token)
    # positions of the samples: in pixels of the input; then in cells of the map, where whole numbers are cell centres
    xs = (np.arange(grid * across) + 0.5) * (token / across)
    ys = (np.arange(grid * down) + 0.5) * (token / down)
    u = to_map[0, 0] * xs[None, :] + to_map[0, 1] * ys[:, None] + (to_map[0, 2] - 0.5)
    v = to_map[1, 0] * xs[None, :] + to_map[1, 1] * ys[:, None] + (to_map[1, 2] - 0.5)
    # a sample is shared among the four cells around it, by its distance to them
    left, right, right_share, inside_x = _interpolate(u, width)
    above, below, below_share, inside_y = _interpolate(v, height)
    left_share, above_share = 1 - right_share, 1 - below_share
    cells = np.stack([above * width + left, above * width + right, below * width + left, below * width + right])
    shares = [above_share * left_share, above_share * right_share, below_share * left_share, below_share * right_share]
    weights = np.stack(shares) * ((inside_x & inside_y) / (across * down))
    # add up the weights of each pair (token, cell)
    token_row, token_column = np.arange(grid * down) // down, np.arange(grid * across) // across
    pairs = (token_row[:, None] * grid + token_column[None, :]) * (height * width) + cells
    total = np.bincount(pairs.ravel(), weights.ravel(), minlength=grid * grid * height * width)
    return total.reshape(grid * grid, height * width)


def _axis_weights(scale, offset, side, grid, cells):
    """Weights [1+grid, cells] float32 of the map's columns (or rows) in the whole input and in each column of tokens.

    Pixel coordinate x of the input is at scale · x + offset on the map, in cells.
    """
    parts = []
    for count in (1, grid):
        token = side / count  # pixels
        samples = _sample_count([scale], token)
        xs = (np.arange(count * samples) + 0.5) * (token / samples)
        before, after, after_share, inside = _interpolate(scale * xs + (offset - 0.5), cells)
        after_weight, before_weight = after_share * inside, (1 - after_share) * inside
        column = np.arange(count * samples) // samples
        pairs = np.concatenate([column * cells + before, column * cells + after])
        total = np.bincount(pairs, np.concatenate([before_weight, after_weight]), minlength=count * cells)
        parts.append(total.reshape(count, cells) / samples)
    return np.concatenate(parts).astype('float32')


def _sample_count(step, token):
    """Samples along an edge of `token` pixels. step: the vector on the map, in cells, of one pixel along this edge."""
    return max(1, math.ceil(math.hypot(*step) * token - 1e-9))


def _interpolate(position, size):
    """Bilinear interpolation along one axis of `size` cells. position: in cells, whole numbers are cell centres.

    Returns (cell before, cell after, weight of the cell after, whether the position counts), each shaped like
    `position`. RoIAlign's rule at the edges: a position up to one cell beyond the centre of the outermost cell takes
    its value; a position further out does not count.
    """
    inside = (position >= -1.0) & (position <= size)
    position = np.clip(position, 0.0, size - 1.0)
    before = np.minimum(position.astype('int64'), max(size - 2, 0))
    after = np.minimum(before + 1, size - 1)
    return before, after, position - before, inside


# -- batches ----------------------------------------------------------------------------------------------------------


def stack_targets(targets):
    """SparseTargets of a batch as one: ids [B, U], listed [B, U, 1+N], floor [B, 1+N], with U of the longest.

    Shorter ones repeat their classes from the start. dense_target then writes these twice, with the same values.
    """
    longest = max(t.ids.size for t in targets)
    repeat = [np.arange(longest) % t.ids.size for t in targets]
    return SparseTarget(
        np.stack([t.ids[r] for t, r in zip(targets, repeat)]),
        np.stack([t.listed[r] for t, r in zip(targets, repeat)]),
        np.stack([t.floor for t in targets]),
    )


def smooth(target, smoothing, num_classes):
    """Label smoothing: t·(1 − ε + ε/C) + ε/C of probabilities t of any shape. Rows sum to 1 + ε/C, as in the original.

    smoothing: ε.
    """
    off = smoothing / num_classes
    return target * (1.0 - smoothing + off) + off


def dense_target(ids, listed, floor, num_classes, smoothing=0.0):
    """Smoothed targets, a float32 tensor [B, 1+N, C], of the fields of `stack_targets` as tensors."""
    batch, width, rows = listed.shape
    floor, listed = smooth(floor, smoothing, num_classes), smooth(listed, smoothing, num_classes)
    # [B·C, 1+N], a contiguous row for each class of each image: fill all with the floor, then overwrite the listed ones
    dense = floor.unsqueeze(1).expand([batch, num_classes, rows]).reshape([batch * num_classes, rows])
    where = (ids + paddle.arange(batch).unsqueeze(-1) * num_classes).flatten()
    dense = paddle.scatter_(dense, where, listed.reshape([batch * width, rows]), overwrite=True)
    return dense.reshape([batch, num_classes, rows]).transpose([0, 2, 1])
