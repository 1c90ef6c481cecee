"""demo/scenes.py: scenes of handwritten digits, and what each part of one shows."""

import sys

import numpy as np
import pytest

from conftest import ROOT

pytest.importorskip('sklearn')
sys.path.insert(0, str(ROOT / 'demo'))
import scenes

IDS = [3, 10, 21, 100, 101, 250, 400, 639, 777, 999]


# ---- scenes


def test_the_1797_digits_are_split_1400_to_397_with_none_in_both():
    train, val = (set(np.concatenate(scenes.sources(split))) for split in ('train', 'val'))
    assert (len(train), len(val), len(train | val)) == (1400, 397, 1797)
    assert {row for index in range(30) for _, _, row in scenes.scene(index, 'val', 64, 0, True)[1]} <= val


def check_map(target, pile, size):
    """The five highest logits and their ids of every cell; in the middle of the main digit its class leads."""
    assert target.shape == (2, 5, 18, 18) and target.dtype == np.float16
    scores, ids = target
    assert (np.diff(scores.astype(float), axis=0) <= 0).all() and scores.min() >= 0 and scores.max() <= 10
    assert set(ids.ravel()) <= set(IDS)
    assert (np.diff(np.sort(ids, axis=0), axis=0) > 0).all(), 'a cell names a class twice'
    main, (x0, y0, x1, y1), _ = pile[-1]
    row, column = int((y0 + y1) / 2 / size * 18), int((x0 + x1) / 2 / size * 18)
    assert ids[0, row, column] == IDS[main] and scores[0, row, column] > 6


SIDES = [(False, (48, 62), (10, 16), {1}), (True, (32, 46), (14, 20), {1, 2})]


@pytest.mark.parametrize('size', [64, 224])
@pytest.mark.parametrize('hard, mains, smalls, counts', SIDES)
def test_a_scene_is_one_large_digit_over_small_ones_of_other_classes(size, hard, mains, smalls, counts):
    seen, allowed = set(), set(np.concatenate(scenes.sources('train')))
    for index in range(40):
        image, pile = scenes.scene(index, 'train', size, 0, hard)
        assert image.size == (size, size) and image.mode == 'RGB'
        classes = [c for c, _, _ in pile]
        assert classes[-1] == index % 10 and len(set(classes)) == len(classes)
        assert {row for _, _, row in pile} <= allowed, 'digits of its split only'
        seen.add(len(pile) - 1)
        for (x0, y0, x1, y1), (low, high) in zip([b for _, b, _ in pile][::-1], [mains, smalls, smalls]):
            assert 0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size
            assert low - 1 <= max(x1 - x0, y1 - y0) * 64 / size <= high + 1
        for _, box, _ in pile[:-1]:  # mostly clear of the main digit
            area = (box[2] - box[0]) * (box[3] - box[1])
            assert scenes.overlap(box, pile[-1][1]) <= 0.6 * area
        check_map(scenes.label_map(pile, size, class_ids=IDS), pile, size)
    assert seen == counts


# ---- label maps


def test_rows_are_y_columns_are_x_and_bare_ground_is_undecided():
    scores, ids = scenes.label_map([(7, (8, 32, 24, 64), 0)], 64, label_size=8)  # 8 px a cell
    leads = scores[0] > 5
    assert leads[4:8, 1:3].all() and leads.sum() == 8 and (ids[0][leads] == 7).all()
    assert (scores[:, :3] == 0).all() and (scores[:, :, 4:] == 0).all()


def test_a_score_is_the_share_of_the_cell_that_is_covered_and_the_upper_of_two_digits_is_seen():
    scores, _ = scenes.label_map([(7, (0, 0, 40, 64), 0)], 64, label_size=4)  # 2.5 cells wide
    np.testing.assert_allclose(scores[0, 1], [10 * (1 - 0.05 / 2), 10, 5, 0], atol=0.3)
    scores, ids = scenes.label_map([(2, (0, 0, 64, 64), 0), (7, (0, 0, 32, 64), 0)], 64, label_size=8)
    assert (ids[0, :, :4] == 7).all() and (ids[0, :, 4:] == 2).all()
    assert scores[1, 4, 1] == 0  # nothing shines through


# ---- masks


@pytest.mark.parametrize('index', range(10))
def test_a_mask_has_the_ink_of_each_digit_in_its_box_and_ground_elsewhere(index):
    _, pile = scenes.scene(index, 'val', 64)
    ids = np.asarray(scenes.mask(pile, 64))
    assert set(np.unique(ids)) == {0, *(c + 1 for c, _, _ in pile)}
    for c, (x0, y0, x1, y1), _ in pile:
        rows, columns = np.where(ids == c + 1)
        assert rows.min() >= y0 and rows.max() < y1 and columns.min() >= x0 and columns.max() < x1


def test_the_upper_digit_hides_the_lower():
    box = (0, 0, 32, 32)
    row_of = [int(scenes.sources('val')[c][0]) for c in (8, 1)]
    alone = np.asarray(scenes.mask([(8, box, row_of[0])], 32))
    both = np.asarray(scenes.mask([(1, box, row_of[1]), (8, box, row_of[0])], 32))
    assert (both[alone == 9] == 9).all() and (both == 2).any()
