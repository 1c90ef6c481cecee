"""Reading label maps: a folder of small files against the packed set, in random order as in training.

    python benchmarks/reading.py FOLDER [--maps 20000]

Writes random maps [2, 5, 18, 18] float16 of 1,000 classes into FOLDER/files (20 class folders), packs them with
tools/pack_token_label.py into FOLDER/packed, and reads every map through LabelMaps (util/data/label_maps.py) in the
same random order: once from a cold page cache where the kernel lets us drop it, then warm, alternating; medians of 3.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util.data.label_maps import LabelMaps

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def write(folder, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        path = os.path.join(folder, f'n{i % 20:08d}', f'image_{i:06d}.npy')
        os.makedirs(os.path.dirname(path), exist_ok=True)
        np.save(path, np.stack([rng.normal(4, 2, (5, 18, 18)), rng.integers(0, 1000, (5, 18, 18))]).astype('float16'))


def drop_cache(*folders):
    """Ask the kernel to forget these files' pages."""
    os.sync()
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(root, name), 'rb') as f:
                    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(folder, names):
    """(seconds to open the set and find all maps, seconds to read them)"""
    start = time.perf_counter()
    maps = LabelMaps(folder, 1000)
    maps.require(names)
    opened = time.perf_counter()
    for name in names:
        maps.read(name)
    return opened - start, time.perf_counter() - opened


def size_on_disk(folder):
    return sum(
        os.stat(os.path.join(root, name)).st_blocks * 512 for root, _, names in os.walk(folder) for name in names
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder')
    parser.add_argument('--maps', type=int, default=20000)
    args = parser.parse_args()
    files, packed = os.path.join(args.folder, 'files'), os.path.join(args.folder, 'packed')
    write(files, args.maps)
    start = time.perf_counter()
    subprocess.run([sys.executable, os.path.join(ROOT, 'tools', 'pack_token_label.py'), files, packed], check=True)
    print(f'packing {args.maps} maps: {time.perf_counter() - start:.1f} s')
    names = [f'n{i % 20:08d}/image_{i:06d}.JPEG' for i in np.random.default_rng(1).permutation(args.maps)]
    drop_cache(files, packed)
    cold = {folder: read_all(folder, names) for folder in (files, packed)}
    warm = {files: [], packed: []}
    for _ in range(3):
        for folder, runs in warm.items():
            runs.append(read_all(folder, names))
    for folder in (files, packed):
        found, read = np.median(warm[folder], axis=0)
        print(
            f'{os.path.basename(folder):6}: {size_on_disk(folder) / 2**20:.0f} MB on disk, '
            f'{sum(map(len, (n for _, _, n in os.walk(folder))))} files; '
            f'cold {1e6 * cold[folder][1] / args.maps:.0f} µs a map, warm {1e6 * read / args.maps:.0f} µs a map; '
            f'opening and finding all {1000 * found:.0f} ms'
        )
    ratio = np.median([f[1] / p[1] for f, p in zip(warm[files], warm[packed])])
    print(f'files / packed, warm: {ratio:.2f}')


if __name__ == '__main__':
    main()
