"""Targets from label maps, from files to distributions, against the original's transform, RoIAlign and smoothing."""

import numpy as np
import paddle
import pytest

from parity.fidelity import ABSOLUTE
from parity.maps import Set
from util.data import token_label

SHAPES = [(18, 14, 1000), (11, 14, 60), (7, 3, 40)]


@pytest.mark.parametrize('map_side, tokens, num_classes', SHAPES)
def test_reference_geometry(map_side, tokens, num_classes, original, fidelity, tmp_path, monkeypatch):
    data = Set(tmp_path, original, map_side, num_classes, seed=map_side)
    batch = data.ours(monkeypatch, tokens, 16 * tokens)
    fields = (paddle.to_tensor(batch[name]) for name in ('ids', 'listed', 'floor'))
    ours = token_label.dense_target(*fields, num_classes, 0.1).numpy()  # [B, 1 + N, C]
    _, theirs = data.theirs(monkeypatch, tokens, 16 * tokens)
    theirs = theirs.numpy()[:, :, 1:].transpose(0, 2, 1)  # without the true label, in our order
    assert theirs.max() > 0.7 and theirs.std(axis=1).max() > 0.1  # maps that say something, and tokens that differ
    what = f'reference geometry: maps of {map_side}², {tokens}² tokens, {num_classes} classes, flips and crops'
    fidelity('Token-label targets', what, np.abs(ours - theirs).max(), 1e-4, ABSOLUTE)
