"""Every block of commands in the pages is run by a test or says why not, and scripts understand all of them.

Above a block stands `<!-- run: NAME -->`, and the test that RUN_BY names runs it, or `<!-- not run: WHY -->`. Here each
command is given to its script's parser, and nothing else of the script runs.
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
    'int8': 'tests/test_readme.py',
    'segmentation': 'tests/test_readme.py',
    'runs': 'tests/test_runs.py',
    'example': 'tests/test_contributing.py',
    'tipc': 'tests/test_tipc.py',
    'compare': 'tests/test_tipc.py',
    'service': 'tests/deploy/test_predictor.py',
}
BLOCK = re.compile(r'(?:<!-- (run|not run): ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$', re.M | re.S)
COMMAND = re.compile(r'^(\w+=\S+ )*(python|pip|bash|source|\./|\.venv)', re.M)
LAUNCHER = {'--gpus', '--nproc_per_node', '--backend', '--log_dir', '--nnodes', '--master'}


def blocks_with_commands():
    """{'page:number of the block': (kind, mark, language, text)}."""
    found = {}
    for page in subprocess.check_output(['git', 'ls-files', '--', '*.md'], cwd=ROOT, text=True).split():
        if (ROOT / page).exists():
            for number, block in enumerate(BLOCK.findall((ROOT / page).read_text(encoding='utf-8')), 1):
                if block[2] in ('bash', 'python', 'sh', 'shell') or COMMAND.search(block[3]):
                    found[f'{page}:{number}'] = block
    return found


BLOCKS = blocks_with_commands()


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
    """The parser has understood the command; no script catches it."""


@pytest.fixture
def parse(monkeypatch, capsys):
    """parse(script, words): run a script until its parser has understood the words."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None, namespace=None):
        parse_args(parser, args, namespace)
        raise Parsed

    def call(script, words):
        monkeypatch.setattr(sys, 'argv', [str(ROOT / script), *words])
        monkeypatch.syspath_prepend(str((ROOT / script).parent))
        try:
            runpy.run_path(str(ROOT / script), run_name='__main__')
        except Parsed:
            return
        except SystemExit as stop:
            pytest.fail(f'{script} {shlex.join(words)}: {stop.code}: {capsys.readouterr().err}')
        pytest.fail(f'{script} did not parse its command line')

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
    return call


def check_exists(names):
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing, f'there is no {", ".join(missing)}'


def check_python(words, parse):
    """The words after `python`."""
    if words[:2] == ['-m', 'paddle.distributed.launch']:
        script = next(i for i, word in enumerate(words) if word.endswith('.py'))
        assert {word.partition('=')[0] for word in words[2:script] if word.startswith('--')} <= LAUNCHER
        words = words[script:]
    if words[:2] == ['-m', 'pytest']:
        check_exists(word for word in words[2:] if word.startswith('tests'))
    elif words[:2] != ['-m', 'venv']:
        check_exists(words[:1])
        parse(words[0], words[1:])


def check(words, parse):
    program = re.sub(r'^\.venv[\w.-]*/bin/', '', words[0])
    after_r = [after for flag, after in zip(words, words[1:]) if flag == '-r']
    if program == 'python':
        check_python(words[1:], parse)
    elif program in ('pip', 'bash'):
        check_exists([*after_r, *words[1:2]] if program == 'bash' else after_r)
    elif program.startswith('./'):
        assert os.access(ROOT / program, os.X_OK), f'{program} cannot be executed'
    else:
        assert program in ('source', 'ruff', 'visualdl'), f'{program}: a command that this test does not know'


@pytest.mark.parametrize('place', BLOCKS)
def test_a_block_is_run_by_a_test_or_says_why_not(place):
    kind, mark, language, _ = BLOCKS[place]
    assert language in ('bash', 'python'), f'{place}: commands need ```bash'
    assert kind, f'{place}: needs <!-- run: NAME --> or <!-- not run: WHY --> above it'
    if kind == 'run':
        assert f"'{mark}'" in (ROOT / RUN_BY[mark]).read_text(encoding='utf-8'), f'{RUN_BY[mark]} does not run it'


@pytest.mark.parametrize('place', [place for place, block in BLOCKS.items() if block[2] == 'bash'])
def test_the_parsers_understand_the_commands_of_a_block(place, parse):
    found = commands(BLOCKS[place][3])
    assert found
    for words in found:
        check(words, parse)


@pytest.mark.parametrize('place', [place for place, block in BLOCKS.items() if block[2] == 'python'])
def test_python_blocks_are_python(place):
    ast.parse(BLOCKS[place][3])
