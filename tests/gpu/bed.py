"""The bed on which the checks run: scenes of digits, trainings with notes, and the project's scripts, on a device."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from outcome import NotRun, Wrong

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name('probe.py')
EPOCHS = 2
PRINT_FREQ = 4
DISTINCT = 10  # scenes, each of which is seen often


class Training:
    """What a run of main.py left: exit code, console, output folder, and the notes of each process."""

    def __init__(self, code, console, out, notes):
        self.code, self.console, self.out, self.notes = code, console, out, notes

    @property
    def losses(self):
        """Of each step, the mean over the processes, which have equal shares of the batch."""
        return [sum(values) / len(values) for values in zip(*(note['losses'] for note in self.notes))]

    def log(self):
        """The records of log.txt, one an epoch."""
        return [json.loads(line) for line in (self.out / 'log.txt').read_text().splitlines()]

    def said(self, pattern):
        """The first match of a pattern in the console; raises Wrong if there is none."""
        found = re.search(pattern, self.console)
        if not found:
            raise Wrong(f'the console does not say {pattern!r}: …{self.console[-500:]}')
        return found


class Bed:
    """device: 'gpu', or 'cpu' to rehearse with tiny models. cards: how many there are to use (2 on a CPU)."""

    def __init__(self, folder, device, cards):
        self.folder, self.device, self.cards, self.trainings = Path(folder), device, cards, {}
        self.on_gpu = device == 'gpu'
        self.model, self.size, self.batch = ('lvvit_s', 224, 32) if self.on_gpu else ('lvvit_nano', 48, 8)
        self.steps = 20 if self.on_gpu else 10  # optimizer steps of an epoch
        self.scenes, self.list = self.folder / 'scenes', self.folder / 'train_list.txt'

    def prepare(self):
        """Make the scenes, and a list that names each of them often: what is seen again and again is learned fast."""
        self.call('demo/digits.py', self.scenes, '--train', DISTINCT, '--val', 40, '--size', self.size)
        lines = (self.scenes / 'train_list.txt').read_text().splitlines(keepends=True)
        self.list.write_text(''.join(lines) * (self.steps * self.batch // DISTINCT))

    def of_model(self):
        return ['--model', self.model, '--input_size', self.size, '--nb_classes', 10]

    def of_data(self):
        return ['--data_path', self.scenes, '--cls_label_path_val', self.scenes / 'val_list.txt']

    def flags(self):
        """main.py's flags of every training here: token labels, and images that are the same whenever they are seen."""
        steps = f'--batch_size {self.batch} --epochs {EPOCHS} --warmup_epochs 1 --cooldown_epochs 0 --lr 1e-3'.split()
        still = '--mixup 0 --cutmix 0 --hflip 0 --reprob 0 --train_scale 1 1 --smoothing 0 --no_mix_token --aa'.split()
        others = f'--print_freq {PRINT_FREQ} --resume auto --num_workers 2 --cls_label_path_train'.split()
        maps = ['--token_label', '--token_label_data', self.scenes / 'label_maps']
        return [*self.of_model(), *self.of_data(), *maps, *steps, *still, '', *others, self.list]

    def train(self, name, *flags, cards=1, own=(), environment=None, again=False):
        """The Training called `name`: of before if there was one, unless it is to go on (again).

        own: flags of probe.py. cards: processes, a card each. environment: variables beside those of this process.
        """
        if name in self.trainings and not again:
            return self.trainings[name]
        out, notes = self.folder / name, self.folder / f'{name}.notes'
        for old in self.folder.glob(f'{name}.notes.*'):
            old.unlink()
        words = [PROBE, notes, *own, *self.flags(), *flags, '--output_dir', out]
        code, console = self.run(*self.launcher(name, cards), *words, environment=environment)
        found = [json.loads(path.read_text()) for path in sorted(self.folder.glob(f'{name}.notes.rank*.json'))]
        for log in sorted(self.folder.glob(f'{name}.launch/workerlog.*')):
            console += log.read_text(errors='replace')
        if code != 0 or len(found) != cards:
            raise Wrong(f'training {name}: exit code {code}, notes of {len(found)} processes: …{console[-700:]}')
        self.trainings[name] = Training(code, console, out, found)
        return self.trainings[name]

    def forget(self, *names):
        """Delete the checkpoints of trainings, which take a gigabyte each on a GPU; their notes stay."""
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def launcher(self, name, cards):
        if cards == 1:
            return []
        where = ['--nproc_per_node', cards, '--backend', 'gloo']
        if self.on_gpu:
            where = ['--gpus', ','.join(map(str, range(cards)))]
        return ['-m', 'paddle.distributed.launch', *where, '--log_dir', self.folder / f'{name}.launch']

    def run(self, *words, environment=None):
        """Run Python with these words; returns (exit code, what it printed on stdout and stderr)."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith('PADDLE_')}
        hidden = {} if self.on_gpu else {'CUDA_VISIBLE_DEVICES': ''}
        environment = {**inherited, **hidden, **(environment or {})}
        command = [sys.executable, *map(str, words)]
        pipes = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=1200, **pipes)
        except subprocess.TimeoutExpired:
            raise Wrong(f'still running after 20 minutes: {" ".join(command)}')
        return done.returncode, done.stdout

    def call(self, script, *words):
        """Run a script of the project, which must succeed; returns what it printed."""
        code, console = self.run(script, *words)
        if code != 0:
            raise Wrong(f'{script}: exit code {code}: …{console[-700:]}')
        return console

    def needs_gpu(self, why):
        if not self.on_gpu:
            raise NotRun(f'needs a GPU: {why}')

    def needs_two_cards(self):
        if self.cards < 2:
            raise NotRun('one card here')
