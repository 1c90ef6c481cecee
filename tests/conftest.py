"""Puts the repository on the path and sets the process up before anything imports paddle; fixtures of the script tests:
a tiny data set, tiny models, and scripts run inside the test process."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util import runtime
from util.paddle_fixes import STOP_SIGNALS

ROOT = Path(__file__).resolve().parents[1]
TINY_RUN = (
    '--model lvvit_nano --input_size 32 --nb_classes 10 --batch_size 8 --epochs 1 --warmup_epochs 0 '
    '--cooldown_epochs 0 --num_workers 0'
)  # the 40 images of `scenes` are 5 steps an epoch
STILL = '--lr 0 --min_lr 0 --opt momentum'  # weights that are saved are those the run started from

Result = namedtuple('Result', 'code out err')


def pytest_configure(config):
    config.addinivalue_line('markers', 'cross_version: also runs on Paddle 2.6.2')
    config.addinivalue_line('markers', 'gpu: what a GPU can show; on a CPU rehearsed with a tiny model')
    config.addinivalue_line('markers', 'readme: runs the commands of README.md')


def pytest_collection_modifyitems(items):
    """The files that take minutes come first, so that the processes of tests/run.sh end at the same time."""
    long = ['test_readme.py', 'test_tipc.py', 'test_faults.py', 'test_quantize.py', 'test_dist.py']
    items.sort(key=lambda item: long.index(item.path.name) if item.path.name in long else len(long))


def words(*flags):
    """The words of a command line: a string is split as a shell would, anything else is a word of its own."""
    line = []
    for flag in flags:
        line += shlex.split(flag) if isinstance(flag, str) else [str(flag)]
    return line


def execute(script, *argv):
    """Run a script's main in this process, as `python script.py argv…` would; returns its exit code."""
    from util import logger

    handlers, code = {number: signal.getsignal(number) for number in STOP_SIGNALS}, 0
    try:
        runtime.run(script.main, script.parser(), [str(word) for word in argv])
    except SystemExit as stop:
        code = stop.code or 0
        if isinstance(code, str):  # as the interpreter does with a message
            print(code, file=sys.stderr)
            code = 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        logger._copy = None  # --log_file
    return code


@pytest.fixture
def run(capfd):
    """run(script, *argv) -> Result(code, out, err), with what loader processes print in it."""

    def call(script, *argv):
        capfd.readouterr()
        code = execute(script, *argv)
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def refused(run):
    """refused(script, *argv) -> the one line on stderr with which a script refuses a command."""

    def call(script, *argv):
        result = run(script, *argv)
        assert result.code != 0, result.out
        lines = result.err.splitlines()
        assert len(lines) == 1 and ': error: ' in lines[0], result.err
        return lines[0]

    return call


class Train:
    """train(*flags, out='run') -> Result of main.py on `scenes`. The flags are joined by `words`; later ones win."""

    def __init__(self, run, scenes, folder):
        self.run, self.scenes, self.folder = run, scenes, folder
        self.token = words('--token_label --mixup 0 --cutmix 0', '--token_label_data')
        self.token.append(str(scenes / 'label_maps'))
        self.always = []  # flags of every call

    def __call__(self, *flags, out='run'):
        import main

        places = ['--data_path', self.scenes, '--output_dir', self.folder / out]
        return self.run(main, *words(TINY_RUN), *places, *self.always, *words(*flags))

    def refused(self, *flags, out='run'):
        """The one line with which main.py refuses a command."""
        result = self(*flags, out=out)
        assert result.code == 1 and result.err.count('\n') == 1, result.err
        return result.err

    def path(self, out='run', tag='latest'):
        return self.folder / out / f'checkpoint-{tag}.pd'

    def state(self, out='run', tag='latest'):
        from util.weights import checkpoint

        return checkpoint.load(str(self.path(out, tag)))

    def log(self, out='run'):
        """The records of log.txt, one an epoch."""
        return [json.loads(line) for line in (self.folder / out / 'log.txt').read_text().splitlines()]


@pytest.fixture
def train(run, scenes, tmp_path):
    return Train(run, scenes, tmp_path)


@pytest.fixture(params=['pil', 'cv2'])
def backend(request):
    """--image_backend, either of them."""
    return request.param


@pytest.fixture
def time_limit():
    """time_limit(seconds): a block that takes longer fails."""

    def expired(*_):
        raise TimeoutError('still running')

    @contextlib.contextmanager
    def limit(seconds):
        handler = signal.signal(signal.SIGALRM, expired)
        signal.alarm(seconds)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, handler)

    return limit


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """A folder as demo/digits.py makes it: 40 training and 20 validation scenes of 32 px, ids 0-9, label maps."""
    pytest.importorskip('sklearn')
    sys.path.insert(0, str(ROOT / 'demo'))
    import digits

    out = tmp_path_factory.mktemp('scenes') / 'set'
    digits.main([str(out), '--train', '40', '--val', '20', '--size', '32'])
    return out


@pytest.fixture
def tiny(monkeypatch):
    """Every model of the family with its own kind of stem, heads and scaling, but 2 blocks of 24 channels."""
    import models

    small = dict(embed_dim=24, depth=2, num_heads=2)
    for name, entry in list(models.FAMILY.items()):
        monkeypatch.setitem(models.FAMILY, name, entry._replace(architecture={**entry.architecture, **small}))


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """What a user gets: the files of this tree in a new folder, with the environment linked in."""
    folder = tmp_path_factory.mktemp('clone') / 'TokenLabeling-paddle'
    files = subprocess.check_output(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT)
    for name in files.decode().split('\0'):
        if name and (ROOT / name).exists():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
            target.chmod((ROOT / name).stat().st_mode)
    os.symlink(ROOT / '.venv', folder / '.venv')  # the installs were tried by tests/run.sh itself
    return folder
