"""util/files.py: small files are read or refused by name; results are written completely or not at all."""

import os

import pytest

from util import files
from util.errors import UserError, one_line


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'file'


def test_text_lines_json_and_yaml(path):
    path.write_bytes('\ufeffa µ\r\n\n  b\u2028c  \n'.encode())
    assert files.read_text(path) == 'a µ\n\n  b\u2028c  \n'
    assert files.read_lines(path) == [(1, 'a µ'), (3, 'b\u2028c')]
    path.write_text('{"a": [1, 2.5, null, "x"]}')
    assert files.read_json(path) == files.read_yaml(path) == {'a': [1, 2.5, None, 'x']}
    path.write_text('label_names:\n  0: name, other\n  1: "yes"\n')
    assert files.read_yaml(path) == {'label_names': {0: 'name, other', 1: 'yes'}}


BAD = [(read, b'\xff\xfe') for read in (files.read_text, files.read_lines, files.read_json, files.read_yaml)]
BAD += [(files.read_json, text) for text in (b'{', b'', b'a: 1', b'{"a": 1} x')]
BAD += [(files.read_yaml, text) for text in (b'!!python/object/apply:os.system ["true"]', b'a: [', b'a: 2021-99-99')]
BAD += [(files.read_yaml, text) for text in (b'{[1]: 2}', b'a: \0')]


@pytest.mark.parametrize('read, content', BAD)
def test_an_unreadable_file_is_refused_by_name(path, tmp_path, read, content):
    path.write_bytes(content)
    for wrong in (path, tmp_path, tmp_path / 'nowhere'):
        with pytest.raises(UserError) as error:
            read(wrong)
        assert str(error.value).startswith(f'{wrong}: not ') and '\n' not in str(error.value)


SHOWN = [
    ('val/猫/Ünïcödé x  y\\z.jpg 0', 'val/猫/Ünïcödé x  y\\z.jpg 0'),
    ('a\tb\nc\rd\x1b[31me\x00', r'a\tb\nc\rd\x1b[31me\x00'),
    ('x.jpg\xa00', r'x.jpg\xa00'),
    ('a\u200bb\u202ec\u2028d\u3000e\ufefff\xadg', r'a\u200bb\u202ec\u2028d\u3000e\ufefff\xadg'),
    (os.fsdecode(b'caf\xe9.jpg'), r'caf\udce9.jpg'),
]


@pytest.mark.parametrize('text, shown', SHOWN)
def test_a_message_shows_characters_and_escapes_those_that_are_invisible(text, shown):
    assert one_line(text) == str(UserError(text)) == shown
    assert one_line(shown) == shown, 'a message may be part of another one'


def test_foreign_text_is_cut_and_the_lines_of_an_exception_are_joined():
    assert one_line('x' * 200) == 'x' * 200 and one_line('x' * 201) == 'x' * 199 + '…'
    assert one_line(ValueError('while parsing\n   a\tlist\n')) == r'while parsing a\tlist'


@pytest.mark.parametrize('sync', [True, False])
def test_a_file_is_replaced_completely_or_not_at_all(path, tmp_path, monkeypatch, sync):
    more, previous = tmp_path / 'more', tmp_path / 'previous'
    path.write_bytes(b'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    def replace(content):
        with files.replacing(str(path), str(more), previous=str(previous), sync=sync) as f:
            f.write(content)
            if content == b'ne':
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync' if sync else 'replace', full)
        with pytest.raises(UserError, match=f'{path}: could not be written .No space left'):
            replace(b'new')
    with pytest.raises(KeyboardInterrupt):
        replace(b'ne')
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['file']
    replace(b'new')
    assert (path.read_bytes(), more.read_bytes(), previous.read_bytes()) == (b'new', b'new', b'old')
    assert len(os.listdir(tmp_path)) == 3 and path.stat().st_mode & 0o777 == 0o644


def test_folders_are_made_and_a_target_that_cannot_be_written_is_named(path, tmp_path):
    files.write(str(tmp_path / 'new' / 'x'), b'all')
    files.check_target('--x', str(tmp_path / 'another' / 'x'))
    assert (tmp_path / 'new' / 'x').read_bytes() == b'all' and os.listdir(tmp_path / 'another') == []
    path.touch()
    for wrong in (tmp_path, path / 'y'):
        with pytest.raises(UserError, match=f'--x {wrong}: cannot be written to'):
            files.check_target('--x', str(wrong))
    with pytest.raises(UserError, match=f'--out {path}: cannot be written to'):
        files.check_folder(str(path), f'--out {path}')


def test_the_records_of_log_txt(path):
    path.write_text('tee\n{"epoch": 0, "acc": 1}\r\n[2]\n{"epoch": 1}')
    assert files.read_log(path) == [{'epoch': 0, 'acc': 1}, {'epoch': 1}]
    path.write_text('{"epoch": 4}\n{"epoch": 5}\n{"epoch": 4, "acc": 2}\n\n[')
    assert files.parse_log(path) == ([{'epoch': 4, 'acc': 2}], 1), 'the last run that wrote to it'
    path.write_text('tee\n')
    for wrong in (path, path / 'nowhere'):
        with pytest.raises(UserError, match=str(path)):
            files.read_log(wrong)
