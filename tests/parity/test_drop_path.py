"""Stochastic depth against timm's DropPath."""

import numpy as np
import paddle
import pytest

import models
from parity.fidelity import ABSOLUTE
from parity.weights import theirs_of, to_paddle

SECTION = 'Drop path'
SAMPLES = 20000


@pytest.mark.parametrize('rate', [0.1, 0.3])
def test_for_the_same_draws_the_same_samples_are_dropped_and_the_others_scaled(rate, original, fidelity, monkeypatch):
    torch, rng = original.torch, np.random.default_rng(0)
    x = rng.standard_normal([2000, 3, 4], dtype='float32')
    draws = rng.random([2000, 1, 1], dtype='float32')  # timm keeps where floor(keep + draw) is 1, we where draw < keep
    monkeypatch.setattr(torch, 'rand', lambda *_, **__: torch.from_numpy(draws))
    monkeypatch.setattr(paddle, 'rand', lambda shape: to_paddle(1 - draws).reshape(shape))
    ours, theirs = models.DropPath(rate), original.timm.models.layers.DropPath(rate)
    got, wanted = ours(to_paddle(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    dropped = (wanted == 0).all(axis=(1, 2))
    assert 0.7 * rate < dropped.mean() < 1.3 * rate
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    fidelity(SECTION, 'samples dropped, and the scale of the others, for the same draws', error, 1e-6)
    ours.eval()
    assert np.array_equal(ours(to_paddle(x)).numpy(), x)


@pytest.mark.parametrize('rate', [0.1, 0.3])
def test_statistics_of_its_own_draws_are_those_of_timm(rate, original, fidelity):
    torch = original.torch
    paddle.seed(1), torch.manual_seed(1)
    ours = models.DropPath(rate)(paddle.ones([SAMPLES, 2, 3])).numpy()
    theirs = original.timm.models.layers.DropPath(rate)(torch.ones(SAMPLES, 2, 3)).numpy()
    assert (ours == ours[:, :1, :1]).all()  # a sample is dropped whole
    error = np.sqrt(rate * (1 - rate) / SAMPLES)
    for name, values in (('ours', ours), ('theirs', theirs)):
        shares, means = abs((values[:, 0, 0] == 0).mean() - rate), abs(values.mean() - 1) * (1 - rate)
        fidelity(SECTION, f'share of {SAMPLES:,} samples dropped, {name}', shares / error, 4, 'standard errors')
        fidelity(SECTION, f'mean of the output for an input of 1, {name}', means / error, 4, 'standard errors')
    assert np.isclose(ours.max(), theirs.max(), rtol=1e-6)


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_s', 'vit'])
def test_rates_grow_over_the_blocks_as_the_original_s(name, original, fidelity):
    ours = models.build_model(name, img_size=32, num_classes=2, drop_path_rate=0.1)
    theirs = theirs_of(original, name, 32, 2, drop_path_rate=0.1)
    wanted = [getattr(block.drop_path, 'drop_prob', 0.0) for block in theirs.blocks]
    assert wanted[0] == 0 and len(wanted) == len(ours.blocks)
    error = max(abs(block.drop_path.rate - rate) for block, rate in zip(ours.blocks, wanted))
    fidelity(SECTION, 'rate of every block of lvvit_t, lvvit_s and vit', error, 1e-8, ABSOLUTE)
