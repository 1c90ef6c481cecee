"""The files of a set of label maps: one for each map, or packed. label_maps.py describes them."""

import io
import os
from collections import Counter

import numpy as np

from util import files
from util.data.folders import walk_files
from util.errors import UserError
from util.weights import torch_file
from util.weights.unpickle import kind

ARRAY, NAMES = 'label_maps.npy', 'names.txt'
PARTIAL = 'label_maps.npy.partial'  # the packed array until it is complete


def open_set(folder):
    """The PackedSet or FolderSet in a folder. Raises UserError if its packing was interrupted."""
    if os.path.exists(os.path.join(folder, ARRAY)):
        return PackedSet(folder)
    if os.path.exists(os.path.join(folder, PARTIAL)):
        raise UserError(f'{os.path.join(folder, PARTIAL)}: not packed to the end; run tools/pack_token_label.py again')
    return FolderSet(folder)


class FolderSet:
    """A set with one file per map: `<folder>/<name>.npy`, or `.pt` if there is no .npy."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        """The file of a map."""
        path = os.path.join(self.folder, *name.split('/'))
        if not os.path.exists(path + '.npy') and os.path.exists(path + '.pt'):
            return path + '.pt'
        return path + '.npy'

    def read(self, name):
        """(array, its file). Raises UserError if there is no map, or if it is unreadable."""
        path = self.path(name)
        return (read_torch(path) if path.endswith('.pt') else read_npy(path)), path

    def names(self):
        """All names, sorted by bytes. Raises UserError for a folder that cannot be read."""
        names = {os.path.splitext(name)[0] for name in walk_files(self.folder, is_map, Counter())}
        return sorted(names, key=os.fsencode)

    def contains(self, names):
        """bool [n]: which of the names (an array of bytes) have a map. Lists each folder once."""
        names = names.tolist()
        existing = set()
        for folder in {name.rpartition(b'/')[0] for name in names}:
            path = os.path.join(os.fsencode(self.folder), folder)
            inside = os.listdir(path) if os.path.isdir(path) else []
            existing.update(os.path.join(folder, file[: file.rindex(b'.')]) for file in inside if is_map(file))
        return np.fromiter((name in existing for name in names), bool, len(names))


def is_map(file):
    """Whether a file has the name of a label map, str or bytes."""
    file = os.fsencode(file)
    return file.endswith((b'.npy', b'.pt')) and not file.startswith(b'.')


class PackedSet:
    """A set packed into `<folder>/label_maps.npy`, which is memory-mapped, and names.txt.

    The names are one array of bytes, whose memory loader processes share after the fork. A million Python strings would
    be copied into each process. Raises UserError if the two files do not belong together.
    """

    def __init__(self, folder, array=ARRAY):
        self.folder = folder
        self.file = os.path.join(folder, array)
        self._maps = np.asarray(read_npy(self.file, mmap_mode='r'))  # indexing a plain array is faster than a memmap
        self.shape, self.dtype = self._maps.shape[1:], self._maps.dtype
        self._names = self._read_names(os.path.join(folder, NAMES))

    def _read_names(self, path):
        """The lines of names.txt as an array of bytes."""
        try:
            with open(path, 'rb') as f:
                lines = f.read().split(b'\n')[:-1]
        except OSError as error:
            raise UserError(f'{path}: cannot be read ({error.strerror}); it names the maps of {self.file}')
        if len(lines) != len(self._maps):
            raise UserError(f'{path}: names {len(lines)} maps, but {self.file} holds {len(self._maps)}')
        names = np.array(lines, 'S')
        if not (names[1:] > names[:-1]).all():
            raise UserError(f'{path}: not sorted, or it repeats a name; pack the set again')
        return names

    def path(self, name):
        return self.file

    def read(self, name):
        """(array, where it is from). Raises UserError if there is no map."""
        key = os.fsencode(name)
        index = np.searchsorted(self._names, np.array(key, self._names.dtype))
        if index == len(self._names) or self._names[index] != key:
            raise UserError(f'{self.file}: has no label map {name}')
        return self._maps[index], f'{self.file}, map {name}'

    def names(self):
        """All names, sorted by bytes."""
        return [os.fsdecode(name) for name in self._names.tolist()]

    def contains(self, names):
        """bool [n]: which of the names (an array of bytes) have a map."""
        return np.isin(names, self._names)


# -- files ------------------------------------------------------------------------------------------------------------


def read_npy(path, mmap_mode=None):
    """The array in a .npy file. Raises UserError that names the file if it is missing or holds no array."""
    with files.reading(path, '.npy array'):
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise UserError('not a readable .npy array (an archive of several, .npz)')
    return array


def read_torch(path):
    """The array in a .pt file. Raises UserError that names the file if it does not hold one tensor."""
    array = torch_file.load_file(path)
    if not isinstance(array, np.ndarray):
        raise UserError(f'{path}: a label map is one tensor, this file holds a {kind(array)}')
    return array


def npy_size(shape, dtype):
    """Bytes of the .npy file of an array. A smaller file was cut short by a crash."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(shape, dtype))
    return buffer.getbuffer().nbytes
