"""Several processes have the gradients of one, draws of their own, one stream of console lines, and end together.

Paddle's launcher starts tests/launched.py: main.py on tiny models, with notes of what each process sees.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import TINY_RUN, words
from states import differences, same, untimed
from util.deploy.inference_yml import PADDLE_3
from util.weights import checkpoint

pytestmark = pytest.mark.cross_version
one_version = pytest.mark.skipif(not PADDLE_3, reason='how launchers end is tested on one version')

CORES = sorted(os.sched_getaffinity(0))[:2]  # their number decides on threads, and threads on the last bits
LAUNCHED = Path(__file__).with_name('launched.py')
LAUNCHER = words(sys.executable, '-m paddle.distributed.launch')
NEWER = [*LAUNCHER, '--nproc_per_node', '2']
TINY = f'{TINY_RUN} --nb_classes 4'
# 64 images, 16 a step
WHOLE = (
    '--epochs 3 --batch_size 8 --mixup 0 --cutmix 0 --drop_path 0.5 --drop 0.1 --lr 0.01 --model_ema --model_ema_eval '
    '--model_ema_decay 0.9 --dist_eval --print_freq 2 '
)
STEM = '--no_mix_token --mixup 0 --cutmix 0 --opt momentum --lr 0.1 '  # processes differ in batch norm alone
EXACT = f'--naive {STEM}'  # processes differ in nothing


def several(number):
    """Paddle's older launcher, which --backend selects; the newer one is used without it, as with --gpus."""
    return [*LAUNCHER, '--nproc_per_node', str(number), '--backend', 'gloo']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """set/: 64 training and 12 validation images of 4 classes, maps/; broken.txt lists one that is no image, too."""
    root, rng, lists = tmp_path_factory.mktemp('dist'), np.random.default_rng(0), {'train': [], 'val': []}
    for split, count in (('train', 64), ('val', 12)):
        for i in range(count):
            name = f'{"abcd"[i % 4]}/{split}{i}'
            image, label_map = root / 'set' / split / f'{name}.png', root / 'maps' / f'{name}.npy'
            for path in (image, label_map):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, [5, 5, 3], dtype='uint8')).resize((32, 32)).save(image)
            lists[split].append(f'{split}/{name}.png {i % 4}\n')
            ids = np.argsort(rng.random([4, 3, 3]), axis=0)
            np.save(label_map, np.stack([rng.normal(0, 3, [4, 3, 3]), ids]).astype('float16'))
    (root / 'good.txt').write_text(''.join(lists['train']))
    (root / 'set' / 'broken.png').write_bytes(b'no image')
    (root / 'broken.txt').write_text(''.join(lists['train'][1:]) + 'broken.png 0\n')
    return root


class Job:
    """A launcher and its processes. command: up to the script; runs: {name: flags}, one after the other."""

    def __init__(self, folder, command, log, **runs):
        self.folder, self.names, self.logs = folder, list(runs), folder / f'log-{log}'
        self.command = words(*command, LAUNCHED)
        if len(command) > 1:
            self.command[-1:-1] = ['--log_dir', str(self.logs)]
        for name, flags in runs.items():
            self.command += ['THEN'] * (name != self.names[0]) + self.flags_of(name, flags)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(('PADDLE_', 'FLAGS_'))}
        how = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**clean, 'OMP_NUM_THREADS': '1'})
        self.process = subprocess.Popen(
            self.command, cwd=folder, preexec_fn=lambda: os.sched_setaffinity(0, CORES), **how
        )

    def flags_of(self, name, flags):
        data = f'--data_path {self.folder}/set --cls_label_path_train {self.folder}/good.txt'
        maps = f'--token_label --token_label_data {self.folder}/maps --token_label_size 2'
        if '--no_maps' in flags:
            maps = ''
        return words(self.folder / name, TINY, data, f'--output_dir {self.folder}/out-{name}', maps, flags)

    def wait(self, code=0):
        """Wait for the launcher, and at most a minute longer for its processes; returns self."""
        try:
            self.console, _ = self.process.communicate(timeout=120)
        finally:
            self.process.kill()  # its processes end with it
        self.ended = time.time()
        assert code is None or self.process.returncode == code, self.console[-1000:] + self.text(0)[-3000:]
        while left := processes_of(self.logs):
            assert time.time() < self.ended + 60, f'still there: {left}'
            time.sleep(0.1)
        self.ended = time.time()
        return self

    def text(self, rank):
        return (self.logs / f'workerlog.{rank}').read_text() if self.logs.exists() else self.console

    def notes(self, rank=0, name=None):
        return np.load(self.folder / f'{name or self.names[0]}-rank{rank}.npz')


def processes_of(logs):
    """The processes, loader processes too, whose output goes to a launcher's logs."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            if os.readlink(entry / 'fd' / '1').startswith(f'{logs}/'):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def ours(text):
    """Our console lines, without their time stamps."""
    return re.findall(r'^\[\d\d:\d\d:\d\d\.\d{6}\] (.*)$', text, re.M)


def records(out):
    return [json.loads(line) for line in (out / 'log.txt').read_text().splitlines()]


def assert_same_run(out, other):
    a, b = (checkpoint.load(str(path / 'checkpoint-latest.pd')) for path in (out, other))
    for part in ('model', 'model_ema', 'optimizer', 'epoch', 'step', 'best_acc1', 'best_acc1_ema'):
        assert differences(a[part], b[part], part) == []
    assert untimed((out / 'log.txt').read_bytes()) == untimed((other / 'log.txt').read_bytes())


def images(job, processes, name=None, accum_iter=1):
    """Images of every optimizer step, in order: [steps, total batch]."""
    index = np.stack([job.notes(rank, name)['index'] for rank in range(processes)], axis=1)
    return index.reshape([len(index) // accum_iter, -1])


# ---- the launches: each makes several runs, for a launch takes seconds


@pytest.fixture(scope='module')
def one(folder):
    return Job(folder, [sys.executable], 'one', one=f'{EXACT} --batch_size 16').wait()


@pytest.fixture(scope='module')
def two(folder):
    runs = dict(whole=WHOLE, two2=EXACT + '--batch_size 4 --accum_iter 2')
    runs['mixup'] = f'--cls_label_path_train {folder}/broken.txt --batch_size 8 --seed 1 --no_maps'
    runs['stem8'] = f'{STEM} --batch_size 8'
    runs['gpu'] = '--as_gpu --batch_size 4 --print_freq 3'
    return Job(folder, several(2), 'two', **runs).wait()


@pytest.fixture(scope='module')
def stopped(folder):
    """A run that is stopped twice, by SIGTERM to a process and to its launcher, and resumed each time.

    The second of its three parts recomputes the blocks, which changes no bit.
    """
    out, jobs = folder / 'out-stopped', {}
    for who, command, code, hit in [
        ('one', several(2), 0, '--hit self SIGTERM 1 2'),
        ('launcher', NEWER, signal.SIGTERM, '--recompute --hit launcher SIGTERM 0 3'),
        ('end', several(2), 0, ''),
    ]:
        flags = f'{WHOLE} --output_dir {out} --resume auto {hit}'
        jobs[who] = Job(folder, command, f'stopped-{who}', **{f'stopped-{who}': flags}).wait(code)
    return jobs


# ---- gradients


def test_gradients_are_those_of_one_process_on_the_joined_batch(one, two):
    """Of two processes that accumulate two batches each."""
    expected, ranks = one.notes(0, 'one'), [two.notes(rank, 'two2') for rank in (0, 1)]
    assert (images(two, 2, 'two2', accum_iter=2) == images(one, 1, 'one')).all(), 'the same images in every step'
    largest = np.abs(expected['gradient']).max()
    assert len(expected['gradient']) == 4 and largest > 0.01
    assert same(ranks[0]['gradient'], ranks[1]['gradient']), 'the same bits on both processes'
    for notes in ranks:
        assert np.abs(notes['gradient'] - expected['gradient']).max() <= 1e-6 * max(largest, 1)
        np.testing.assert_allclose(notes['weights'][-1], expected['weights'][-1], rtol=0, atol=1e-6)
    apart = np.abs(ranks[0]['partial'] - ranks[1]['partial']).max(axis=1)
    assert (apart > 1e-3).all(), 'before the last batch of a step the gradients are each process’s own'
    logged, expected = (records(two.folder / f'out-{name}')[0]['train_loss'] for name in ('two2', 'one'))
    assert logged == pytest.approx(expected, abs=1e-6)


# ---- what the processes share and what they draw separately


def test_every_process_draws_its_own_boxes_mixes_and_dropped_paths(two):
    a, b = two.notes(0), two.notes(1)
    assert len(a['box']) == 12 and (a['box'] != b['box']).any(axis=1).sum() >= 6, 'few boxes on a grid of 2 x 2'
    dropped = [np.reshape(notes['drop_path'], [12, -1]) for notes in (a, b)]
    assert all((x != y).all() for x, y in zip(*dropped))
    a, b = two.notes(0, 'mixup'), two.notes(1, 'mixup')
    assert len(a['shares']) == 4 and all((x != y).any() for x, y in zip(a['shares'], b['shares']))


def test_weights_are_equal_on_all_processes_from_the_first_step_to_the_last(two):
    for name in ('whole', 'mixup'):
        first, other = (two.notes(rank, name)['weights'] for rank in (0, 1))
        assert len(first) > 1 and same(first, other)


def statistics(job, name):
    """Batch norm's running statistics at the end of a run: (in the checkpoint, the first process's, the second's)."""
    saved = checkpoint.load(str(job.folder / f'out-{name}' / 'checkpoint-latest.pd'))['model']
    saved = np.concatenate([v.ravel() for k, v in saved.items() if k.endswith(('._mean', '._variance'))])
    return saved, *(job.notes(rank, name)['statistics'] for rank in (0, 1))


def test_batch_norm_statistics_are_each_processs_own_and_the_firsts_are_saved(two):
    saved, mine, other = statistics(two, 'gpu')
    assert same(saved, mine) and np.abs(mine - other).max() > 1e-3


def test_with_dist_eval_all_processes_evaluate_with_the_firsts_statistics(two):
    saved, mine, other = statistics(two, 'whole')
    assert same(saved, mine) and same(other, mine)


def test_the_loss_of_an_epoch_is_the_mean_over_what_all_processes_saw(two):
    logged = [record['train_loss'] for record in records(two.folder / 'out-whole')]
    losses = np.stack([two.notes(rank)['loss'].astype('float64').reshape([3, 4]) for rank in (0, 1)])
    assert logged == pytest.approx(losses.mean(axis=(0, 2)), rel=1e-7)
    assert np.abs(losses[0].mean(1) - losses[1].mean(1)).min() > 1e-4, 'which differs from that of each'


# ---- console lines and collectives


def test_one_stream_of_lines_and_the_warnings_of_every_process(two):
    first, second = two.text(0), two.text(1)
    steps = [line for line in ours(first) if line.startswith('Epoch: [0]  [0/')]
    assert len(steps) == len(two.names) and ours(second) == [], 'a line for each of the runs, from the first process'
    assert len(re.findall(r'^warning: .*broken.png: cannot be decoded.*skipped', second, re.M)) == 1
    copy = ours((two.folder / 'out-whole' / 'train.log').read_text())
    assert copy == ours(first)[: len(copy)] and copy[-1].startswith('Training time'), 'of the first run, once'
    assert 'warning:' not in first and records(two.folder / 'out-mixup')[0]['bad_images'] == 1, 'counted all the same'


def test_steps_that_log_nothing_cost_no_collective_on_gpus_and_one_small_one_on_cpus(two):
    for rank in (0, 1):
        assert np.diff(two.notes(rank, 'gpu')['collectives']).tolist() == [0, 0, 1, 0, 0, 1, 0], '--print_freq 3'
        assert np.diff(two.notes(rank, 'stem8')['collectives']).tolist() == [1, 1, 1]


# ---- stopping and resuming


@pytest.mark.parametrize('name, where', [('one', 'epoch 0 after 2'), ('launcher', 'epoch 1 after 1')])
def test_sigterm_to_a_process_or_its_launcher_stops_all_after_the_same_step(stopped, name, where):
    job = stopped[name]
    (line,) = [line for line in ours(job.text(0)) if line.startswith('stopped by ')]
    assert f'in {where} of 4 steps; --resume auto continues from ' in line
    assert 'Traceback' not in job.text(0) + job.text(1)


def test_a_run_of_two_processes_stopped_twice_ends_bit_identical_to_an_unbroken_one(stopped, two):
    assert 'from epoch 1, step 1' in stopped['end'].text(0)
    assert_same_run(two.folder / 'out-stopped', two.folder / 'out-whole')


# ---- processes that end


@one_version
def test_a_killed_process_ends_the_run_within_a_minute_and_leaves_no_process_behind(folder):
    flags = f'{WHOLE} --num_workers 1 --epochs 1000 --hit self SIGKILL 1 2'
    job = Job(folder, several(2), 'killed', killed=flags).wait(code=None)
    assert job.process.returncode != 0 and processes_of(job.logs) == [], 'no loader process either'
    assert job.ended - float(job.notes(1)['time']) < 60
    assert re.search(r'trainer process with rank=\[(0, )?1\] was aborted', job.console)
