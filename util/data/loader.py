"""Batches of a data set: the loaders of training, evaluation and prediction."""

import atexit
import contextlib
import functools
import math
import os
import sys

import numpy as np
import paddle
from paddle.io import DataLoader

from util import dist, paddle_fixes
from util.data.augment import pack_erased
from util.data.datasets import EvalDataset, TrainDataset, unexpected
from util.data.samplers import EvalSampler, TrainSampler
from util.data.token_label import stack_targets
from util.data.transforms import network_input
from util.errors import UserError
from util.runtime import local_processes, worker_count

# At exit multiprocessing sends SIGTERM to loader processes, which ignore it (begin_worker), and waits for them forever.
# This handler kills them first: exit handlers run in reverse order, and multiprocessing registered its own earlier.
atexit.register(paddle_fixes.kill_workers)


def build_train_loader(
    samples,
    transform,
    batch_size,
    num_classes,
    label_maps=None,
    token_label_size=14,
    allow_missing_token_label=False,
    seed=0,
    accum_iter=1,
    max_bad_images=100,
    num_workers=10,
    prefetch_factor=2,
    persistent_workers=False,
    rank=0,
    world_size=1,
):
    """The Loader of a training set, shuffled and augmented.

    samples: listing.Samples; transform: TrainTransform; batch_size: images per process; label_maps: LabelMaps or None;
    token_label_size: tokens a side of the targets. Raises UserError if an image has no label map, unless it has a label
    and allow_missing_token_label is set, if two would have one map, and if the set is smaller than one batch of all
    processes.
    """
    paddle_fixes.sweep_shared_memory()
    if not label_maps:
        samples.require_labels(
            'to train on it, make its label map with generate_label.py and give --token_label --token_label_data'
        )
    dataset = TrainDataset(
        samples,
        transform,
        num_classes,
        seed=seed,
        label_maps=label_maps,
        grid=token_label_size,
        max_bad_images=max_bad_images,
        allow_missing_token_label=allow_missing_token_label,
    )
    sampler = TrainSampler(len(samples), batch_size, rank=rank, world_size=world_size, seed=seed, accum_iter=accum_iter)
    return Loader(dataset, sampler, batch_size, num_workers, prefetch_factor, persistent_workers)


def build_eval_loader(samples, transform, batch_size, num_workers=10, prefetch_factor=2, rank=0, world_size=1):
    """The Loader of a validation set, in order; with several processes, of the share that belongs to process `rank`.

    samples: listing.Samples; transform: EvalTransform. Raises UserError for images without a label.
    """
    samples.require_labels('validation needs labels')
    dataset = EvalDataset(samples, transform)
    sampler = EvalSampler(len(samples), batch_size, rank, world_size)
    return Loader(dataset, sampler, batch_size, num_workers, prefetch_factor)


def build_predict_loader(files, transform, batch_size, ahead=True):
    """Batches of image files in their order: image [B, 3, S, S], index [B] in `files`, and label [B].

    The label is datasets.UNDECODABLE if a file cannot be decoded (its image is black), else 0. ahead: a loader process
    decodes the next batches meanwhile. Otherwise, and for a single batch, this process makes each batch when it is
    asked for.
    """
    dataset = EvalDataset([(path, 0) for path in files], transform, skip_bad=True)
    sampler = EvalSampler(len(files), batch_size)
    return Loader(dataset, sampler, batch_size, num_workers=1 if ahead and len(sampler) > 1 else 0)


# -- from samples to batches ------------------------------------------------------------------------------------------


def stack(samples):
    """Stack samples without an error (see datasets.py) into a batch, a dict of arrays:

    image          uint8 [B, S, S, 3]
    label, index   int64 [B]: class ids (-1: no label), and positions in the data set
    erased, …      what pack_erased returns, if the samples say what random erasing drew
    ids, listed, floor   the fields of the stacked SparseTarget, with label maps
    mapped         float32 [B], 0 for images without a label map, if the data set has such images
    labelled       float32 [B], 0 for images without a label, if the data set has such images
    """
    batch = {
        'image': np.stack([s['image'] for s in samples]),
        'label': np.array([s['label'] for s in samples], 'int64'),
        'index': np.array([s['index'] for s in samples], 'int64'),
    }
    if 'erased' in samples[0]:
        batch.update(pack_erased([s['erased'] for s in samples], samples[0]['image'].size))
    if 'target' in samples[0]:
        batch.update(stack_targets([s['target'] for s in samples])._asdict())
    for name in ('mapped', 'labelled'):
        if name in samples[0]:
            batch[name] = np.array([s[name] for s in samples], 'float32')
    return batch


def collate(samples, stack=stack):
    """The batch that stack(samples) returns.

    If a sample is {'error': message}, or if an exception is raised here, the batch is {'error': uint8 array of the
    message's bytes}.
    """
    errors = [sample['error'] for sample in samples if 'error' in sample]
    if not errors:
        try:
            return stack(samples)
        except UserError as error:
            errors = [str(error)]
        except Exception as error:
            errors = [unexpected(error, f'a batch of {len(samples)} images')]
    return {'error': np.frombuffer(errors[0].encode(errors='backslashreplace'), 'uint8')}


def as_tensor(leaf):
    """A tensor of an array; anything else of a batch, such as a text, stays what it is."""
    return paddle.to_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf


def raise_error(batch):
    """Raise the UserError of a batch {'error': message}."""
    if 'error' in batch:
        raise UserError(np.asarray(batch['error']).tobytes().decode())


class Loader:
    """Batches of `sampler`, made by paddle.io.DataLoader in at most as many processes as the machine has cores.

    Iterating yields batches as `stack` makes them, with tensors on the device, except that image is float32
    [B, 3, S, S], normalised and erased. Raises the UserError of a sample. While it waits for a batch, Python handles
    signals.

    batch_size: images of the largest batch. num_workers: processes; with 0 this process makes each batch when it is
    asked for. prefetch_factor: batches that each process prepares in advance; persistent_workers: keep the processes
    from epoch to epoch. seg/loader.py overrides `stack` and `prepare`.
    """

    stack = staticmethod(stack)

    def __init__(self, dataset, sampler, batch_size, num_workers, prefetch_factor=2, persistent_workers=False):
        self.dataset, self.sampler = dataset, sampler
        self.workers = worker_count(num_workers)
        if not self.workers:
            return
        self.settings = {
            'batch_sampler': sampler,
            'collate_fn': functools.partial(collate, stack=self.stack),
            'return_list': True,
            'num_workers': self.workers,
            'prefetch_factor': prefetch_factor,
            'persistent_workers': persistent_workers,
            'use_shared_memory': self._fits_shared_memory(self.workers * prefetch_factor, batch_size),
            'worker_init_fn': functools.partial(paddle_fixes.begin_worker, os.getpid()),
        }
        self._loader = DataLoader(dataset, **self.settings)

    def _fits_shared_memory(self, ahead, batch_size):
        """Whether all prepared batches fit into shared memory; warns if not. ahead: the number made in advance."""
        batches = (ahead + 2) * local_processes()  # the main process holds up to two
        needed = batches * batch_size * self.dataset.sample_bytes()
        free = paddle_fixes.free_shared_memory()
        if needed > free and dist.is_main():
            print(
                f'warning: {paddle_fixes.SHARED_MEMORY} has {free >> 20} MB free, but the batches of the loader '
                f'processes need up to {math.ceil(needed / 2**20)} MB; they go through pipes, which is slower. Give '
                f'the container more (docker run --shm-size={math.ceil(2 * needed / 2**30)}g), or lower --num_workers '
                'or --prefetch_factor',
                file=sys.stderr,
                flush=True,
            )
        return needed <= free

    def __len__(self):
        return len(self.sampler)

    def prepare(self, batch):
        """Make the image of a batch the network's input."""
        network_input(batch, self.dataset.transform.mean, self.dataset.transform.std)

    def set_epoch(self, epoch, first=0):
        """The next iteration is epoch `epoch`, from its batch number `first` on."""
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch, first)

    def __iter__(self):
        with contextlib.closing(self._from_processes() if self.workers else self._made_here()) as batches:
            for batch in batches:
                raise_error(batch)
                self.prepare(batch)
                yield batch

    def _made_here(self):
        """Yield batches that this process makes.

        DataLoader without processes makes them in a thread, and this one waits for the thread inside Paddle, where
        Python does not handle signals.
        """
        for indices in self.sampler:
            batch = collate([self.dataset[index] for index in indices], stack=self.stack)
            yield paddle.utils.map_structure(as_tensor, batch)

    def _from_processes(self):
        """Yield the batches of loader processes."""
        with paddle_fixes.frozen_garbage():
            batches = iter(self._loader)
        paddle_fixes.watch_workers()
        finished = False
        try:
            paddle_fixes.wait_for_batch(batches)
            for batch in batches:
                yield batch
                paddle_fixes.wait_for_batch(batches)
            finished = True
            paddle_fixes.forget_workers()  # they ended without an error or, if persistent, wait for the next epoch
        finally:
            if not finished:
                paddle_fixes.end_epoch_early(batches)
                self._loader = DataLoader(self.dataset, **self.settings)  # persistent processes have ended
            paddle_fixes.forget_shared_files(paddle)
