"""Training runs as real processes: start them, watch them from outside, end them, and compare what they leave behind."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
UPDATES, EPOCHS, IMAGES = 12, 3, 96  # optimizer steps of an epoch, epochs, training images
STEPS = UPDATES * EPOCHS
SAVE_EVERY = 5
STRAY_SECONDS = 5  # no process of a run may be left so long after its end


class Failure(Exception):
    """A run did not do what docs/reliability.md promises."""


def check(condition, message):
    if not condition:
        raise Failure(message)


def wait_for(condition, seconds, every=0.01):
    """Poll until `condition()` is true; its value, or that of the last try."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(every)
    return value


def scaled(seconds):
    """A time limit for this machine, which may be busy with other work."""
    return seconds * float(os.environ.get('FAULTS_PATIENCE', 4))


# -- processes --------------------------------------------------------------------------------------------------------

def processes(mark):
    """Pids of all processes that have `mark` in their environment, whoever their parent is by now; no zombies."""
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{name}/environ', 'rb') as f:
                if mark.encode() in f.read():
                    found.append(int(name))
        except OSError:
            pass
    return found


def shared_memory(pids):
    """Files in /dev/shm that Paddle's loader processes with these pids have left."""
    if not os.path.isdir('/dev/shm'):
        return []
    return [n for n in os.listdir('/dev/shm') if (m := re.match(r'paddle_(\d+)_', n)) and int(m[1]) in pids]


class Run:
    """`python main.py *flags` as a process of its own. out: its output folder; consoles: where its output goes."""

    def __init__(self, out, flags, consoles, **popen):
        self.out, self.mark, self.pids = Path(out), uuid.uuid4().hex, set()
        consoles.mkdir(exist_ok=True)
        self.log, self.err = (consoles / f'{self.out.name}.{self.mark[:8]}.{name}' for name in ('log', 'err'))
        command = [sys.executable, str(ROOT / 'main.py'), *map(str, flags), '--output_dir', str(out)]
        with open(self.log, 'wb') as log, open(self.err, 'wb') as err:
            self.process = subprocess.Popen(command, stdout=log, stderr=err, cwd=ROOT, **popen,
                                            env={**os.environ, 'OMP_NUM_THREADS': '1', 'FAULTS_RUN': self.mark})

    def lines(self):
        """Finished console lines, without their time stamps."""
        return [line[18:] for line in self.log.read_text(errors='replace').split('\n')[:-1]]

    def begin(self):
        """The step (of the whole run) it continues from; None as long as it has not said so."""
        for line in self.lines():
            if found := re.match(r'training on .* epochs (\d+) to \d+(?: from step (\d+))?', line):
                return int(found[1]) * UPDATES + int(found[2] or 0)
        return None

    def reached(self):
        """Steps (of the whole run) that are done according to the console, which has a line for each (--print_freq 1).

        A line is printed after the step and after its save, if it has one.
        """
        done = self.begin()
        for line in self.lines():
            if found := re.match(r'Epoch: \[(\d+)\]  \[ *(\d+)/', line):
                done = int(found[1]) * UPDATES + int(found[2]) + 1
        return done

    def evaluating(self):
        """Whether it is between the last step of an epoch and what evaluation found."""
        lines = [line for line in self.lines() if re.match(r'Epoch: .* Total|Max accuracy|Epoch: \[\d+\]  \[', line)]
        return bool(lines) and ' Total' in lines[-1]

    def finished(self):
        return any(line.startswith('Training time') for line in self.lines())

    def running(self):
        return self.process.poll() is None

    def saving(self):
        """Names of half-written checkpoints in its folder."""
        try:
            return [name for name in os.listdir(self.out) if name.startswith('.') and name.endswith('.tmp')]
        except OSError:
            return []

    def look(self):
        """Pids of all its processes; they are remembered."""
        alive = processes(self.mark)
        self.pids.update(alive)
        return alive

    def loaders(self):
        return [pid for pid in self.look() if pid != self.process.pid]

    def signal(self, number):
        self.look()
        self.process.send_signal(number)

    def until(self, condition, seconds=30):
        """Wait for `condition()` as long as it runs. Raises Failure when that takes too long."""
        wait_for(lambda: condition() or not self.running(), scaled(seconds))
        check(condition() or not self.running(), f'{self.log}: waited {scaled(seconds):.0f} s in vain')
        return self.running()

    def end(self, seconds=60):
        """Wait for its end; returns the exit code. Raises Failure if it hangs or leaves processes behind."""
        try:
            code = self.process.wait(scaled(seconds))
        except subprocess.TimeoutExpired:
            left = self.look()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
            raise Failure(f'{self.log}: still running after {scaled(seconds):.0f} s')
        stray = wait_for(lambda: not self.look(), STRAY_SECONDS)
        check(stray, f'{self.log}: processes {self.look()} are there {STRAY_SECONDS} s after the end')
        return code

    def error(self):
        return self.err.read_text(errors='replace')

    def refused(self, *words):
        """Check that it ends by itself with one clear line, of which `words` are part; returns the line."""
        code, text = self.end(), self.error()
        check(code not in (0, None) and code > 0, f'{self.log}: exit code {code}')
        lines = text.splitlines()
        check(len(lines) == 1 and lines[0].startswith('main.py: error: '), f'{self.err}: not one line:\n{text}')
        for word in words:
            check(re.search(word, text), f'{self.err}: nothing about "{word}":\n{text}')
        return lines[0]


# -- the run that everything is compared with -------------------------------------------------------------------------

def make_scenes(folder, train, val=40):
    subprocess.run([sys.executable, ROOT / 'demo' / 'digits.py', folder, '--train', str(train), '--val', str(val),
                    '--size', '32'], check=True, stdout=subprocess.DEVNULL)


def flags(data, *more, workers=1):
    """Flags of main.py for a tiny run with everything that has a state; those in `more` override."""
    return ['--model', 'lvvit_nano', '--input_size', 32, '--nb_classes', 10, '--data_path', data,
            '--cls_label_path_train', data / 'train_list.txt', '--cls_label_path_val', data / 'val_list.txt',
            '--token_label', '--token_label_data', data / 'label_maps', '--token_label_size', 2, '--mixup', 0,
            '--cutmix', 0, '--drop', 0.1, '--drop_path', 0.1, '--model_ema', '--model_ema_eval', '--model_ema_decay',
            0.9, '--batch_size', IMAGES // UPDATES, '--epochs', EPOCHS - 1, '--warmup_epochs', 1, '--cooldown_epochs',
            1, '--lr', 1e-3, '--num_workers', workers, '--print_freq', 1, '--save_freq_steps', SAVE_EVERY,
            '--resume', 'auto', *more]


class Bench:
    """A folder with data, the undisturbed run, and what other runs leave."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.data = self.folder / 'digits'
        make_scenes(self.data, IMAGES)
        self.reference, self.saves, self.seconds = self.folder / 'undisturbed', [], {}

    def start(self, out, *more, workers=1, data=None, **popen):
        """The same command every time, --resume auto in it: a new run in a new folder, else the continued one."""
        return Run(self.folder / out, flags(data or self.data, *more, workers=workers), self.folder / 'consoles',
                   **popen)

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
        self.seconds = {'start-up': started - begin, 'training': time.monotonic() - started,
                        'save': float(np.median(self.saves))}
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
        for name in sorted(names - {'log.txt', 'checkpoint-previous.pd'}):
            found = differences(content(to / name), content(out / name))
            check(not found, f'{out}: {name} differs in {found[:5]} and {len(found)} in all')

    def forget(self, out):
        """Delete an output folder that is no longer of interest, and the consoles of its runs."""
        shutil.rmtree(self.folder / out, ignore_errors=True)
        for path in (self.folder / 'consoles').glob(f'{out}.*'):
            path.unlink()


def content(path):
    """All of a checkpoint but the command's flags, some of which (--output_dir) must differ."""
    from util import checkpoint
    state = checkpoint.load(str(path))
    del state['args']
    return state


def differences(a, b, name=''):
    """Names of what is not bit-identical in two nested structures."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f'{name}/{key}')]
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    else:
        same = type(a) is type(b) and a == b
    return [] if same else [name]


def log_records(out):
    return [json.loads(line) for line in (Path(out) / 'log.txt').read_text().splitlines()]
