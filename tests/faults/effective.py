"""Effective training time: a training that is killed at random every T seconds and restarted by a loop.

    python tests/faults/run.py --effective [T ...] [--epochs E]

The training runs once undisturbed and then once for each T. From one kill to the next is a time drawn from the
exponential distribution of mean T, so that a kill may come at any instant: while it starts, trains, saves or evaluates.
It is SIGKILL, and the loop gives the same command again at once, --resume auto in it.

    share = seconds of the undisturbed run / seconds of the disturbed one

both from the first start to the last end, start-up, saves and evaluations included. A step is lost if the console had
reported it and the next start that came to train began before it.
"""

import os
import signal
import time
from typing import NamedTuple

import numpy as np

from bench import Bench
from processes import STRAY_SECONDS, Run, alive, check, wait_for
from tiny import flags

EVERY = (10, 20, 40)  # T, seconds
EPOCH, BATCH, SAVE_EVERY = 120, 8, 20  # steps of an epoch, images of a step, steps between saves
PATIENCE = 50  # a run that takes so many times the undisturbed one's time does not get on: T is too short


class Life(NamedTuple):
    """From a start to the kill or the end. begin: the step it went on from, None if it did not come to train.

    reached: steps of the whole run that its console reported done.
    """

    begin: int
    reached: int


class Result(NamedTuple):
    """A row of the table. undisturbed, seconds: durations; lost: steps of each kill; steps: of the training."""

    every: float
    undisturbed: float
    seconds: float
    lost: list
    steps: int

    @property
    def share(self):
        return self.undisturbed / self.seconds


def steps_lost(lives):
    """Steps done again because of each kill: one number for each Life but the last, which ended by itself."""
    lost = []
    for i, life in enumerate(lives[:-1]):
        begins = [later.begin for later in lives[i + 1 :] if later.begin is not None]
        lost.append(0 if life.begin is None else max(life.reached - begins[0], 0))
    return lost


def intervals(mean, rng):
    """Seconds from each kill to the next, without end."""
    while True:
        yield rng.exponential(mean)


def table(results):
    head = (
        'killed every | kills | survived | share of the undisturbed speed | steps lost, mean | at most | of all steps'
    )
    lines = [f'| {head} | end |', '|---|--:|--:|--:|--:|--:|--:|---|']
    for row in results:  # a run that did not survive, or ended otherwise, has no row
        kills = len(row.lost)
        mean, most = (f'{np.mean(row.lost):.1f}', max(row.lost)) if kills else ('', '')
        again = f'{100 * sum(row.lost) / row.steps:.1f} %'
        head = f'{row.every:g} s | {kills} | {kills} | {100 * row.share:.1f} %'
        lines.append(f'| {head} | {mean} | {most} | {again} | bit-identical |')
    return '\n'.join(lines)


class Course(Bench):
    """A training long enough to be killed often. epochs: of `epoch` steps, a save every `save_every`."""

    def __init__(self, folder, epochs, epoch=EPOCH, save_every=SAVE_EVERY):
        super().__init__(folder, images=epoch * BATCH)
        self.epoch, self.steps = epoch, epoch * epochs
        length = ['--epochs', epochs - 1, '--warmup_epochs', 1, '--cooldown_epochs', 1]
        self.own = [*length, '--batch_size', BATCH, '--save_freq_steps', save_every]

    def start(self, out, *more, workers=1, **popen):
        command = flags(self.data, *self.own, *more, workers=workers)
        return Run(self.folder / out, command, self.folder / 'consoles', updates=self.epoch, **popen)

    def run_undisturbed(self):
        """Makes the run to compare with; returns its seconds."""
        begin, run = time.monotonic(), self.start(self.reference)
        code = run.process.wait()
        self.undisturbed = time.monotonic() - begin
        check(code == 0 and run.finished(), f'the undisturbed run failed: {run.error()}')
        return self.undisturbed


def disturbed(course, every, waits, say=print):
    """Run it to the end through kills; returns the Result. Raises Failure.

    every: T, for the table; waits: iterator of seconds from the start, then from each kill, to the next; when they are
    used up nothing is killed any more.
    """
    out, lives, runs = f'every-{every:g}', [], []
    begin = time.monotonic()
    due = begin + next(waits, np.inf)
    while True:
        run = course.start(out)
        runs.append(run)
        while run.running() and time.monotonic() < due:
            time.sleep(0.005)
        if run.running():
            run.look()  # remembers its processes
            run.process.kill()
            due = time.monotonic() + next(waits, np.inf)
        code = run.process.wait()
        seconds = time.monotonic() - begin
        lives.append(Life(run.begin(), run.reached()))
        if code == 0:
            break
        check(code == -signal.SIGKILL, f'{run.err}: exit code {code}: {run.error()}')
        check(seconds < PATIENCE * course.undisturbed, f'{out}: at step {run.reached()} after {seconds:.0f} s')
        say(f'T = {every:g} s: kill {len(lives)}, at step {run.reached()} of {course.steps}')
    check(run.finished() and run.reached() == course.steps, f'{run.log}: did not come to its end')
    check(wait_for(lambda: not any(alive(run.mark) for run in runs), STRAY_SECONDS), f'{out}: processes are left')
    for path in {f'/dev/shm/{name}' for run in runs for name in run.shared_memory()}:
        os.unlink(path)
    course.compare(out)
    return Result(every, course.undisturbed, seconds, steps_lost(lives), course.steps)
