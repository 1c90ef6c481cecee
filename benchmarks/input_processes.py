"""The part of benchmarks/input.py about several loader processes, and what the main process gets from them."""

import multiprocessing
import statistics
import time
from typing import NamedTuple

from util.data.loader import Loader, collate
from util.errors import UserError

BATCH = 32


def make(dataset, images):
    """Make batches of `images` samples, as a loader process does."""
    for start in range(0, images, BATCH):
        batch = collate([dataset[i % len(dataset)] for i in range(start, min(start + BATCH, images))])
        if 'error' in batch:
            raise UserError(batch['error'].tobytes().decode())


class SlowDisk:
    """A dataset whose images take `delay` seconds more to be read."""

    def __init__(self, dataset, delay):
        self.dataset, self.delay, self.transform = dataset, delay, dataset.transform

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        time.sleep(self.delay)
        return self.dataset[index]

    def sample_bytes(self):
        return self.dataset.sample_bytes()


class Repeating:
    """A sampler of `count` batches that go through the set over and over."""

    def __init__(self, length, count):
        self.length, self.count = length, count

    def __len__(self):
        return self.count

    def __iter__(self):
        for i in range(self.count):
            yield [(i * BATCH + j) % self.length for j in range(BATCH)]


class Flow(NamedTuple):
    """Batches that arrive in the main process."""

    rate: float  # images/s
    waited: float  # seconds that the main process waited for a batch
    cost: float  # seconds of processor time in the main process for an image


def from_processes(dataset, workers, images, step=0.0):
    """The Flow once the processes run. step: seconds of the training step that uses a batch."""
    ahead = 2 * workers + 2  # batches that may be ready already when the first arrives; they do not count
    count = ahead + max(images // BATCH, 2 * workers)
    waited, begin, cost = [], 0.0, 0.0
    batches = iter(Loader(dataset, Repeating(len(dataset), count + ahead), BATCH, workers))
    for i in range(count):
        asked = time.perf_counter()
        next(batches)
        waited.append(time.perf_counter() - asked)
        if i == ahead - 1:
            begin, cost = time.perf_counter(), time.process_time()
        time.sleep(step)
    spent, cost = time.perf_counter() - begin, time.process_time() - cost
    batches.close()
    made = (count - ahead) * BATCH
    return Flow(made / spent, statistics.mean(waited[ahead:]), cost / made)


def apart(dataset, workers, images):
    """images/s of `workers` processes together that make batches but hand nothing over: the limit of the cores."""
    fork = multiprocessing.get_context('fork')
    processes = [fork.Process(target=make, args=(dataset, images // workers)) for _ in range(workers)]
    begin = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return images // workers * workers / (time.perf_counter() - begin)


def slow_disk(dataset, images, delay=0.005):
    """Two loader processes, with images that take `delay` more to read: {'delay', 'step', 'waits', …} in seconds.

    step: duration of the training step, 1.1 times what the processes need for a batch. waits, waits without: how long
    the step waits for a batch, with and without the delay.
    """
    slow = SlowDisk(dataset, delay)
    step = 1.1 * BATCH / from_processes(slow, 2, images).rate
    return {
        'delay': delay,
        'step': step,
        'waits': from_processes(slow, 2, images, step).waited,
        'waits without': from_processes(dataset, 2, images, step).waited,
    }
