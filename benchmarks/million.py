"""A training set of ImageNet's size: seconds until its first batch, and memory of the loader processes.

    python benchmarks/million.py OUT

Makes a set in the new folder OUT: about 1,000 class folders of images and of label maps, in which all files are hard
links to one JPEG and one .npy map; the same maps packed (a sparse file of zeros, which are valid maps); and a list file
in random order. Removes OUT at the end. Measures once each:

- listing the images from the folders, and from the list file;
- opening a set of label maps and finding the map of every image, in folders and packed;
- from there to the first batch of 128 images, augmented, with targets;
- the private memory (/proc/self/smaps_rollup) that a loader process gains in an epoch. Two processes of
  paddle.io.DataLoader share the epoch, in shuffled order. For every image they look up path and class and read the
  label map; decoding and augmentation, which keep nothing, are left out.
"""

import functools
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np
import paddle
from PIL import Image

from util import paddle_fixes
from util.args import Parser
from util.data.datasets import TrainDataset
from util.data.label_maps import LabelMaps
from util.data.listing import read_folder, read_list
from util.data.loader import Loader
from util.data.map_sets import ARRAY, NAMES
from util.data.samplers import TrainSampler
from util.data.transforms import TrainTransform
from util.errors import UserError
from util.logger import progress
from util.ranges import count

PHOTO = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'demo', 'chelsea.png')
IMAGES, PER_FOLDER = 1_281_167, 1_282  # the training images of ImageNet, in 1,000 class folders
BATCH, PROCESSES, CHUNK = 128, 2, 5_000


def make(out, images):
    """Write a set of `images` images to the new folder `out`: train/, maps/, packed/ and train_list.txt."""
    if os.path.exists(out):
        raise UserError(f'{out}: exists already; choose a new folder')
    rng = np.random.default_rng(0)
    ids = rng.permutation(1000)[:180].repeat(9).reshape(5, 18, 18)
    label_map = np.stack([rng.normal(4, 3, (5, 18, 18)), ids]).astype('float16')
    names, lines = [], []
    for label in progress(range(-(-images // PER_FOLDER)), 'make'):
        folder = f'n{label:08d}'
        stems = [f'{folder}/{folder}_{i}' for i in range(min(PER_FOLDER, images - label * PER_FOLDER))]
        train, maps = os.path.join(out, 'train'), os.path.join(out, 'maps')
        os.makedirs(os.path.join(train, folder))
        os.makedirs(os.path.join(maps, folder))
        Image.open(PHOTO).convert('RGB').save(f'{train}/{stems[0]}.JPEG')
        np.save(f'{maps}/{stems[0]}.npy', label_map)
        for stem in stems[1:]:
            os.link(f'{train}/{stems[0]}.JPEG', f'{train}/{stem}.JPEG')
            os.link(f'{maps}/{stems[0]}.npy', f'{maps}/{stem}.npy')
        names += stems
        lines += [f'train/{stem}.JPEG {label}\n' for stem in stems]
    with open(os.path.join(out, 'train_list.txt'), 'w') as f:
        f.writelines(lines[i] for i in rng.permutation(images))
    packed = os.path.join(out, 'packed')
    os.mkdir(packed)
    with open(os.path.join(packed, NAMES), 'w') as f:
        f.writelines(f'{name}\n' for name in sorted(names))
    np.lib.format.open_memmap(os.path.join(packed, ARRAY), mode='w+', dtype='float16', shape=(images, *label_map.shape))


def timed(call, *args):
    """(result, seconds)"""
    start = time.perf_counter()
    result = call(*args)
    return result, time.perf_counter() - start


def new_dataset(folder, samples):
    """The TrainDataset with the label maps of a folder. It finds the map of every image."""
    return TrainDataset(samples, TrainTransform(224), 1000, label_maps=LabelMaps(folder, 1000))


def first_batch(dataset):
    """The iterator of a training loader, after its first batch."""
    size = min(BATCH, len(dataset))
    batches = iter(Loader(dataset, TrainSampler(len(dataset), size), size, PROCESSES))
    next(batches)
    return batches


class Epoch(paddle.io.Dataset):
    """An epoch in chunks. Item i reads CHUNK label maps; it is int64 [3]: pid, private bytes before and after."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.order = np.random.default_rng(0).permutation(len(dataset))

    def __len__(self):
        return -(-len(self.order) // CHUNK)

    def __getitem__(self, chunk):
        before = private_memory()
        for index in self.order[chunk * CHUNK : (chunk + 1) * CHUNK].tolist():
            path, label = self.dataset.samples[index]
            self.dataset.label_maps.read(os.fsdecode(self.dataset.map_names[index]))
        return np.array([os.getpid(), before, private_memory()])


def private_memory():
    """Bytes of this process that it shares with no other process."""
    with open('/proc/self/smaps_rollup') as f:
        return 1024 * sum(int(line.split()[1]) for line in f if line.startswith('Private_'))


def growth(dataset, name):
    """Megabytes that a loader process gains in an epoch, the largest of all processes."""
    begin = functools.partial(paddle_fixes.begin_worker, os.getpid())
    loader = paddle.io.DataLoader(
        Epoch(dataset), batch_size=1, num_workers=PROCESSES, worker_init_fn=begin, return_list=True
    )
    with paddle_fixes.frozen_garbage():
        batches = iter(loader)
    first, last = {}, {}
    for batch in progress(batches, name):
        pid, before, after = batch[0].numpy().ravel().tolist()
        first.setdefault(pid, before)
        last[pid] = after
    return max(last[pid] - first[pid] for pid in first) / 1e6


def parser():
    parser = Parser('benchmarks/million.py', description=__doc__)
    parser.add_argument('out', metavar='OUT', help='a new folder for the set; removed at the end')
    parser.add_argument('--images', type=count, default=IMAGES, help=f'images of the set (default: {IMAGES})')
    return parser


def main(args):
    make(args.out, args.images)
    rows = []
    _, seconds = timed(read_folder, os.path.join(args.out, 'train'), 1000)
    rows.append(('listing from folders', f'{seconds:.1f} s'))
    samples, seconds = timed(read_list, args.out, os.path.join(args.out, 'train_list.txt'), 1000)
    rows.append(('listing from the list file', f'{seconds:.1f} s'))
    rows.append(('memory of the list', f'{(samples.paths.names.nbytes + samples.labels.nbytes) / 1e6:.0f} MB'))
    for kind, folder in (('in folders', 'maps'), ('packed', 'packed')):
        dataset, seconds = timed(new_dataset, os.path.join(args.out, folder), samples)
        rows.append((f'finding the map of every image, {kind}', f'{seconds:.1f} s'))
        batches, seconds = timed(first_batch, dataset)
        batches.close()  # waits for the loader processes
        rows.append((f'from there to the first batch of {BATCH}, maps {kind}', f'{seconds:.1f} s'))
        gained = growth(dataset, f'epoch, maps {kind}')
        rows.append((f'growth of a loader process over an epoch, maps {kind}', f'{gained:.1f} MB'))
    print(f'{len(samples)} images, {PROCESSES} loader processes. Paddle {paddle.__version__}. {runtime.CPU}\n')
    print('| | |\n|---|---|')
    for name, value in rows:
        print(f'| {name} | {value} |')
    shutil.rmtree(args.out)


if __name__ == '__main__':
    runtime.run(main, parser())
