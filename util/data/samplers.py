"""Which images make a batch: in training, and in evaluation."""

import math

import numpy as np

from util.errors import UserError


class TrainSampler:
    """Shuffled full batches, the share of one process.

    The order of an epoch is a function of (seed, epoch). An optimizer step takes the next total batch of it, whatever
    the number of processes and accumulated batches. The images after the last complete total batch are left out.
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
        """Batches of this process in a whole epoch, a multiple of accum_iter."""
        return self.length // (self.batch_size * self.world_size * self.accum_iter) * self.accum_iter

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        for step in range(self.first, len(self)):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield order[start : start + self.batch_size].tolist()


class EvalSampler:
    """Every image exactly once over all processes, in order and without padding; the last batch may be short."""

    def __init__(self, length, batch_size, rank=0, world_size=1):
        self.indices, self.batch_size = range(rank, length, world_size), batch_size

    def __len__(self):
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[start : start + self.batch_size])
