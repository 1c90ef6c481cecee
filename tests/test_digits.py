"""demo/digits.py and demo/scenes.py: a digit data set in ImageNet's layout, with label maps and masks."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, words

pytest.importorskip('sklearn')
sys.path.insert(0, str(ROOT / 'demo'))
import digits
import scenes

IDS = [3, 10, 21, 100, 101, 250, 400, 639, 777, 999]


def make(out, *flags):
    digits.main(words(out, '--train 20 --val 10', *flags))
    return out


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def error_of(capsys, *flags):
    """The one line with which the script refuses a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        digits.main(words(*flags))
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.startswith('demo/digits.py: error: ') and text.count('\n') == 1, text
    return text


@pytest.fixture(scope='module')
def easy(tmp_path_factory):
    return make(tmp_path_factory.mktemp('digits') / 'easy')


# ---- the folder


def test_lists_pictures_and_maps_agree(easy):
    for split, count in (('train', 20), ('val', 10)):
        lines = [line.split() for line in (easy / f'{split}_list.txt').read_text().splitlines()]
        on_disk = {p.relative_to(easy).as_posix() for p in (easy / split).rglob('*.JPEG')}
        assert len(lines) == count and {path for path, _ in lines} == on_disk
        assert all(path.startswith(f'{split}/digit{i}/') for path, i in lines)
        assert [sum(int(i) == c for _, i in lines) for c in range(10)] == [count // 10] * 10
        for path, _ in lines:
            image = Image.open(easy / path)
            assert (image.format, image.size, image.mode) == ('JPEG', (64, 64), 'RGB')
    maps = {p.relative_to(easy / 'label_maps').with_suffix('') for p in (easy / 'label_maps').rglob('*.npy')}
    assert maps == {p.relative_to(easy / 'train').with_suffix('') for p in (easy / 'train').rglob('*.JPEG')}
    assert (easy / 'label_list.txt').read_text().splitlines()[::9] == ['0 zero', '9 nine']
    meta = json.loads((easy / 'label_maps' / 'meta.json').read_text())
    assert meta.pop('annotator')
    assert meta == dict(coverage='full', size=64, shape=[2, 5, 18, 18], dtype='float16', num_classes=10)


def test_class_ids_renumber_lists_and_maps_but_not_folders_or_pictures(easy, tmp_path):
    renumbered = make(tmp_path / 'ids', '--class_ids', ' '.join(map(str, IDS)))
    for name in ('train_list.txt', 'val_list.txt'):
        for line in (renumbered / name).read_text().splitlines():
            path, i = line.split()
            assert IDS[int(path.split('/')[1][-1])] == int(i)
    assert (renumbered / 'label_list.txt').read_text().splitlines()[-1] == '999 nine'
    assert json.loads((renumbered / 'label_maps' / 'meta.json').read_text())['num_classes'] == 1000
    for path in (easy / 'label_maps').rglob('*.npy'):
        plain, mapped = np.load(path), np.load(renumbered / path.relative_to(easy))
        np.testing.assert_array_equal(mapped[0], plain[0])
        np.testing.assert_array_equal(mapped[1], np.array(IDS)[plain[1].astype(int)])
    assert files(easy / 'train') == files(renumbered / 'train')


def test_masks_are_added_with_lists_of_pairs(tmp_path):
    masked = make(tmp_path / 'masked', '--size 48 --masks')
    for split, count in (('train', 20), ('val', 10)):
        lines = [line.split() for line in (masked / f'masks_{split}.txt').read_text().splitlines()]
        assert len(lines) == count
        for image, mask in lines:
            assert Image.open(masked / image).size == Image.open(masked / mask).size == (48, 48)
            assert mask == f'masks/{image[: -len(".JPEG")]}.png'


# ---- reuse and --fresh; other folders are never deleted


def test_a_complete_folder_is_reused_and_rebuilt_only_with_fresh(tmp_path, capsys):
    (tmp_path / 'set').mkdir()  # an empty folder may be used
    out = make(tmp_path / 'set')
    extra = out / 'extra'
    extra.touch()
    make(out)
    assert extra.exists()
    assert '--fresh' in error_of(capsys, out, '--train 20 --val 10 --hard') and extra.exists()
    make(out, '--hard --fresh')
    assert not extra.exists() and json.loads((out / 'digits.json').read_text())['hard'] is True


@pytest.mark.parametrize('name', ['set', 'set.partial'])
def test_a_folder_of_someone_else_is_left_alone(tmp_path, capsys, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'thesis.txt').write_text('years of work')
    assert name in error_of(capsys, tmp_path / 'set', '--fresh')
    assert files(tmp_path) == {f'{name}/thesis.txt': b'years of work'}


WRONG = '--train 9, --val 0, --size 8, --size 1025, --label_size 0, --seed -1, --size big, --wrong, --class_ids 1 2'
WRONG = [*WRONG.split(', '), '--class_ids 9 8 7 6 5 4 3 2 1 0', '--class_ids 0 0 1 2 3 4 5 6 7 8']
WRONG += ['--class_ids 0 1 2 3 4 5 6 7 8 2049', '--label_size 65']


@pytest.mark.parametrize('flags', WRONG)
def test_wrong_flags_are_one_line_and_write_nothing(tmp_path, capsys, flags):
    assert flags.split()[0] in error_of(capsys, tmp_path / 'set', flags)
    assert not any(tmp_path.iterdir())


# ---- scenes


def check_map(target, pile, size):
    """Five different classes in each cell, the best first; in the middle of the main digit its class is the best."""
    assert target.shape == (2, 5, 18, 18) and target.dtype == np.float16
    scores, ids = target
    assert (np.diff(scores.astype(float), axis=0) <= 0).all() and scores.min() >= 0 and scores.max() <= 10
    assert set(ids.ravel()) <= set(IDS) and (np.diff(np.sort(ids, axis=0), axis=0) > 0).all()
    main, (x0, y0, x1, y1), _ = pile[-1]
    row, column = int((y0 + y1) / 2 / size * 18), int((x0 + x1) / 2 / size * 18)
    assert ids[0, row, column] == IDS[main] and scores[0, row, column] > 6


SIDES = [(False, (48, 62), (10, 16), {1}), (True, (32, 46), (14, 20), {1, 2})]


@pytest.mark.parametrize('hard, mains, smalls, counts', SIDES)
def test_a_scene_is_one_large_digit_over_small_ones_of_other_classes(hard, mains, smalls, counts):
    size, seen, allowed = 224, set(), set(np.concatenate(scenes.sources('train')))
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


# ---- label maps and masks


def test_rows_are_y_columns_are_x_and_background_has_logit_0():
    scores, ids = scenes.label_map([(7, (8, 32, 24, 64), 0)], 64, label_size=8)  # 8 px a cell
    leads = scores[0] > 5
    assert leads[4:8, 1:3].all() and leads.sum() == 8 and (ids[0][leads] == 7).all()
    assert (scores[:, :3] == 0).all() and (scores[:, :, 4:] == 0).all()


def test_a_score_is_the_covered_share_of_the_cell_and_the_upper_digit_hides_the_lower():
    scores, _ = scenes.label_map([(7, (0, 0, 40, 64), 0)], 64, label_size=4)  # 2.5 cells wide
    np.testing.assert_allclose(scores[0, 1], [10 * (1 - 0.05 / 2), 10, 5, 0], atol=0.3)
    scores, ids = scenes.label_map([(2, (0, 0, 64, 64), 0), (7, (0, 0, 32, 64), 0)], 64, label_size=8)
    assert (ids[0, :, :4] == 7).all() and (ids[0, :, 4:] == 2).all() and scores[1, 4, 1] == 0


def test_a_mask_has_the_ink_of_each_digit_in_its_box():
    for index in range(10):
        _, pile = scenes.scene(index, 'val', 64)
        ids = np.asarray(scenes.mask(pile, 64))
        assert set(np.unique(ids)) == {0, *(c + 1 for c, _, _ in pile)}
        for c, (x0, y0, x1, y1), _ in pile:
            rows, columns = np.where(ids == c + 1)
            assert rows.min() >= y0 and rows.max() < y1 and columns.min() >= x0 and columns.max() < x1
