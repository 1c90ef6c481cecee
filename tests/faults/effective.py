"""Effective training time: a training that is killed at random every T seconds and restarted by a loop.

    python tests/faults/effective.py [T ...] [--epochs E] [--seed S]

The training runs once undisturbed, and then once for each T. The time from one kill to the next is drawn from the
exponential distribution with mean T, so a kill may come at any instant: at start, in training, in a save or in
evaluation. It is SIGKILL; the loop then gives the same command again, --resume auto in it, and the training must end
bit for bit as the undisturbed one.

    share = seconds of the undisturbed training / seconds of the disturbed one

both from the first start to the last end, with start-up, saves and evaluations. A step counts as lost if the console
had reported it and the next start that trains began before it. Prints one table.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from runs import BATCH, Run, assert_same_end, make_scenes

from util.ranges import count, natural, positive

STEPS_PER_EPOCH, SAVE_EVERY = 120, 20


class Life(NamedTuple):
    """A run from a start to its kill or end, in steps of the whole training."""

    begin: Optional[int]  # where it continued; None if it was killed before it trained
    reached: Optional[int]  # what its console reported done


class Result(NamedTuple):
    """A row of the table."""

    every: float  # mean seconds between kills
    undisturbed: float  # seconds
    seconds: float
    lost: list  # steps of each kill
    steps: int  # of the training

    @property
    def share(self):
        return self.undisturbed / self.seconds


def steps_lost(lives):
    """Steps that were done again because of each kill: a number for each Life but the last, which was not killed."""
    lost = []
    for i, life in enumerate(lives[:-1]):
        begins = [later.begin for later in lives[i + 1 :] if later.begin is not None]
        lost.append(0 if life.begin is None else max(life.reached - begins[0], 0))
    return lost


def table(results):
    columns = ['killed every', 'kills', 'share of the undisturbed speed', 'steps lost, mean', 'at most', 'of all steps']
    lines = [f'| {" | ".join(columns)} |', '|' + '--:|' * len(columns)]
    for row in results:
        mean, most = (f'{np.mean(row.lost):.1f}', max(row.lost)) if row.lost else ('', '')
        again = f'{100 * sum(row.lost) / row.steps:.1f} %'
        lines.append(f'| {row.every:g} s | {len(row.lost)} | {100 * row.share:.1f} % | {mean} | {most} | {again} |')
    return '\n'.join(lines)


class Course:
    """A training that is long enough to be killed often. folder: for its data and runs; epochs: at least 3."""

    def __init__(self, folder, epochs, steps_per_epoch=STEPS_PER_EPOCH, save_every=SAVE_EVERY):
        self.folder, self.steps_per_epoch, self.steps = Path(folder), steps_per_epoch, steps_per_epoch * epochs
        self.flags = ['--epochs', epochs - 1, '--save_freq_steps', save_every]
        make_scenes(self.folder / 'digits', steps_per_epoch * BATCH)
        begin = time.monotonic()
        self.start('undisturbed').finish()
        self.undisturbed = time.monotonic() - begin

    def start(self, name):
        out = self.folder / name
        return Run(self.folder / 'digits', out, *self.flags, steps_per_epoch=self.steps_per_epoch)

    def disturbed(self, every, waits):
        """Train to the end through kills and compare; returns the Result.

        every: T, for the table; waits: iterator of seconds from the start to the first kill and from each to the next.
        """
        name, lives, begin = f'every-{every:g}', [], time.monotonic()
        due = begin + next(waits, np.inf)
        while True:
            run = self.start(name)
            while run.running() and time.monotonic() < due:
                time.sleep(0.005)
            if run.running():
                run.end(signal.SIGKILL)
                due = time.monotonic() + next(waits, np.inf)
            lives.append(Life(run.begin(), run.reached()))
            if run.end() == 0:
                break
            assert run.end() == -signal.SIGKILL, run.err.read_text()
            print(f'T = {every:g} s: kill {len(lives)}, at step {run.reached()} of {self.steps}', flush=True)
        seconds = time.monotonic() - begin
        assert_same_end(self.folder / 'undisturbed', self.folder / name)
        return Result(every, self.undisturbed, seconds, steps_lost(lives), self.steps)


def intervals(mean, rng):
    """Seconds from each kill to the next, without end."""
    while True:
        yield rng.exponential(mean)


def parser():
    how = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser('tests/faults/effective.py', description=__doc__, **how)
    parser.add_argument('every', nargs='*', type=positive, default=[10, 20, 40], help='mean seconds between kills')
    parser.add_argument('--epochs', type=count, default=15, help=f'of {STEPS_PER_EPOCH} steps')
    parser.add_argument('--seed', type=natural, default=0, help='of the intervals')
    return parser


def main(args):
    with tempfile.TemporaryDirectory(prefix='effective-') as folder:
        course = Course(folder, args.epochs)
        rows = []
        for every in args.every:
            rng = np.random.default_rng([args.seed, round(1000 * every)])
            rows.append(course.disturbed(every, intervals(every, rng)))
    print(table(rows))


if __name__ == '__main__':
    main(parser().parse_args())
