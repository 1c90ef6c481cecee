"""Images and labels from disk to samples (util/data/loader.py makes batches of them).

A sample is a function of (seed, epoch, index) alone: every random draw of its transform comes from a generator seeded
with the three, so neither the number of loader processes nor a resumed run changes what a sample looks like.
"""

import multiprocessing
import os
import re
import sys

import numpy as np
import paddle

from util.data import token_label
from util.data.images import EXTENSIONS, BadImage, is_image
from util.data.transforms import to_input
from util.errors import UserError, one_line

# -- which images there are -------------------------------------------------------------------------------------------


def read_folder(root, num_classes):
    """Samples [(path, class id)] of an ImageNet-like folder: one folder a class, ids in the folders' sorted order."""
    if not os.path.isdir(root):
        raise UserError(f'{root}: no such folder; check --data_path')
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if len(classes) > num_classes:
        raise UserError(f'{root}: has {len(classes)} class folders, but --nb_classes is {num_classes}')
    samples = [
        (os.path.join(root, folder, name), label)
        for label, folder in enumerate(classes)
        for name in sorted(os.listdir(os.path.join(root, folder)))
        if is_image(name)
    ]
    if not samples:
        raise UserError(f'{root}: no images in its class folders (looked for {" ".join(EXTENSIONS)})')
    return samples


def read_list(data_path, list_path, num_classes):
    """Samples [(path, class id)] of a list file with lines `path/below/data_path class_id`."""
    if not os.path.isdir(data_path):
        raise UserError(f'--data_path {data_path}: no such folder')
    try:
        with open(list_path, encoding='utf-8-sig') as f:
            lines = f.readlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise UserError(f'{list_path}: not a readable text file ({reason})')
    samples = []
    listings = {}  # {folder: names in it}: a look-up in a set costs far less than a look at the disk for every image
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, word = line.strip().rpartition(' ')
        if not name or not re.fullmatch('-?[0-9]{1,18}', word):  # Python refuses to read thousands of digits
            raise UserError(f"{list_path}, line {number}: expected 'path class_id', found '{one_line(line)}'")
        if not 0 <= int(word) < num_classes:
            raise UserError(f'{list_path}, line {number}: class id {word}, but --nb_classes is {num_classes}')
        path = os.path.join(data_path, name)
        folder, base = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listings[folder]:
            raise UserError(f'{list_path}, line {number}: {one_line(path)} does not exist; check --data_path')
        samples.append((path, int(word)))
    if not samples:
        raise UserError(f'{list_path}: lists no images')
    return samples


# -- their samples ----------------------------------------------------------------------------------------------------


class ImageDataset(paddle.io.Dataset):
    """Samples (path, class id), transformed by `sample(index)`.

    A UserError becomes the sample {'error': message}: raised in a loader process, Paddle would make a SystemError of
    it. Loader raises it in the main process.
    """

    def __init__(self, samples, transform):
        self.samples, self.transform = samples, transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        try:
            return self.sample(index)
        except UserError as error:
            return {'error': str(error)}


class TrainDataset(ImageDataset):
    """Training samples {'image': float32 [3, S, S], 'label': int, 'index': int, the sample's place in the set}, and
    with label maps 'target' (token_label.SparseTarget).

    grid: tokens a side of the targets. Images among `unmapped` (paths) have no map and train with their label alone; if
    there are any, each sample says whether it is 'mapped'. An image that cannot be decoded is replaced by the next one;
    each such file is named once on stderr, and more than `max_bad_images` of them are a UserError.
    """

    def __init__(
        self, samples, transform, num_classes, seed=0, label_maps=None, grid=14, max_bad_images=100, unmapped=()
    ):
        super().__init__(samples, transform)
        self.num_classes, self.seed, self.epoch = num_classes, seed, 0
        self.label_maps, self.grid, self.unmapped = label_maps, grid, frozenset(unmapped)
        self.max_bad_images = max_bad_images
        # int8, 1 where a file was found undecodable; in memory that the loader processes, which are forked, share
        self.bad = np.frombuffer(multiprocessing.RawArray('b', len(samples)), 'int8')

    def set_epoch(self, epoch):
        self.epoch = epoch

    def bad_images(self):
        """How many files could not be decoded so far."""
        return int(self.bad.sum())

    def sample(self, index):
        (image, matrix, source_size), index = self._load(index)
        path, label = self.samples[index]
        sample = {'image': image, 'label': label, 'index': index}
        if self.label_maps:
            if path in self.unmapped:
                sample['target'] = token_label.no_target(self.grid)
            else:
                sample['target'] = self._target(path, source_size, image.shape[-1], matrix)
            if self.unmapped:
                sample['mapped'] = path not in self.unmapped
        return sample

    def _load(self, index):
        """(what the transform makes of a file, its index): of the sample at `index`, or of the next one that can be
        decoded, with the draws of `index` either way.
        """
        for step in range(len(self.samples)):
            candidate = (index + step) % len(self.samples)
            rng = np.random.default_rng([self.seed, self.epoch, index])
            try:
                return self.transform(self.samples[candidate][0], rng), candidate
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
        sampling = token_label.sampling_matrix(matrix, side, self.grid, covered, map_shape=scores.shape[1:])
        return token_label.sparse_target(scores, ids, sampling, self.num_classes)


class EvalDataset(ImageDataset):
    """Evaluation samples {'image': float32 [3, S, S], 'label': int, 'index': int, the sample's place in the set}.

    An image that cannot be decoded is a UserError: an evaluation counts every image. With skip_bad it is named on
    stderr and becomes black with label -1, so that the batches keep their composition.
    """

    def __init__(self, samples, transform, skip_bad=False):
        super().__init__(samples, transform)
        self.skip_bad = skip_bad

    def sample(self, index):
        path, label = self.samples[index]
        try:
            image = to_input(self.transform.load(path), self.transform.mean, self.transform.std)
            return {'image': image, 'label': label, 'index': index}
        except BadImage as error:
            if not self.skip_bad:
                raise UserError(f'{error}; evaluation counts every image, so it stops here')
            print(f'warning: {error}; skipped', file=sys.stderr, flush=True)
            black = np.zeros([3, self.transform.size, self.transform.size], 'float32')
            return {'image': black, 'label': -1, 'index': index}
