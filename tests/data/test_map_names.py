"""map_names.py: a label map belongs to the path below the data folder; no two images train on one map."""

import os

import numpy as np
import pytest
from map_files import make_map, save_folders, save_packed
from PIL import Image

from util.data.label_maps import LabelMaps
from util.data.listing import Samples, read_folder, read_list
from util.data.map_names import map_names
from util.errors import UserError

KINDS = pytest.mark.parametrize('save_set', [save_folders, save_packed], ids=['folders', 'packed'])


def from_list(root, *paths):
    """Samples of a list file with these paths, which need not exist."""
    return Samples(str(root), np.array([os.fsencode(path) for path in paths]), np.zeros(len(paths)), from_list=True)


def found(folder, samples):
    """The names of the maps that the images get."""
    return [os.fsdecode(name) for name in LabelMaps(str(folder), 10).names_for(samples, allow_missing=True).tolist()]


def refused(call, *args):
    """The one-line message of a call's UserError."""
    with pytest.raises(UserError) as error:
        call(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


NAMES = [('n01/a.JPEG', 'n01/a'), ('train/n01/a.JPEG', 'n01/a'), ('val/n01/a.JPEG', 'n01/a'), ('a.b.png', 'a.b')]
NAMES += [('cat/old/a.jpg', 'cat/old/a'), ('train/train/a.jpg', 'train/a'), ('training/a.jpg', 'training/a')]
NAMES += [('./cat//a.jpg', 'cat/a'), ('cat/../dog/a.jpg', 'dog/a'), ('/photos/train/cat/a.jpg', 'cat/a')]
NAMES += [('../more/dogs/a.jpg', 'dogs/a'), ('/more/dogs/a.jpg', 'dogs/a')]
NAMES += [('cat/\udce9t\udce9.jpg', 'cat/\udce9t\udce9')]


@pytest.mark.parametrize('path, name', NAMES)
def test_a_map_has_the_name_of_the_path_below_the_data_folder(path, name):
    assert map_names(from_list('/photos', path)).tolist() == [os.fsencode(name)]


@pytest.fixture
def photos(tmp_path):
    """photos/train with the classes cat and dog, photos/train_list.txt, and in maps/ a map for each of 3 images."""
    names = ['cat/a', 'cat/old/a', 'dog/a']
    for name in names:
        (tmp_path / 'photos/train' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 40)).save(tmp_path / 'photos/train' / f'{name}.jpg')
    (tmp_path / 'photos/train_list.txt').write_text(''.join(f'train/{name}.jpg 0\n' for name in names))
    save_folders(tmp_path / 'maps', {name: make_map(i) for i, name in enumerate(names)})
    return tmp_path / 'photos'


def test_folders_and_lists_wherever_the_data_is_give_the_same_names(photos, tmp_path, monkeypatch):
    expected = ['cat/a', 'cat/old/a', 'dog/a']
    os.rename(photos, tmp_path / 'renamed')
    monkeypatch.chdir(tmp_path / 'renamed')
    for root in ('.', str(tmp_path / 'renamed'), '../renamed/'):
        assert found(tmp_path / 'maps', read_list(root, 'train_list.txt', 10)) == expected
        assert found(tmp_path / 'maps', read_folder(os.path.join(root, 'train'), 10)) == expected
    monkeypatch.chdir('train')
    assert found(tmp_path / 'maps', read_folder('.', 10)) == expected


@KINDS
def test_a_published_set_is_found_by_last_folder_and_stem(tmp_path, save_set, capsys):
    save_set(tmp_path, {'n01/a': make_map(), 'n02/a': make_map(1), 'flat/a': make_map(2)})
    deep = from_list('/imagenet', 'ILSVRC/Data/CLS-LOC/train/n01/a.JPEG', 'ILSVRC/Data/CLS-LOC/train/n02/a.JPEG')
    assert found(tmp_path, deep) == ['n01/a', 'n02/a']
    assert f'{tmp_path}: 2 images have the map <last folder>/<stem>' in capsys.readouterr().out
    assert found(tmp_path, from_list('/some/flat', 'a.jpg')) == ['flat/a'], 'images directly in the data folder'


@KINDS
def test_a_map_by_last_folder_and_stem_is_not_that_of_another_image(tmp_path, save_set):
    save_set(tmp_path, {'cat/x': make_map(), 'new/cat/y': make_map(1)})
    assert found(tmp_path, from_list('/d', 'cat/x.jpg', 'b/cat/x.jpg', 'new/cat/y.jpg')) == ['cat/x', '', 'new/cat/y']


def test_images_that_would_share_a_map_are_refused_by_name(tmp_path):
    save_folders(tmp_path, {'cat/x': make_map()})
    maps = LabelMaps(str(tmp_path), 10)
    for paths, remedy in (
        (('cat/x.jpg', 'cat/x.jpeg'), 'rename one'),
        (('train/cat/x.jpg', 'val/cat/x.jpg'), 'rename one'),
        (('a/cat/x.jpg', 'b/cat/x.jpg'), 'make the maps again'),
    ):
        for allow_missing in (False, True):
            message = refused(maps.names_for, from_list('/d', *paths), allow_missing)
            assert all(f'/d/{path}' in message for path in paths) and remedy in message
    twice = from_list('/d', 'cat/x.jpg', './cat/x.jpg', 'cat/x.jpg')
    assert found(tmp_path, twice) == ['cat/x'] * 3, 'a list may repeat an image'


def test_the_map_of_a_single_image_is_that_of_the_longest_end_of_its_path(tmp_path):
    save_folders(tmp_path, {'cat/x': make_map(), 'old/cat/x': make_map(1)})
    maps = LabelMaps(str(tmp_path), 10)
    assert maps.name_for('photos/cat/x.jpg') == 'cat/x' and maps.name_for('photos/old/cat/x.jpg') == 'old/cat/x'
    assert 'photos/dog/x.jpg: has no label map' in refused(maps.name_for, 'photos/dog/x.jpg')
