"""The table at the end of `pytest -m gpu tests/gpu`, to be pasted into an issue."""

import subprocess
import sys

import paddle
import pytest

from conftest import ROOT

CARDS = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0


@pytest.fixture
def measured(record_property):
    """measured(text): what the table says was found."""
    return lambda text: record_property('measured', text)


def first_line(*command):
    """Of a program's output; 'unknown' if the program is missing or fails."""
    try:
        return subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL).splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return 'unknown'


def pytest_terminal_summary(terminalreporter):
    rows = []
    for outcome in ('passed', 'failed', 'error', 'skipped'):
        for report in terminalreporter.getreports(outcome):
            if '/gpu/' in report.nodeid and report.when == ('setup' if outcome in ('error', 'skipped') else 'call'):
                name = report.nodeid.split('::')[1].removeprefix('test_').replace('_', ' ')
                found = dict(report.user_properties).get('measured', '')
                if outcome == 'skipped':
                    found = report.longrepr[2].removeprefix('Skipped: ')
                rows.append(f'| {name} | {outcome} | {found} |')
    if not rows or 'gpu' not in terminalreporter.config.getoption('markexpr'):
        return
    commit = first_line('git', 'rev-parse', '--short', 'HEAD')
    write = terminalreporter.write_line
    write(f'\n### {"GPU acceptance" if CARDS else "Rehearsal on a CPU, which accepts nothing"}\n')
    write(f'Commit {commit}, Paddle {paddle.__version__}, Python {sys.version.split()[0]}.')
    if CARDS:
        gpu = first_line('nvidia-smi', '--query-gpu=name,memory.total,driver_version', '--format=csv,noheader')
        write(f'{CARDS} × {gpu}; CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}.')
    for line in ['', '| check | result | measured |', '|---|---|---|', *rows]:
        write(line)
