"""util/data/augment.py and augment_ops.py: policies, draws, matrices, random erasing.

What each op does to pixels at each level is compared with the original's in tests/parity/test_augmentation.py, and with
Pillow's functions in test_render_pil.py.
"""

import collections

import numpy as np
import pytest
from PIL import Image

from util.data.augment import AUTOAUGMENT, NAMES, WEIGHTS, AutoAugment, RandAugment, build_policy
from util.data.augment import draw_erasing, pack_erased
from util.data.augment_ops import GEOMETRIC, Op
from util.errors import UserError


def drawn_ops(policy, images):
    """(op, level) of all ops that a policy draws for so many images."""
    ops, rng = [], np.random.default_rng(0)
    policy.op = lambda name, level, size, rng: ops.append((name, level)) or Op(name, None)
    for _ in range(images):
        policy.draw((40, 28), rng)
    return ops


def near(count, expected):
    """Within five standard deviations of a count."""
    return abs(count - expected) <= 5 * max(expected, 1) ** 0.5


# ---- policies

POLICIES = [('rand-m9-mstd0.5-inc1', (9.0, 2, 0.5, True)), ('rand', (10.0, 2, 0.0, False))]
POLICIES += [('rand-inc0-m7-n3', (7.0, 3, 0.0, False)), ('rand-m5.5-n1-mstd1.25', (5.5, 1, 1.25, False))]
NO_POLICIES = 'augmix-m3 rand-m rand-q5 rand-m9-w1 rand-mx rand-n2x m9 rand- rand-n14-w0 original-m9 v0-mstd v1'.split()


@pytest.mark.parametrize('config, expected', POLICIES)
def test_a_policy_sets_magnitude_layers_deviation_and_the_increasing_set(config, expected):
    policy = build_policy(config, None)
    assert type(policy) is RandAugment and policy.weights is None
    assert (policy.magnitude, policy.layers, policy.std, policy.increasing) == expected


def test_autoaugment_is_known_by_the_names_of_its_tables():
    assert build_policy('original', None).table == AUTOAUGMENT['original'] and build_policy('v0', None).std == 0
    policy = build_policy('v0-mstd0.5', Image.LANCZOS)
    assert type(policy) is AutoAugment and policy.table == AUTOAUGMENT['v0'] and policy.std == 0.5
    assert not policy.increasing and policy.interpolation == Image.BICUBIC


@pytest.mark.parametrize('config', NO_POLICIES)
def test_an_unknown_policy_is_refused_by_name(config):
    with pytest.raises(UserError, match=f'--aa {config}: '):
        build_policy(config, None)


def test_each_of_15_ops_is_applied_to_a_fifteenth_of_an_images_two_draws_with_probability_one_half():
    counts = collections.Counter(name for name, _ in drawn_ops(RandAugment('rand-m9'), 8000))
    assert set(counts) == set(NAMES) and len(NAMES) == 15 and near(sum(counts.values()), 8000)
    assert all(near(count, 8000 / 15) for count in counts.values()), counts
    assert near(len(drawn_ops(RandAugment('rand-n3'), 4000)), 6000), 'n is the number of draws'


def test_weighted_choice_follows_the_weights_without_repeating_an_op():
    counts = collections.Counter(name for name, _ in drawn_ops(RandAugment('rand-n1-w0'), 8000))
    assert set(counts) <= set(WEIGHTS) and sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert all(near(counts[name], 4000 * weight) for name, weight in WEIGHTS.items())
    policy, rng = RandAugment('rand-n6-w0'), np.random.default_rng(0)
    for _ in range(300):
        names = [op.name for op in policy.draw((40, 28), rng)]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    'name, ops, first, last',
    [
        ('original', 10, ('PosterizeOriginal', 0.4, 8), ('Equalize', 0.6, 3)),
        ('v0', 11, ('Equalize', 0.8, 1), ('Rotate', 0.4, 5)),
    ],
)
def test_each_of_25_pairs_is_drawn_equally_often_and_each_op_with_its_probability_at_its_level(name, ops, first, last):
    table, expected = AUTOAUGMENT[name], collections.Counter()
    assert len(table) == 25 and all(len(pair) == 2 for pair in table)
    assert table[0][0] == first and table[-1][1] == last and len({op for pair in table for op, *_ in pair}) == ops
    for pair in table:
        for op, probability, level in pair:
            expected[op, level] += 20_000 / 25 * probability
    counts = collections.Counter(drawn_ops(AutoAugment(name), 20_000))
    assert set(counts) == {key for key, count in expected.items() if count}
    assert all(near(counts[key], count) for key, count in expected.items())


@pytest.mark.parametrize('policy', ['v0-mstd2.5', 'rand-m9-mstd2.5'])
def test_noise_on_the_levels_stays_between_0_and_10(policy):
    drawn = drawn_ops(build_policy(policy, None), 3000)
    levels = np.array([level for op, level in drawn if op == 'TranslateYRel'])  # 9 in the table
    low = [level for _, level in drawn_ops(RandAugment('rand-m1-mstd2.5'), 300)]
    assert min(low) == 0 and levels.max() == 10 and 1 < levels.std() < 2.5 and 7.5 < levels.mean() < 9


# ---- levels to arguments

SCALE = {'Rotate': 30.0, 'ShearX': 0.3, 'ShearY': 0.3, 'TranslateXRel': 0.45, 'TranslateYRel': 0.45}


@pytest.mark.parametrize('name', GEOMETRIC)
def test_geometric_arguments_grow_with_the_level_and_have_either_sign_equally_often(name):
    rng = np.random.default_rng(0)
    for level in (0.0, 4.0, 10.0):
        values = np.array([GEOMETRIC[name].argument(level, rng) for _ in range(2000)])
        assert np.allclose(np.abs(values), level / 10 * SCALE[name])
    assert near((values > 0).sum(), 1000)


# ---- geometric ops


def test_the_filter_of_geometric_ops_is_the_given_one_or_bilinear_and_bicubic_at_random():
    rng = np.random.default_rng(0)
    for given, expected in ((Image.NEAREST, {Image.NEAREST}), (None, {Image.BILINEAR, Image.BICUBIC})):
        policy = RandAugment('rand', given)
        assert {policy.op('ShearX', 5, (4, 4), rng).interpolation for _ in range(50)} == expected
    assert RandAugment('rand', Image.LANCZOS).op('ShearX', 5, (4, 4), rng).interpolation == Image.BICUBIC


# ---- random erasing


def erased(seed, height=40, width=60, **kwargs):
    """(bool [3, H, W], float32 [3, H, W]): which values of an image are erased, and what they become."""
    drawn = draw_erasing(height, width, np.random.default_rng(seed), **{'probability': 1.0, **kwargs})
    mask, values = np.zeros(3 * height * width, bool), np.zeros(3 * height * width, 'float32')
    mask[drawn.positions], values[drawn.positions] = True, drawn.values
    assert drawn.values.dtype == np.float32 and mask.sum() == len(drawn.positions)
    return mask.reshape(3, height, width), values.reshape(3, height, width)


@pytest.mark.parametrize('mode', ['pixel', 'rand', 'const'])
def test_erasing_fills_one_box_of_the_permitted_area_and_shape(mode):
    areas, aspects, edges = [], [], []
    for seed in range(200):
        mask, values = erased(seed, mode=mode)
        ys, xs = np.nonzero(mask[0])
        box = np.zeros((40, 60), bool)
        box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
        assert (mask == box).all()
        areas.append(box.mean())
        aspects.append((np.ptp(ys) + 1) / (np.ptp(xs) + 1))
        edges.append((xs.min() == 0, ys.min() == 0, xs.max() == 59, ys.max() == 39))
        inside = values[:, box]
        if mode == 'const':
            assert not inside.any()
        elif mode == 'rand':
            assert (inside == inside[:, :1]).all() and len(np.unique(inside[:, 0])) == 3
        elif box.sum() > 200:
            assert abs(inside.mean()) < 0.3 and 0.8 < inside.std() < 1.2
    assert 0.01 < min(areas) < 0.05 and 0.28 < max(areas) < 0.36
    assert 0.2 < min(aspects) < 0.4 and 2.5 < max(aspects) < 4.5
    assert np.any(edges, axis=0).all(), 'a box may touch each edge'


def test_several_boxes_share_the_area_and_each_value_is_erased_once():
    masks = [erased(seed, 80, 80, count=4)[0][0] for seed in range(200)]
    assert 0.2 < max(mask.mean() for mask in masks) < 0.34
    masks = [erased(seed, 80, 80, count=2)[0][0] for seed in range(200)]
    several = [np.outer(mask.any(axis=1), mask.any(axis=0)).sum() > mask.sum() for mask in masks]
    assert 70 < sum(several) < 130, 'one box or two, equally often'


@pytest.mark.parametrize('probability', [0.0, 0.25, 1.0])
def test_images_are_erased_with_the_given_probability(probability):
    rng = np.random.default_rng(0)
    share = np.mean([draw_erasing(32, 32, rng, probability) is not None for _ in range(2000)])
    assert abs(share - probability) < 0.03


def test_a_batch_is_packed_with_positions_in_the_whole_batch():
    first, third = (draw_erasing(8, 6, np.random.default_rng(seed), 1.0) for seed in (1, 2))
    packed = pack_erased([first, None, third], 3 * 8 * 6)
    assert packed['erased_positions'].tolist() == [*first.positions, *(2 * 144 + third.positions)]
    assert packed['erased_values'].tolist() == [*first.values, *third.values]
    assert pack_erased([None, None], 144) == {}, 'a batch in which nothing is erased has no such entries'
