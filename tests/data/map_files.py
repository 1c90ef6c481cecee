"""Label maps for the tests of util/data, as files of either kind and as sets."""

import os

import numpy as np
import torch_files

from util.data.map_sets import ARRAY, NAMES


def make_map(seed=0, k=3, side=4, classes=9, dtype='float16'):
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(size=(k, side, side)), rng.integers(0, classes, (k, side, side))]).astype(dtype)


def save_map(path, content):
    """A .npy or a .pt file, in a folder that is made if need be; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
        np.save(path, content)
    else:
        torch_files.save(content, str(path))
    return path


def save_folders(folder, maps, suffix='.npy'):
    for name, array in maps.items():
        save_map(folder / (name + suffix), array)


def save_packed(folder, maps):
    names = sorted(maps, key=os.fsencode)
    folder.mkdir(exist_ok=True)
    np.save(folder / ARRAY, np.stack([maps[name] for name in names]))
    (folder / NAMES).write_bytes(b''.join(os.fsencode(name) + b'\n' for name in names))


def contents(folder):
    """{path below folder: content} of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}
