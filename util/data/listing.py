"""The images of a data set and their classes, from class folders or a list file.

Paths and labels are kept in arrays. A million paths as Python strings would be copied into every loader process: after
the fork, even reading a Python object changes its reference count, which copies its page of memory.
"""

import codecs
import os
import re

import numpy as np

from util.data.images import EXTENSIONS, is_image
from util.errors import UserError, one_line


class Paths:
    """A sequence of paths. names: the paths below `root`, an array of bytes [n]."""

    def __init__(self, root, names):
        self.root, self.names = root, names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):  # raises IndexError after the last one, which ends a loop over Paths
        return os.path.join(self.root, os.fsdecode(self.names[index]))


class Samples:
    """A sequence of (path, class id). paths: Paths; labels: int64 [n]."""

    def __init__(self, root, names, labels):
        self.paths, self.labels = Paths(root, names), labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.paths[index], int(self.labels[index])


def read_samples(data_path, split, list_path, num_classes):
    """Samples of a list file below `data_path`; without one, of the class folders in data_path/split."""
    if list_path:
        return read_list(data_path, list_path, num_classes)
    return read_folder(os.path.join(data_path, split), num_classes)


def read_folder(root, num_classes):
    """Samples of a folder like ImageNet's: one folder per class, with ids in the sorted order of the folders."""
    if not os.path.isdir(root):
        raise UserError(f'{root}: no such folder; check --data_path')
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if len(classes) > num_classes:
        raise UserError(f'{root}: has {len(classes)} class folders, but --nb_classes is {num_classes}')
    names, counts = [np.empty(0, 'S1')], []  # an array per folder: its longest name sets the size of all
    for folder in classes:
        inside = sorted(name for name in os.listdir(os.path.join(root, folder)) if is_image(name))
        names.append(np.array([os.fsencode(os.path.join(folder, name)) for name in inside], 'S'))
        counts.append(len(inside))
    if not any(counts):
        raise UserError(f'{root}: no images in its class folders (looked for {" ".join(EXTENSIONS)})')
    return Samples(root, np.concatenate(names), np.repeat(np.arange(len(classes)), counts))


def read_list(data_path, list_path, num_classes):
    """Samples of a list file with lines `path class_id`, the paths below `data_path`. Names may hold any bytes."""
    if not os.path.isdir(data_path):
        raise UserError(f'--data_path {data_path}: no such folder')
    names, labels = [], []
    root = os.fsencode(data_path)
    listings = {}  # {folder: names in it}: much faster than asking the disk for every image
    for number, line in enumerate(read_lines(list_path), 1):
        line = line.strip()
        if not line:
            continue
        name, _, word = line.rpartition(b' ')
        if not name or not re.fullmatch(b'-?[0-9]{1,18}', word):  # int() refuses thousands of digits
            shown = one_line(os.fsdecode(line))
            raise UserError(f"{list_path}, line {number}: expected 'path class_id', found '{shown}'")
        if not 0 <= int(word) < num_classes:
            raise UserError(f'{list_path}, line {number}: class id {word.decode()}, but --nb_classes is {num_classes}')
        path = os.path.join(root, name)
        folder, base = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listings[folder]:
            shown = one_line(os.fsdecode(path))
            raise UserError(f'{list_path}, line {number}: {shown} does not exist; check --data_path')
        names.append(name)
        labels.append(int(word))
    if not names:
        raise UserError(f'{list_path}: lists no images')
    return Samples(data_path, np.array(names, 'S'), np.array(labels, 'int64'))


def read_lines(path):
    """The lines of a text file, as bytes. Raises UserError if it cannot be read or is not text."""
    try:
        with open(path, 'rb') as f:
            content = f.read()
    except OSError as error:
        raise UserError(f'{path}: not a readable text file ({error.strerror})')
    if b'\0' in content:
        raise UserError(f'{path}: not a readable text file (has zero bytes)')
    if content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
    return content.splitlines()
