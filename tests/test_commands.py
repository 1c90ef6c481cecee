"""The parsers of the scripts understand every command in the pages. Nothing else of a script runs."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from conftest import ROOT

PAGES = subprocess.check_output(['git', 'ls-files', '--', '*.md'], cwd=ROOT, text=True).split()


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


@pytest.mark.parametrize('page', PAGES)
def test_the_parsers_understand_the_commands_of_a_page(page, parse):
    for block in re.findall(r'^```bash\n(.*?)^```$', (ROOT / page).read_text(encoding='utf-8'), re.M | re.S):
        for words in commands(block):
            script = next((i for i, word in enumerate(words) if word.endswith('.py')), None)
            if re.sub(r'^\.venv[\w.-]*/bin/', '', words[0]) == 'python' and script and 'pytest' not in words:
                parse(words[script], words[script + 1 :])
