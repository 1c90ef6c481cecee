"""Targets from label maps, from files to distributions, against the original's transform, RoIAlign and smoothing."""

import numpy as np
import paddle
import pytest

from parity.fidelity import ABSOLUTE
from parity.maps import SIZES, Set
from util.data import token_label
from util.train import loss

SECTION, TOLERANCE = 'Token-label targets', 1e-4


def dense(batch, num_classes, smoothing=0.0):
    """[B, 1 + N, C] of a collated batch."""
    fields = (paddle.to_tensor(batch[name]) for name in ('ids', 'listed', 'floor'))
    return token_label.dense_target(*fields, num_classes, smoothing).numpy()


def in_our_order(targets):
    """The original's [B, C, 2 + N] without the true label, as [B, 1 + N, C]."""
    return targets.numpy()[:, :, 1:].transpose(0, 2, 1)


SHAPES = [(18, 14, 1000), (18, 24, 100), (24, 24, 100), (11, 14, 60), (7, 3, 40)]


@pytest.mark.parametrize('map_side, tokens, num_classes', SHAPES)
def test_reference_geometry(map_side, tokens, num_classes, original, fidelity, tmp_path, monkeypatch):
    data = Set(tmp_path, original, map_side, num_classes, SIZES if tokens < 24 else SIZES[:3], seed=map_side)
    ours = dense(data.ours(monkeypatch, tokens, 16 * tokens), num_classes, smoothing=0.1)
    _, theirs = data.theirs(monkeypatch, tokens, 16 * tokens, smoothing=0.1)
    theirs = in_our_order(theirs)
    assert theirs.max() > 0.7 and theirs.std(axis=1).max() > 0.1  # maps that say something, and tokens that differ
    what = f'reference geometry: maps of {map_side}², {tokens}² tokens, {num_classes} classes, flips and crops'
    fidelity(SECTION, what, np.abs(ours - theirs).max(), TOLERANCE, ABSOLUTE)


def test_exact_geometry_agrees_where_exchanged_axes_change_nothing(original, fidelity, tmp_path, monkeypatch):
    """That is: square images, crops with left = top and width = height, maps that cover the whole image."""
    boxes = [(3, 3, 40, 40), (0, 0, 64, 64), (20, 20, 44, 44), (31, 31, 25, 25)]
    data = Set(tmp_path, original, 18, 60, sizes=[(64, 64)] * 4, boxes=boxes)
    theirs = in_our_order(data.theirs(monkeypatch, 14, 224)[1])
    exact = dense(data.ours(monkeypatch, 14, 224, 'exact'), 60)
    what = 'exact geometry where it must agree: square images, crops on the diagonal'
    fidelity(SECTION, what, np.abs(exact - theirs).max(), TOLERANCE, ABSOLUTE)


def test_exact_geometry_differs_elsewhere(original, tmp_path, monkeypatch):
    data = Set(tmp_path, original, 18, 60)
    theirs = in_our_order(data.theirs(monkeypatch, 14, 224)[1])
    assert np.abs(dense(data.ours(monkeypatch, 14, 224, 'exact'), 60) - theirs).max() > 0.5


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_labels_without_maps_become_the_original_s_targets(smoothing, original, fidelity):
    label = np.array([0, 7, 99, 7])
    create, true = original.tlt.data.create_token_label_target, original.torch.from_numpy(label)
    theirs = create(true, 100, smoothing=smoothing, device='cpu')
    ours = loss.hard_targets(paddle.to_tensor(label), 100, smoothing)
    error = np.abs(ours.numpy() - theirs.numpy()).max()
    fidelity(SECTION, 'labels of images without maps, smoothing 0 and 0.1', error, 1e-7, ABSOLUTE)
