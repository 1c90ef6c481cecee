"""Images and labels from disk to samples (util/data/loader.py makes batches of them).

A sample is a function of (seed, epoch, index) alone: every random draw of its transform comes from a generator seeded
with the three, so neither the number of loader processes nor a resumed run changes what a sample looks like.
"""

import functools
import multiprocessing
import os
import sys

import numpy as np
import paddle

from util.data import token_label
from util.data.images import EXTENSIONS, BadImage, is_image, open_rgb
from util.errors import UserError, one_line
from util.files import read_lines


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
    samples, present, listings = [], {}, {}
    for number, line in read_lines(list_path):
        name, _, label = line.rpartition(' ')
        if not name or not label.isdecimal():
            raise UserError(f"{list_path}, line {number}: expected 'path class_id', found '{one_line(line)}'")
        if len(label) > 18 or int(label) >= num_classes:
            raise UserError(
                f'{list_path}, line {number}: class id {one_line(label)}, but --nb_classes is {num_classes}'
            )
        path = os.path.join(data_path, name)
        folder, base = os.path.split(path)
        if folder not in present:  # one listing a folder, not one look-up an image
            present[folder] = _listing(folder, listings)
        if base not in present[folder]:
            raise UserError(f'{list_path}, line {number}: {one_line(path)} does not exist; check --data_path')
        samples.append((path, int(label)))
    if not samples:
        raise UserError(f'{list_path}: lists no images')
    return samples


def _listing(folder, listings):
    """The names in a folder, as a set that is kept once however the folder is spelt; empty for none."""
    folder = os.path.realpath(folder)
    if folder not in listings:
        listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return listings[folder]


def _errors_as_samples(getitem):
    """Hand a UserError over as a sample: one raised in a loader process would surface as a SystemError of Paddle's."""

    @functools.wraps(getitem)
    def wrapped(self, index):
        try:
            return getitem(self, index)
        except UserError as error:
            return {'error': str(error)}

    return wrapped


class TrainDataset(paddle.io.Dataset):
    """Transformed training samples as dicts: image [3, S, S], label, index (the sample's place in the set), and with
    label maps target (token_label.SparseTarget).

    tokens: token grid side of the targets. Images among `unmapped` (paths) have no map and train with their label
    alone: sample['mapped'] is 0 for them. An image that cannot be decoded is replaced by the next one; each such
    file is named once on stderr, and more than `max_bad_images` of them raise UserError.
    """

    def __init__(
        self, samples, transform, num_classes, seed=0, label_maps=None, tokens=14, max_bad_images=100, unmapped=()
    ):
        self.samples, self.transform, self.num_classes, self.seed = samples, transform, num_classes, seed
        self.label_maps, self.tokens = label_maps, tokens
        self.max_bad_images, self.unmapped, self.epoch = max_bad_images, frozenset(unmapped), 0
        self._bad = multiprocessing.RawArray('b', len(samples))  # shared with the loader's processes

    def __len__(self):
        return len(self.samples)

    def set_epoch(self, epoch):
        self.epoch = epoch

    @property
    def bad(self):
        """Flag of each sample: whether its file was found undecodable, by this process's loaders. int8, writable."""
        return np.frombuffer(self._bad, 'int8')

    def bad_images(self):
        """How many files could not be decoded so far."""
        return int(self.bad.sum())

    def _open(self, index):
        for _ in range(len(self.samples)):
            path, label = self.samples[index]
            try:
                return open_rgb(path), index
            except BadImage as error:
                if not self._bad[index]:
                    self._bad[index] = 1
                    print(f'warning: {error}; skipped', file=sys.stderr, flush=True)
                    if self.bad_images() > self.max_bad_images:
                        raise UserError(
                            f'{path}: unreadable, and so are more images than '
                            f'--max_bad_images {self.max_bad_images} allows'
                        )
                index = (index + 1) % len(self.samples)
        raise UserError('not one image of the training set can be decoded')

    @_errors_as_samples
    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        source, index = self._open(index)
        path, label = self.samples[index]
        image, matrix = self.transform(source, rng)
        sample = {'image': image, 'label': label, 'index': index}
        if self.label_maps:
            mapped = path not in self.unmapped
            sample['target'] = (
                self._target(path, source.size, image.shape[-1], matrix)
                if mapped
                else token_label.no_target(self.tokens)
            )
            if self.unmapped:
                sample['mapped'] = mapped
        return sample

    def _target(self, path, source_size, side, matrix):
        scores, ids = self.label_maps.read(path)
        sampling = token_label.sampling_matrix(
            matrix, side, self.tokens, self.label_maps.covered(*source_size), scores.shape[1:]
        )
        return token_label.sparse_target(scores, ids, sampling, self.num_classes)


class EvalDataset(paddle.io.Dataset):
    """Evaluation samples {'image': float32 [3, S, S], 'label': int}.

    An image that cannot be decoded raises UserError: an evaluation counts every image. With skip_bad it is named on
    stderr and becomes black with label -1, so that the batches keep their composition.
    """

    def __init__(self, samples, transform, skip_bad=False):
        self.samples, self.transform, self.skip_bad = samples, transform, skip_bad

    def __len__(self):
        return len(self.samples)

    @_errors_as_samples
    def __getitem__(self, index):
        path, label = self.samples[index]
        try:
            return {'image': self.transform(open_rgb(path)), 'label': label, 'index': index}
        except BadImage as error:
            if not self.skip_bad:
                raise UserError(f'{error}; evaluation counts every image, so it stops here')
            print(f'warning: {error}; skipped', file=sys.stderr, flush=True)
            black = np.zeros([3, self.transform.size, self.transform.size], 'float32')
            return {'image': black, 'label': -1, 'index': index}
