"""util/files.py: small files are read as they are or refused by name; results are written whole or not at all."""

import os

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
    assert files.read_text(path) == 'a µ\n\n  b\u2028c  \n'
    assert files.read_lines(path) == [(1, 'a µ'), (3, 'b\u2028c')]
    path.write_text('{"a": [1, 2.5, null, "x"]}')
    assert files.read_json(path) == files.read_yaml(path) == {'a': [1, 2.5, None, 'x']}
    path.write_text('label_names:\n  0: name, other\n  1: "yes"\n')
    assert files.read_yaml(path) == {'label_names': {0: 'name, other', 1: 'yes'}}


@pytest.mark.parametrize('read', [files.read_text, files.read_lines, files.read_json, files.read_yaml])
def test_what_is_no_text_a_folder_and_what_is_not_there_are_named(path, read, tmp_path):
    path.write_bytes(b'\xff\xfe')
    for wrong in (path, tmp_path, tmp_path / 'nowhere'):
        assert said(read, wrong).startswith(f'{wrong}: not a readable text file (')


BAD_JSON = ['{', '', 'a: 1', '{"a": 1} x']
BAD_YAML = ['!!python/object/apply:os.system ["true"]', 'a: [', 'a: 2021-99-99', '{[1]: 2}', 'a: \0']
BAD = [(files.read_json, 'JSON', text) for text in BAD_JSON] + [(files.read_yaml, 'YAML', text) for text in BAD_YAML]


@pytest.mark.parametrize('read, kind, text', BAD)
def test_json_and_yaml_that_are_none_or_more_than_plain_values(path, read, kind, text):
    path.write_text(text)
    line = said(read, path, '; export the model again')
    assert f'{path}: not readable {kind}' in line and line.endswith('; export the model again')


@pytest.mark.parametrize('sync', [True, False])
def test_a_file_is_replaced_whole_or_not_at_all(path, tmp_path, monkeypatch, sync):
    also, previous = tmp_path / 'also', tmp_path / 'previous'
    path.write_bytes(b'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync' if sync else 'replace', full)
        with pytest.raises(UserError, match='file: could not be written .No space left.*untouched'):
            with files.replacing(str(path), str(also), previous=str(previous), sync=sync) as f:
                f.write(b'new')
    with pytest.raises(KeyboardInterrupt):
        with files.replacing(str(path), sync=sync) as f:
            f.write(b'ne')
            raise KeyboardInterrupt
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['file']
    with files.replacing(str(path), str(also), previous=str(previous), sync=sync) as f:
        f.write(b'new')
    assert (path.read_bytes(), also.read_bytes(), previous.read_bytes()) == (b'new', b'new', b'old')
    assert len(os.listdir(tmp_path)) == 3


def test_a_folder_is_made_and_one_that_cannot_be_is_named(path, tmp_path):
    files.write(str(tmp_path / 'new' / 'x'), b'all')
    files.check_target('--x', str(tmp_path / 'another' / 'x'))
    assert (tmp_path / 'new' / 'x').read_bytes() == b'all' and os.listdir(tmp_path / 'another') == []
    path.touch()
    assert f'--x {tmp_path}: cannot be written to (it is a folder)' in said(files.check_target, '--x', str(tmp_path))
    assert f'--x {path}/y: cannot be written to (' in said(files.check_target, '--x', f'{path}/y')
    assert f'--out {path}: cannot be written to (' in said(files.check_folder, str(path), f'--out {path}')
