"""Parity suite: this project against the original's own code, in one process.

Fixtures: `original` (its modules), `fidelity` (records and asserts a comparison; see fidelity.py).
Test modules import neither torch nor timm nor tlt at the top: they get them from `original`.
"""

from pathlib import Path

import pytest

from parity import original as original_code
from parity.fidelity import RECORD

if original_code.ABSENT:
    modules = {path.name for path in Path(__file__).parent.glob('test_*.py')}
    collect_ignore_glob = sorted(modules - {'test_environment.py'})


def pytest_addoption(parser):
    parser.addoption('--write_fidelity', action='store_true', help='write docs/results/fidelity.md')


def pytest_configure(config):
    for message in ('.torch.jit.script. is deprecated', 'When training, we now always track global mean'):
        config.addinivalue_line('filterwarnings', f'ignore:{message}')


def pytest_collection_modifyitems(items):
    """The document is compared with what the other tests recorded, so that comes last."""
    items.sort(key=lambda item: item.path == Path(__file__).parent / 'test_document.py')


def pytest_terminal_summary(terminalreporter):
    if original_code.ABSENT:
        terminalreporter.write_line(f'tests/parity NOT RUN: {original_code.REASON}')


@pytest.fixture(scope='session')
def original():
    """The original's code: a namespace with torch, torchvision, timm, tlt (see original.py)."""
    return original_code.load()


@pytest.fixture
def fidelity():
    """fidelity(section, what, measured, tolerance, kind=RELATIVE): asserts measured <= tolerance and keeps
    a row for docs/results/fidelity.md, also when it fails; the largest of several calls counts."""
    return RECORD.add
