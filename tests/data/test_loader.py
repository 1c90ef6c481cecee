"""loader.py: which images make a batch; batches are the same whichever way they come from the loader processes."""

import gc
import multiprocessing
import os
import subprocess
import threading

import numpy as np
import pytest
from PIL import ImageFile

import main
from util import paddle_fixes
from util.training_args import complete_training
from util.data import loader
from util.data.loader import build_eval_loader, build_predict_loader, collate
from util.data.samplers import EvalSampler, TrainSampler
from util.data.transforms import EvalTransform, TrainTransform
from util.errors import UserError

pytestmark = pytest.mark.cross_version

# ---- samplers


@pytest.mark.parametrize('world', [1, 2, 3])
def test_processes_share_the_total_batches_of_a_single_one(world):
    together = TrainSampler(50, 4 * world, seed=5)
    parts = [TrainSampler(50, 4, rank, world, seed=5) for rank in range(world)]
    for epoch in range(2):
        for sampler in (together, *parts):
            sampler.set_epoch(epoch)
        assert [sum(step, []) for step in zip(*parts)] == list(together)


def test_an_epoch_is_a_shuffle_without_repeats_of_full_batches():
    sampler = TrainSampler(50, 8)
    first = list(sampler)
    assert len(first) == len(sampler) == 6 and all(len(batch) == 8 for batch in first)
    flat = sum(first, [])
    assert len(set(flat)) == 48 and set(flat) < set(range(50)) and flat != sorted(flat)
    assert list(sampler) == first, 'a function of seed and epoch'
    sampler.set_epoch(0, first=4)
    assert list(sampler) == first[4:]
    sampler.set_epoch(1)
    assert list(sampler) != first and list(TrainSampler(50, 8, seed=1)) != first


def test_a_batch_larger_than_the_set_is_refused_and_accumulated_batches_are_whole():
    with pytest.raises(UserError, match='--batch_size 8'):
        TrainSampler(15, 8, 0, 2)
    assert len(TrainSampler(16, 8, 0, 2)) == 1
    assert len(TrainSampler(50, 4, 0, 2, accum_iter=4)) == 4, '50 // 32 optimizer steps of 4 batches'


@pytest.mark.parametrize('world', [1, 2, 3])
def test_evaluation_sees_every_image_exactly_once(world):
    for length, size in [(length, size) for length in (1, 2, 20, 21) for size in (1, 3, 7, 64)]:
        seen = []
        for rank in range(world):
            sampler = EvalSampler(length, size, rank, world)
            batches = list(sampler)
            assert len(batches) == len(sampler) and all(0 < len(batch) <= size for batch in batches)
            seen += sum(batches, [])
        assert sorted(seen) == list(range(length))


# ---- loader processes


def train_loader(scenes, flags):
    """Of a training with label maps, erasing and augmentation on the 40 scenes."""
    line = f'--data_path {scenes} --cls_label_path_train {scenes}/train_list.txt '
    line += f'--token_label --token_label_data {scenes}/label_maps --input_size 32 '
    line += '--nb_classes 10 --batch_size 8 --reprob 0.8 --mixup 0 --cutmix 0'
    args = main.parser().parse_args([*line.split(), *flags.split()])
    complete_training(args, grid=2, total_batch=1)
    return main.new_train_loader(args)


def epochs(batches, count=3):
    """The bytes of all batches of some epochs."""
    everything = []
    for epoch in range(count):
        batches.set_epoch(epoch)
        for batch in batches:
            everything.append(b''.join(key.encode() + value.numpy().tobytes() for key, value in sorted(batch.items())))
    return everything


def leave(batches):
    """Begin an epoch and leave it, which ends persistent loader processes."""
    for _ in batches:
        break


@pytest.fixture
def expected(scenes):
    """The batches of three epochs, made in this process."""
    return epochs(train_loader(scenes, '--num_workers 0'))


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(paddle_fixes, 'free_shared_memory', lambda: 1 << 20)


def test_batches_are_the_same_from_one_or_two_processes_persistent_or_not(scenes, expected):
    assert len(set(expected)) == 15
    assert epochs(train_loader(scenes, '--num_workers 1')) == expected
    assert epochs(train_loader(scenes, '--num_workers 2')) == expected
    persistent = train_loader(scenes, '--num_workers 2 --persistent_workers --prefetch_factor 1')
    assert epochs(persistent) == expected
    leave(persistent)


def test_the_same_processes_serve_all_epochs_with_persistent_workers(scenes):
    batches, seen = train_loader(scenes, '--num_workers 2 --persistent_workers'), []
    for _ in range(2):
        list(batches)
        seen.append({child.pid for child in multiprocessing.active_children()})
    assert seen[0] == seen[1] and len(seen[0]) == 2
    leave(batches)
    assert not multiprocessing.active_children()


def test_an_epoch_that_is_left_early_changes_nothing_in_the_next_and_leaves_no_process(scenes, expected):
    batches = train_loader(scenes, '--num_workers 2 --persistent_workers')
    batches.set_epoch(7)
    leave(batches)
    assert not multiprocessing.active_children()
    assert epochs(batches) == expected
    leave(batches)
    before = threading.active_count()
    leave(train_loader(scenes, '--num_workers 0'))
    assert threading.active_count() <= before  # older threads may end meanwhile


DEFECT = ZeroDivisionError('no\nratio'), 'ZeroDivisionError: no ratio (test_loader.py, line '
NO_MEMORY = MemoryError(), 'not enough memory; lower --num_workers or --batch_size'


@pytest.mark.parametrize('error, text', [DEFECT, NO_MEMORY], ids=['defect', 'memory'])
@pytest.mark.parametrize('workers', [0, 1])
def test_an_unexpected_error_is_one_line_that_names_image_and_cause(scenes, monkeypatch, backend, workers, error, text):
    def fail(*_):
        raise error

    monkeypatch.setattr(TrainTransform, 'draw', fail)
    monkeypatch.setattr(EvalTransform, '_resized_and_corner', fail)
    for_training = train_loader(scenes, f'--num_workers {workers} --image_backend {backend}')
    samples = for_training.dataset.samples
    transform = EvalTransform(32, 1.0, backend=backend)
    for_evaluation = build_eval_loader(samples, transform, batch_size=8, num_workers=workers)
    for_prediction = build_predict_loader(list(samples.paths)[:16], transform, batch_size=8, ahead=workers > 0)
    for batches in (for_training, for_evaluation, for_prediction):
        with pytest.raises(UserError) as refusal:
            list(batches)
        assert text in str(refusal.value) and '\n' not in str(refusal.value)
        assert any(str(refusal.value).startswith(f'{path}: ') for path in samples.paths)


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_while_samples_become_a_batch_is_one_line(scenes, monkeypatch, workers):
    monkeypatch.setattr(loader, 'stack_targets', lambda _: {}['ids'])
    with pytest.raises(UserError, match='a batch of 8 images: KeyError'):
        list(train_loader(scenes, f'--num_workers {workers}'))


def test_no_memory_to_decode_an_image_is_not_taken_for_a_bad_image(scenes, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda _: bytearray(1 << 62))
    with pytest.raises(UserError, match='not enough memory'):
        list(train_loader(scenes, '--num_workers 0'))


def test_batches_that_do_not_fit_into_shared_memory_go_through_pipes_with_a_warning(
    scenes, expected, little_memory, capfd
):
    batches = train_loader(scenes, '--num_workers 2 --prefetch_factor 50')
    assert batches.settings['use_shared_memory'] is False and epochs(batches) == expected
    (line,) = [line for line in capfd.readouterr().err.splitlines() if 'warning: ' in line]
    assert '/dev/shm has 1 MB free' in line and '--shm-size=1g' in line and '--prefetch_factor' in line
    assert train_loader(scenes, '--num_workers 2').settings['use_shared_memory'] is True
    train_loader(scenes, '--num_workers 0 --prefetch_factor 999')
    assert not capfd.readouterr().err


def test_a_batch_takes_no_more_memory_than_was_estimated(scenes):
    dataset = train_loader(scenes, '--num_workers 0').dataset
    batch = collate([dataset[i] for i in range(40)])
    taken = sum(value.nbytes for value in batch.values() if isinstance(value, np.ndarray))
    assert batch['image'].dtype == np.uint8 and batch['image'].shape == (40, 32, 32, 3)
    assert 0.4 * 40 * dataset.sample_bytes() < taken < 40 * dataset.sample_bytes()


def test_forked_processes_do_not_collect_the_garbage_of_this_one():
    with paddle_fixes.frozen_garbage():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_shared_memory_of_killed_loaders_is_removed_and_no_other(tmp_path):
    gone = subprocess.Popen(['true'])
    gone.wait()
    old, young, running = f'paddle_{gone.pid}_1_2', f'paddle_{gone.pid}_2_9', f'paddle_{os.getpid()}_1_2'
    others = [young, running, 'paddle_x_1', f'other_{gone.pid}_1']
    for name in (old, *others):
        (tmp_path / name).write_bytes(b'batch')
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / young)
    paddle_fixes.sweep_shared_memory(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
