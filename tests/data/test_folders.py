"""util/data/folders.py: which files are found."""

from collections import Counter

import pytest

from util.data.folders import find_images, walk_images
from util.errors import UserError


def test_files_folders_and_patterns_name_images_in_their_order(tmp_path):
    (tmp_path / 'b').mkdir()
    for name in ('b/4.bmp', 'b/2.JPG', 'b/1.png', 'b/5.png', 'b/3.webp', 'b/note.txt', 'a.webp', 'z.jpeg'):
        (tmp_path / name).touch()
    found = find_images([str(tmp_path / 'z.jpeg'), str(tmp_path / 'b'), str(tmp_path / '*.webp')])
    folder = ['b/1.png', 'b/2.JPG', 'b/3.webp', 'b/4.bmp', 'b/5.png']
    assert found == [str(tmp_path / name) for name in ('z.jpeg', *folder, 'a.webp')]
    with pytest.raises(UserError, match='none.jpg: no such file'):
        find_images([str(tmp_path / 'b'), str(tmp_path / 'none.jpg')])


def test_a_folder_is_searched_recursively_and_what_is_skipped_is_logged(tmp_path, capsys):
    for name in ('z.jpg', 'b/a/1.png', '.cache/2.png', 'b/@eaDir/1.png', 'b/._1.png', 'b/note.txt'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'b/loop').symlink_to('..')
    (tmp_path / 'c').symlink_to('b/a')
    assert find_images([str(tmp_path)]) == [str(tmp_path / name) for name in ('b/a/1.png', 'c/1.png', 'z.jpg')]
    log = capsys.readouterr().out
    for count in ('1 .txt', '1 ._*', '1 folder .cache', '1 folder @eaDir', '1 link to a folder around it'):
        assert count in log


def test_entries_that_cannot_be_read_are_found_where_their_name_is_that_of_an_image(tmp_path, monkeypatch):
    for name, target in (('gone.png', 'none.png'), ('loop.jpg', 'loop.jpg'), ('loop', 'loop'), ('gone', 'none')):
        (tmp_path / name).symlink_to(target)
    (tmp_path / 'folder.jpg').mkdir()
    names, skipped = ['folder.jpg', 'gone.png', 'loop.jpg'], Counter()
    assert walk_images(str(tmp_path), skipped) == names and skipped == {'no suffix': 2}
    monkeypatch.chdir(tmp_path)
    assert find_images(['./*.*', 'gone.png']) == [*(f'./{name}' for name in names), 'gone.png']
