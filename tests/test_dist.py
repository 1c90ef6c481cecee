"""Several processes: the gradients of one, draws of their own, one stream of lines, and none is left when one ends.

Paddle's launcher starts tests/launched.py, which is main.py on tiny models and notes what each process sees.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from states import same
from util.weights import checkpoint

pytestmark = pytest.mark.cross_version

LAUNCHED = Path(__file__).with_name('launched.py')
LAUNCHER = [sys.executable, '-m', 'paddle.distributed.launch']
PLAIN = ['--no_mix_token', '--mixup', 0, '--cutmix', 0]
# 64 images, 16 a step
WHOLE = [
    '--epochs',
    3,
    '--batch_size',
    8,
    '--mixup',
    0,
    '--cutmix',
    0,
    '--drop_path',
    0.5,
    '--drop',
    0.1,
    '--lr',
    0.01,
    '--model_ema',
    '--model_ema_eval',
    '--model_ema_decay',
    0.9,
    '--dist_eval',
    '--print_freq',
    2,
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """set/: 64 training and 12 validation images of 4 classes, maps/; broken.txt lists one that is no image, too."""
    root, rng, lists = tmp_path_factory.mktemp('dist'), np.random.default_rng(0), {'train': [], 'val': []}
    for split, count in (('train', 64), ('val', 12)):
        for i in range(count):
            path = root / 'set' / split / 'abcd'[i % 4] / f'{split}{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, [5, 5, 3], dtype='uint8')).resize((32, 32)).save(path)
            lists[split].append(f'{path.relative_to(root / "set")} {i % 4}\n')
            if split == 'train':
                ids = np.argsort(rng.random([4, 3, 3]), axis=0)
                (root / 'maps' / 'abcd'[i % 4]).mkdir(parents=True, exist_ok=True)
                np.save(
                    root / 'maps' / 'abcd'[i % 4] / f'{path.stem}.npy',
                    np.stack([rng.normal(0, 3, [4, 3, 3]), ids]).astype('float16'),
                )
    (root / 'good.txt').write_text(''.join(lists['train']))
    (root / 'set' / 'broken.png').write_bytes(b'no image')
    (root / 'broken.txt').write_text(''.join(lists['train'][1:]) + 'broken.png 0\n')
    return root


class Job:
    """A launcher and what it starts. command: up to the script; runs: {name: main.py's flags}, one after the other."""

    def __init__(self, folder, command, log, **runs):
        self.folder, self.names = folder, list(runs)
        self.logs = folder / f'log-{log}'
        if command != [sys.executable]:
            command = [*command, '--log_dir', self.logs]
        words = []
        for name, flags in runs.items():
            words += [
                'THEN',
                folder / name,
                '--model',
                'lvvit_nano',
                '--input_size',
                32,
                '--nb_classes',
                4,
                '--epochs',
                1,
                '--warmup_epochs',
                0,
                '--cooldown_epochs',
                0,
                '--num_workers',
                0,
                '--data_path',
                folder / 'set',
                '--cls_label_path_train',
                folder / 'good.txt',
                '--output_dir',
                folder / f'out-{name}',
                *self.token(flags),
                *flags,
            ]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(('PADDLE_', 'FLAGS_'))}
        self.process = subprocess.Popen(
            [str(word) for word in [*command, LAUNCHED, *words[1:]]],
            cwd=folder,
            env={**clean, 'OMP_NUM_THREADS': '1'},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def token(self, flags):
        maps = ['--token_label', '--token_label_data', self.folder / 'maps', '--token_label_size', 2]
        return [] if '--no_maps' in flags else maps

    def wait(self, code=0):
        """Until the launcher and all its processes have ended, which must be within a minute; returns self."""
        self.console, _ = self.process.communicate(timeout=120)
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
    """The processes whose output goes to a launcher's logs, loader processes too."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            if os.readlink(entry / 'fd' / '1').startswith(str(logs)):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def several(number):
    """Paddle's older launcher, which --backend chooses; without it and with --gpus it is the newer one."""
    return [*LAUNCHER, '--nproc_per_node', number, '--backend', 'gloo']


NEWER = [*LAUNCHER, '--nproc_per_node', 2]


def ours(text):
    """Lines of our own, without their time stamps."""
    return re.findall(r'^\[\d\d:\d\d:\d\d\.\d{6}\] (.*)$', text, re.M)


def records(out):
    return [json.loads(line) for line in (out / 'log.txt').read_text().splitlines()]


def state_of(out):
    return checkpoint.load(str(out / 'checkpoint-latest.pd'))


def assert_same_run(out, other):
    a, b = state_of(out), state_of(other)
    for part in ('model', 'model_ema', 'optimizer', 'epoch', 'step', 'best_acc1', 'best_acc1_ema'):
        assert same(a[part], b[part]), part
    assert (out / 'log.txt').read_text() == (other / 'log.txt').read_text()


def images(job, processes, name=None, accum_iter=1):
    """Images of every optimizer step, in order: [steps, total batch]."""
    index = np.stack([job.notes(rank, name)['index'] for rank in range(processes)], axis=1)
    return index.reshape([len(index) // accum_iter, -1])


# ---- the launches: each does as many things as it can, for it costs seconds


@pytest.fixture(scope='module')
def one(folder):
    flags = ['--naive', *PLAIN, '--opt', 'momentum', '--lr', 0.1]
    return Job(
        folder, [sys.executable], 'one', one16=[*flags, '--batch_size', 16], one12=[*flags, '--batch_size', 12]
    ).wait()


@pytest.fixture(scope='module')
def two(folder):
    flags = ['--naive', *PLAIN, '--opt', 'momentum', '--lr', 0.1]
    return Job(
        folder,
        several(2),
        'two',
        whole=WHOLE,
        two1=[*flags, '--batch_size', 8],
        two2=[*flags, '--batch_size', 4, '--accum_iter', 2],
        mixup=['--cls_label_path_train', folder / 'broken.txt', '--batch_size', 8, '--seed', 1, '--no_maps'],
        gpu=['--as_gpu', '--batch_size', 4, '--print_freq', 3, '--agree'],
    ).wait()


@pytest.fixture(scope='module')
def three(folder):
    flags = ['--naive', *PLAIN, '--opt', 'momentum', '--lr', 0.1]
    return Job(
        folder,
        several(3),
        'three',
        three1=[*flags, '--batch_size', 4],
        three2=[*flags, '--batch_size', 2, '--accum_iter', 2],
    ).wait()


@pytest.fixture(scope='module')
def stopped(folder):
    """A run that is stopped by SIGTERM to one process, to all, and to each launcher, and continued each time."""
    out = folder / 'out-stopped'
    flags = [*WHOLE, '--output_dir', out, '--resume', 'auto']
    jobs = {}
    for who, command, code, hit in (
        ('one', several(2), 0, ['--hit', 'self', 'SIGTERM', '1', 2]),
        ('all', several(2), 0, ['--hit', 'self', 'SIGTERM', '0,1', 3]),
        ('launcher', several(2), -signal.SIGTERM, ['--hit', 'launcher', 'SIGTERM', '0', 2]),
        ('newer', NEWER, signal.SIGTERM, ['--hit', 'launcher', 'SIGTERM', '0', 2]),
        ('end', several(2), 0, []),
    ):
        jobs[who] = Job(folder, command, f'stopped-{who}', **{f'stopped-{who}': flags + hit}).wait(code)
        if who == 'all':
            shutil.copytree(out, folder / 'out-half')
    return jobs


# ---- gradients


@pytest.mark.parametrize('processes, accum_iter', [(2, 1), (2, 2), (3, 1), (3, 2)])
def test_gradients_are_those_of_one_process_on_the_joined_batch(request, one, processes, accum_iter):
    job, name = request.getfixturevalue({2: 'two', 3: 'three'}[processes]), {2: 'two', 3: 'three'}[processes]
    name, alone = f'{name}{accum_iter}', {2: 'one16', 3: 'one12'}[processes]
    expected = one.notes(0, alone)
    assert (images(job, processes, name, accum_iter) == expected['index']).all(), 'the same images in every step'
    ranks = [job.notes(rank, name) for rank in range(processes)]
    largest = np.abs(expected['gradient']).max()
    assert len(expected['gradient']) == 64 // (8 * 2 if processes == 2 else 4 * 3) and largest > 0.01
    for notes in ranks:
        assert np.array_equal(notes['gradient'], ranks[0]['gradient']), 'the same bits on every process'
        assert np.abs(notes['gradient'] - expected['gradient']).max() <= 1e-6 * max(largest, 1)
        np.testing.assert_allclose(notes['weights'][-1], expected['weights'][-1], rtol=0, atol=1e-6)
    assert ranks[0]['reported'] == pytest.approx(expected['reported'], abs=1e-6), 'train_loss too'


@pytest.mark.parametrize('name, processes', [('two', 2), ('three', 3)])
def test_gradients_travel_once_for_all_batches_of_a_step(request, name, processes):
    job = request.getfixturevalue(name)
    ranks = [job.notes(rank, f'{name}2') for rank in range(processes)]
    assert len(ranks[0]['partial']) == len(ranks[0]['gradient'])
    for step in range(len(ranks[0]['partial'])):
        first = ranks[0]['partial'][step]
        assert all(np.abs(notes['partial'][step] - first).max() > 1e-3 for notes in ranks[1:])


# ---- what the processes share and what they do not


def test_every_process_draws_its_own_boxes_mixes_and_dropped_paths(two):
    a, b = two.notes(0), two.notes(1)
    assert len(a['box']) == 12 and (a['box'] != b['box']).any(axis=1).sum() >= 6, 'few boxes on a grid of 2 x 2'
    dropped = [np.reshape(notes['drop_path'], [12, -1]) for notes in (a, b)]
    assert all((x != y).all() for x, y in zip(*dropped))
    a, b = two.notes(0, 'mixup'), two.notes(1, 'mixup')
    assert len(a['shares']) == 4 and all((x != y).any() for x, y in zip(a['shares'], b['shares']))


def test_the_processes_share_an_epochs_images_among_them(two):
    epochs = images(two, 2).reshape([3, 64])
    assert all(sorted(epoch) == list(range(64)) for epoch in epochs.tolist())
    assert not (epochs[0] == epochs[1]).all(), 'in another order'


def test_weights_are_equal_on_all_processes_from_the_first_step_to_the_last(two, three):
    for job, name, processes in (two, 'whole', 2), (two, 'mixup', 2), (three, 'three1', 3):
        first, *others = (job.notes(rank, name)['weights'] for rank in range(processes))
        assert len(first) > 1 and all(np.array_equal(first, other) for other in others)


def test_batch_norm_statistics_are_each_processs_own_and_the_firsts_are_saved(two):
    mine, other = (two.notes(rank, 'gpu')['statistics'][-1] for rank in (0, 1))
    saved = state_of(two.folder / 'out-gpu')['model']
    saved = np.concatenate([v.ravel() for k, v in saved.items() if k.endswith(('._mean', '._variance'))])
    assert np.array_equal(saved, mine) and np.abs(mine - other).max() > 1e-3


def test_the_loss_of_an_epoch_is_the_mean_over_what_all_processes_saw(two):
    a, b = two.notes(0), two.notes(1)
    logged = [record['train_loss'] for record in records(two.folder / 'out-whole')]
    losses = np.stack([notes['loss'].astype('float64').reshape([3, 4]) for notes in (a, b)])
    assert logged == pytest.approx(losses.mean(axis=(0, 2)), rel=1e-7)
    assert a['reported'].tolist() == b['reported'].tolist() == logged
    assert np.abs(losses[0].mean(1) - losses[1].mean(1)).min() > 1e-4, 'which differs from that of each'


# ---- what is said


def test_one_stream_of_lines_and_the_warnings_of_every_process(two):
    first, second = two.text(0), two.text(1)
    steps = [line for line in ours(first) if line.startswith('Epoch: [0]  [0/')]
    assert len(steps) == 5 and ours(second) == [], 'a line for each of the runs, from the first process'
    assert len(re.findall(r'^warning: .*broken.png: cannot be decoded, skipped', second, re.M)) == 1
    assert 'warning:' not in first and records(two.folder / 'out-mixup')[0]['bad_images'] == 1, 'counted all the same'


def test_steps_that_log_nothing_cost_no_collective_on_gpus_and_one_small_one_on_cpus(two, capsys):
    for rank in (0, 1):
        assert np.diff(two.notes(rank, 'gpu')['collectives']).tolist() == [0, 0, 1, 0, 0, 1, 0], '--print_freq 3'
        assert np.diff(two.notes(rank, 'two1')['collectives']).tolist() == [1, 1, 1]
    cost = 1e3 * np.median(two.notes(0, 'gpu')['agreement'])
    with capsys.disabled():
        print(f' [{cost:.2f} ms for 2 processes to agree whether to stop, median of 200]', end='')
    assert cost < 20


# ---- stopping and going on


def test_sigterm_to_one_process_stops_all_after_the_same_step(stopped):
    job = stopped['one']
    where = 'in epoch 0 after 2 of 4 steps; --resume auto continues from '
    lines = [line for line in ours(job.text(0)) if line.startswith('stopped by ')]
    assert len(lines) == 1 and where in lines[0], 'one line, whoever got the signal'
    assert [len(job.notes(rank)['gradient']) for rank in (0, 1)] == [2, 2]
    assert 'Traceback' not in job.text(0) + job.text(1)


def test_sigterm_to_all_processes_stops_them(stopped):
    (line,) = [line for line in ours(stopped['all'].text(0)) if line.startswith('stopped by ')]
    assert line.startswith('stopped by SIGTERM in epoch 1 after 1 of 4 steps; ')
    assert 'Traceback' not in stopped['all'].text(0) + stopped['all'].text(1)


@pytest.mark.parametrize('name, where', [('launcher', 'epoch 1 after 3'), ('newer', 'epoch 2 after 1')])
def test_sigterm_to_the_launcher_reaches_its_processes(stopped, name, where):
    (line,) = [line for line in ours(stopped[name].text(0)) if line.startswith('stopped by ')]
    assert line.startswith(f'stopped by SIGTERM in {where} of 4 steps; ')
    assert 'Traceback' not in stopped[name].text(0) + stopped[name].text(1), 'nor by a second SIGTERM at the end'


def test_a_run_of_two_processes_stopped_four_times_ends_bit_identical_to_an_unbroken_one(stopped, two):
    assert 'epochs 2 to 2 from step 1' in stopped['end'].text(0)
    assert_same_run(stopped['end'].folder / 'out-stopped', two.folder / 'out-whole')


@pytest.mark.parametrize('processes', [1, 4])
def test_other_processes_continue_within_an_epoch_with_the_same_images_in_the_same_order(stopped, two, processes):
    folder, name = two.folder, f'by{processes}'
    shutil.copytree(folder / 'out-half', folder / f'out-{name}')
    command = [sys.executable] if processes == 1 else several(processes)
    job = Job(folder, command, name, **{name: [*WHOLE, '--batch_size', 16 // processes, '--resume', 'auto']}).wait()
    assert (images(job, processes) == images(two, 2)[5:]).all(), 'from the second step of the second epoch on'
    (line,) = [line for line in ours(job.text(0)) if line.startswith('continues on')]
    assert line.startswith(f'continues on {processes} process(es) what 2 began: the same images in the same order, but')
    whole, other = records(folder / 'out-whole'), records(folder / f'out-{name}')
    assert whole[0] == other[0] and [record['epoch'] for record in other] == [0, 1, 2]
    assert whole[1]['train_loss'] == pytest.approx(other[1]['train_loss'], rel=0.1)


# ---- processes that end


@pytest.fixture(scope='module')
def nodes(folder):
    """Two launchers of one process each, as on two machines; started, not waited for."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        master = f'127.0.0.1:{s.getsockname()[1]}'
    return [
        Job(
            folder,
            [*LAUNCHER, '--nnodes', 2, '--master', master, '--rank', rank, '--nproc_per_node', 1],
            f'node{rank}',
            nodes=WHOLE,
        )
        for rank in (0, 1)
    ]


@pytest.fixture(scope='module')
def ending(folder, nodes):
    """Jobs side by side, for launchers take their time: the second process killed, the first, one without data."""

    def start(command, name, *flags):
        return Job(folder, command, name, **{name: [*WHOLE, '--num_workers', 1, '--epochs', 1000, *flags]})

    jobs = {
        'newer': start(NEWER, 'newer', '--hit', 'self', 'SIGKILL', '1', 2),  # the quickest to end
        'second': start(several(2), 'second', '--hit', 'self', 'SIGKILL', '1', 2),
        'first': start(several(2), 'first', '--hit', 'self', 'SIGKILL', '0', 2),
        'lost': start(several(2), 'lost', '--lost', 1),
    }
    return {name: job.wait(code=None) for name, job in jobs.items()}


@pytest.mark.parametrize('name, rank', [('second', 1), ('first', 0), ('newer', 1)])
def test_a_process_that_is_killed_takes_the_job_down_by_name_and_leaves_none_behind(ending, capsys, name, rank):
    job = ending[name]
    notes = job.notes(rank)
    assert job.process.returncode != 0
    (line,) = re.findall(r'^main.py: error: .*', job.text(1 - rank), re.M)
    assert line == (
        f'main.py: error: rank {1 - rank} lost rank {rank} (pid {notes["pid"]}), which has ended; '
        'its own message or its workerlog says why'
    )
    assert 'Traceback' not in job.text(1 - rank)
    assert processes_of(job.logs) == [], 'loader processes either'
    seconds = job.ended - float(notes['time'])
    with capsys.disabled():
        print(f' [{seconds:.1f} s from the death of a process to the end of the job]', end='')
    assert seconds < 60


def test_a_process_that_is_turned_down_says_why_and_ends_the_others(ending):
    job = ending['lost']
    (line,) = re.findall(r'^main.py: error: .*', job.text(1), re.M)
    assert 'set-lost' in line and '--data_path' in line
    assert re.search(r'rank 0 lost rank 1 \(pid|rank=\[(0, )?1\] was aborted', job.console), 'one of them says who'
    assert job.process.returncode != 0 and 'Traceback' not in job.text(0) + job.text(1)


# ---- two machines


def test_two_launchers_of_one_process_train_as_one_launcher_of_two(folder, nodes, two):
    first, second = (job.wait() for job in nodes)
    assert '2 process(es)' in ours(first.text(0))[0]
    assert_same_run(folder / 'out-nodes', folder / 'out-whole')
    (text,) = [path.read_text() for path in second.logs.glob('workerlog.*')]
    assert ours(text) == [], 'one stream of lines from both machines'
