"""Samples to batches: order and share of every process, and the loaders that the flags describe."""

import atexit
import functools
import os
import sys

import numpy as np
import paddle

from util import dist
from util.data import datasets, listing, token_label
from util.data.label_maps import LabelMaps
from util.data.normalise import network_input, pack_erased
from util.data.transforms import EvalTransform, TrainTransform
from util.errors import UserError
from util.processes import (
    SHARED_MEMORY,
    begin_worker,
    forget_workers,
    free_shared_memory,
    garbage_stays_here,
    kill_workers,
    local_processes,
    sweep_shared_memory,
    watch_workers,
    worker_count,
)

# At exit multiprocessing sends loader processes SIGTERM, which they ignore (begin_worker), and would wait for them
# forever. Exit handlers run in reverse order: this one, registered after multiprocessing's own, ends them before that.
atexit.register(kill_workers)

SHUTDOWN_SECONDS = 5  # that a thread or process may take to end, if an epoch is left early


def collate(samples):
    """Samples of a batch to named arrays: image uint8 [B, S, S, 3], label [B], index [B], the samples' places in the
    set; where parts are erased, what pack_erased returns; with label maps the fields of the stacked SparseTarget; where
    the set lacks maps, mapped [B], 0 for images without.

    A sample {'error': message} makes a batch {'error': its bytes}.
    """
    for sample in samples:
        if 'error' in sample:
            return {'error': np.frombuffer(sample['error'].encode(), 'uint8')}
    batch = {
        'image': np.stack([s['image'] for s in samples]),
        'label': np.array([s['label'] for s in samples], 'int64'),
        'index': np.array([s['index'] for s in samples], 'int64'),
    }
    if 'erased' in samples[0]:
        batch.update(pack_erased([s['erased'] for s in samples]))
    if 'target' in samples[0]:
        batch.update(token_label.stack_targets([s['target'] for s in samples])._asdict())
    if 'mapped' in samples[0]:
        batch['mapped'] = np.array([s['mapped'] for s in samples], 'float32')
    return batch


# -- which images make a batch ----------------------------------------------------------------------------------------


class TrainSampler:
    """Shuffled full batches. The order of an epoch is a function of (seed, epoch); each step takes the next stretch of
    it, which the processes share. So the images of an optimizer step depend on the total batch alone, not on how
    many processes and accumulated batches it is split into. A last incomplete total batch is left out.
    """

    def __init__(self, length, batch_size, rank=0, world_size=1, seed=0, accum_iter=1):
        self.length, self.batch_size, self.accum_iter = length, batch_size, accum_iter
        self.rank, self.world_size = rank, world_size
        self.seed, self.epoch, self.first = seed, 0, 0
        if len(self) == 0:
            raise UserError(
                f'--batch_size {batch_size} with --accum_iter {accum_iter} on {world_size} process(es) is '
                f'more than the {length} training images'
            )

    def set_epoch(self, epoch, first=0):
        """first: the batch of the epoch to begin with."""
        self.epoch, self.first = epoch, first

    def __len__(self):
        return self.length // (self.batch_size * self.world_size * self.accum_iter) * self.accum_iter

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        for step in range(self.first, len(self)):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield order[start : start + self.batch_size].tolist()


class EvalSampler:
    """Every image exactly once over all processes, in order, nothing padded; the last batch may be short."""

    def __init__(self, length, batch_size, rank=0, world_size=1):
        self.indices, self.batch_size = range(rank, length, world_size), batch_size

    def __len__(self):
        return -(-len(self.indices) // self.batch_size)  # rounded up

    def __iter__(self):
        for start in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[start : start + self.batch_size])


# -- the loaders ------------------------------------------------------------------------------------------------------


def build_train_loader(args, rank=0, world_size=1):
    """The training loader that main.py's flags describe."""
    sweep_shared_memory()
    samples = read_samples(args, 'val' if args.debug else 'train', args.cls_label_path_train)
    label_maps, unmapped = open_label_maps(args, samples.paths)
    transform = TrainTransform(
        args.input_size,
        interpolation=args.train_interpolation,
        aa=args.aa,
        jitter=args.color_jitter,
        reprob=args.reprob,
        remode=args.remode,
        recount=args.recount,
        scale=args.train_scale,
        flip=args.hflip,
        geometry=args.token_label_geometry,
        mean=args.mean,
        std=args.std,
        backend=args.image_backend,
    )
    dataset = datasets.TrainDataset(
        samples,
        transform,
        args.nb_classes,
        seed=args.seed,
        label_maps=label_maps,
        grid=args.token_label_size,
        max_bad_images=args.max_bad_images,
        unmapped=unmapped,
    )
    sampler = TrainSampler(
        len(dataset), args.batch_size, rank=rank, world_size=world_size, seed=args.seed, accum_iter=args.accum_iter
    )
    return Loader(
        dataset, sampler, args.batch_size, args.num_workers, args.prefetch_factor, persistent=args.persistent_workers
    )


def build_eval_loader(args, crop_pct, rank=0, world_size=1, backend='pil'):
    """The validation loader; with world_size > 1 the part of the set that belongs to this process.

    backend: see transforms.renderer; a training validates by `pil` whatever --image_backend says.
    """
    samples = read_samples(args, 'val', args.cls_label_path_val)
    transform = EvalTransform(args.input_size, crop_pct, args.interpolation, args.mean, args.std, backend)
    dataset = datasets.EvalDataset(samples, transform)
    sampler = EvalSampler(len(dataset), args.batch_size, rank, world_size)
    return Loader(dataset, sampler, args.batch_size, args.num_workers, args.prefetch_factor)


def build_predict_loader(files, transform, batch_size, ahead=True):
    """Batches of image files in their order: image [B, 3, S, S], index [B] in `files`, and label [B], which is -1 (and
    the image black) where a file cannot be decoded, else 0.

    ahead: another process decodes one batch ahead. Without it, and for a single batch, each is decoded when asked for.
    """
    dataset = datasets.EvalDataset([(path, 0) for path in files], transform, skip_bad=True)
    sampler = EvalSampler(len(files), batch_size)
    if ahead and len(sampler) > 1:
        return Loader(dataset, sampler, batch_size, num_workers=1)
    return LazyLoader(dataset, sampler)


class LazyLoader:
    """As Loader, but a batch is made in this process, and not before it is asked for; arrays instead of tensors.

    Paddle's DataLoader without processes makes the batches to come in a thread.
    """

    def __init__(self, dataset, sampler):
        self.dataset, self.sampler = dataset, sampler

    def __len__(self):
        return len(self.sampler)

    def __iter__(self):
        for indices in self.sampler:
            batch = collate([self.dataset[index] for index in indices])
            if 'error' in batch:
                raise UserError(batch['error'].tobytes().decode())
            network_input(batch, self.dataset.transform.mean, self.dataset.transform.std)
            yield batch


def read_samples(args, split, list_path):
    """listing.Samples of a list file, or of the folder `split` if there is none."""
    if list_path:
        return listing.read_list(args.data_path, list_path, args.nb_classes)
    return listing.read_folder(os.path.join(args.data_path, split), args.nb_classes)


def open_label_maps(args, paths):
    """(LabelMaps or None, bool [n]: which of the images have no map, or None). Raises UserError if some lack one that
    must not: now, before the first epoch, not in a loader process.
    """
    if not args.token_label:
        return None, None
    label_maps = LabelMaps(args.token_label_data, args.nb_classes, args.token_label_coverage, args.token_label_geometry)
    if args.allow_missing_token_label:
        return label_maps, label_maps.missing(paths)
    label_maps.require(paths)
    return label_maps, None


class Loader:
    """paddle.io.DataLoader over the batches of `sampler`, with at most as many processes as the machine has cores.

    Iterating yields dicts of tensors on the device (see collate), image as float32 [B, 3, S, S], normalised and erased;
    it raises the UserError of a sample. batch_size: images of the largest batch. prefetch_factor: batches that each
    process has in work or ready. persistent: keep the processes from epoch to epoch.
    """

    def __init__(self, dataset, sampler, batch_size, num_workers, prefetch_factor=2, persistent=False):
        self.dataset, self.sampler = dataset, sampler
        workers = worker_count(num_workers)
        self.settings = {
            'batch_sampler': sampler,
            'collate_fn': collate,
            'return_list': True,
            'num_workers': workers,
            'prefetch_factor': prefetch_factor,
            'persistent_workers': persistent,
            'use_shared_memory': workers > 0 and self._fits_shared_memory(workers * prefetch_factor, batch_size),
            'worker_init_fn': functools.partial(begin_worker, os.getpid()),
        }
        self._loader = paddle.io.DataLoader(dataset, **self.settings)

    def _fits_shared_memory(self, ahead, batch_size):
        """Whether the batches in flight fit into shared memory; warns if not. ahead: how many are made in advance."""
        in_flight = (ahead + 2) * local_processes()  # the main process holds up to two
        needed = in_flight * batch_size * self.dataset.sample_bytes()
        free = free_shared_memory()
        if needed > free and dist.is_main():
            print(
                f'warning: {SHARED_MEMORY} has {free >> 20} MB free, and the batches of the loader processes need up '
                f'to {-(-needed >> 20)} MB: they go through pipes, which is slower; give the container more '
                f'(docker run --shm-size={-(-2 * needed >> 30)}g), or lower --num_workers or --prefetch_factor',
                file=sys.stderr,
                flush=True,
            )
        return needed <= free

    def __len__(self):
        return len(self.sampler)

    def set_epoch(self, epoch, first=0):
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch, first)

    def __iter__(self):
        with garbage_stays_here():
            batches = iter(self._loader)
        finished = False
        watch_workers()
        try:
            for batch in batches:
                if 'error' in batch:
                    raise UserError(batch['error'].numpy().tobytes().decode())
                network_input(batch, self.dataset.transform.mean, self.dataset.transform.std)
                yield batch
            forget_workers()  # all have ended well, or wait for the next epoch
            finished = True
        finally:
            if not finished:
                self._end(batches)
            # Paddle notes the name of every shared-memory file that it has opened, about 0.8 kB a batch; forget them
            paddle.base.core._cleanup_mmap_fds()

    def _end(self, batches):
        """End an epoch early; Paddle would leave its processes and its thread there.

        A thread that makes the batches itself is waited for: what is forked while it works may inherit a lock that it
        holds, and wait for it forever. One that only receives them is idle, and ends within seconds.
        """
        if self.settings['num_workers']:
            batches._try_shutdown_all(SHUTDOWN_SECONDS)
            self._loader = paddle.io.DataLoader(self.dataset, **self.settings)  # processes that stay are of one loader
        else:
            batches._exit_thread_expectedly()
            batches._thread.join(SHUTDOWN_SECONDS)
