"""Every block of commands in README, docs and the other pages is run by a test or says why not, and all of them parse.

Above a block stands `<!-- run: NAME -->`, and the test that RUN_BY names runs it, or `<!-- not run: WHY -->`. Either
way each command is given to its script's own parser here, which must take it; nothing else of the script runs.
"""

import argparse
import ast
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from conftest import ROOT

RUN_BY = {
    'demo': 'tests/test_readme.py',
    'commands': 'tests/test_readme.py',
    'docs': 'tests/test_readme.py',
    'example': 'tests/test_contributing.py',
    'tipc': 'tests/test_tipc.py',
    'compare': 'tests/test_tipc.py',
}
MARK = re.compile(r'<!-- (run|not run): (.+) -->')
COMMAND = re.compile(r'^(\w+=\S+ )*(python|pip|bash|source|\./|\.venv)', re.M)
LAUNCHER = {'--gpus', '--nproc_per_node', '--backend', '--log_dir', '--nnodes', '--master'}


class Block:
    """A fenced block: language, lines in one string, and the line above it."""

    def __init__(self, page, number, language, body, above):
        self.place, self.language, self.body = f'{page}:{number}', language, body
        found = MARK.fullmatch(above)
        self.kind, self.mark = found.groups() if found else (None, None)

    def has_commands(self):
        return self.language in ('bash', 'python', 'sh', 'shell') or bool(COMMAND.search(self.body))


def pages():
    names = subprocess.check_output(['git', 'ls-files', '--', '*.md'], cwd=ROOT, text=True).split()
    return {name: (ROOT / name).read_text(encoding='utf-8') for name in names if (ROOT / name).exists()}


def blocks(page, text):
    found, lines, begin = [], text.split('\n'), None
    for number, line in enumerate(lines):
        if line.startswith('```') and begin is None:
            begin = number
        elif line == '```':
            above = lines[begin - 1] if begin else ''
            found.append(Block(page, begin + 1, lines[begin][3:], '\n'.join(lines[begin + 1 : number]), above))
            begin = None
    assert begin is None, f'{page}:{begin + 1}: the block has no end'
    return [block for block in found if block.has_commands()]


BLOCKS = {block.place: block for page, text in pages().items() for block in blocks(page, text)}


def commands(script):
    """The commands of a bash script, each as a list of words, without variables set before them."""
    found = []
    for line in script.replace('\\\n', ' ').split('\n'):
        words = [[]]
        for word in shlex.split(line, comments=True):
            if word in ('&&', ';'):
                words.append([])
            elif words[-1] or not re.fullmatch(r'\w+=\S*', word):
                words[-1].append(word)
        found += [command for command in words if command]
    return found


class Parsed(BaseException):
    """The parser has taken the command; no script catches it."""


@pytest.fixture
def parse(monkeypatch, capsys):
    """parse(script, words): run a script up to the point where its parser has taken the words."""
    take = argparse.ArgumentParser.parse_args

    def take_and_stop(parser, args=None, namespace=None):
        take(parser, args, namespace)
        raise Parsed

    def call(script, words):
        path = ROOT / script
        assert path.exists(), f'there is no {script}'
        monkeypatch.setattr(sys, 'argv', [str(path), *words])
        monkeypatch.syspath_prepend(str(path.parent))
        try:
            runpy.run_path(str(path), run_name='__main__')
        except Parsed:
            return
        except SystemExit as stop:
            pytest.fail(f'{script} {shlex.join(words)}: {stop.code}: {capsys.readouterr().err}')
        pytest.fail(f'{script} did not parse its command line')

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', take_and_stop)
    return call


def check_python(words, parse):
    """The words behind `python`."""
    if words[:2] == ['-m', 'paddle.distributed.launch']:
        script = next(i for i, word in enumerate(words) if word.endswith('.py'))
        flags = {word.partition('=')[0] for word in words[2:script] if word.startswith('--')}
        assert flags <= LAUNCHER, f'flags of the launcher: {flags - LAUNCHER}'
        words = words[script:]
    if words[:2] == ['-m', 'pytest']:
        check_files(word for word in words[2:] if word.startswith('tests'))
    elif words[:2] != ['-m', 'venv']:
        parse(words[0], words[1:])


def check_files(names):
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing, f'there is no {", ".join(missing)}'


def check(words, parse):
    """Raises AssertionError for a command that could not run: a flag that is none, a file that is not there."""
    program = re.sub(r'^\.venv[\w.-]*/bin/', '', words[0])
    if program == 'python':
        check_python(words[1:], parse)
    elif program == 'pip':
        check_files(after for flag, after in zip(words, words[1:]) if flag == '-r')
    elif program == 'bash':
        check_files([words[1], *(after for flag, after in zip(words, words[1:]) if flag == '-r')])
    elif program.startswith('./'):
        check_files([program])
        assert os.access(ROOT / program, os.X_OK), f'{program} cannot be executed'
    else:
        assert program in ('source', 'ruff'), f'{program}: a command that this test does not know'


@pytest.mark.parametrize('place', BLOCKS)
def test_a_block_is_run_by_a_test_or_says_why_not(place):
    block = BLOCKS[place]
    assert block.language in ('bash', 'python'), f'{place}: holds commands: ```bash'
    assert block.kind, f'{place}: above it must stand <!-- run: NAME --> or <!-- not run: WHY -->'
    if block.kind == 'run':
        assert block.mark in RUN_BY, f'{place}: {block.mark} is run by no test'
        assert f"'{block.mark}'" in (ROOT / RUN_BY[block.mark]).read_text(encoding='utf-8'), RUN_BY[block.mark]


@pytest.mark.parametrize('place', [place for place, block in BLOCKS.items() if block.language == 'bash'])
def test_the_parsers_take_the_commands_of_a_block(place, parse):
    found = commands(BLOCKS[place].body)
    assert found
    for words in found:
        check(words, parse)


@pytest.mark.parametrize('place', [place for place, block in BLOCKS.items() if block.language == 'python'])
def test_python_blocks_are_python(place):
    ast.parse(BLOCKS[place].body)


@pytest.mark.parametrize(
    'command, why',
    [
        ('python main.py --modell lvvit_t', '--modell'),
        ('python main.py --batch_size many', 'many'),
        ('python eval.py … --resume FILE', '…'),
        ('python evaluate.py --resume FILE', 'evaluate.py'),
        ('python -m paddle.distributed.launch --gpu 0 main.py', '--gpu'),
        ('python -m pytest tests/test_nothing.py', 'test_nothing'),
        ('pip install -r requirements-tpu.txt', 'requirements-tpu'),
        ('./demo/digits.sh', 'digits.sh'),
        ('frobnicate now', 'frobnicate'),
    ],
)
def test_a_command_that_could_not_run_is_found(command, why, parse):
    (words,) = commands(command)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=re.escape(why)):
        check(words, parse)


def test_commands_are_found_as_a_shell_finds_them():
    script = "A=1 python a.py --x 'b c' \\\n    --y  # why\n\nruff format . && ruff check .\n"
    assert commands(script) == [
        ['python', 'a.py', '--x', 'b c', '--y'],
        'ruff format .'.split(),
        'ruff check .'.split(),
    ]


def test_a_block_without_a_mark_or_a_language_is_found():
    text = 'a\n```\npython main.py\n```\n<!-- not run: why -->\n```bash\n./x\n```\n```\n[record]\n```\n'
    first, second = blocks('page', text)
    assert (first.language, first.kind, second.kind, second.mark) == ('', None, 'not run', 'why')
