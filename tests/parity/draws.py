"""Random draws of our generator for the original's code, so that both sides draw the same.

Each call of the original becomes the call that our code makes in its place, with the original's own arguments: equal
results mean equal distributions too. How often things are drawn is tested in tests/data.
"""

import numpy as np


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
