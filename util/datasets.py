"""Images and labels from disk to batches.

A sample is a function of (seed, epoch, index) alone: every random draw of its transform comes from a generator seeded
with the three, so neither the number of loader processes nor a resumed run changes what a sample looks like.
"""
import functools
import multiprocessing
import os
import sys

import numpy as np
import paddle
from PIL import Image

from util import token_label
from util.label_maps import LabelMaps
from util.runtime import UserError, worker_count
from util.transforms import EvalTransform, TrainTransform

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def open_rgb(path):
    """Decode an image file to RGB. 16-bit greys are scaled to 8 bits; an EXIF orientation is ignored, as in the field.

    Raises one of UNREADABLE for a file that is no image, truncated or missing.
    """
    with Image.open(path) as image:
        if image.mode.startswith('I'):
            image = Image.fromarray((np.asarray(image).astype('uint32') >> 8).clip(0, 255).astype('uint8'))
        return image.convert('RGB')


def is_image(name):
    return name.lower().endswith(EXTENSIONS)


def read_folder(root, num_classes):
    """Samples [(path, class id)] of an ImageNet-like folder: one folder a class, ids in the folders' sorted order."""
    if not os.path.isdir(root):
        raise UserError(f'{root}: no such folder; check --data_path')
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if len(classes) > num_classes:
        raise UserError(f'{root}: has {len(classes)} class folders, but --nb_classes is {num_classes}')
    samples = [(os.path.join(root, folder, name), label) for label, folder in enumerate(classes)
               for name in sorted(os.listdir(os.path.join(root, folder))) if is_image(name)]
    if not samples:
        raise UserError(f"{root}: no images in its class folders (looked for {' '.join(EXTENSIONS)})")
    return samples


def read_list(data_path, list_path, num_classes):
    """Samples [(path, class id)] of a list file with lines `path/below/data_path class_id`."""
    if not os.path.isdir(data_path):
        raise UserError(f'--data_path {data_path}: no such folder')
    try:
        with open(list_path, encoding='utf-8') as f:
            lines = f.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{list_path}: not a readable list file ({error})')
    samples, present = [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(' ')
        if not name or not label.isdecimal():
            raise UserError(f"{list_path}, line {number}: expected 'path class_id', found '{line}'")
        if int(label) >= num_classes:
            raise UserError(f'{list_path}, line {number}: class id {label}, but --nb_classes is {num_classes}')
        path = os.path.join(data_path, name)
        folder, base = os.path.split(path)
        if folder not in present:  # one listing a folder, not one look-up an image
            present[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in present[folder]:
            raise UserError(f'{list_path}, line {number}: {path} does not exist; check --data_path')
        samples.append((path, int(label)))
    if not samples:
        raise UserError(f'{list_path}: lists no images')
    return samples


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
    """Transformed training samples as dicts: image [3, S, S], label, and with label maps ids, listed, floor
    (token_label.SparseTarget).

    tokens: token grid side of the targets. Images among `unmapped` (paths) have no map and train with their label
    alone: sample['mapped'] is 0 for them. An image that cannot be decoded is replaced by the next one; each such
    file is named once on stderr, and more than `max_bad_images` of them raise UserError.
    """

    def __init__(self, samples, transform, num_classes, seed=0, label_maps=None, tokens=14, max_bad_images=100,
                 unmapped=()):
        self.samples, self.transform, self.num_classes, self.seed = samples, transform, num_classes, seed
        self.label_maps, self.tokens = label_maps, tokens
        self.max_bad_images, self.unmapped, self.epoch = max_bad_images, frozenset(unmapped), 0
        self._bad = multiprocessing.RawArray('b', len(samples))  # shared with the loader's processes

    def __len__(self):
        return len(self.samples)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def bad_images(self):
        """How many files could not be decoded so far."""
        return sum(self._bad)

    def _open(self, index):
        for _ in range(len(self.samples)):
            path, label = self.samples[index]
            try:
                return open_rgb(path), path, label
            except UNREADABLE as error:
                if not self._bad[index]:
                    self._bad[index] = 1
                    print(f'warning: {path}: cannot be decoded, skipped ({error})', file=sys.stderr, flush=True)
                    if self.bad_images() > self.max_bad_images:
                        raise UserError(f'{path}: unreadable, and so are more images than '
                                        f'--max_bad_images {self.max_bad_images} allows')
                index = (index + 1) % len(self.samples)
        raise UserError('not one image of the training set can be decoded')

    @_errors_as_samples
    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        source, path, label = self._open(index)
        image, matrix = self.transform(source, rng)
        sample = {'image': image, 'label': label}
        if self.label_maps:
            mapped = path not in self.unmapped
            sample['target'] = self._target(path, source.size, image.shape[-1], matrix) if mapped \
                else token_label.no_target(self.tokens)
            if self.unmapped:
                sample['mapped'] = mapped
        return sample

    def _target(self, path, source_size, side, matrix):
        scores, ids = self.label_maps.read(path)
        sampling = token_label.sampling_matrix(matrix, side, self.tokens, self.label_maps.covered(*source_size),
                                               scores.shape[1:])
        return token_label.sparse_target(scores, ids, sampling, self.num_classes)


class EvalDataset(paddle.io.Dataset):
    """Evaluation samples {'image': [3, S, S], 'label'}; an image that cannot be decoded raises UserError."""

    def __init__(self, samples, transform):
        self.samples, self.transform = samples, transform

    def __len__(self):
        return len(self.samples)

    @_errors_as_samples
    def __getitem__(self, index):
        path, label = self.samples[index]
        try:
            return {'image': self.transform(open_rgb(path)), 'label': label}
        except UNREADABLE as error:
            raise UserError(f'{path}: cannot be decoded ({error}); evaluation counts every image, so it stops here')


def collate(samples):
    """Samples of a batch to named arrays: image [B, 3, S, S], label [B]; with label maps the fields of the
    stacked SparseTarget; where the set lacks maps, mapped [B], 0 for images without one.
    """
    for sample in samples:
        if 'error' in sample:
            return {'error': np.frombuffer(sample['error'].encode(), 'uint8')}
    batch = {'image': np.stack([s['image'] for s in samples]),
             'label': np.array([s['label'] for s in samples], 'int64')}
    if 'target' in samples[0]:
        batch.update(token_label.stack_targets([s['target'] for s in samples])._asdict())
    if 'mapped' in samples[0]:
        batch['mapped'] = np.array([s['mapped'] for s in samples], 'float32')
    return batch


class TrainSampler:
    """Shuffled full batches: the permutation of an epoch is a function of (seed, epoch), and each step's global batch
    is a stretch of it, of which every process takes its slice. A last incomplete global batch is left out.
    """

    def __init__(self, length, batch_size, rank=0, world_size=1, seed=0):
        self.length, self.batch_size, self.rank, self.world_size, self.seed = length, batch_size, rank, world_size, seed
        self.epoch = 0
        if len(self) == 0:
            raise UserError(f'--batch_size {batch_size} on {world_size} process(es) is more than the {length} '
                            'training images')

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.length // (self.batch_size * self.world_size)

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        for step in range(len(self)):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield order[start:start + self.batch_size].tolist()


class EvalSampler:
    """Every image exactly once over all processes, in order, nothing padded; the last batch may be short."""

    def __init__(self, length, batch_size, rank=0, world_size=1):
        self.indices, self.batch_size = list(range(rank, length, world_size)), batch_size

    def __len__(self):
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.indices), self.batch_size):
            yield self.indices[start:start + self.batch_size]


def _samples(args, split, list_path):
    if list_path:
        return read_list(args.data_path, list_path, args.nb_classes)
    return read_folder(os.path.join(args.data_path, split), args.nb_classes)


def build_train_loader(args, rank=0, world_size=1):
    """The training loader that main.py's flags describe."""
    transform = TrainTransform(args.input_size, args.train_interpolation, args.aa, args.color_jitter, args.reprob,
                               args.remode, args.recount, args.train_scale, args.hflip, args.token_label_geometry)
    maps = LabelMaps(args.token_label_data, args.nb_classes, args.token_label_coverage) \
        if args.token_label else None
    if maps and args.token_label_geometry == 'reference':
        maps.coverage = 'full'  # the original reads every map as if it covered the whole image
    samples = _samples(args, 'val' if args.debug else 'train', args.cls_label_path_train)
    unmapped = ()
    if maps:  # look before the first epoch, not in a loader process
        if args.allow_missing_token_label:
            unmapped = maps.missing([path for path, _ in samples])
        else:
            maps.require([path for path, _ in samples])
    dataset = TrainDataset(samples, transform, args.nb_classes, args.seed, maps, args.token_label_size,
                           args.max_bad_images, unmapped)
    return Loader(dataset, TrainSampler(len(dataset), args.batch_size, rank, world_size, args.seed),
                  args.num_workers)


def build_eval_loader(args, crop_pct, rank=0, world_size=1):
    """The validation loader; with world_size > 1 the part of the set that belongs to this process."""
    transform = EvalTransform(args.input_size, crop_pct, args.interpolation)
    dataset = EvalDataset(_samples(args, 'val', args.cls_label_path_val), transform)
    return Loader(dataset, EvalSampler(len(dataset), args.batch_size, rank, world_size), args.num_workers)


class Loader:
    """paddle.io.DataLoader over the batches of `sampler`, with at most as many processes as the machine has cores.

    Iterating yields dicts of tensors (see collate) and raises the UserError of a sample.
    """

    def __init__(self, dataset, sampler, num_workers):
        self.dataset, self.sampler = dataset, sampler
        self._loader = paddle.io.DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, return_list=True,
                                            num_workers=worker_count(num_workers))

    def __len__(self):
        return len(self.sampler)

    def set_epoch(self, epoch):
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(epoch)

    def __iter__(self):
        for batch in self._loader:
            if 'error' in batch:
                raise UserError(batch['error'].numpy().tobytes().decode())
            yield batch
