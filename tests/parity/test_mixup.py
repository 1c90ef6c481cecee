"""Mixup and CutMix give the images and labels of timm's, for the same draws, in all three modes.

Without token labels: with them we mix token by token, on purpose (docs/fidelity.md).
"""

import functools
import types

import numpy as np
import paddle
import pytest

from parity.fidelity import ABSOLUTE
from util.train.loss import Targets, hard_targets
from util.train.mixup import Mixup

SECTION = 'Mixup and CutMix'
BATCH, SIDE, CLASSES, SMOOTHING = 8, 33, 10, 0.1
PROB, SWITCH = 0.8, 0.5


def draw(rng, count):
    """Draws of `count` mixes: shares in [0, 1) for what is asked, lam for either kind, the centre of a box."""
    names = 'mixes cuts cutmix mixup y x'.split()
    table = {name: rng.random(count) for name in names}
    table['cutmix'], table['mixup'] = rng.beta(1.0, 1.0, count), rng.beta(0.8, 0.8, count)
    return table


class Ours:
    """Hands out the draws of one mix after the other, in the order in which util/train/mixup.py asks."""

    def __init__(self, table):
        self.queue = []
        for mixes, cuts, cutmix, mixup, y, x in zip(*table.values()):
            self.queue.append(('random', mixes))
            if mixes >= PROB:
                continue
            self.queue.append(('random', cuts))
            if cuts >= SWITCH:
                self.queue.append(('beta', mixup))
            else:
                self.queue += [('beta', cutmix), ('integers', y), ('integers', x)]

    def take(self, kind):
        asked, value = self.queue.pop(0)
        assert asked == kind
        return value

    def random(self):
        return self.take('random')

    def beta(self, *_):
        return self.take('beta')

    def integers(self, high):
        return int(self.take('integers') * high)


class Theirs:
    """The same draws as timm asks for them: of all mixes at once, or of one (mode batch)."""

    def __init__(self, table):
        self.table = table
        self.shares = ['mixes', 'cuts'] if len(table['mixes']) == 1 else ['cuts', 'mixes']
        # a box is drawn for those that are mixed by CutMix only
        used = [(y, x) for m, c, _, _, y, x in zip(*table.values()) if m < PROB and c < SWITCH]
        self.centres = iter([place for centre in used for place in centre])

    def rand(self, *size):
        values = self.table[self.shares.pop(0)]
        return values if size else values[0]

    def beta(self, alpha, _, size=None):
        values = self.table['cutmix' if alpha == 1.0 else 'mixup']
        return values if size else values[0]

    def randint(self, low, high, size=None):
        return low + int(next(self.centres) * (high - low))


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_images_and_labels_are_mixed_as_timm_mixes_them(mode, original, fidelity, monkeypatch):
    module, torch, rng = original.timm.data.mixup, original.torch, np.random.default_rng(7)
    monkeypatch.setattr(module, 'mixup_target', functools.partial(module.mixup_target, device='cpu'))
    flags = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=PROB, switch_prob=SWITCH, mode=mode)
    ours, theirs = Mixup(**flags), module.Mixup(**flags, label_smoothing=SMOOTHING, num_classes=CLASSES)
    images = rng.normal(size=[BATCH, 3, SIDE, SIDE]).astype('float32')
    labels = rng.integers(0, CLASSES, BATCH)
    mixed = 0
    for _ in range(40):
        table = draw(rng, {'batch': 1, 'pair': BATCH // 2, 'elem': BATCH}[mode])
        numpy = types.SimpleNamespace(**{**vars(np), 'bool': bool, 'random': Theirs(table)})
        monkeypatch.setattr(module, 'np', numpy)
        their_images, their_labels = theirs(torch.tensor(images), torch.tensor(labels))
        draws = Ours(table)
        targets = Targets(hard_targets(paddle.to_tensor(labels), CLASSES, SMOOTHING), None)
        our_images, our_targets = ours(paddle.to_tensor(images), targets, draws)
        assert draws.queue == [] and next(numpy.random.centres, None) is None
        mixed += not np.array_equal(our_images.numpy(), images)
        difference = np.abs(our_images.numpy() - their_images.numpy()).max() / np.abs(images).max()
        fidelity(SECTION, f'mode {mode}, same draws, 33 px: images', difference, 1e-6)
        difference = np.abs(our_targets.cls.numpy() - their_labels.numpy()).max()
        fidelity(SECTION, f'mode {mode}, same draws, 33 px: labels, smoothed by 0.1', difference, 1e-6, ABSOLUTE)
    assert mixed > 20
