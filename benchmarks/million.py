"""A training set of ImageNet's size: how long until its first batch, and what the list costs each loader process.

    python benchmarks/million.py OUT [--images 1281167] [--keep]

Makes up a set in the new folder OUT, in about 1,000 class folders: OUT/train (the images of a folder are hard links to
one JPEG), OUT/train_list.txt in random order, OUT/maps (likewise, one .npy map) and OUT/packed (a sparse file of
zeros, which are valid maps). Listing and checking look at names only, so they do not notice.
Then it measures, once each:

- listing from the folders, and from the list file;
- opening a set of label maps and finding out that no image lacks one, in folders and packed;
- from there to the first batch of 128 images, augmented, with targets;
- how much memory a loader process gains of its own (private memory by /proc/PID/smaps_rollup) between the moment before
  its first image and the end of an epoch. Two processes of paddle.io.DataLoader share the epoch, in shuffled order; of
  every image they look up path and class and read its label map; what has no part in growing is left out: decoding,
  augmentation, targets. Beside it the same with the list as tuples (path, class id), as it was before it was arrays.

Removes OUT at the end, unless --keep is given; with it the next run begins at once.
"""

import argparse
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

from util.args import Parser
from util.data.datasets import TrainDataset
from util.data.label_maps import LabelMaps
from util.data.label_maps import ARRAY, NAMES
from util.data.listing import read_folder, read_list
from util.data.loader import Loader, TrainSampler
from util.data.transforms import TrainTransform
from util.errors import UserError
from util.logger import progress
from util.paddle_fixes import begin_worker, frozen_garbage

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGES, FOLDER = 1_281_167, 1_282  # ImageNet's training images; of a class folder, so that there are 1,000
BATCH, PROCESSES, CHUNK = 128, 2, 5_000
MADE = 'made'  # the file in OUT that says so


# -- the set ----------------------------------------------------------------------------------------------------------


def names_of(images):
    """[[image names without extension] of each class folder]."""
    folders = [range(start, min(start + FOLDER, images)) for start in range(0, images, FOLDER)]
    return {f'n{number:08d}': [f'n{number:08d}_{i % 65_536}' for i in folder] for number, folder in enumerate(folders)}


def make(out, images):
    """Write the set into `out`; nothing if it is there."""
    made = os.path.join(out, MADE)
    if os.path.exists(made):
        with open(made) as f:
            if f.read() == str(images):
                return
    if os.path.exists(out):
        raise UserError(f'{out}: exists, and does not hold {images} images of this script; choose a new folder')
    folders, rng = names_of(images), np.random.default_rng(0)
    photo = Image.open(os.path.join(ROOT, 'demo', 'chelsea.png')).convert('RGB')
    ids = rng.permutation(1000)[: 5 * 18 * 18 // 9].repeat(9).reshape(5, 18, 18)
    label_map = np.stack([rng.normal(4, 3, (5, 18, 18)), ids]).astype('float16')
    for folder, names in progress(list(folders.items()), 'make'):
        train, maps = os.path.join(out, 'train', folder), os.path.join(out, 'maps', folder)
        os.makedirs(train)
        os.makedirs(maps)
        photo.save(os.path.join(train, f'{names[0]}.JPEG'))
        np.save(os.path.join(maps, f'{names[0]}.npy'), label_map)
        for name in names[1:]:
            os.link(os.path.join(train, f'{names[0]}.JPEG'), os.path.join(train, f'{name}.JPEG'))
            os.link(os.path.join(maps, f'{names[0]}.npy'), os.path.join(maps, f'{name}.npy'))
    lines = [
        f'train/{folder}/{n}.JPEG {label}\n' for label, (folder, names) in enumerate(folders.items()) for n in names
    ]
    with open(os.path.join(out, 'train_list.txt'), 'w') as f:
        f.writelines(lines[i] for i in rng.permutation(images))
    os.mkdir(os.path.join(out, 'packed'))
    with open(os.path.join(out, 'packed', NAMES), 'w') as f:
        f.writelines(sorted(f'{folder}/{name}\n' for folder, names in folders.items() for name in names))
    packed = os.path.join(out, 'packed', ARRAY)
    np.lib.format.open_memmap(packed, mode='w+', dtype='float16', shape=(images, *label_map.shape))
    with open(made, 'w') as f:
        f.write(str(images))


# -- what is measured -------------------------------------------------------------------------------------------------


def timed(call, *args):
    """(result, seconds)"""
    start = time.perf_counter()
    result = call(*args)
    return result, time.perf_counter() - start


def checked(folder, samples):
    """The LabelMaps of a folder, which has one for every image."""
    maps = LabelMaps(folder, 1000)
    maps.require(samples.paths)
    return maps


def first_batch(samples, maps):
    """The batches, of which the first one has been made."""
    dataset = TrainDataset(samples, TrainTransform(224), 1000, label_maps=maps)
    size = min(BATCH, len(samples))
    batches = iter(Loader(dataset, TrainSampler(len(samples), size), size, PROCESSES))
    next(batches)
    return batches


class Epoch(paddle.io.Dataset):
    """The epoch in chunks: item i looks at CHUNK samples and is int64 (process, its private memory before, after)."""

    def __init__(self, samples, maps):
        self.samples, self.maps = samples, maps
        self.order = np.random.default_rng(0).permutation(len(samples))

    def __len__(self):
        return -(-len(self.order) // CHUNK)  # rounded up

    def __getitem__(self, chunk):
        before = private_memory()
        for index in self.order[chunk * CHUNK : (chunk + 1) * CHUNK].tolist():
            path, label = self.samples[index]
            self.maps.read(path)
        return np.array([os.getpid(), before, private_memory()])


def private_memory():
    """Bytes of this process that it shares with no other."""
    with open('/proc/self/smaps_rollup') as f:
        return 1024 * sum(int(line.split()[1]) for line in f if line.startswith('Private_'))


def growth(samples, maps, name):
    """Megabytes that the loader processes gained over an epoch, the largest of them."""
    begin = functools.partial(begin_worker, os.getpid())
    epoch = Epoch(samples, maps)
    loader = paddle.io.DataLoader(epoch, batch_size=1, num_workers=PROCESSES, worker_init_fn=begin, return_list=True)
    first, last = {}, {}
    with frozen_garbage():
        batches = iter(loader)
    for batch in progress(batches, name):
        process, before, after = batch[0].numpy().ravel().tolist()
        first.setdefault(process, before)
        last[process] = after
    return max(last[process] - first[process] for process in first) / 1e6


# -- the script -------------------------------------------------------------------------------------------------------


def parser():
    parser = Parser('benchmarks/million.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', metavar='OUT', help='folder for the generated data set')
    parser.add_argument('--images', type=int, default=IMAGES, help='number of images (default: %(default)s)')
    parser.add_argument('--keep', action='store_true', help='leave OUT there')
    return parser


def main(args):
    make(args.out, args.images)
    rows = []
    _, seconds = timed(read_folder, os.path.join(args.out, 'train'), 1000)
    rows.append(('listing from folders', f'{seconds:.1f} s'))
    samples, seconds = timed(read_list, args.out, os.path.join(args.out, 'train_list.txt'), 1000)
    rows.append(('listing from the list file', f'{seconds:.1f} s'))
    rows.append(('memory of the list', f'{(samples.paths.names.nbytes + samples.labels.nbytes) / 1e6:.0f} MB'))
    maps = {}
    for kind, folder in (('in folders', 'maps'), ('packed', 'packed')):
        maps[kind], seconds = timed(checked, os.path.join(args.out, folder), samples)
        rows.append((f'check for missing maps, {kind}', f'{seconds:.1f} s'))
    for kind in maps:
        batches, seconds = timed(first_batch, samples, maps[kind])
        batches.close()  # which waits for what the processes have begun
        rows.append((f'from there to the first batch of {BATCH}, maps {kind}', f'{seconds:.1f} s'))
    for kind in maps:
        grown = growth(samples, maps[kind], f'epoch, maps {kind}')
        rows.append((f'growth of a loader process over an epoch, maps {kind}', f'{grown:.1f} MB'))
    grown = growth(list(samples), maps['packed'], 'epoch, tuples')
    rows.append(('the same with a list of tuples, maps packed', f'{grown:.1f} MB'))
    print(f'{len(samples)} images, {PROCESSES} loader processes. Paddle {paddle.__version__}. {runtime.CPU}\n')
    print('| | |\n|---|---|')
    for row in rows:
        print(f'| {row[0]} | {row[1]} |')
    if not args.keep:
        shutil.rmtree(args.out)


if __name__ == '__main__':
    runtime.run(main, parser())
