"""util/data/auto_policies.py: AutoAugment's tables, how a pair is drawn, and its matrices."""

import collections

import numpy as np
import pytest
from PIL import Image

import rendered
from util.data.augment import AUTOAUGMENT as TABLES
from util.data.augment import GEOMETRIC, NAMES, PHOTOMETRIC, AutoAugment, Op, RandAugment, build_policy
from util.data.transforms import TrainTransform
from util.errors import UserError

pytestmark = pytest.mark.cross_version

RAMP = Image.fromarray(
    np.stack([*np.meshgrid(np.arange(0, 240, 2), np.arange(0, 160, 2)), np.full((80, 120), 7)], -1).astype('uint8')
)


class Recorder(AutoAugment):
    """Notes (op, level)."""

    def op(self, name, level, size, rng):
        self.__dict__.setdefault('seen', []).append((name, level))
        return Op(name, None)


@pytest.mark.parametrize(
    'name, ops, first, last',
    [
        ('original', 10, ('PosterizeOriginal', 0.4, 8), ('Equalize', 0.6, 3)),
        ('v0', 11, ('Equalize', 0.8, 1), ('Rotate', 0.4, 5)),
    ],
)
def test_a_table_has_25_pairs_of_ops_that_there_are(name, ops, first, last):
    table = TABLES[name]
    assert len(table) == 25 and all(len(pair) == 2 for pair in table)
    every = [op for pair in table for op in pair]
    assert {op for op, _, _ in every} <= set(GEOMETRIC) | set(PHOTOMETRIC) and len({op for op, _, _ in every}) == ops
    assert all(0 <= probability <= 1 and level in range(11) for _, probability, level in every)
    assert table[0][0] == first and table[-1][1] == last
    assert 'PosterizeOriginal' not in NAMES, 'the draws of RandAugment stay as they were'


@pytest.mark.parametrize('name', TABLES)
def test_each_pair_is_drawn_equally_often_and_each_op_with_its_probability_at_its_level(name):
    policy, rng = Recorder(name), np.random.default_rng(0)
    for _ in range(20_000):
        policy.draw(RAMP.size, rng)
    counts, expected = collections.Counter(policy.seen), collections.Counter()
    for pair in TABLES[name]:
        for op, probability, level in pair:
            expected[op, level] += 20_000 / 25 * probability
    assert set(counts) == {key for key, count in expected.items() if count}
    assert all(abs(counts[key] - count) <= 5 * count**0.5 for key, count in expected.items())


def test_noise_on_the_levels_stays_between_0_and_10():
    policy, rng = Recorder('v0-mstd2.5'), np.random.default_rng(0)
    for _ in range(3000):
        policy.draw(RAMP.size, rng)
    levels = np.array([level for op, level in policy.seen if op == 'TranslateYRel'])  # 9 in the table
    assert levels.min() >= 0 and levels.max() == 10 and 1 < levels.std() < 2.5


@pytest.mark.parametrize('name', TABLES)
def test_the_matrix_says_where_pixels_come_from(name):
    """Red is twice x and green twice y; pairs without a colour op show it."""
    policy, moved = AutoAugment(name, interpolation=Image.BILINEAR), 0
    policy.table = [[op for op in pair if op[0] in GEOMETRIC] for pair in policy.table]
    for seed in range(150):
        image, matrix = rendered.policy(policy, RAMP, np.random.default_rng(seed))
        moved += not np.array_equal(matrix, np.eye(3))
        array = np.asarray(image).astype('float64')
        for row, column in ((40, 60), (35, 70), (45, 50)):
            x, y, _ = matrix @ [column + 0.5, row + 0.5, 1]
            if 1 < x < 119 and 1 < y < 79:
                assert np.abs(array[row, column, :2] / 2 + 0.5 - (x, y)).max() < 1
    assert moved > 15


def test_posterize_of_the_paper_keeps_4_to_8_bits_and_that_of_efficientnet_0_to_4():
    for op, least in ('PosterizeOriginal', 4), ('Posterize', 0):
        kept = [PHOTOMETRIC[op].argument(level, None) for level in range(11)]
        assert (kept[0], kept[10]) == (least, least + 4) and kept == sorted(kept)


def test_a_policy_is_known_by_its_name():
    assert type(build_policy('original', None)) is AutoAugment
    assert type(build_policy('v0-mstd0.5', None)) is AutoAugment
    assert type(build_policy('rand-m9', None)) is RandAugment
    assert TrainTransform(32, aa='v0').augment.table == TABLES['v0']
    for wrong in ('original-m9', 'v0-mstd', 'v1', 'augmix-m5-w4-d2', 'autoaugment'):
        with pytest.raises(UserError, match=f'--aa {wrong}: '):
            build_policy(wrong, None)
