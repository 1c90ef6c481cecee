"""tests/run.sh: what it runs, and that an environment that cannot be made is a notice here and a failure in CI."""

import os
import subprocess

import pytest

from conftest import ROOT

PYTHON = """#!/bin/sh
echo "asked for ${0%/bin/python}: $*"
case "$*" in
    *"(3, 13)"*) [ "$BROKEN" = 'new Python' ] ;;
    *"(3, 10)"*) [ "$BROKEN" = 'old Python' ] ;;
    *no-deps*) [ "$BROKEN" != no-deps ] ;;
esac
"""
VENV = """
echo "asked for venv $*"
[ "$1" != "$BROKEN" ]
"""


@pytest.fixture
def run_sh(tmp_path):
    """run_sh(environment that cannot be made, **environment) -> (exit code, output); Python and pip are stand-ins."""
    for name in ('.venv', '.venv-app', '.venv-seg', '.venv-parity', '.venv-2.6.2'):
        for tool in ('python', 'ruff'):
            path = tmp_path / name / 'bin' / tool
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(PYTHON)
            path.chmod(0o755)
    for folder in ('tests', 'tools', 'seg'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'tests/run.sh').write_text((ROOT / 'tests/run.sh').read_text())
    (tmp_path / 'seg/venv.sh').write_text((ROOT / 'seg/venv.sh').read_text())
    (tmp_path / 'tools/venv.sh').write_text(VENV)

    def call(broken='', **env):
        clean = {name: value for name, value in os.environ.items() if name != 'CI'}
        env = {**clean, 'BROKEN': broken, **env}
        pipes = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        done = subprocess.run(['bash', tmp_path / 'tests/run.sh'], env=env, **pipes)
        return done.returncode, done.stdout

    return call


@pytest.mark.parametrize('ci', ['true', ''])
def test_all_of_it_runs(run_sh, ci):
    code, out = run_sh(CI=ci)
    assert code == 0 and 'NOT RUN' not in out
    assert 'asked for .venv-parity: -m pytest -q tests/parity tests/weights/test_torch_file.py' in out, (
        'PyTorch is there'
    )
    assert 'asked for .venv-2.6.2: -m pytest -q -m cross_version tests' in out
    assert 'asked for .venv-app: -m pytest -q -rs -m browser tests/test_app_page.py' in out
    assert 'asked for .venv-seg: -m pytest -q tests/test_seg_paddleseg.py' in out
    assert '-m not readme and not browser tests' in out and '-m readme tests' in out


FAULTS = {
    '.venv-parity': 'NOT RUN: pip could not install tests/parity/requirements',
    'no-deps': 'NOT RUN: pip could not install tests/parity/requirements',
    '.venv-2.6.2': 'NOT RUN: pip could not install paddlepaddle==2.6.2',
    'new Python': 'NOT RUN: Paddle 2.6.2 has no wheel for Python 3.13',
    '.venv-seg': 'NOT RUN: pip could not install seg/requirements',
    'old Python': 'NOT RUN: Gradio 6 has no wheel for Python 3.9',
}


@pytest.mark.parametrize('fault', FAULTS)
def test_an_environment_that_cannot_be_made_is_a_notice_here_and_a_failure_in_ci(run_sh, fault):
    code, out = run_sh(fault)
    assert code == 0 and FAULTS[fault] in out and 'asked for .venv: -m pytest -q -n 2 --dist loadfile -m readme' in out
    code, out = run_sh(fault, CI='true')
    assert code == 1 and FAULTS[fault] in out and 'the page, segmentation, Paddle 2.6.2 or parity failed' in out
