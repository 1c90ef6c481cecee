"""The models compute what the original's compute: same weights, same images, same MixToken box."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from parity.weights import difference, image, inject_box, pair, theirs_of, to_paddle
from util.train import mixtoken

SECTION = 'Forward pass'
CASES = [(name, 112, {}) for name in ('lvvit_s', 'lvvit_m', 'vit', 'lvvit')]
CASES += [('lvvit_l', 112, {'depth': 6}), ('lvvit_t', 224, {})]


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
                assert layer._momentum == 1 - norms[key].momentum, key
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
