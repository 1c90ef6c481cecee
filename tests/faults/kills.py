"""Chains of kills: a run is ended again and again, continued by the same command, and compared at its end."""

import contextlib
import itertools
import os
import signal
import time

from processes import Failure, check, wait_for
from tiny import STEPS

ANY = 'SIGKILL, any instant of training'


class Kill:
    """Ends a run at a random instant. name: the table's row; times: how often in all of it; number: the signal."""

    def __init__(self, name, times, number=signal.SIGKILL):
        self.name, self.times, self.number = name, times, number

    def instant(self, run, bench, rng):
        """Wait for the instant; whether the run was still going then."""
        if not run.until(lambda: run.begin() is not None):
            return False
        time.sleep(rng.uniform(0, bench.seconds['training'] / 4))
        return run.running() and not run.finished()

    def strike(self, run, bench, rng):
        """Name of the row to count it in, None if it came too late; the run has ended by then."""
        if not self.instant(run, bench, rng):
            run.end()
            return None
        return self.hit(run)

    def hit(self, run):
        run.signal(self.number)
        self.check(run, run.end())
        return self.name

    def check(self, run, code):
        check(code == -signal.SIGKILL or run.finished(), f'{run.err}: exit code {code}: {run.error()}')


class AtStart(Kill):
    """Before it trains: while Python and Paddle are loaded, the checkpoint is read, log.txt is trimmed."""

    def instant(self, run, bench, rng):
        time.sleep(rng.uniform(0, bench.seconds['start-up']))
        return run.running()


class InSave(Kill):
    """While a half-written checkpoint can be seen in the folder, from its first byte to the renaming."""

    def instant(self, run, bench, rng):
        if not run.until(lambda: run.begin() is not None):
            return False
        for _ in range(int(rng.integers(1, 4))):
            run.look()
            wait_for(lambda: not run.saving() or not run.running(), 30, 0.001)
            wait_for(lambda: run.saving() or not run.running(), 30, 0.001)
        time.sleep(rng.uniform(0, bench.seconds['save']))
        return run.running()

    def hit(self, run):
        run.process.kill()  # at once: looking for processes takes milliseconds
        self.check(run, run.end())
        return self.name if run.saving() else ANY  # what it leaves behind is the proof


class InEvaluation(Kill):
    def instant(self, run, bench, rng):
        if not run.until(run.evaluating):
            return False
        time.sleep(rng.uniform(0, bench.seconds['training'] / 40))
        return run.running() and run.evaluating()


class Stop(Kill):
    """A request to stop, which the run answers by itself: it saves, prints a line and exits 0."""

    def check(self, run, code):
        if run.finished():
            return
        check(code == 0 and not run.error(), f'{run.err}: exit code {code}: {run.error()}')
        word = f'stopped by {signal.Signals(self.number).name} in epoch '
        said = [line for line in run.lines() if line.startswith(word)]
        check(said == run.lines()[-1:], f'{run.log}: does not say that it was stopped')


class StopInEvaluation(Stop, InEvaluation):
    pass


class OfLoader(Kill):
    """kill -9 of a loader process: the run ends with a line, exit code 1."""

    def instant(self, run, bench, rng):
        return super().instant(run, bench, rng) and run.until(run.loaders)

    def hit(self, run):
        with contextlib.suppress(IndexError, ProcessLookupError):  # it was about to end anyway
            os.kill(run.loaders()[-1], self.number)
        if run.end() == 0:
            return None  # it had given its last batch
        run.refused('a loader process has died', 'SIGKILL|Killed', '--resume auto')
        return self.name


ALL = [
    Kill(ANY, 20),
    InSave('SIGKILL during a save', 14),
    InEvaluation('SIGKILL during evaluation', 8),
    AtStart('SIGKILL while it starts', 6),
    Stop('SIGTERM, any instant of training', 6, signal.SIGTERM),
    Stop('SIGINT, any instant of training', 6, signal.SIGINT),
    StopInEvaluation('SIGTERM during evaluation', 4, signal.SIGTERM),
    OfLoader('SIGKILL of a loader process', 4),
]
KILLS = {kill.name: kill for kill in ALL}


class Tally:
    """A row of the table. lost: steps that had to be done again, one number for each."""

    def __init__(self, name):
        self.name, self.tried, self.survived, self.lost, self.note = name, 0, 0, [], ''


class Chains:
    """Works through a plan {name of a kill: how often} in runs that are each ended several times.

    say: called with a line of progress. A kill counts as survived when the chain it belongs to ended identical.
    """

    def __init__(self, bench, plan, rng, say=print):
        self.bench, self.rng, self.say = bench, rng, say
        self.left = [KILLS[name] for name, n in plan.items() for _ in range(n)]
        rng.shuffle(self.left)
        self.rows = {name: Tally(name) for name in plan}
        self.total, self.begin, self.failures = len(self.left), time.monotonic(), []
        self.shm, self.shm_bytes, self.runs = 0, 0, 0  # what killed loader processes left in /dev/shm

    def run(self):
        for number in itertools.count():
            if not self.left:
                return self.rows
            self.chain(number, workers=(1, 0, 2)[number % 3])

    def chain(self, number, workers):
        """One run from nothing to its end, through as many kills as it meets."""
        out, hit, unsettled = f'chain{number}', [], []
        reached, at_the_end, kill, name = 0, 0, None, None
        try:
            while True:
                if reached == STEPS:
                    at_the_end += 1
                # not all kills of a chain hit the moments after its last step
                kill, name = self.take(workers) if at_the_end <= 3 else None, None
                run = self.bench.start(out, workers=workers)
                self.runs += 1
                if kill:
                    name = kill.strike(run, self.bench, self.rng)
                run.end(120)
                begin = run.begin()
                if begin is not None:
                    self.settle(unsettled, reached - begin)
                    reached = run.reached()
                self.clear_shared_memory(run)
                if name:
                    row = self.rows.setdefault(name, Tally(name))
                    row.tried += 1
                    hit.append(row)
                    unsettled.append(row)
                    self.progress(number, workers, name, run)
                if kill and name != kill.name:
                    self.left.insert(0, kill)  # came too late: another time
                if run.process.returncode == 0 and run.finished():
                    break
                check(name, f'{run.err}: exit code {run.process.returncode}: {run.error()}')
            self.settle(unsettled, reached - STEPS)
            self.bench.compare(out)
        except Failure as failure:
            if kill and not name:
                self.rows[kill.name].tried += 1
            self.failures.append(f'chain {number} ({workers} loader processes): {failure}')
            self.say(f'FAILED {self.failures[-1]}')
            return
        for row in hit:
            row.survived += 1
        self.bench.forget(out)

    def clear_shared_memory(self, run):
        for left in run.shared_memory():
            self.shm += 1
            self.shm_bytes += os.path.getsize(f'/dev/shm/{left}')
            os.unlink(f'/dev/shm/{left}')

    def take(self, workers):
        """The next kill that makes sense with so many loader processes; None when there are none left."""
        for i in reversed(range(len(self.left))):
            if workers or not isinstance(self.left[i], OfLoader):
                return self.left.pop(i)
        return None

    def settle(self, unsettled, lost):
        """The first kill since the run last trained cost `lost` steps; further ones, before it got there, none."""
        for i, row in enumerate(unsettled):
            row.lost.append(max(lost, 0) if i == 0 else 0)
        unsettled.clear()

    def progress(self, number, workers, name, run):
        done, minutes = self.total - len(self.left), (time.monotonic() - self.begin) / 60
        where = f'chain {number}, {workers} loader process(es), {name}, at step {run.reached()}'
        self.say(f'{done:3d}/{self.total}  {minutes:.1f} min  {where}')
