"""The data sets of training and evaluation: samples of images and labels. util/data/loader.py makes batches of them.

A training sample is a function of (seed, epoch, index) alone: all random draws of its transform come from a generator
seeded with these three. So neither the number of loader processes nor a resumed run changes a sample.
"""

import multiprocessing
import os
import sys
import traceback

import numpy as np
import paddle

from util.data import token_label
from util.data.images import BadImage
from util.errors import UserError, one_line


def unexpected(error, doing):
    """One line about an exception that is no UserError. doing: what was done, with the file's name."""
    if isinstance(error, MemoryError):
        return f'{doing}: not enough memory; lower --num_workers or --batch_size'
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f'{os.path.basename(frame.filename)}, line {frame.lineno}'
    return f'{doing}: {type(error).__name__}: {one_line(error)} ({place})'


UNDECODABLE = -2  # the label of an image that EvalDataset could not decode


class ImageDataset(paddle.io.Dataset):
    """Samples made by `sample(index)`. samples: listing.Samples; for EvalDataset also a list [(path, class id)].

    Any exception becomes the sample {'error': message}, which names the file, and the loaders raise a UserError in the
    main process. (Paddle turns what a loader process raises into a SystemError.)
    """

    def __init__(self, samples, transform):
        self.samples, self.transform = samples, transform

    def __len__(self):
        return len(self.samples)

    def sample_bytes(self):
        """Bytes of the arrays of a sample."""
        return 3 * self.transform.size**2

    def __getitem__(self, index):
        try:
            return self.sample(index)
        except UserError as error:
            message = str(error)
        except Exception as error:
            message = unexpected(error, self.samples[index][0])
        return {'error': message}

    def transformed(self, index, *args):
        """What the transform makes of the image at `index`. args: more arguments of transform.load.

        Raises BadImage for a file that cannot be read or decoded, and UserError for every other error.
        """
        path = self.samples[index][0]
        try:
            return self.transform.load(path, *args)
        except (BadImage, UserError):
            raise
        except Exception as error:
            raise UserError(unexpected(error, path))


class TrainDataset(ImageDataset):
    """Training samples, dicts:

    image    uint8 [S, S, 3]
    erased   augment.Erased, what random erasing drew, or None
    label    class id, -1 for an image without a label
    index    position in the set
    target   token_label.SparseTarget, with label maps
    mapped   whether the image has a label map, if some have none
    labelled whether the image has a label, if some have none

    grid: tokens a side of the targets. With allow_missing_token_label an image without a map trains with its label
    alone; otherwise it is a UserError, as are two images that would have one map, and an image without a label if it
    has no map. An image that cannot be read or decoded is replaced by the next one of the set. Each such file is named
    once on stderr; more than `max_bad_images` of them are a UserError.
    """

    def __init__(
        self,
        samples,
        transform,
        num_classes,
        seed=0,
        label_maps=None,
        grid=14,
        max_bad_images=100,
        allow_missing_token_label=False,
    ):
        super().__init__(samples, transform)
        self.num_classes, self.seed = num_classes, seed
        self._epoch = multiprocessing.RawValue('q', 0)  # shared with loader processes, which may outlast an epoch
        self.label_maps, self.grid = label_maps, grid
        self.unmapped_images, self.unlabelled_images = 0, int(samples.unlabelled.sum())
        if label_maps:  # an array, which loader processes share
            self.map_names = label_maps.names_for(samples, allow_missing_token_label)
            self.unmapped_images = int((self.map_names == b'').sum())
        self.max_bad_images = max_bad_images
        # int8 [n], 1: this file is a bad image; in memory that the loader processes share
        self.bad = np.frombuffer(multiprocessing.RawArray('b', len(samples)), 'int8')

    @property
    def epoch(self):
        return self._epoch.value

    def set_epoch(self, epoch):
        self._epoch.value = epoch

    def sample_bytes(self):
        """Bytes of a sample, at most: its pixels, what may be erased, and the largest of eight targets."""
        pixels = super().sample_bytes()
        erased = int(12 * pixels * self.transform.reprob / 3)  # int64 and float32; a third of the image at most
        if not self.label_maps:
            return pixels + erased
        some = np.linspace(0, len(self) - 1, 8).astype('int64').tolist()
        targets = [self[index].get('target', ()) for index in some]  # an error has no target
        return pixels + erased + max(sum(part.nbytes for part in target) for target in targets)

    def bad_images(self):
        """Number of files that could not be read or decoded so far."""
        return int(self.bad.sum())

    def sample(self, index):
        (pixels, matrix, source_size, erased), index = self._load(index)
        _, label = self.samples[index]
        sample = {'image': pixels, 'erased': erased, 'label': label, 'index': index}
        if self.label_maps:
            name = os.fsdecode(self.map_names[index])
            if name:
                sample['target'] = self._target(name, source_size, len(pixels), matrix)
            else:
                sample['target'] = token_label.no_target(self.grid)
            if self.unmapped_images:
                sample['mapped'] = bool(name)
            if self.unlabelled_images:
                sample['labelled'] = label >= 0
        return sample

    def _load(self, index):
        """(the transform's result, index) of the image at `index`, or of the next one that can be decoded.

        The random draws are those of `index` in either case.
        """
        for step in range(len(self.samples)):
            candidate = (index + step) % len(self.samples)
            rng = np.random.default_rng([self.seed, self.epoch, index])
            try:
                return self.transformed(candidate, rng), candidate
            except BadImage as error:
                self._skip(candidate, error)
        raise UserError('no image of the training set can be read and decoded; check --data_path')

    def _skip(self, index, error):
        """Warn of a bad image, once. Raises UserError if there are too many."""
        if self.bad[index]:
            return
        self.bad[index] = 1
        print(f'warning: {error}; skipped', file=sys.stderr, flush=True)
        if self.bad_images() > self.max_bad_images:
            raise UserError(f'{error}; this is one bad image more than --max_bad_images {self.max_bad_images} allows')

    def _target(self, name, source_size, side, matrix):
        """The SparseTarget of an image.

        name: of its label map; source_size: (width, height) of the image file; side: of the transformed image in
        pixels; matrix: pixels of the transformed image to pixels of the file.
        """
        scores, ids = self.label_maps.read(name)
        covered = self.label_maps.covered(*source_size)
        return token_label.token_target(
            scores, ids, self.num_classes, matrix=matrix, side=side, grid=self.grid, covered=covered
        )


class EvalDataset(ImageDataset):
    """Evaluation samples {'image': uint8 [S, S, 3], 'label': class id, 'index': position in the set}.

    An image that cannot be read or decoded is a UserError, because an evaluation counts every image. With skip_bad
    there is a warning on stderr instead, and the sample is black with label UNDECODABLE.
    """

    def __init__(self, samples, transform, skip_bad=False):
        super().__init__(samples, transform)
        self.skip_bad = skip_bad

    def sample(self, index):
        try:
            return {'image': self.transformed(index), 'label': self.samples[index][1], 'index': index}
        except BadImage as error:
            if not self.skip_bad:
                raise UserError(f'{error}; evaluation counts every image, so it stops here')
            print(f'warning: {error}; skipped', file=sys.stderr, flush=True)
            black = np.zeros([self.transform.size, self.transform.size, 3], 'uint8')
            return {'image': black, 'label': UNDECODABLE, 'index': index}
