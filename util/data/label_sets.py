"""Sets of label maps on disk: a folder of one file per image, or the same set packed into one array.

    SET/<class folder>/<image stem>.npy or .pt      a set in folders
    SET/label_maps.npy, SET/names.txt               the same, packed by tools/pack_token_label.py
    SET/meta.json                                   optional, with either: coverage, shape, num_classes, …

The packed array is [n, 2, K, H, H], and line i of names.txt, which is sorted by bytes, names its map i as
`<class folder>/<image stem>`. What a map holds: util/data/label_maps.py.
"""

import functools
import io
import math
import os

import numpy as np

from util.errors import UserError, one_line
from util.weights import torch_file

ARRAY, NAMES, META = 'label_maps.npy', 'names.txt', 'meta.json'
PARTIAL = 'label_maps.npy.partial'  # the array until all of it is there


def open_set(folder):
    """The PackedSet or FolderSet in a folder. Raises UserError for one whose packing was not finished."""
    if os.path.exists(os.path.join(folder, ARRAY)):
        return PackedSet(folder)
    if os.path.exists(os.path.join(folder, PARTIAL)):
        raise UserError(f'{os.path.join(folder, PARTIAL)}: not packed to the end; run tools/pack_token_label.py again')
    return FolderSet(folder)


class FolderSet:
    """`<folder>/<class folder>/<stem>.npy`, or `.pt` where there is no .npy."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        """The file that holds a map, or would."""
        path = os.path.join(self.folder, *name.split('/'))
        if not os.path.exists(path + '.npy') and os.path.exists(path + '.pt'):
            return path + '.pt'
        return path + '.npy'

    def read(self, name):
        """(array, path); FileNotFoundError if there is none, UserError if it is unreadable."""
        path = self.path(name)
        return (read_torch(path) if path.endswith('.pt') else read_small_npy(path)), path

    def names(self):
        """All names, sorted by bytes."""
        folders = [entry.name for entry in os.scandir(self.folder) if entry.is_dir() and not entry.name.startswith('.')]
        return [os.fsdecode(name) for name in self._names(folders).tolist()]

    def contains(self, names):
        """bool [n]: which of the names (an array of bytes) have a map; one listing per class folder."""
        folders = {name.split(b'/')[0] for name in names.tolist()}
        return np.isin(names, self._names(map(os.fsdecode, folders)))

    def _names(self, folders):
        """The names in some class folders, an array of bytes in ascending order."""
        names = [np.empty(0, 'S1')]  # of each folder; an array's elements are as long as its longest
        for folder in folders:
            path = os.path.join(self.folder, folder)
            inside = os.listdir(path) if os.path.isdir(path) else []
            inside = [name for name in inside if name.endswith(('.npy', '.pt')) and not name.startswith('.')]
            names.append(np.array([os.fsencode(f'{folder}/{os.path.splitext(name)[0]}') for name in inside], 'S'))
        return np.unique(np.concatenate(names))


class PackedSet:
    """`<folder>/label_maps.npy`, mapped into memory, and names.txt. Raises UserError if they do not belong together.

    The names stay one array of bytes: forked loader processes then share it, as they would not share a million strings.
    """

    def __init__(self, folder, array=ARRAY):
        self.folder = folder
        self.file = os.path.join(folder, array)
        self._maps = np.asarray(read_npy(self.file, mmap_mode='r'))  # a plain array, which is faster to take from
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
            raise UserError(f'{path}: not sorted, or a name is there twice; pack the set again')
        return names

    def path(self, name):
        return self.file

    def read(self, name):
        """(array, where it is from); FileNotFoundError if there is none."""
        key = os.fsencode(name)
        place = np.searchsorted(self._names, np.array(key, self._names.dtype))
        if place == len(self._names) or self._names[place] != key:
            raise FileNotFoundError(name)
        return self._maps[place], f'{self.file}, map {name}'

    def names(self):
        """All names, sorted by bytes."""
        return [os.fsdecode(name) for name in self._names.tolist()]

    def contains(self, names):
        """bool [n]: which of the names (an array of bytes) have a map."""
        return np.isin(names, self._names)


# -- one file ---------------------------------------------------------------------------------------------------------


def read_npy(path, mmap_mode=None):
    """The array in a .npy file. Raises FileNotFoundError; UserError that names the file if it holds none."""
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f'{path}: not a readable .npy array ({one_line(error)})')
    if not isinstance(array, np.ndarray):
        raise UserError(f'{path}: not a readable .npy array (an archive of several, .npz)')
    return array


def read_small_npy(path):
    """read_npy for one of many small files of one kind: their equal headers are parsed once. The array is read-only."""
    try:
        with open(path, 'rb') as f:
            data = f.read()
    except OSError:
        return read_npy(path)  # which says why
    begin = 10 + int.from_bytes(data[8:10], 'little')  # magic, version, length of the header
    kind = plain_kind(data[:begin])
    if kind:
        shape, dtype, size = kind
        if len(data) == begin + size:
            return np.ndarray(shape, dtype, data, offset=begin)
    return read_npy(path)  # something special or damaged


@functools.lru_cache(maxsize=8)
def plain_kind(head):
    """(shape, dtype, bytes of the data) by the head of a .npy file, None for what np.load has to look at itself."""
    file = io.BytesIO(head)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception:  # a damaged file can raise nearly anything
        return None
    if fortran_order or dtype.kind not in 'fiu' or min(shape, default=1) < 1:
        return None
    return shape, dtype, math.prod(shape) * dtype.itemsize


def read_torch(path):
    """The array in a .pt file. Raises UserError that names the file if it does not hold one tensor."""
    array = torch_file.load_file(path)
    if not isinstance(array, np.ndarray):
        raise UserError(f'{path}: a label map is one tensor, this file holds a {type(array).__name__}')
    return array


def npy_size(shape, dtype):
    """Bytes of a whole .npy file of an array: by this one that a crash has cut short is recognised."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(shape, dtype))
    return buffer.getbuffer().nbytes
