"""The undisturbed run, and the comparison of others with it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from processes import Run, check
from tiny import IMAGES, ROOT, UPDATES, flags, make_scenes

sys.path.insert(0, str(ROOT / 'tests'))
from states import differences


class Bench:
    """A folder with data, the undisturbed run, and what other runs leave."""

    def __init__(self, folder, images=IMAGES):
        self.folder = Path(folder)
        self.data = self.folder / 'digits'
        make_scenes(self.data, images)
        self.reference, self.saves, self.seconds = self.folder / 'undisturbed', [], {}

    def start(self, out, *more, workers=1, data=None, **popen):
        """The same command every time, --resume auto in it: a new run in a new folder, else the continued one."""
        command = flags(data or self.data, *more, workers=workers)
        return Run(self.folder / out, command, self.folder / 'consoles', **popen)

    def run_undisturbed(self):
        """Makes the run to compare with, and notes how long its parts take: start-up, training, a save, evaluation."""
        begin, run = time.monotonic(), self.start(self.reference)
        started = save = None
        while run.running():
            time.sleep(0.002)
            now, saving = time.monotonic(), run.saving()
            if saving and save is None:
                save = now
            elif not saving and save is not None:
                self.saves.append(now - save)
                save = None
            if started is None and run.begin() is not None:
                started = now
        check(run.end() == 0 and run.finished(), f'the undisturbed run failed: {run.error()}')
        save = float(np.median(self.saves))
        self.seconds = {'start-up': started - begin, 'training': time.monotonic() - started, 'save': save}
        return self.seconds

    def halfway(self):
        """A copy-to-be: the folder of a run that was asked to stop in its second epoch. Made once."""
        out = self.folder / 'halfway'
        if not out.exists():
            run = self.start(out)
            run.until(lambda: (run.reached() or 0) >= UPDATES + 3)
            run.signal(signal.SIGTERM)
            check(run.end() == 0, f'{run.err}: {run.error()}')
        return out

    def from_halfway(self, name):
        """A new output folder that a run has been half through; files that share contents share them here too."""
        out = self.folder / name
        subprocess.run(['cp', '-a', self.halfway(), out], check=True)
        return out

    def same_end(self, out, *more, workers=1, but=()):
        """Continue the run in `out` to its end and check that it ends as the undisturbed one did."""
        run = self.start(out, *more, workers=workers)
        code = run.end(120)
        check(code == 0 and run.finished(), f'{run.err}: exit code {code}: {run.error()}')
        self.compare(out, but)
        return run

    def compare(self, out, but=(), to=None):
        """Raises Failure unless a run's folder holds exactly what the undisturbed run (or that in `to`) left.

        but: files to expect beside.
        """
        out, to = self.folder / out, to or self.reference
        names = {p.name for p in out.iterdir()} - set(but)
        check(names == {p.name for p in to.iterdir()}, f'{out}: holds {sorted(names)}')
        check((out / 'log.txt').read_bytes() == (to / 'log.txt').read_bytes(), f'{out}: log.txt is another')
        for name in sorted(names - {'log.txt', 'args.yaml', 'checkpoint-previous.pd'}):
            found = differences(content(to / name), content(out / name))
            check(not found, f'{out}: {name} differs in {found[:5]} and {len(found)} in all')

    def forget(self, out):
        """Delete an output folder that is no longer of interest, and the consoles of its runs."""
        shutil.rmtree(self.folder / out, ignore_errors=True)
        for path in (self.folder / 'consoles').glob(f'{out}.*'):
            path.unlink()


def content(path):
    """All of a checkpoint but the command's flags, some of which (--output_dir) must differ."""
    from util.weights import checkpoint

    state = checkpoint.load(str(path))
    del state['args']
    return state


def log_records(out):
    return [json.loads(line) for line in (Path(out) / 'log.txt').read_text().splitlines()]
