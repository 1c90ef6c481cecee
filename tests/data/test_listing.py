"""listing.py: which images a folder or a list has, in arrays; what is wrong with either is named."""

import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from util.data.listing import read_folder, read_list
from util.errors import UserError


def refused(call, *args, **kwargs):
    """The one-line message of a call's UserError."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    """root/a/1.png, root/a/2.JPG, root/b/3.webp, and things that are no images."""
    root = tmp_path / 'root'
    for name in ('a/2.JPG', 'a/1.png', 'b/3.webp'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 6), (10, 200, 30)).save(root / name)
    (root / 'a' / 'notes.txt').write_text('no image')
    (root / 'readme.md').write_text('no class')
    return root


# ---- folders


def test_a_folders_classes_are_its_sorted_folders_and_its_images_are_sorted(folder):
    expected = [('a/1.png', 0), ('a/2.JPG', 0), ('b/3.webp', 1)]
    assert list(read_folder(str(folder), 2)) == [(str(folder / name), label) for name, label in expected]


def test_a_missing_folder_an_empty_one_and_one_of_too_many_classes_are_named(folder, tmp_path):
    assert str(tmp_path / 'none') in refused(read_folder, str(tmp_path / 'none'), 2)
    (tmp_path / 'empty' / 'a').mkdir(parents=True)
    assert 'no images' in refused(read_folder, str(tmp_path / 'empty'), 2)
    message = refused(read_folder, str(folder), 1)
    assert str(folder) in message and '2 class folders' in message and '--nb_classes is 1' in message


def touch(root, *names):
    """Empty files below root."""
    for name in names:
        os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
        open(os.path.join(root, name), 'w').close()


def listed(root):
    """[(path below root, class id)] of the samples of a folder."""
    return [(os.path.relpath(path, root), label) for path, label in read_folder(str(root), 10)]


def test_class_folders_are_read_recursively_those_of_subfolders_last(folder):
    touch(folder, 'a/old/2019/x.jpeg', 'a/old/5.bmp', 'b/A/6.jpg')
    a = ['a/1.png', 'a/2.JPG', 'a/old/5.bmp', 'a/old/2019/x.jpeg']
    assert listed(folder) == [(name, 0) for name in a] + [('b/3.webp', 1), ('b/A/6.jpg', 1)]


def test_folders_of_systems_and_tools_are_no_classes_and_hold_no_images(folder, capsys):
    before = listed(folder)
    for hidden in ('.ipynb_checkpoints', '__MACOSX', '@eaDir', 'lost+found'):
        touch(folder, f'{hidden}/9.png', f'a/{hidden}/9.png')
    capsys.readouterr()
    assert listed(folder) == before
    log = capsys.readouterr().out
    assert f'{folder}: skipped the folder __MACOSX' in log and '1 folder @eaDir' in log


def test_links_are_followed_but_none_that_leads_back(folder, tmp_path, capsys):
    before = listed(folder)
    touch(tmp_path, 'other/c/1.png', 'other/more/7.png')
    (folder / 'c').symlink_to(tmp_path / 'other/c')
    (folder / 'a/more').symlink_to(tmp_path / 'other/more')
    (tmp_path / 'other/more/a').symlink_to(folder / 'a')
    for loop, target in (('all', '.'), ('above', '..'), ('a/itself', '.'), ('b/all', '..'), ('b/round/b', '../../b')):
        (folder / loop).parent.mkdir(exist_ok=True)
        (folder / loop).symlink_to(target)
    assert sorted(listed(folder)) == sorted([*before, ('a/more/7.png', 0), ('c/1.png', 2)])
    log = capsys.readouterr().out
    assert 'skipped the link all' in log and 'skipped the link above' in log and '4 link to a folder around it' in log


@pytest.mark.parametrize('name', [None, 'notes.txt', '.hidden.png', '._1.png', '@eaDir/1.png', 'sub/notes.txt'])
def test_a_class_without_images_is_named(folder, name):
    (folder / 'empty').mkdir()
    if name:
        touch(folder, f'empty/{name}')
    assert f'{folder}/empty: no images' in refused(read_folder, str(folder), 10)


def test_an_empty_data_folder_is_named(tmp_path):
    (tmp_path / 'train/.cache').mkdir(parents=True)
    assert f'{tmp_path}/train: no class folders' in refused(read_folder, str(tmp_path / 'train'), 10)


def test_names_may_hold_any_bytes(folder, monkeypatch):
    monkeypatch.setattr('util.data.listing.log', repr)  # in scripts, util/runtime.py lets stdout take such names
    strange = os.fsdecode(b'caf\xe9')
    touch(folder, f'{strange}/\udcff x\u4e2d.png')
    assert listed(folder)[-1] == (f'{strange}/\udcff x\u4e2d.png', 2)


def test_the_folder_unlabelled_is_no_class_and_its_images_have_no_label(folder, capfd):
    for name in ('b/3.webp', 'new/deep/4.png'):
        (folder / 'unlabelled' / name).parent.mkdir(parents=True)
        Image.new('RGB', (8, 6)).save(folder / 'unlabelled' / name)
    (folder / 'c').mkdir()
    Image.new('RGB', (8, 6)).save(folder / 'c/1.png')
    samples = read_folder(str(folder), 3)
    assert samples.class_names == ['a', 'b', 'c']
    assert [label for _, label in samples] == [0, 0, 1, 2, -1, -1]
    assert samples.unlabelled.tolist() == [False] * 4 + [True] * 2
    assert f'{folder}: 2 images without a label in unlabelled/' in capfd.readouterr().out
    assert read_folder(str(folder), 4, {'a': 0, 'x': 1, 'b': 2, 'c': 3}).labels.tolist() == [0, 0, 2, 3, -1, -1]


# ---- lists


@pytest.fixture
def listing(folder, tmp_path):
    """listing(text) -> samples of that list file; listing.path is the file."""

    def call(text, num_classes=10):
        (tmp_path / 'list.txt').write_text(text, encoding='utf-8')
        return read_list(str(folder), call.path, num_classes)

    call.path = str(tmp_path / 'list.txt')
    return call


def test_a_list_keeps_its_order_its_ids_and_names_with_spaces(listing, folder):
    Image.new('RGB', (8, 8)).save(folder / 'a' / 'two words.png')
    expected = [('b/3.webp', 7), ('a/two words.png', 0), ('a/1.png', 9)]
    for blank in ' ', '  ', '\t', ' \t ':
        lines = '\ufeffb/3.webp 7\n\na/two words.png 0\r\na/1.png 9\n'
        samples = listing(re.sub(r' (\d)', rf'{blank}\1', lines))
        assert list(samples) == [(str(folder / name), label) for name, label in expected]


def test_class_id_minus_one_is_an_image_without_a_label(listing):
    samples = listing('a/1.png 0\nb/3.webp -1\n')
    assert samples.labels.tolist() == [0, -1] and samples.unlabelled.tolist() == [False, True]


BAD_LINES = [('a/1.png\xa03', r"found 'a/1.png\xa03'"), ('a/\xa0猫\u200b.png 3', r'/a/\xa0猫\u200b.png does not exist')]
BAD_LINES += [('a\\1.png 3', r'/a\1.png does not exist')]
BAD_LINES += [(line, 'expected') for line in ('a/2.JPG', 'a/2.JPG x', 'a/2.JPG 1.5', '7', 'a/2.JPG,3')]
BAD_LINES += [(f'a/2.JPG {label}', f'class id {label}, but --nb_classes is 10') for label in (10, -2)]
BAD_LINES += [(line, 'does not exist; the paths must begin in ') for line in ('a/none.png 3', 'c/1.png 3', 'a/2.jpg 3')]


@pytest.mark.parametrize('line, words', BAD_LINES)
def test_a_bad_line_is_named_with_its_file_and_number(listing, line, words):
    message = refused(listing, f'a/1.png 0\n\n{line}\n')
    assert message.startswith(f'{listing.path}, line 3: ') and words in message


def test_an_empty_list_a_missing_one_and_one_that_is_no_text_are_named(listing, folder):
    assert refused(listing, '\n \n') == f'{listing.path}: lists no images'
    for path in ('/nowhere/list.txt', str(folder / 'a/1.png'), str(folder / 'a')):
        assert refused(read_list, str(folder), path, 10).startswith(f'{path}: not a readable text file (')
    assert '--data_path /nowhere' in refused(read_list, '/nowhere', listing.path, 10)


# ---- samples


def test_samples_are_arrays_however_many_they_are(folder, listing):
    for i in range(3000):
        (folder / 'b' / f'{i:05d}.png').touch()
    for samples in (read_folder(str(folder), 2), listing(''.join(f'b/{i:05d}.png 1\n' for i in range(3000)))):
        assert len(samples) >= 3000
        assert len(pickle.dumps(samples)) < 30 * len(samples), 'and no object for each of them'
        assert not samples.paths.names.dtype.hasobject and samples.labels.dtype == np.int64
