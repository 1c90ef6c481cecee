"""A training that is killed or hindered, and continued by the same command, ends bit for bit as an undisturbed one."""

import ctypes
import os
import resource
import shutil
import signal
import sys
import time

import numpy as np
import pytest

pytest.importorskip('sklearn')  # the data
if not os.path.isdir('/proc/self'):
    pytest.skip('processes are watched through /proc', allow_module_level=True)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from runs import BATCH, ROOT, SAVE_EVERY, STEPS_PER_EPOCH, Run, assert_same_end, make_scenes, stop_halfway


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'digits'
    make_scenes(folder)
    return folder


@pytest.fixture(scope='module')
def undisturbed(data, tmp_path_factory):
    """(output folder of a run that was left alone, seconds of its training)"""
    out = tmp_path_factory.mktemp('undisturbed') / 'run'
    run = Run(data, out)
    run.until(lambda: run.begin() is not None)
    begin = time.monotonic()
    run.finish()
    return out, time.monotonic() - begin


def checkpoints(folder):
    return {path.name: path.read_bytes() for path in folder.glob('checkpoint-*.pd')}


# ---- kills


def training(run, rng, seconds):
    """Wait for any instant of training."""
    run.until(lambda: run.begin() is not None)
    time.sleep(rng.uniform(0, seconds / 4))


def saving(run, rng, seconds):
    """Wait for one of the next saves, in which a half-written checkpoint is in the folder."""
    for _ in range(int(rng.integers(1, 4))):
        run.until(lambda: not run.saving())
        run.until(run.saving)
    time.sleep(rng.uniform(0, 0.005))


def evaluating(run, rng, seconds):
    """Wait for an evaluation."""
    run.until(run.evaluating)


def starting(run, rng, seconds):
    """Wait a little: Python and Paddle are loaded, the checkpoint is read."""
    time.sleep(rng.uniform(0.5, 3))


def stop(run):
    """Ask the run to stop: it saves, says so, and exits with 0."""
    code = run.end(signal.SIGTERM)
    if run.begin() is not None and not run.finished():
        assert code == 0 and run.lines()[-1].startswith('stopped by SIGTERM in epoch ')


def kill(run):
    run.end(signal.SIGKILL)


ENDS = [(training, kill), (saving, kill), (evaluating, kill), (starting, kill), (training, stop), (evaluating, stop)]


def test_a_run_that_is_ended_at_random_instants_ends_identical_and_loses_few_steps(data, undisturbed, tmp_path):
    reference, seconds = undisturbed
    rng = np.random.default_rng(0)  # the instants depend on the machine all the same
    reached, allowed = 0, 0  # steps done so far; how many of them the next start may do again
    for number in rng.permutation(len(ENDS)):
        wait_for_instant, end = ENDS[number]
        run = Run(data, tmp_path / 'run', workers=int(rng.integers(3)))
        wait_for_instant(run, rng, seconds)
        end(run)
        if run.begin() is not None:
            assert reached - run.begin() <= allowed
            reached, allowed = run.reached(), 0 if end is stop else SAVE_EVERY
    run = Run(data, tmp_path / 'run').finish()
    assert reached - run.begin() <= allowed
    assert_same_end(reference, tmp_path / 'run')


# ---- disks, data


def test_a_run_goes_on_after_a_full_disk_and_missing_label_maps(data, undisturbed, tmp_path):
    """Files may not grow beyond 8 MB, a third of a checkpoint. A full disk gives another OSError at the same place."""
    out, moved = stop_halfway(data, tmp_path / 'run'), tmp_path / 'moved'
    before = checkpoints(out)
    limit = (8 << 20, 8 << 20)
    line = Run(data, out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)).refusal()
    assert 'checkpoint-latest.pd' in line and 'could not be written' in line
    assert checkpoints(out) == before and not list(out.glob('.*.tmp'))

    shutil.copytree(data, moved)
    run = Run(moved, out)
    run.until(lambda: (run.reached() or 0) > (run.begin() or 0))
    (moved / 'label_maps').rename(tmp_path / 'elsewhere')
    assert str(moved / 'label_maps') in run.refusal()

    Run(data, out).finish()
    assert_same_end(undisturbed[0], out)


# ---- memory

LEAK = """
import ctypes, gc, os, sys, time
sys.path.insert(0, ROOT)
import main
import models
from util import runtime
from util.train.train_state import TrainState

models.FAMILY['lvvit_nano'].architecture.update(embed_dim=24, depth=1, num_heads=2)

class Mallinfo2(ctypes.Structure):
    names = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

def pipes():
    names = [f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd') if int(n) > 2]
    return [name for name in names if os.path.exists(name) and os.readlink(name).startswith('pipe:')]

def end_epoch(state, *args, real=TrainState.end_epoch):
    real(state, *args)
    if state.epoch in (4, 10):
        end = time.time() + 60
        while pipes() and time.time() < end:  # Paddle closes the pipes of an epoch's loader some seconds late
            time.sleep(0.1)
            gc.collect()
        mallinfo2 = ctypes.CDLL(None).mallinfo2
        mallinfo2.restype = Mallinfo2
        info = mallinfo2()
        print('IN USE', info.uordblks + info.hblkhd, flush=True)

TrainState.end_epoch = end_epoch
runtime.run(main.main, main.parser())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallinfo2'), reason='needs glibc 2.33 or newer')
def test_a_training_process_keeps_less_than_400_bytes_a_step(data, tmp_path):
    """Counted by the allocator after epochs 4 and 10; without a leak 70 to 200. Names of Paddle's shared-memory files,
    which once were kept, are 800 and more."""
    script = tmp_path / 'leak.py'
    script.write_text(LEAK.replace('ROOT', repr(str(ROOT))))
    flags = '--batch_size 2 --epochs 9 --print_freq 25 --save_freq_steps 20 --keep_checkpoints 1'.split()
    run = Run(data, tmp_path / 'run', *flags, script=script, env={'PYTHONMALLOC': 'malloc'})  # counts Python's objects
    before, after = (int(line.split()[-1]) for line in run.finish().log.read_text().splitlines() if 'IN USE' in line)
    steps = 6 * STEPS_PER_EPOCH * BATCH // 2
    assert (after - before) / steps < 400
