"""demo/digits.py: a digit data set in ImageNet's layout, with label maps made from the known layout."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, words

pytest.importorskip('sklearn')
sys.path.insert(0, str(ROOT / 'demo'))
import digits

IDS = [3, 10, 21, 100, 101, 250, 400, 639, 777, 999]


def make(out, *flags):
    digits.main(words(out, '--train 20 --val 10', *flags))
    return out


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def refused(capsys, *flags):
    """The one line with which the script turns down a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        digits.main(words(*flags))
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.startswith('digits.py: ') and text.count('\n') == 1, text
    return text


@pytest.fixture(scope='module')
def easy(tmp_path_factory):
    return make(tmp_path_factory.mktemp('digits') / 'easy')


@pytest.fixture(scope='module')
def renumbered(tmp_path_factory):
    return make(tmp_path_factory.mktemp('digits') / 'ids', '--class_ids', ' '.join(map(str, IDS)))


# ---- scenes


def test_the_1797_digits_are_split_1400_to_397_with_none_in_both():
    train, val = (set(np.concatenate(digits.sources(split))) for split in ('train', 'val'))
    assert (len(train), len(val), len(train | val)) == (1400, 397, 1797)
    assert {row for index in range(30) for _, _, row in digits.scene(index, 'val', 64, 0, True)[1]} <= val


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
    seen, allowed = set(), set(np.concatenate(digits.sources('train')))
    for index in range(40):
        image, pile = digits.scene(index, 'train', size, 0, hard)
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
            assert digits.overlap(box, pile[-1][1]) <= 0.6 * area
        check_map(digits.label_map(pile, size, class_ids=IDS), pile, size)
    assert seen == counts


# ---- label maps


def test_rows_are_y_columns_are_x_and_bare_ground_is_undecided():
    scores, ids = digits.label_map([(7, (8, 32, 24, 64), 0)], 64, label_size=8)  # 8 px a cell
    leads = scores[0] > 5
    assert leads[4:8, 1:3].all() and leads.sum() == 8 and (ids[0][leads] == 7).all()
    assert (scores[:, :3] == 0).all() and (scores[:, :, 4:] == 0).all()


def test_a_score_is_the_share_of_the_cell_that_is_covered_and_the_upper_of_two_digits_is_seen():
    scores, _ = digits.label_map([(7, (0, 0, 40, 64), 0)], 64, label_size=4)  # 2.5 cells wide
    np.testing.assert_allclose(scores[0, 1], [10 * (1 - 0.05 / 2), 10, 5, 0], atol=0.3)
    scores, ids = digits.label_map([(2, (0, 0, 64, 64), 0), (7, (0, 0, 32, 64), 0)], 64, label_size=8)
    assert (ids[0, :, :4] == 7).all() and (ids[0, :, 4:] == 2).all()
    assert scores[1, 4, 1] == 0  # nothing shines through


# ---- the folder


def test_lists_pictures_and_maps_agree(easy):
    assert not easy.with_name('easy.partial').exists()
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
    meta = dict(annotator='known layout (demo/digits.py)', coverage='full', size=64, shape=[2, 5, 18, 18])
    meta.update(dtype='float16', num_classes=10)
    assert json.loads((easy / 'label_maps' / 'meta.json').read_text()) == meta


def test_class_ids_renumber_lists_and_maps_but_not_folders_or_pictures(easy, renumbered):
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


# ---- reuse, --fresh, and what is never deleted


def test_a_complete_folder_is_reused_and_rebuilt_only_if_told_so(tmp_path, capsys):
    (tmp_path / 'set').mkdir()  # an empty folder will do
    out = make(tmp_path / 'set')
    assert 'wrote 20 + 10 scenes of 64 px' in capsys.readouterr().out
    extra = out / 'extra'
    extra.touch()
    make(out)
    assert 'reusing' in capsys.readouterr().out and extra.exists()
    assert '--fresh' in refused(capsys, out, '--train 20 --val 10 --hard') and extra.exists()
    make(out, '--hard --fresh')
    assert not extra.exists() and json.loads((out / 'digits.json').read_text())['hard'] is True


def test_an_interrupted_build_leaves_no_folder_and_the_next_one_gives_the_same_bytes(tmp_path, monkeypatch, easy):
    out, scene = tmp_path / 'set', digits.scene

    def interrupted(index, *args, **kwargs):
        if index == 7:
            raise KeyboardInterrupt
        return scene(index, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(digits, 'scene', interrupted)
        make(out)
    assert stop.value.code == 130 and not out.exists()
    assert files(make(out)) == files(easy) and [p.name for p in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('flags', ['', '--fresh'])
@pytest.mark.parametrize('name', ['set', 'set.partial'])
def test_a_folder_of_someone_else_is_left_alone(tmp_path, capsys, name, flags):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'thesis.txt').write_text('years of work')
    assert 'not made by this script' in refused(capsys, tmp_path / 'set', flags)
    assert files(tmp_path) == {f'{name}/thesis.txt': b'years of work'}


# ---- bad arguments

WRONG = '--train 9, --val 0, --size 8, --label_size 0, --seed -1, --size big, --wrong, --class_ids 1 2'.split(', ')
WRONG += ['--class_ids 9 8 7 6 5 4 3 2 1 0', '--class_ids 0 0 1 2 3 4 5 6 7 8', '--class_ids 0 1 2 3 4 5 6 7 8 2049']


@pytest.mark.parametrize('flags', WRONG)
def test_bad_arguments_give_one_line_and_write_nothing(tmp_path, capsys, flags):
    refused(capsys, tmp_path / 'set', flags)
    assert not any(tmp_path.iterdir())
    (tmp_path / 'file').touch()
    assert 'cannot write' in refused(capsys, tmp_path / 'file' / 'set')
