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
    ys, xs = np.nonzero(inside)
    return not ys.size or inside[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].sum() == inside.sum() == (
        np.ptp(ys) + 1
    ) * (np.ptp(xs) + 1)


def share_of(mixup, batch, seed, size=32):
    """The shares of one step, one map for each image."""
    return np.broadcast_to(mixup.draw(batch, size, size, np.random.default_rng(seed)), (batch, 1, size, size))[:, 0]


def step(mixup, batch=4, size=32, tokens=2, seed=0, classes=5):
    """Random inputs of a step, its shares in float64, and what came out."""
    rng = np.random.default_rng(1000 + seed)
    x, cls = rng.normal(size=(batch, 3, size, size)), rng.random((batch, classes))
    dense = rng.random((batch, tokens**2, classes))
    given = Targets(*(paddle.to_tensor(v.astype('float32')) for v in (cls, dense)))
    image, targets = mixup(paddle.to_tensor(x.astype('float32')), given, np.random.default_rng(seed))
    share = share_of(mixup, batch, seed, size).astype('float64')
    return (x, cls, dense), share, (image.numpy(), targets.cls.numpy(), targets.token_targets.numpy())


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


def test_cutmix_takes_one_box_from_the_partner_and_leaves_the_rest():
    shares = [share_of(Mixup(0.0, 1.0), 1, seed)[0] for seed in range(60)]
    assert all(set(np.unique(s)) <= {0.0, 1.0} and is_box(s == 0.0) for s in shares)
    assert np.std([s.mean() for s in shares]) > 0.1


def test_cutmix_boxes_have_the_area_of_the_clipped_beta_draw():
    mixup = Mixup(0.0, 1.0)
    rng = np.random.default_rng(0)
    area = np.array([1 - mixup.draw(1, 32, 32, rng).mean() for _ in range(3000)])
    expected = 0.0
    for u in (np.arange(2000) + 0.5) / 2000:  # Beta(1, 1), square side, centre uniform, clipped
        half = int(32 * u**0.5) // 2
        expected += np.mean([min(c + half, 32) - max(c - half, 0) for c in range(32)]) ** 2 / 32**2 / 2000
    assert abs(area.mean() - expected) < 5 * area.std() / 3000**0.5


def test_minmax_bounds_the_sides_of_the_box_and_keeps_it_inside():
    mixup = Mixup(0.0, 0.0, cutmix_minmax=(0.25, 0.5))
    sides = []
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


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('batch', [4, 5])
def test_mixup_blends_images_classes_and_tokens_with_the_same_share(mode, batch):
    for seed in range(5):
        (x, cls, dense), share, (image, mixed_cls, mixed_dense) = step(Mixup(0.8, 0.0, mode=mode), batch, seed=seed)
        lam = share[:, 0, 0]
        for old, new in ((x, image), (cls, mixed_cls), (dense, mixed_dense)):
            lam_ = lam.reshape((-1,) + (1,) * (old.ndim - 1))
            assert np.allclose(new, lam_ * old + (1 - lam_) * old[::-1], atol=1e-5)
    assert not np.allclose(image, x, atol=0.01)


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('batch', [4, 5])
def test_cutmix_replaces_pixels_blends_classes_by_area_and_tokens_by_their_covered_part(mode, batch):
    partial = 0
    for seed in range(8):
        (x, cls, dense), share, (image, mixed_cls, mixed_dense) = step(Mixup(0.0, 1.0, mode=mode), batch, 32, 2, seed)
        for i in range(batch):
            own = share[i] == 1.0
            partner = batch - 1 - i
            assert np.allclose(image[i], np.where(own, x[i], x[partner]), atol=1e-6)
            assert np.allclose(mixed_cls[i], cls[i] * own.mean() + cls[partner] * (1 - own.mean()), atol=1e-5)
            for token in range(4):
                top, left = token // 2 * 16, token % 2 * 16
                kept = own[top : top + 16, left : left + 16].mean()
                partial += 0 < kept < 1
                expected = dense[i, token] * kept + dense[partner, token] * (1 - kept)
                assert np.allclose(mixed_dense[i, token], expected, atol=1e-5)
    assert partial > 10  # boxes did cut through patches


def test_without_token_targets_there_are_none_afterwards():
    targets = Targets(paddle.ones([2, 3]), None)
    image, mixed = Mixup()(paddle.ones([2, 3, 16, 16]), targets, np.random.default_rng(0))
    assert mixed.token_targets is None and mixed.cls.shape == [2, 3] and image.shape == [2, 3, 16, 16]


@pytest.mark.parametrize('off', [dict(prob=0.0), dict(mixup_alpha=0.0, cutmix_alpha=0.0)], ids=str)
def test_nothing_is_mixed_at_probability_zero_or_with_both_alphas_zero(off):
    for seed in range(5):
        before, _, after = step(Mixup(**off), seed=seed)
        assert all(np.allclose(new, old, atol=1e-6) for old, new in zip(before, after))


def test_the_same_generator_state_draws_the_same_mix():
    assert np.array_equal(share_of(Mixup(), 3, 5), share_of(Mixup(), 3, 5))
    assert any(not np.array_equal(share_of(Mixup(), 3, 5), share_of(Mixup(), 3, seed)) for seed in (6, 7))


@pytest.mark.parametrize(
    'wrong, word', [(dict(mode='half'), '--mixup_mode half'), (dict(cutmix_minmax=(0.5,)), '--cutmix_minmax')]
)
def test_unusable_settings_are_refused_by_the_name_of_their_flag(wrong, word):
    with pytest.raises(UserError, match=word):
        Mixup(**wrong)
