"""The models compute what the original's compute: same weights, same images, same MixToken box."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from parity.weights import difference, image, in_our_terms, inject_box, pair, statistics, theirs_of, to_paddle
from util.train import mixtoken

SECTION = 'Forward pass'
CASES = [(name, 112, {}) for name in ('lvvit_s', 'lvvit_m', 'vit', 'lvvit')]
CASES += [('lvvit_l', 112, {'depth': 6}), ('lvvit_t', 224, {}), ('lvvit_t', 384, {})]
MOMENTUM = 0.9  # share of a running statistic that a step keeps


@pytest.mark.parametrize('name, size, changes', CASES)
def test_scores_of_images_and_tokens_are_those_of_the_original(name, size, changes, original, fidelity, monkeypatch):
    torch, what = original.torch, f'{name} at {size}' + (' with 6 blocks' if changes else '')
    ours, theirs = pair(original, name, size, seed=size, **changes)
    x, grid = image(1, 2, size), size // 16
    box = (1, 2, grid - 3, grid // 2 + 1)  # neither square nor in the middle
    inject_box(monkeypatch, original, box)

    with paddle.no_grad(), torch.no_grad():
        ours.eval(), theirs.eval()
        scores, expected = ours(to_paddle(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
        fidelity(SECTION, f'{what}, evaluation', difference(scores, expected), 5e-6)
        assert (scores.argmax(-1) == expected.argmax(-1)).all()

        ours.train(), theirs.train()
        cls, aux, used = ours(to_paddle(x), box)
        expected = theirs(torch.from_numpy(x))
        if not ours.return_dense:
            fidelity(SECTION, f'{what}, training', difference(cls, expected), 5e-6)
            return
        expected_cls, expected_aux, expected_box = expected
        assert used == expected_box
        error = max(difference(cls, expected_cls), difference(aux, expected_aux))
        fidelity(SECTION, f'{what}, training with a MixToken box: class and token scores', error, 5e-6)


@pytest.mark.parametrize('size', [32, 224])
def test_running_statistics_differ_by_the_factor_of_an_unbiased_variance(size, original, fidelity, monkeypatch):
    """Paddle averages the variance of the batch, PyTorch that variance times n/(n − 1), n = 2 · (size/2)²."""
    ours, theirs = pair(original, 'lvvit_t', size, depth=1)
    inject_box(monkeypatch, original, mixtoken.EMPTY_BOX)
    before = statistics(ours)
    x, n = image(2, 2, size), 2 * (size // 2) ** 2
    ours.train(), theirs.train()
    with paddle.no_grad(), original.torch.no_grad():
        ours(to_paddle(x), mixtoken.EMPTY_BOX), theirs(original.torch.from_numpy(x))
    after, expected = statistics(ours), in_our_terms(theirs.state_dict())
    assert len(after) == 6
    for name, value in after.items():
        true = expected[name]
        if name.endswith('._mean'):
            fidelity(SECTION, 'BatchNorm: running mean after a step', difference(value, true), 1e-6)
            continue
        kept = MOMENTUM * before[name].astype('float64')
        error = difference(kept + (value - kept) * n / (n - 1), true)
        fidelity(SECTION, 'BatchNorm: running variance after a step, the batch’s share times n/(n − 1)', error, 1e-6)
        if size == 224:
            what, note = 'BatchNorm: running variance as it is, n = 2 · 112²', 'biased here, unbiased there; see below'
            fidelity(SECTION, what, difference(value, true), 4e-5, note=note)
        else:
            assert difference(value, true) > 1e-5  # so that the factor above is a finding and not a decoration
    assert all(np.abs(after[name] - before[name]).max() > 0.01 for name in after)


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_l', 'vit'])
def test_epsilons_and_momenta_of_the_norms_are_the_original_s(name, original):
    """Seen in the scores only where an input's variance is near the epsilon, so compared by themselves."""
    ours, theirs = pair(original, name, 32, 10, depth=2)
    norms = dict(theirs.named_modules())
    compared = 0
    for key, layer in ours.named_sublayers():
        if hasattr(layer, '_epsilon'):
            assert layer._epsilon == norms[key].eps, key
            if isinstance(layer, paddle.nn.BatchNorm2D):
                assert layer._momentum == 1 - norms[key].momentum == MOMENTUM, key
            compared += 1
    assert compared == (5 if name == 'vit' else 8)  # two in each block, the last one, three in the stem


def test_a_mixtoken_box_is_the_original_s_for_the_same_draws(original, fidelity, monkeypatch):
    monkeypatch.setattr(np, 'int', int, raising=False)  # the original is older than numpy 1.24
    rng, different, boxes = np.random.default_rng(0), 0, set()
    for _ in range(1000):
        height, width = int(rng.integers(2, 33)), int(rng.integers(2, 33))
        lam, centre = rng.beta(1, 1), (int(rng.integers(height)), int(rng.integers(width)))
        ours, theirs = iter(centre), iter(centre)
        monkeypatch.setattr(np.random, 'randint', lambda high: next(theirs))
        expected = tuple(map(int, original.lvvit.rand_bbox((2, 3, height, width), lam)))
        box = mixtoken.rand_box(height, width, SimpleNamespace(beta=lambda a, b: lam, integers=lambda high: next(ours)))
        different += box != expected
        boxes.add(box)
    assert len(boxes) > 500
    fidelity(SECTION, 'MixToken: boxes of 1,000 draws of λ and centre', different, 0, kind='boxes that differ')


@pytest.mark.parametrize('name', ['vit', 'lvvit', 'lvvit_s', 'lvvit_m', 'lvvit_l'])  # tlt 0.2.0 has no lvvit_t
def test_the_models_compared_are_those_that_the_original_builds_by_name(name, original, monkeypatch):
    built = []
    monkeypatch.setattr(original.lvvit, 'LV_ViT', lambda **arguments: built.append(arguments) or SimpleNamespace())
    getattr(original.lvvit, name)()
    theirs_of(original, name)
    theirs, compared = built
    assert theirs.pop('order', None) in (None, ['tr'] * theirs['depth'])
    assert all(compared[key] == value for key, value in theirs.items()), (theirs, compared)
