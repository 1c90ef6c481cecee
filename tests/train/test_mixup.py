"""util/train/mixup.py: Mixup and CutMix of images, class targets and token targets alike."""

import numpy as np
import paddle
import pytest

from util.errors import UserError
from util.train.loss import Targets
from util.train.mixup import Mixup

pytestmark = pytest.mark.cross_version


def is_box(inside):
    """Whether the True cells of a mask are exactly one rectangle (or none)."""
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    edges = np.abs(np.diff(np.pad(rows, 1).astype(int))).sum(), np.abs(np.diff(np.pad(columns, 1).astype(int))).sum()
    return max(edges) <= 2 and np.array_equal(inside, rows[:, None] & columns)


def share_of(mixup, batch, seed):
    """The shares of one step at 32 px, one map for each image."""
    return np.broadcast_to(mixup.draw(batch, 32, 32, np.random.default_rng(seed)), (batch, 1, 32, 32))[:, 0]


def step(mixup, batch=4, seed=0):
    """Random images [B, 3, 32, 32], class targets [B, 5] and token targets [B, 4, 5], and what came out."""
    rng = np.random.default_rng(1000 + seed)
    before = [rng.normal(size=(batch, 3, 32, 32)), rng.random((batch, 5)), rng.random((batch, 4, 5))]
    x, *targets = (paddle.to_tensor(v.astype('float32')) for v in before)
    x, targets = mixup(x, Targets(*targets), np.random.default_rng(seed))
    return before, [v.numpy() for v in (x, *targets)]


# ---- what is drawn


@pytest.mark.parametrize('batch', [4, 5])
def test_mode_batch_draws_one_mix_pair_one_for_each_pair_and_elem_one_for_each_image(batch):
    kinds = {'batch': 1, 'pair': (batch + 1) // 2, 'elem': batch}
    for mode, count in kinds.items():
        share = share_of(Mixup(0.8, 0.0, mode=mode), batch, 3)
        assert len(np.unique(share[:, 0, 0])) == count, mode
        if mode == 'pair':
            assert np.array_equal(share, share[::-1])  # image B-1-i is mixed as image i


def test_mixup_keeps_one_share_for_the_whole_image_between_zero_and_one():
    shares = [share_of(Mixup(0.8, 0.0), 2, seed) for seed in range(40)]
    assert all(np.ptp(s) == 0.0 and 0.0 <= s.min() <= 1.0 for s in shares)
    assert np.std([s[0, 0, 0] for s in shares]) > 0.2


def test_cutmix_takes_one_box():
    shares = [share_of(Mixup(0.0, 1.0), 1, seed)[0] for seed in range(100)]
    assert all(set(np.unique(s)) <= {0.0, 1.0} and is_box(s == 0.0) for s in shares)
    assert np.std([s.mean() for s in shares]) > 0.1


def test_minmax_bounds_the_sides_of_the_box_and_keeps_it_inside():
    mixup, sides = Mixup(0.0, 0.0, cutmix_minmax=(0.25, 0.5)), []
    for seed in range(100):
        inside = share_of(mixup, 1, seed)[0] == 0.0
        assert is_box(inside)
        sides += [inside.any(axis=1).sum(), inside.any(axis=0).sum()]
    assert min(sides) == 8 and max(sides) == 16


def test_switch_prob_is_the_share_of_cutmix_and_prob_the_share_of_mixing():
    mixup = Mixup(0.8, 1.0, prob=0.5, switch_prob=0.25, mode='elem')
    share = mixup.draw(4000, 8, 8, np.random.default_rng(0))[:, 0]
    binary = np.isin(share, (0.0, 1.0)).all(axis=(1, 2))
    assert abs((~binary).mean() - 0.5 * 0.75) < 0.04  # Mixup; the others are CutMix or unmixed
    untouched = (share == 1.0).all(axis=(1, 2))
    assert 0.5 - 0.04 < untouched.mean() < 0.5 + 0.25 * 0.5  # small CutMix boxes vanish


# ---- what it does


@pytest.mark.parametrize('batch', [4, 5])
@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('alphas', [(0.8, 0.0), (0.0, 1.0)], ids=['Mixup', 'CutMix'])
def test_pixels_classes_and_tokens_are_mixed_with_their_own_share_of_the_image(alphas, mode, batch):
    """A pixel by its share, a class target by the mean over the image, a token target by that over its patch."""
    for seed in range(8):
        mixup = Mixup(*alphas, mode=mode)
        share = share_of(mixup, batch, seed).astype('float64')
        patches = share.reshape(batch, 2, 16, 2, 16).mean(axis=(2, 4)).reshape(batch, 4, 1)
        kept = share[:, None], share.mean(axis=(1, 2))[:, None], patches
        for old, new, own in zip(*step(mixup, batch, seed), kept):
            assert np.allclose(new, own * old + (1 - own) * old[::-1], atol=1e-5)


def test_nothing_is_mixed_at_probability_zero_or_with_both_alphas_zero():
    for off in dict(prob=0.0), dict(mixup_alpha=0.0, cutmix_alpha=0.0):
        assert all(
            np.allclose(new, old, atol=1e-6) for seed in range(3) for old, new in zip(*step(Mixup(**off), seed=seed))
        )


@pytest.mark.parametrize(
    'wrong, word',
    [(dict(mode='half'), '--mixup_mode half'), (dict(cutmix_minmax=(0.5, 0.2)), '--cutmix_minmax 0.5 0.2')],
)
def test_unusable_settings_are_refused_by_the_name_of_their_flag(wrong, word):
    with pytest.raises(UserError, match=word):
        Mixup(**wrong)


def test_a_label_is_mixed_by_the_very_share_of_the_pixels():
    """A float32 sum over the pixels of an image would be off by up to 8e-4."""
    side = 384
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=0.0)
    image = paddle.concat([paddle.ones([1, 3, side, side]), paddle.zeros([1, 3, side, side])])
    labels = paddle.to_tensor([[1.0, 0.0], [0.0, 1.0]])
    mixed, targets = mixup(image, Targets(labels, None), np.random.default_rng(3))
    share = mixed[0, 0, 0, 0].item()
    assert 0 < share < 1 and targets.cls[0].tolist() == pytest.approx([share, 1 - share], abs=1e-7)
