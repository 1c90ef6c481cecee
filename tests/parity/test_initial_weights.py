"""Initial weights come from the original's distributions: deviation and shape of every tensor."""

import numpy as np
import paddle
import pytest

import models
from parity.fidelity import ABSOLUTE
from parity.weights import arrays, in_our_terms, theirs_of

SECTION = 'Initial weights'
SEEDS = 8


def samples(original, name, **changes):
    """[(name, our numbers, the original's)] of every tensor, SEEDS models each, flattened."""
    ours, theirs = {}, {}
    for seed in range(SEEDS):
        paddle.seed(seed), original.torch.manual_seed(1000 + seed)
        for key, value in arrays(models.build_model(name, **changes).state_dict()).items():
            ours.setdefault(key, []).append(value.ravel())
        for key, value in in_our_terms(theirs_of(original, name, **changes).state_dict()).items():
            theirs.setdefault(key, []).append(value.ravel())
    assert ours.keys() == theirs.keys()
    both = ((key, ours[key], theirs[key]) for key in ours)
    return [(key, np.concatenate(a).astype('float64'), np.concatenate(b).astype('float64')) for key, a, b in both]


def standard_error_of_std(x):
    centred = (x - x.mean()) ** 2
    return np.sqrt(np.var(centred) / len(x)) / (2 * np.sqrt(centred.mean()))


def kolmogorov(a, b):
    """sqrt(n/2) · largest distance of the two empirical distribution functions, n each; 2.4 has probability 2e-5."""
    both = np.sort(np.concatenate([a, b]))
    distance = np.abs(np.searchsorted(np.sort(a), both, 'right') - np.searchsorted(np.sort(b), both, 'right')).max()
    return distance / len(a) * np.sqrt(len(a) / 2)


@pytest.mark.parametrize('name, changes', [('lvvit_t', dict(depth=2)), ('vit', dict(depth=1))])
def test_every_tensor_is_drawn_from_the_original_s_distribution(name, changes, original, fidelity):
    spreads, shapes, constants = [], [], []
    for key, a, b in samples(original, name, img_size=64, num_classes=20, **changes):
        if np.ptp(b) == 0:
            constants.append(np.abs(a - b).max())
            continue
        a, b = without_outliers(a, b)
        spreads.append(abs(a.std() - b.std()) / np.hypot(standard_error_of_std(a), standard_error_of_std(b)))
        shapes.append(kolmogorov(a, b))
    fidelity(SECTION, f'{name}: the {len(constants)} constant tensors', max(constants), 0, ABSOLUTE)
    worst = f'{name}, the worst of {len(shapes)} tensors over {SEEDS} seeds: '
    fidelity(SECTION, worst + 'standard deviation', max(spreads), 5, 'standard errors')
    fidelity(SECTION, worst + 'distribution', max(shapes), 2.4, 'Kolmogorov–Smirnov distance · sqrt(n/2)')


def without_outliers(a, b):
    """Both without the original's occasional -2, a hundred standard deviations out: timm's trunc_normal_ clamps to ±2
    what its uniform numbers make infinite, about one value in 17 million (2⁻²⁴). Ours never has one."""
    outlier = b == -2.0
    assert outlier.sum() <= 2 and np.abs(a).max() < 1
    return a[~outlier], b[~outlier]
