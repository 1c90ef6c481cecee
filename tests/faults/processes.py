"""Training runs as real processes: start them, watch them from outside, end them."""

import glob
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from tiny import ROOT, UPDATES

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


def alive(mark):
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


def modified(path):
    """Seconds since 1970; 0 if the file is gone."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0


class Run:
    """`python main.py *flags` as a process of its own.

    out: its output folder; consoles: where its output goes; updates: optimizer steps of an epoch.
    """

    def __init__(self, out, flags, consoles, updates=UPDATES, **popen):
        self.updates = updates
        self.out, self.mark, self.pids, self.began = Path(out), uuid.uuid4().hex, set(), time.time()
        consoles.mkdir(exist_ok=True)
        self.log, self.err = (consoles / f'{self.out.name}.{self.mark[:8]}.{name}' for name in ('log', 'err'))
        command = [sys.executable, str(ROOT / 'main.py'), *map(str, flags), '--output_dir', str(out)]
        with open(self.log, 'wb') as log, open(self.err, 'wb') as err:
            env = {**os.environ, 'OMP_NUM_THREADS': '1', 'FAULTS_RUN': self.mark}
            self.process = subprocess.Popen(command, stdout=log, stderr=err, cwd=ROOT, env=env, **popen)

    def lines(self):
        """Finished console lines, without their time stamps."""
        return [line[18:] for line in self.log.read_text(errors='replace').split('\n')[:-1]]

    def begin(self):
        """The step (of the whole run) it continues from; None as long as it has not said so."""
        for line in self.lines():
            if found := re.match(r'training on .* from epoch (\d+), step (\d+)', line):
                return int(found[1]) * self.updates + int(found[2] or 0)
        return None

    def reached(self):
        """Steps (of the whole run) that are done according to the console, which has a line for each (--print_freq 1).

        A line is printed after the step and after its save, if it has one.
        """
        done = self.begin()
        for line in self.lines():
            if found := re.match(r'Epoch: \[(\d+)\]  \[ *(\d+)/', line):
                done = int(found[1]) * self.updates + int(found[2]) + 1
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
        pids = alive(self.mark)
        self.pids.update(pids)
        return pids

    def shared_memory(self):
        """Files in /dev/shm of its loader processes; older ones are of others, whose pids came round again."""
        found = []
        for path in glob.glob('/dev/shm/paddle_*_*'):
            name = os.path.basename(path)
            if int(name.split('_')[1]) in self.pids and modified(path) > self.began - 1:
                found.append(name)
        return found

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
