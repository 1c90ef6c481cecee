"""token_label.py: the sampling matrix, the targets, and that a token's target is read where its pixels come from."""

import math

import numpy as np
import paddle
import pytest
from PIL import Image

import rendered
from util.data import augment, transforms
from util.data.label_maps import LabelMaps
from util.data.token_label import dense_target, sampling_matrix, stack_targets, token_target
from util.data.transforms import TrainTransform


# ---- the sampling matrix


def read_point(u, v, height, width):
    """{cell: weight} of bilinear interpolation at (u, v) in units of cells, cell centres at whole numbers; RoIAlign's
    edge rule: one cell beyond the outermost centres the edge value holds, further out there is nothing."""
    if u < -1 or u > width or v < -1 or v > height:
        return {}
    u, v = min(max(u, 0.0), width - 1.0), min(max(v, 0.0), height - 1.0)
    weights = {}
    for y in {math.floor(v), math.ceil(v)}:
        for x in {math.floor(u), math.ceil(u)}:
            weights[y * width + x] = (1 - abs(v - y)) * (1 - abs(u - x))
    return weights


def brute_force(matrix, side, tokens, covered, shape):
    """Every sample of every token in a loop."""
    height, width = shape
    x, y, w, h = covered

    def to_map(px, py):
        sx, sy, _ = matrix @ np.array([px, py, 1.0])
        return (sx - x) / w * width - 0.5, (sy - y) / h * height - 0.5

    rows = []
    for n in (1, tokens):
        edge = side / n
        origin, right, down = (np.array(to_map(*p)) for p in ((0, 0), (edge, 0), (0, edge)))
        across = max(1, math.ceil(np.linalg.norm(right - origin) - 1e-9))  # whole numbers but for rounding are whole
        along = max(1, math.ceil(np.linalg.norm(down - origin) - 1e-9))
        for row in range(n):
            for column in range(n):
                total = np.zeros(height * width)
                for j in range(along):
                    for i in range(across):
                        point = to_map(edge * (column + (i + 0.5) / across), edge * (row + (j + 0.5) / along))
                        for cell, weight in read_point(*point, height, width).items():
                            total[cell] += weight / (across * along)
                rows.append(total)
    return np.array(rows)


def random_affine(rng, side, width, height):
    """Input pixels to source pixels: a scaled, rotated and sheared view, partly outside the source at times."""
    angle = rng.uniform(-math.pi, math.pi)
    linear = (
        np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        @ np.diag(rng.uniform(0.2, 1.0, 2) * (width, height) / side)
        @ [[1, rng.uniform(-0.3, 0.3)], [0, 1]]
    )
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = (rng.uniform(0, width), rng.uniform(0, height)) - linear @ [side / 2, side / 2]
    return matrix


# ---- targets


def label_map(rng, classes, cells=6, best=5):
    """(scores [K, H, W], ids [K, H, W]) with different ids in each cell, and the scattered map [H·W, C] in float64."""
    ids = np.stack([rng.permutation(classes)[:best] for _ in range(cells * cells)], axis=1).reshape(best, cells, cells)
    scores = np.sort(rng.normal(4, 4, (best, cells, cells)), axis=0)[::-1].astype('float16').astype('float32')
    dense = np.zeros((cells, cells, classes))
    for y in range(cells):
        for x in range(cells):
            for k in range(best):
                dense[y, x, ids[k, y, x]] = scores[k, y, x]
    return scores, ids.astype('int64'), dense.reshape(cells * cells, classes)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def expanded(targets, classes, smoothing=0.0):
    """SparseTargets of a batch as the array [B, 1+N, C] that training sees."""
    return dense_target(*map(paddle.to_tensor, stack_targets(targets)), classes, smoothing).numpy()


def views(rng, side, width, height):
    """{kind: matrix from an input of `side` pixels to a source}: every way in which a token meets the map."""
    crop = transforms.crop_matrix(transforms.random_crop_box(width, height, rng), side, width, height)
    box = transforms.random_crop_box(width, height, rng)
    flip, shift, shear = np.eye(3), np.eye(3), np.eye(3)
    flip[0] = -1, 0, width
    shift[:2, 2] = rng.uniform(-0.6, 0.6, 2) * (width, height)
    shear[rng.permutation(2), [0, 1]] = 1, rng.uniform(-0.3, 0.3)
    return {
        'crop': crop,
        'flipped crop': flip @ crop,
        'shifted crop, partly outside': shift @ crop,
        'one row outside': transforms.crop_matrix((0, -height, width, height + 1), side, width, height),
        'all outside': transforms.crop_matrix((3 * width, 0, width, height), side, width, height),
        'exchanged axes of the reference': transforms.crop_matrix(box, side, width, height, 'reference'),
        'sheared': shear @ crop,
        'turned': random_affine(rng, side, width, height),
        'turned by a right angle': np.array([[0, height / side, 0.3], [width / side, 0, 0.7], [0, 0, 1.0]]),
    }


@pytest.mark.cross_version
@pytest.mark.parametrize('covered', [(15, 0, 60, 60), (0, 0, 90, 60)], ids=['center', 'full'])
@pytest.mark.parametrize('cells, grid', [(1, 2), (2, 7), (3, 28), (7, 3), (18, 14), (18, 2)])
def test_the_target_of_every_kind_of_view_is_the_softmax_of_the_map_sampled_in_a_written_out_loop(cells, grid, covered):
    rng, side, classes = np.random.default_rng(cells), 4 * grid, 50
    for kind, matrix in views(rng, side, 90, 60).items():
        scores, ids, dense = label_map(rng, classes, cells)
        expected = softmax(brute_force(matrix, side, grid, covered, (cells, cells)) @ dense)
        sparse = token_target(scores, ids, classes, matrix=matrix, side=side, grid=grid, covered=covered)
        assert np.abs(expanded([sparse], classes)[0] - expected).max() < 3e-6, kind
        assert [field.dtype for field in sparse] == [np.int64, np.float32, np.float32], kind
        assert (np.ptp(expected) < 1e-9) == (kind == 'all outside'), kind


# ---- geometry: what a token's target reads is where its pixels come from


def position_image(width, height):
    """Pixel (x, y) holds (x, y, 255): red and green say where it is, blue that it is the image and no filling."""
    xs, ys = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([xs, ys, np.full_like(xs, 255)], -1).astype('uint8'))


class GeometricOps(augment.RandAugment):
    """Draws geometric ops only, each of them applied."""

    def draw(self, size, rng):
        names = rng.choice(list(augment.GEOMETRIC), int(rng.integers(0, 3)))
        return [self.op(name, float(rng.uniform(0, 10)), size, rng) for name in names]


@pytest.mark.parametrize('coverage', ['center', 'full'])
@pytest.mark.parametrize('size, tokens', [(64, 4), (224, 14)])
def test_every_token_reads_its_label_where_its_pixels_come_from(size, tokens, coverage, backend, tmp_path):
    black = dict(mean=(0, 0, 0), std=(1, 1, 1))  # outside the image
    transform = TrainTransform(size, 'bilinear', aa='', jitter=0.0, reprob=0.0, **black, backend=backend)
    transform.augment = GeometricOps('rand', interpolation=Image.NEAREST)  # bilinear would round down
    maps = LabelMaps(str(tmp_path), 1000, coverage)
    rng, errors, flips = np.random.default_rng(size), [], 0
    for draw in range(170):
        cells = (4, 14, 18, 24)[draw % 4]
        width, height = (int(v) for v in rng.integers(80, 256, 2))
        image, matrix = rendered.sample(transform, position_image(width, height), rng)
        flips += np.linalg.det(matrix[:2, :2]) < 0
        left, top, w, h = maps.covered(width, height)
        sampling = sampling_matrix(matrix, size, tokens, (left, top, w, h), (cells, cells)).astype('float64')
        middle = np.arange(cells) + 0.5
        centres = np.stack(
            [np.tile(middle, cells) * w / cells + left, np.repeat(middle, cells) * h / cells + top], axis=1
        )
        read, mass = sampling @ centres, sampling.sum(axis=1)

        patch = size // tokens
        values = np.asarray(image).astype('float64').reshape(tokens, patch, tokens, patch, 3).transpose(0, 2, 1, 3, 4)
        values = values.reshape(tokens * tokens, patch * patch, 3)
        x, y = values[..., 0] + 0.5, values[..., 1] + 0.5
        seen = (
            (values[..., 2] == 255).all(axis=1)
            & (x.min(1) > left)
            & (x.max(1) < left + w)
            & (y.min(1) > top)
            & (y.max(1) < top + h)
        )
        assert np.allclose(mass[1:][seen], 1.0, atol=1e-6)
        seen_at = np.stack([x.mean(1), y.mean(1)], axis=1)
        error = ((read[1:] - seen_at) * cells / (w, h))[seen]
        assert np.abs(error).max(initial=0.0) < 0.5
        errors.append(error)
    errors = np.concatenate(errors)
    assert len(errors) > 8 * 170 and 0.4 < flips / 170 < 0.6
    assert np.median(np.abs(errors), axis=0).max() < 0.05 and np.abs(errors.mean(axis=0)).max() < 0.02
