"""The acceptance run on a machine without GPUs: it says so, its checks can fail, and what a CPU can try is tried."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT

pytest.importorskip('sklearn')  # the data
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import paddle

import acceptance
import outcome
import probe
import serving
import training
from bed import Training
from outcome import FAILED, NOT_RUN, PASSED, NotRun, Row, Wrong

# Each kind of check once; mixed precision has no effect on a CPU, so that its other dtypes would repeat these.
REHEARSED = [
    'training in float32',
    'mixed precision float16 O1',
    'no host synchronisation between logged steps',
    'stop and exact resume, float16 O1',
    'two cards, NCCL and SyncBN, against one',
    'two cards: a stop at a logged step',
    'infer.py, fp32',
]
FOR_GPUS = ['infer.py, --precision fp16', 'infer.py, TensorRT fp32', 'export --precision fp16, and infer.py']


def run_sh(tmp_path, lists, *words):
    """tests/gpu/run.sh where nvidia-smi -L prints `lists`."""
    program = tmp_path / 'bin' / 'nvidia-smi'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "{lists}"\n')
    program.chmod(0o755)
    env = {**os.environ, 'PATH': f'{program.parent}:{os.environ["PATH"]}', 'PYTHON': sys.executable}
    pipes = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.run(['bash', ROOT / 'tests/gpu/run.sh', *words], env=env, timeout=120, **pipes)


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = run_sh(tmp_path, 'No devices were found')
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.count('\n') == 1 and 'no GPU here' in done.stderr and '--rehearse' in done.stderr


@pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason='a Paddle for CPUs on a machine with a GPU')
def test_a_paddle_without_gpus_says_so_in_one_line(tmp_path):
    done = run_sh(tmp_path, 'GPU 0: a card')
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.count('\n') == 1 and f'Paddle {paddle.__version__} sees no GPU' in done.stderr


def test_it_passes_only_if_something_ran_and_all_that_ran_passed():
    passed, failed, not_run = Row('a', PASSED, ''), Row('b', FAILED, ''), Row('c', NOT_RUN, '')
    assert outcome.exit_code([passed, not_run]) == 0
    for rows in ([], [not_run], [passed, failed], [failed, not_run]):
        assert outcome.exit_code(rows) == 1


def raising(error):
    def check(_):
        raise error

    return check


def test_a_check_ends_in_a_line_of_the_table_whatever_it_raises():
    checks = {
        'good': lambda bed: f'{bed} | seen',
        'lacking': raising(NotRun('one card here')),
        'wrong': raising(Wrong('off by\n2')),
        'broken': raising(KeyError('slip')),
    }
    rows = acceptance.run(checks, 'bed')
    assert outcome.table(rows, rehearsal=False).splitlines()[2:] == [
        '| good | passed | bed / seen |',
        '| lacking | not run | one card here |',
        '| wrong | FAILED | off by 2 |',
        "| broken | FAILED | the check broke: KeyError: 'slip' |",
    ]
    assert 'passed' not in outcome.table(rows, rehearsal=True), 'on a CPU nothing is accepted'


def test_losses_that_are_off_missing_or_not_numbers_are_seen():
    assert outcome.apart([1.0, 2.0, 9.0], [1.0, 2.1, 1.0], 2) == pytest.approx(0.1 / 2.1)
    for losses in ([1.0], [1.0, float('nan')]):
        with pytest.raises(Wrong):
            outcome.apart(losses, [1.0, 2.0], 2)
    assert outcome.fall([4.0, 4.0, 3.0, 3.0]) == (4.0, 3.0)
    for losses in ([4.0, 4.0, 4.0, 3.7], [4.0, 4.0, 4.0, float('nan')]):
        with pytest.raises(Wrong):
            outcome.fall(losses)


def test_speed_is_that_between_moments_at_which_the_device_was_waited_for():
    flushes = [(10.0, 1), (15.0, 11), (17.0, 21), (19.0, 31)]
    assert outcome.images_a_second(flushes, batch=32, warm_up=10) == 32 * 20 / 4
    with pytest.raises(Wrong):
        outcome.images_a_second(flushes, batch=32, warm_up=30)


def test_scores_are_compared_class_by_class():
    order = list(range(10))
    record = {'file_name': 'a', 'class_ids': order, 'scores': [0.1] * 10}
    other = {'file_name': 'a', 'class_ids': order[::-1], 'scores': [0.3] + [0.1] * 9}
    assert serving.largest_difference([record], [other]) == pytest.approx(0.2)
    for wrong in ([], [{**record, 'file_name': 'b'}], [{**record, 'class_ids': [1] * 10}]):
        with pytest.raises(Wrong):
            serving.largest_difference(wrong, [record])


def test_reads_are_counted_once_where_they_stand_and_only_between_logged_steps(monkeypatch):
    notes, tensor = probe.Notes(), paddle.ones([])
    for name in probe.READS:
        monkeypatch.setattr(paddle.Tensor, name, notes.counted(getattr(paddle.Tensor, name)))
    float(tensor)
    assert not notes.reads
    notes.watching = True
    float(tensor)
    bool(tensor)
    tensor.tolist()
    assert sum(notes.reads.values()) == 3 and all('test_acceptance.py:' in place for place in notes.reads)
    reader = type('Reader', (), {'flush': lambda: float(tensor)})
    notes.pause_in(reader, 'flush')
    reader.flush()
    assert sum(notes.reads.values()) == 3 and notes.watching


class Fake:
    """A bed whose trainings have these notes."""

    on_gpu, steps, batch = True, 10, 8

    def __init__(self, **notes):
        self.notes = {'reads': {}, 'dtypes': ['float16'], 'losses': [4.0, 3.0, 2.0, 1.0, 1.0], **notes}

    def train(self, name, *flags, **more):
        return Training(0, 'Training time 0', None, [self.notes])


def test_a_read_of_ours_between_logged_steps_fails_and_one_of_paddles_scaler_does_not():
    scaler = {'paddle/amp/grad_scaler.py:465': 20}
    assert "20 by Paddle's loss scaler" in training.no_waiting(Fake(reads=scaler))
    with pytest.raises(Wrong, match='engine.py:57'):
        training.no_waiting(Fake(reads={**scaler, 'engine.py:57': 1}))


def test_mixed_precision_that_is_not_on_fails():
    with pytest.raises(Wrong, match='float32'):
        training.mixed('float16', 'O1')(Fake(dtypes=['float32']))


@pytest.fixture(scope='module')
def bed(tmp_path_factory):
    bed = acceptance.Bed(tmp_path_factory.mktemp('acceptance'), 'cpu', 2)
    bed.prepare()
    return bed


@pytest.mark.parametrize('name', REHEARSED)
def test_a_check_can_be_rehearsed_on_the_cpu(bed, name):
    assert acceptance.CHECKS[name](bed)


@pytest.mark.parametrize('name', FOR_GPUS)
def test_what_needs_a_gpu_says_that_it_was_not_run(bed, name):
    with pytest.raises(NotRun, match='needs a GPU'):
        acceptance.CHECKS[name](bed)
