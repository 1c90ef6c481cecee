"""Finds the files of a data set in folders, and counts what it skips. Links are followed."""

import glob
import os
from collections import Counter

from util.data.images import EXTENSIONS, is_image
from util.errors import UserError
from util.logger import log


def is_hidden(folder):
    """Whether a folder belongs to macOS, a file system or a tool, by its name, and not to a data set."""
    return folder.startswith('.') or folder in ('__MACOSX', '@eaDir', 'lost+found')


def walk_images(folder, skipped):
    """Paths below `folder` of its images. skipped and what is raised: see walk_files."""
    return walk_files(folder, is_image, skipped)


def walk_files(folder, wanted, skipped, above=()):
    """Paths below `folder` of its files, sorted, those of its subfolders after its own. Links are followed.

    wanted: a function of a file's name; skipped: a Counter, which gets the suffixes of the other files, and the hidden
    folders; above: the folders around this one, to which no link is followed. Raises UserError for a folder that cannot
    be read.
    """
    above = (*above, os.path.realpath(folder))
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if wanted(entry.name):
                    files.append(entry.name)
                elif not os.path.isdir(entry.path):  # entry.is_dir() raises for a link to itself
                    skipped[suffix(entry.name)] += 1
                elif is_hidden(entry.name):
                    skipped[f'folder {entry.name}'] += 1
                elif leads_back(entry.path, above):
                    skipped['link to a folder around it'] += 1
                else:
                    folders.append(entry.name)
    except OSError as error:
        raise UserError(f'{folder}: cannot be read ({error.strerror})')
    files.sort()
    for name in sorted(folders):
        files += [
            os.path.join(name, inside) for inside in walk_files(os.path.join(folder, name), wanted, skipped, above)
        ]
    return files


def leads_back(folder, above):
    """Whether a folder is one of those in `above`, or contains one of them. above: real paths."""
    real = os.path.join(os.path.realpath(folder), '')
    return any(os.path.join(path, '').startswith(real) for path in above)


def suffix(name):
    """The suffix of a skipped file, as the log counts it."""
    if name.startswith('._'):  # what macOS writes beside x.jpg
        return '._*'
    if name.startswith('.'):
        return 'hidden'
    return os.path.splitext(name)[1].lower() or 'no suffix'


def log_skipped(folder, skipped):
    """Log what was skipped in a folder. skipped: Counter of walk_files."""
    if skipped:
        counts = ', '.join(f'{count} {suffix}' for suffix, count in skipped.most_common(10))
        log(f'{folder}: skipped {sum(skipped.values())}: {counts}')


def find_images(inputs):
    """Paths of the images that files, folders (searched recursively, sorted) and glob patterns name, in their order.

    Raises UserError for an input that names no image.
    """
    found = []
    for item in inputs:
        if os.path.isdir(item):
            skipped = Counter()
            paths = [os.path.join(item, name) for name in walk_images(item, skipped)]
            log_skipped(item, skipped)
        elif os.path.isfile(item):
            paths = [item]
        else:
            paths = [path for path in glob.glob(item, recursive=True) if is_image(os.path.basename(path))]
        if not paths:
            raise UserError(f'{item}: no such file, or no images there ({" ".join(EXTENSIONS)})')
        found += sorted(paths)
    return found
