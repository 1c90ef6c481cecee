"""Trainings as real processes: start them, watch them from outside, end them, compare what they left."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from states import differences, untimed
from util.weights import checkpoint

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, STEPS_PER_EPOCH, BATCH, SAVE_EVERY = 3, 12, 8, 5
STEPS = EPOCHS * STEPS_PER_EPOCH
PATIENCE = float(os.environ.get('FAULTS_PATIENCE', 4))  # time limits are multiplied by it, for busy machines
RECIPE = (  # everything that has a state; --resume auto: the same command starts and continues a run
    '--model lvvit_nano --input_size 32 --nb_classes 10 --token_label --mixup 0 --cutmix 0 --drop 0.1 --drop_path 0.1 '
    '--model_ema --model_ema_eval --model_ema_decay 0.9 --warmup_epochs 1 --cooldown_epochs 1 --lr 1e-3 '
    f'--batch_size {BATCH} --epochs {EPOCHS - 1} --save_freq_steps {SAVE_EVERY} --print_freq 1 --resume auto'
).split()


def make_scenes(folder, images=STEPS_PER_EPOCH * BATCH):
    """A data set of demo/digits.py."""
    command = [sys.executable, ROOT / 'demo/digits.py', folder, *f'--train {images} --val 40 --size 32'.split()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Run:
    """`python main.py` as a process, on the scenes in `data`, with its output in the folder `out`.

    flags: of main.py, which win over RECIPE; steps_per_epoch: what they lead to. script: in place of main.py.
    """

    def __init__(
        self, data, out, *flags, workers=1, steps_per_epoch=STEPS_PER_EPOCH, script=ROOT / 'main.py', env=None, **popen
    ):
        self.out, self.steps_per_epoch, self.mark = Path(out), steps_per_epoch, uuid.uuid4().hex
        self.log, self.err = (data.parent / f'{self.out.name}.{self.mark[:8]}.{name}' for name in ('log', 'err'))
        lists = ['--cls_label_path_train', data / 'train_list.txt', '--cls_label_path_val', data / 'val_list.txt']
        paths = ['--data_path', data, *lists, '--token_label_data', data / 'label_maps', '--output_dir', out]
        command = [sys.executable, script, *RECIPE, *paths, '--num_workers', workers, *flags]
        env = {**os.environ, **(env or {}), 'OMP_NUM_THREADS': '1', 'FAULTS_RUN': self.mark}
        with open(self.log, 'wb') as log, open(self.err, 'wb') as err:
            self.process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=err, env=env, **popen)

    def lines(self):
        """Finished console lines, without their time stamps."""
        return [line[18:] for line in self.log.read_text(errors='replace').split('\n')[:-1]]

    def begin(self):
        """The step of the whole run from which it continues; None before the console says so."""
        for line in self.lines():
            if found := re.match(r'training on .* from epoch (\d+), step (\d+)', line):
                return int(found[1]) * self.steps_per_epoch + int(found[2])
            if found := re.match(r'all (\d+) epochs are done', line):
                return int(found[1]) * self.steps_per_epoch
        return None

    def reached(self):
        """Steps of the whole run that are done according to the console; None before it trains."""
        done = self.begin()
        for line in self.lines():
            if found := re.match(r'Epoch: \[(\d+)\]  \[ *(\d+)/', line):
                done = int(found[1]) * self.steps_per_epoch + int(found[2]) + 1
        return done

    def running(self):
        return self.process.poll() is None

    def finished(self):
        return any(re.match(r'Training time|all \d+ epochs are done', line) for line in self.lines())

    def evaluating(self):
        last = [line for line in self.lines() if line.startswith(('Epoch: ', 'Test:', 'Max accuracy: '))][-1:]
        return bool(last) and last[0].startswith('Test:')

    def saving(self):
        """Whether a half-written checkpoint is in its folder."""
        return any(self.out.glob('.*.tmp'))

    def processes(self):
        """Pids of all its processes, by the mark in their environment, whoever their parent is by now."""
        found = []
        for folder in Path('/proc').glob('[0-9]*'):
            try:
                if self.mark.encode() in (folder / 'environ').read_bytes():
                    found.append(int(folder.name))
            except OSError:
                pass
        return found

    def until(self, condition, seconds=30):
        """Wait for `condition()` while it runs; returns whether it is still running."""
        end = time.monotonic() + PATIENCE * seconds
        while self.running() and not condition():
            assert time.monotonic() < end, f'{self.log}: waited {PATIENCE * seconds:.0f} s'
            time.sleep(0.002)
        return self.running()

    def end(self, number=None):
        """Send it a signal, if one is given, and wait for its end, after which no process may be left; returns the
        exit code."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE * 60)
        limit = time.monotonic() + PATIENCE * 5
        while left := self.processes():
            assert time.monotonic() < limit, f'{self.log}: processes {left} are left'
            time.sleep(0.01)
        return code

    def refusal(self):
        """The line with which it ends by itself."""
        code, text = self.end(), self.err.read_text(errors='replace')
        assert code > 0 and text.count('\n') == 1 and text.startswith('main.py: error: '), f'exit code {code}: {text}'
        return text

    def finish(self):
        """Wait for it to train to the end; returns it."""
        code = self.end()
        assert code == 0 and self.finished(), f'exit code {code}: {self.err.read_text()}'
        return self


def assert_same_end(reference, out, extra=()):
    """A run's folder holds what the undisturbed run left: the same files, log.txt but for its times, checkpoints to the
    bit.

    extra: names of files to expect besides.
    """
    names = {path.name for path in out.iterdir()} - set(extra)
    assert names == {path.name for path in reference.iterdir()}
    assert untimed((out / 'log.txt').read_bytes()) == untimed((reference / 'log.txt').read_bytes())
    for name in names - {'log.txt', 'train.log', 'args.yaml', 'checkpoint-previous.pd'}:
        a, b = (checkpoint.load(str(folder / name)) for folder in (reference, out))
        del a['args'], b['args']  # --output_dir differs
        assert differences(a, b) == [], name


def stop_halfway(data, out):
    """A run that was asked to stop in its second epoch."""
    run = Run(data, out)
    run.until(lambda: (run.reached() or 0) >= STEPS_PER_EPOCH + 3)
    assert run.end(signal.SIGTERM) == 0
    return out
