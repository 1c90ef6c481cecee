"""util/files.py: small files are read as they are, and what would be a burden to read is refused by name."""

import os

import numpy as np
import pytest

from util import files
from util.errors import UserError

pytestmark = pytest.mark.cross_version


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'file'


def said(call, *args):
    with pytest.raises(UserError) as error:
        call(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_text_lines_json_and_yaml(path):
    path.write_bytes('\ufeffa µ\r\n\n  b\u2028c  \n'.encode())
    assert files.read_text(path) == 'a µ\r\n\n  b\u2028c  \n'
    assert list(files.read_lines(path)) == [(1, 'a µ'), (3, 'b\u2028c')]
    path.write_text('{"a": [1, 2.5, null, "x"]}')
    assert files.read_json(path) == files.read_yaml(path) == {'a': [1, 2.5, None, 'x']}
    path.write_text('label_names:\n  0: name, other\n  1: "yes"\n')
    assert files.read_yaml(path) == {'label_names': {0: 'name, other', 1: 'yes'}}


READERS = pytest.mark.parametrize(
    'read',
    [files.read_text, files.read_json, files.read_yaml, lambda path: list(files.read_lines(path))],
    ids=['text', 'json', 'yaml', 'lines'],
)


@READERS
@pytest.mark.parametrize('content', [b'\xff\xfe', b'a: \0', b'x' * (70 << 20)], ids=['encoding', 'null', 'size'])
def test_what_is_no_small_text_is_named(path, read, content):
    path.write_bytes(content)
    assert str(path) in said(read, path)


@READERS
def test_a_folder_and_a_pipe_without_a_writer_are_named_at_once(path, read, time_limit, tmp_path):
    os.mkfifo(path)
    with time_limit(5):
        assert 'not a plain file' in said(read, path)
        assert str(tmp_path) in said(read, tmp_path)


def test_a_file_that_is_not_there_is_the_callers_business_but_for_lists(path):
    for read in (files.read_text, files.read_json, files.read_yaml):
        with pytest.raises(FileNotFoundError):
            read(path)
    assert 'No such file' in said(lambda: list(files.read_lines(path)))


@pytest.mark.parametrize('text', ['{"a": 1, "a": 2}', '[' * 100_000, '9' * 5000, '{', ''])
def test_json_that_is_none(path, text):
    path.write_text(text)
    assert f'{path}: not readable JSON' in said(files.read_json, path)


@pytest.mark.parametrize(
    'text, word',
    [
        ('a: &x 1\nb: *x', 'anchor'),
        ('!!python/object/apply:os.system ["true"]', 'tag'),
        ('[' * 50 + ']' * 50, 'deep'),
        ('a: 1' + ':1' * 10_000, 'characters'),
        ('a: [', 'YAML'),
        ('a: 2021-99-99', 'YAML'),
        ('{[1]: 2}', 'YAML'),
    ],
)
def test_yaml_that_is_more_than_plain_values(path, text, word):
    path.write_text(text)
    assert word in said(files.read_yaml, path)


def test_lines_as_an_array(path):
    for lines in ([], [b'a'], [b'', b'abc', b'\xff'], [b'x' * 300] * 3 + [b'y']):
        result = files.array_of_lines(b''.join(line + b'\n' for line in lines), path)
        assert result.dtype.kind == 'S' and result.tolist() == lines
    assert str(path) in said(files.array_of_lines, b'a\n' * 100_000 + b'x' * 100_000 + b'\n', path)
    assert np.array_equal(files.array_of_lines(b'a\nb\nunfinished', path), [b'a', b'b'])
