"""The images of a data set and their classes, from class folders or a list file.

Paths and labels are kept in arrays. A million paths as Python strings would be copied into every loader process: after
the fork, even reading a Python object changes its reference count, which copies its page of memory.
"""

import codecs
import os
import re
import sys
from collections import Counter

import numpy as np

from util.data.folders import is_hidden, leads_back, log_skipped, suffix, walk_images
from util.data.images import EXTENSIONS
from util.errors import UserError, one_line, shorten
from util.logger import log

UNLABELLED = -1  # the class id of an image without a label
UNLABELLED_FOLDER = 'unlabelled'  # such images, beside the class folders
NO_LIMIT = sys.maxsize  # number of classes where class ids have no limit


class Paths:
    """A sequence of paths. names: the paths below `root`, an array of bytes [n]."""

    def __init__(self, root, names):
        self.root, self.names = root, names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):  # raises IndexError after the last one, which ends a loop over Paths
        return os.path.join(self.root, os.fsdecode(self.names[index]))


class Samples:
    """A sequence of (path, class id). paths: Paths; labels: int64 [n], UNLABELLED for images without a label.

    class_names: the names of the classes by id, from class folders; None from a list file. from_list: whether a list
    file named the images.
    """

    def __init__(self, root, names, labels, class_names=None, from_list=False):
        self.paths, self.labels, self.class_names, self.from_list = Paths(root, names), labels, class_names, from_list

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.paths[index], int(self.labels[index])

    @property
    def unlabelled(self):
        """bool [n]: which have no label."""
        return self.labels == UNLABELLED

    def require_labels(self, remedy, among=True):
        """Raise UserError if images have no label: with the first, the remedy and their number.

        among: bool [n], the images to look at; True: all.
        """
        without = self.unlabelled & among
        if without.any():
            first = self.paths[int(without.argmax())]
            raise UserError(f'{first}: has no label; {remedy} (this holds for {without.sum()} of {len(self)} images)')


def read_samples(data_path, split, list_path, num_classes):
    """Samples of a list file below `data_path`; without one, of the class folders in data_path/split."""
    if list_path:
        return read_list(data_path, list_path, num_classes)
    return read_folder(os.path.join(data_path, split), num_classes)


def read_photos(folder, list_path=None):
    """Samples of a list file below `folder`; without one, of its class folders, in train/ if there is such a folder.

    Class ids have no limit. Raises UserError.
    """
    if not os.path.isdir(folder):
        raise UserError(f'{folder}: no such folder; it must be the folder of the images')
    if list_path:
        return read_list(folder, list_path, NO_LIMIT)
    train = os.path.join(folder, 'train')
    return read_folder(train if os.path.isdir(train) else folder, NO_LIMIT)


def subfolders(root):
    """(sorted names of the folders in `root` but hidden ones, lines about the others, Counter of the files there)."""
    folders, notes, skipped = [], [], Counter()
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if not os.path.isdir(entry.path):  # entry.is_dir() raises for a link to itself
                    skipped[f'{suffix(entry.name)} outside the class folders'] += 1
                elif is_hidden(entry.name):
                    notes.append(f'skipped the folder {entry.name}')
                elif leads_back(entry.path, [os.path.realpath(root)]):
                    notes.append(f'skipped the link {entry.name}, which leads back to this folder')
                else:
                    folders.append(entry.name)
    except OSError as error:
        raise UserError(f'{root}: cannot be read ({error.strerror}); check --data_path')
    return sorted(folders), notes, skipped


def read_folder(root, num_classes, class_ids=None):
    """Samples of a folder like ImageNet's: one folder per class, with images in it and in its subfolders.

    class_ids: {name: class id} of the classes, of which the folder may have some. Without them the sorted names of the
    folders get the ids 0, 1, …. The folder `unlabelled` is no class; its images have no label. Logs classes and ids,
    and what is skipped. Raises UserError for a folder that is none of the classes, and for a class without images.
    """
    folders, notes, skipped = subfolders(root)
    if not folders:
        raise UserError(f'{root}: no class folders; it needs one folder with images per class')
    classes = [folder for folder in folders if folder != UNLABELLED_FOLDER]
    if class_ids is None:
        if len(classes) > num_classes:
            raise UserError(f'{root}: has {len(classes)} class folders, but --nb_classes is {num_classes}')
        class_ids = {name: i for i, name in enumerate(classes)}
    ids = {**class_ids, UNLABELLED_FOLDER: UNLABELLED}
    names, labels = [np.empty(0, 'S1')], [np.empty(0, 'int64')]  # an array per folder: its longest name sets its size
    for folder in folders:
        if folder not in ids:
            raise UserError(
                f'{root}: the folder {folder} is none of the {len(class_ids)} classes ({shorten(list(class_ids))}); '
                'rename or remove it'
            )
        inside = walk_images(os.path.join(root, folder), skipped)
        if not inside:
            raise UserError(
                f'{os.path.join(root, folder)}: no images (looked for {" ".join(EXTENSIONS)}); remove the folder if '
                'the class is not meant'
            )
        names.append(np.array([os.fsencode(os.path.join(folder, name)) for name in inside], 'S'))
        labels.append(np.full(len(inside), ids[folder]))
    samples = Samples(root, np.concatenate(names), np.concatenate(labels), list(class_ids))
    numbered = [f'{ids[folder]}: {folder}' for folder in classes]
    labelled = int((samples.labels != UNLABELLED).sum())
    log(f'{root}: {labelled} images of {len(classes)} classes, {shorten(numbered)}')
    if labelled < len(samples):
        log(f'{root}: {len(samples) - labelled} images without a label in {UNLABELLED_FOLDER}/')
    for note in notes:
        log(f'{root}: {note}')
    log_skipped(root, skipped)
    present = set(folders)
    missing = [name for name in class_ids if name not in present]
    if missing:
        log(f'{root}: no folder for {len(missing)} of the {len(class_ids)} classes: {shorten(missing)}')
    return samples


def read_list(data_path, list_path, num_classes):
    """Samples of a list file with lines `path class_id`, the paths below `data_path`. Raises UserError.

    Blanks or tabs stand between path and id. A path may hold blanks and any other bytes. Class id -1: an image without
    a label.
    """
    if not os.path.isdir(data_path):
        raise UserError(f'--data_path {data_path}: no such folder')
    names, labels = [], []
    root = os.fsencode(data_path)
    listings = {}  # {folder: names in it}: much faster than asking the disk for every image
    for number, line in enumerate(read_lines(list_path), 1):
        line = line.strip()
        if not line:
            continue
        words = line.rsplit(None, 1)  # the path may hold blanks
        if len(words) < 2 or not re.fullmatch(b'-?[0-9]{1,18}', words[1]):  # int() refuses thousands of digits
            shown = one_line(os.fsdecode(line))
            raise UserError(f"{list_path}, line {number}: expected 'path class_id', found '{shown}'")
        name, word = words
        if not UNLABELLED <= int(word) < num_classes:
            raise UserError(f'{list_path}, line {number}: class id {word.decode()}, but --nb_classes is {num_classes}')
        path = os.path.join(root, name)
        folder, base = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listings[folder]:
            raise UserError(
                f'{list_path}, line {number}: {os.fsdecode(path)} does not exist; the paths must begin in {data_path}'
            )
        names.append(name)
        labels.append(int(word))
    if not names:
        raise UserError(f'{list_path}: lists no images')
    return Samples(data_path, np.array(names, 'S'), np.array(labels, 'int64'), from_list=True)


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
