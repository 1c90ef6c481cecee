"""Stochastic depth against timm's DropPath."""

import numpy as np
import paddle

import lv_vit
from parity.weights import to_paddle


def test_for_the_same_draws_the_same_samples_are_dropped_and_the_others_scaled(original, fidelity, monkeypatch):
    torch, rng, rate = original.torch, np.random.default_rng(0), 0.3
    x = rng.standard_normal([2000, 3, 4], dtype='float32')
    draws = rng.random([2000, 1, 1], dtype='float32')  # timm keeps where floor(keep + draw) is 1, we where draw < keep
    monkeypatch.setattr(torch, 'rand', lambda *_, **__: torch.from_numpy(draws))
    monkeypatch.setattr(paddle, 'rand', lambda shape: to_paddle(1 - draws).reshape(shape))
    ours, theirs = lv_vit.DropPath(rate), original.timm.models.layers.DropPath(rate)
    got, wanted = ours(to_paddle(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    dropped = (wanted == 0).all(axis=(1, 2))
    assert 0.7 * rate < dropped.mean() < 1.3 * rate
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    fidelity('Drop path', 'samples dropped, and the scale of the others, for the same draws', error, 1e-6)
    ours.eval()
    assert np.array_equal(ours(to_paddle(x)).numpy(), x)
