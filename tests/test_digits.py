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
import scenes

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


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """The same scenes with masks and without."""
    folder = tmp_path_factory.mktemp('sets')
    return make(folder / 'masked', '--size 48 --masks'), make(folder / 'plain', '--size 48')


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


def test_masks_are_added_and_nothing_else_changes(sets):
    masked, plain = map(files, sets)
    options, before = json.loads(masked.pop('digits.json')), json.loads(plain.pop('digits.json'))
    assert options.pop('masks') is True and options == before
    added = {name for name in masked if name not in plain}
    assert len(added) == 30 + 2 and all(name.startswith('masks') for name in added)
    assert {name: masked[name] for name in plain} == plain


def test_lists_pair_each_image_with_its_mask(sets):
    masked = sets[0]
    for split, count in (('train', 20), ('val', 10)):
        lines = [line.split() for line in (masked / f'masks_{split}.txt').read_text().splitlines()]
        assert len(lines) == count
        for image, mask in lines:
            assert Image.open(masked / image).size == Image.open(masked / mask).size == (48, 48)
            assert mask == f'masks/{image[: -len(".JPEG")]}.png'


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
    out, scene = tmp_path / 'set', scenes.scene

    def interrupted(index, *args, **kwargs):
        if index == 7:
            raise KeyboardInterrupt
        return scene(index, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(scenes, 'scene', interrupted)
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


def test_without_scikit_learn_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    scenes.handwriting.cache_clear()
    scenes.sources.cache_clear()
    assert 'pip install scikit-learn' in refused(capsys, tmp_path / 'set')


# ---- bad arguments

WRONG = '--train 9, --val 0, --size 8, --label_size 0, --seed -1, --size big, --wrong, --class_ids 1 2'.split(', ')
WRONG += ['--class_ids 9 8 7 6 5 4 3 2 1 0', '--class_ids 0 0 1 2 3 4 5 6 7 8', '--class_ids 0 1 2 3 4 5 6 7 8 2049']


@pytest.mark.parametrize('flags', WRONG)
def test_bad_arguments_give_one_line_and_write_nothing(tmp_path, capsys, flags):
    refused(capsys, tmp_path / 'set', flags)
    assert not any(tmp_path.iterdir())
    (tmp_path / 'file').touch()
    assert 'cannot write' in refused(capsys, tmp_path / 'file' / 'set')
