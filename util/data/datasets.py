"""Images and labels from disk to samples (util/data/loader.py makes batches of them).

A sample is a function of (seed, epoch, index) alone: every random draw of its transform comes from a generator seeded
with the three, so neither the number of loader processes nor a resumed run changes what a sample looks like.
"""

import multiprocessing
import sys

import numpy as np
import paddle

from util.data import token_label
from util.data.images import BadImage
from util.errors import UserError


class ImageDataset(paddle.io.Dataset):
    """Samples, transformed by `sample(index)`. samples: [(path, class id)], or listing.Samples where they are many.

    A UserError becomes the sample {'error': message}: raised in a loader process, Paddle would make a SystemError of
    it. Loader raises it in the main process.
    """

    def __init__(self, samples, transform):
        self.samples, self.transform = samples, transform

    def __len__(self):
        return len(self.samples)

    def sample_bytes(self):
        """What the arrays of a sample take, in bytes."""
        return 3 * self.transform.size**2

    def __getitem__(self, index):
        try:
            return self.sample(index)
        except UserError as error:
            return {'error': str(error).encode(errors='backslashreplace').decode()}  # a file's name need not be text


class TrainDataset(ImageDataset):
    """Training samples {'image': uint8 [S, S, 3], 'erased': Erased or None, 'label': int, 'index': int, the sample's
    place in the set}, and with label maps 'target' (token_label.SparseTarget).

    grid: tokens a side of the targets. unmapped: bool [n], the images that have no map and train with their label
    alone; None if all have one. If any has none, each sample says whether it is 'mapped'. An image that cannot be
    decoded is replaced by the next one; each such file is named once on stderr, and more than `max_bad_images` of them
    are a UserError.
    """

    def __init__(
        self, samples, transform, num_classes, seed=0, label_maps=None, grid=14, max_bad_images=100, unmapped=None
    ):
        super().__init__(samples, transform)
        self.num_classes, self.seed = num_classes, seed
        self._epoch = multiprocessing.RawValue('q', 0)  # shared with loader processes, which may outlast an epoch
        self.label_maps, self.grid = label_maps, grid
        self.unmapped = np.zeros(len(samples), bool) if unmapped is None else unmapped
        self.unmapped_images = int(self.unmapped.sum())
        self.max_bad_images = max_bad_images
        # int8, 1 where a file was found undecodable; in memory that the loader processes, which are forked, share
        self.bad = np.frombuffer(multiprocessing.RawArray('b', len(samples)), 'int8')

    @property
    def epoch(self):
        return self._epoch.value

    def set_epoch(self, epoch):
        self._epoch.value = epoch

    def sample_bytes(self):
        """What the arrays of a sample take, in bytes: its pixels, what is erased, and the largest of eight targets."""
        pixels = super().sample_bytes()
        erased = int(12 * pixels * self.transform.reprob / 3)  # int64 and float32; a third of the image at most
        if not self.label_maps:
            return pixels + erased
        some = np.linspace(0, len(self) - 1, 8).astype('int64').tolist()
        targets = [self[index].get('target', ()) for index in some]  # none where the sample is an error
        return pixels + erased + max(sum(part.nbytes for part in target) for target in targets)

    def bad_images(self):
        """How many files could not be decoded so far."""
        return int(self.bad.sum())

    def sample(self, index):
        (pixels, matrix, source_size, erased), index = self._load(index)
        path, label = self.samples[index]
        sample = {'image': pixels, 'erased': erased, 'label': label, 'index': index}
        if self.label_maps:
            if self.unmapped[index]:
                sample['target'] = token_label.no_target(self.grid)
            else:
                sample['target'] = self._target(path, source_size, len(pixels), matrix)
            if self.unmapped_images:
                sample['mapped'] = not self.unmapped[index]
        return sample

    def _load(self, index):
        """(what the transform makes of a file, its index): of the sample at `index`, or of the next one that can be
        decoded, with the draws of `index` either way.
        """
        for step in range(len(self.samples)):
            candidate = (index + step) % len(self.samples)
            rng = np.random.default_rng([self.seed, self.epoch, index])
            try:
                return self.transform.load(self.samples[candidate][0], rng), candidate
            except BadImage as error:
                self._skip(candidate, error)
        raise UserError('not one image of the training set can be decoded')

    def _skip(self, index, error):
        """Name a file that cannot be decoded, once. Raises UserError if it is one too many."""
        if self.bad[index]:
            return
        self.bad[index] = 1
        print(f'warning: {error}; skipped', file=sys.stderr, flush=True)
        if self.bad_images() > self.max_bad_images:
            raise UserError(
                f'{self.samples[index][0]}: unreadable, and so are more images than '
                f'--max_bad_images {self.max_bad_images} allows'
            )

    def _target(self, path, source_size, side, matrix):
        """The SparseTarget of an image.

        source_size: (width, height) of the file; side: of the transformed image; matrix: from its pixels to the file's.
        """
        scores, ids = self.label_maps.read(path)
        covered = self.label_maps.covered(*source_size)
        return token_label.token_target(
            scores, ids, self.num_classes, matrix=matrix, side=side, grid=self.grid, covered=covered
        )


class EvalDataset(ImageDataset):
    """Evaluation samples {'image': uint8 [S, S, 3], 'label': int, 'index': int, the sample's place in the set}.

    An image that cannot be decoded is a UserError: an evaluation counts every image. With skip_bad it is named on
    stderr and becomes black with label -1, so that the batches keep their composition.
    """

    def __init__(self, samples, transform, skip_bad=False):
        super().__init__(samples, transform)
        self.skip_bad = skip_bad

    def sample(self, index):
        path, label = self.samples[index]
        try:
            return {'image': self.transform.load(path), 'label': label, 'index': index}
        except BadImage as error:
            if not self.skip_bad:
                raise UserError(f'{error}; evaluation counts every image, so it stops here')
            print(f'warning: {error}; skipped', file=sys.stderr, flush=True)
            black = np.zeros([self.transform.size, self.transform.size, 3], 'uint8')
            return {'image': black, 'label': -1, 'index': index}
