"""Names of label maps: which map belongs to which image.

The name of an image's map is the image's path below the data folder, without the suffix. If a list file names the
image, a leading `train/` or `val/` is left out. So `train/n01/a.JPEG` in a list below imagenet/, and `n01/a.JPEG` in
the folder imagenet/train/, both have the name `n01/a`; `cat/old/b.png` has `cat/old/b`.

In the published sets a map is named `<last folder>/<stem>` of the image's absolute path: its short name.
"""

import os

import numpy as np

from util.errors import UserError


def map_names(samples):
    """The names of the maps of all samples (listing.Samples), an array of bytes [n].

    An image outside the data folder, which only a list can name, has its short name.
    """
    root = os.path.abspath(os.fsencode(samples.paths.root))
    return np.array([_name(path, root, samples.from_list) for path in samples.paths.names.tolist()], 'S')


def short_names(paths, indices):
    """The names `<last folder>/<stem>` of the images at some positions, an array of bytes. paths: listing.Paths."""
    root = os.path.abspath(os.fsencode(paths.root))
    return np.array([_short_name(path, root) for path in paths.names[indices].tolist()], 'S')


def _name(path, root, from_list):
    """root: the absolute path of the data folder."""
    if path.startswith(b'/') or b'//' in path or b'./' in path:
        path = os.path.relpath(os.path.join(root, path), root)
        if path.startswith(b'../'):
            return _short_name(path, root)
    if from_list and path.startswith((b'train/', b'val/')):
        path = path.partition(b'/')[2]
    return os.path.splitext(path)[0]


def _short_name(path, root):
    folder, file = os.path.split(os.path.normpath(os.path.join(root, path)))
    return os.path.join(os.path.basename(folder), os.path.splitext(file)[0])


def check_distinct(names, paths, remedy):
    """Raise UserError that names two images if they have one map. The same image may occur several times.

    names: the name of the map of each image, b'' for none; paths: listing.Paths.
    """
    seen = {}
    for index, name in enumerate(names.tolist()):
        first = seen.setdefault(name, index)
        if name and first != index and os.path.abspath(paths[first]) != os.path.abspath(paths[index]):
            raise UserError(
                f'{paths[index]}: its label map would be that of {paths[first]}, {os.fsdecode(name)}; {remedy}'
            )
