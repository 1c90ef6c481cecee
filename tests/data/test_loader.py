"""loader.py: batches are the same whichever way they come from the loader processes, and find room on the way."""

import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import main
from util import paddle_fixes
from util.args import complete_training
from util.data.loader import collate

pytestmark = pytest.mark.cross_version
ROOT = Path(__file__).resolve().parents[2]


def arguments(scenes, flags):
    """Of a training with label maps, erasing and augmentation on the 40 scenes."""
    line = f'--data_path {scenes} --cls_label_path_train {scenes}/train_list.txt --cls_label_path_val '
    line += f'{scenes}/val_list.txt --token_label --token_label_data {scenes}/label_maps --input_size 32 '
    line += '--nb_classes 10 --batch_size 8 --reprob 0.8 --mixup 0 --cutmix 0'
    args = main.parser().parse_args([*line.split(), *flags.split()])
    complete_training(args, grid=2)
    return args


def epochs(batches, count=3):
    """The bytes of all batches of some epochs."""
    everything = []
    for epoch in range(count):
        batches.set_epoch(epoch)
        for batch in batches:
            everything.append(b''.join(key.encode() + value.numpy().tobytes() for key, value in sorted(batch.items())))
    return everything


def leave(batches):
    """Begin an epoch and leave it, which ends processes that would stay."""
    for _ in batches:
        break


@pytest.fixture
def plain(scenes):
    """The batches of three epochs, made in this process."""
    return epochs(main.new_train_loader(arguments(scenes, '--num_workers 0')))


@pytest.fixture
def no_room(monkeypatch):
    monkeypatch.setattr(paddle_fixes, 'free_shared_memory', lambda: 1 << 20)


def test_batches_are_the_same_from_processes_that_end_with_each_epoch_and_from_those_that_stay(scenes, plain):
    assert len(set(plain)) == 15
    assert epochs(main.new_train_loader(arguments(scenes, '--num_workers 2'))) == plain
    staying = main.new_train_loader(arguments(scenes, '--num_workers 2 --persistent_workers --prefetch_factor 1'))
    assert epochs(staying) == plain
    leave(staying)


def test_the_same_processes_serve_all_epochs_with_persistent_workers(scenes):
    batches, seen = main.new_train_loader(arguments(scenes, '--num_workers 2 --persistent_workers')), []
    for _ in range(2):
        list(batches)
        seen.append({child.pid for child in multiprocessing.active_children()})
    assert seen[0] == seen[1] and len(seen[0]) == 2
    leave(batches)
    assert not multiprocessing.active_children()


def test_an_epoch_that_is_left_early_leaves_nothing_to_the_next(scenes, plain):
    batches = main.new_train_loader(arguments(scenes, '--num_workers 2 --persistent_workers'))
    batches.set_epoch(7)
    leave(batches)
    assert not multiprocessing.active_children()
    assert epochs(batches) == plain
    leave(batches)


def test_what_does_not_fit_into_shared_memory_goes_through_pipes_and_one_line_says_so(scenes, plain, no_room, capfd):
    batches = main.new_train_loader(arguments(scenes, '--num_workers 2 --prefetch_factor 50'))
    assert batches.settings['use_shared_memory'] is False and epochs(batches) == plain
    (line,) = [line for line in capfd.readouterr().err.splitlines() if 'warning: ' in line]
    assert '/dev/shm has 1 MB free' in line and '--shm-size=1g' in line and '--prefetch_factor' in line


def test_what_fits_does_not(scenes, no_room, capfd):
    for flags in ('--num_workers 2', '--num_workers 0 --prefetch_factor 999'):
        main.new_train_loader(arguments(scenes, flags))
    assert main.new_eval_loader(arguments(scenes, '--num_workers 2 --crop_pct 1')).settings['use_shared_memory'] is True
    assert not capfd.readouterr().err


def test_a_batch_takes_no_more_than_was_reckoned_with(scenes):
    dataset = main.new_train_loader(arguments(scenes, '--num_workers 0')).dataset
    samples = [dataset[i] for i in range(40)]
    batch = collate(samples)
    taken = sum(value.nbytes for value in batch.values() if isinstance(value, np.ndarray))
    assert batch['image'].dtype == np.uint8 and batch['image'].shape == (40, 32, 32, 3)
    assert 0.4 * 40 * dataset.sample_bytes() < taken < 40 * dataset.sample_bytes()


def on_a_small_tmpfs(megabytes, *command):
    """Runs a command that sees a /dev/shm of its own, or None where mounting is not allowed."""
    mount = f'mount -t tmpfs -o size={megabytes}m none /dev/shm'
    shell = ['unshare', '-m', 'sh', '-c']
    if not shutil.which('unshare') or subprocess.run([*shell, mount], capture_output=True).returncode:
        return None
    line = [*shell, f'{mount} && exec "$@"', 'sh', *map(str, command)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT)


def test_a_training_in_a_container_with_little_shared_memory_runs(scenes, tmp_path):
    """Batches of 5 MB where 4 MB are free; with Paddle's default it dies of a bus error."""
    line = '--model lvvit_nano --input_size 224 --batch_size 32 --nb_classes 10 --epochs 1 --warmup_epochs 0 '
    line += f'--cooldown_epochs 0 --num_workers 2 --data_path {scenes} --cls_label_path_train {scenes}/train_list.txt '
    line += f'--cls_label_path_val {scenes}/val_list.txt --output_dir {tmp_path}'
    done = on_a_small_tmpfs(4, sys.executable, 'main.py', *line.split())
    if done is None:
        pytest.skip('mounting a tmpfs is not allowed here')
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('warning: /dev/shm has ') == 2, 'for training and for validation'
    assert os.path.exists(tmp_path / 'checkpoint-latest.pd')


def test_nothing_that_works_outlasts_an_epoch_that_is_left_early(scenes):
    before = threading.active_count()
    leave(main.new_train_loader(arguments(scenes, '--num_workers 0')))
    assert threading.active_count() == before
    leave(main.new_train_loader(arguments(scenes, '--num_workers 2')))
    assert not multiprocessing.active_children()


class Garbage:
    """In a cycle, so that only a collection frees it; notes which process did."""

    def __init__(self, freed_by):
        self.itself, self.freed_by = self, freed_by

    def __del__(self):
        with open(self.freed_by, 'a') as f:
            f.write(f'{os.getpid()}\n')


def test_loader_processes_do_not_free_what_is_garbage_in_the_main_process(scenes, tmp_path, monkeypatch):
    """Of a failed epoch they could not: what waits for its batches is a thread of the main process."""
    batches, freed_by = main.new_train_loader(arguments(scenes, '--num_workers 2')), tmp_path / 'freed'
    sample = batches.dataset.sample

    def collecting(index):
        gc.collect()
        return sample(index)

    monkeypatch.setattr(batches.dataset, 'sample', collecting)
    Garbage(freed_by)
    assert len(list(batches)) == 5
    gc.collect()
    assert freed_by.read_text() == f'{os.getpid()}\n'
