"""Random draws: the same for both sides, or two samples of a distribution compared.

Samples are compared by p-values, written as standard deviations of a normal variable. SIGMAS is p = 6e-5; with some
sixty comparisons, whose seeds are fixed, a right implementation had a 0.4% chance to miss it, and has none later.
"""

import numpy as np
from scipy import stats

SIGMAS = 4.0
SAMPLING = 'p-value as standard deviations'


class Draws(np.random.Generator):
    """A Generator whose `integers` are shares of the range, so that two of them can be drawn in either order."""

    def __init__(self, seed):
        super().__init__(np.random.PCG64(seed))

    def integers(self, low, high=None, **kwargs):
        if kwargs:  # how numpy's `choice` calls it
            return super().integers(low, high, **kwargs)
        low, high = (0, low) if high is None else (low, high)
        return low + int(self.random() * (high - low))


class Module:
    """What the original calls of the module `random`, drawn from our generator.

    left_first: draw a crop's two corners in our order, left before top; the original asks for the top first.
    """

    def __init__(self, draws, left_first=False):
        self.random, self.uniform, self.gauss = draws.random, draws.uniform, draws.normal
        self.draws, self.left_first, self.shares = draws, left_first, []

    def randint(self, low, high):
        if not self.shares:
            self.shares = [self.draws.random() for _ in range(2 if self.left_first else 1)]
        return low + int(self.shares.pop() * (high - low + 1))

    def choice(self, options):
        return options[self.draws.integers(len(options))]


def share(monkeypatch, original, draws):
    """From now on all code of the original draws from `draws`, by the calls that our code makes in its place."""
    data, labelled, torch = original.timm.data, original.tlt.data, original.torch
    monkeypatch.setattr(data.transforms, 'random', Module(draws, left_first=True))
    for module in (data.auto_augment, labelled.random_augment_label):
        monkeypatch.setattr(module, 'random', Module(draws))
        # the same odds: the original negates above one half, we below
        monkeypatch.setattr(module, '_randomly_negate', lambda v: -v if draws.random() < 0.5 else v)
    for module in (data.random_erasing, labelled.label_transforms_factory):
        monkeypatch.setattr(module, 'random', Module(draws))

    def choice(ops, n, replace, p):
        return [ops[i] for i in draws.choice(len(ops), n, replace=replace, p=p)]

    def normal_(tensor):
        return tensor.copy_(torch.from_numpy(draws.standard_normal(tuple(tensor.shape), dtype='float32')))

    monkeypatch.setattr(np.random, 'choice', choice)
    monkeypatch.setattr(torch, 'rand', lambda n: torch.tensor([draws.random()], dtype=torch.float64))
    monkeypatch.setattr(torch.Tensor, 'normal_', normal_)


def deviations(p_value):
    """The two-sided p-value of a normal variable so many standard deviations off."""
    return float(stats.norm.isf(max(p_value, 1e-300) / 2))


def values_differ(a, b):
    """Two samples of numbers: Kolmogorov-Smirnov, in standard deviations."""
    return deviations(stats.ks_2samp(a, b, method='asymp').pvalue)


def counts_differ(a, b):
    """Two samples of things, as lists: chi-square of how often each occurs, in standard deviations."""
    table = np.array([[list(sample).count(kind) for kind in sorted(set(a) | set(b))] for sample in (a, b)])
    return 0.0 if table.shape[1] == 1 else deviations(stats.chi2_contingency(table, correction=False).pvalue)
