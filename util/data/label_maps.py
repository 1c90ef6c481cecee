"""Files of label maps: a folder of one file per image, or the same set packed into one array.

    SET/<class folder>/<image stem>.npy or .pt      a set in folders
    SET/label_maps.npy, SET/names.txt               the same, packed by tools/pack_token_label.py
    SET/meta.json                                   optional, with either: coverage, shape, num_classes, …

A map is an array [2, K, H, H], float16 or float32: [0] the scores (raw logits) and [1] the class ids of the K best
classes of each cell, row = y, column = x. The packed array is [n, 2, K, H, H], and line i of names.txt, which is sorted
by bytes, names its map i as `<class folder>/<image stem>`.
"""

import json
import math
import os

import numpy as np

from util.data import npy_file
from util.errors import UserError, one_line
from util.files import read_json
from util.weights import torch_file

ARRAY, NAMES, META, PARTIAL = 'label_maps.npy', 'names.txt', 'meta.json', 'label_maps.npy.partial'
MAX_VALUES = 1 << 22  # of one map; 1,000 classes in 45 x 45 cells have 4 million


class LabelMaps:
    """A set of label maps, either kind, by the images they belong to.

    coverage: what a map covers, `center` (the centre square, as the published sets) or `full` (the whole image);
    meta.json, written by whoever made the maps, overrides it; so does geometry `reference`, which reads every map as
    if it covered the whole image. Raises UserError for a set that cannot be used.
    """

    def __init__(self, folder, num_classes, coverage='center', geometry='exact'):
        if not os.path.isdir(folder):
            raise UserError(f'--token_label_data {folder}: no such folder')
        self.folder, self.num_classes = folder, num_classes
        self.meta, self.maps = read_meta(folder), open_set(folder)
        self.coverage = self.meta.get('coverage', coverage) if geometry == 'exact' else 'full'
        meta = os.path.join(folder, META)
        if self.coverage not in ('center', 'full'):
            raise UserError(f"token-label coverage '{one_line(self.coverage)}': must be center or full ({meta})")
        if self.meta.get('num_classes', 0) > num_classes:
            raise UserError(
                f'{meta}: maps of {one_line(self.meta["num_classes"])} classes, but --nb_classes is {num_classes}'
            )
        if isinstance(self.maps, PackedSet):
            check_meta(self.meta, self.maps.shape, meta, self.maps.file)

    def path(self, image_path):
        """The file that holds the map of an image, or would: for messages."""
        return self.maps.path(map_name(image_path))

    def read(self, image_path):
        """(scores float32 [K, H, H], ids int64 [K, H, H]) of an image. Raises UserError that names the file."""
        try:
            array, path = self.maps.read(map_name(image_path))
        except FileNotFoundError:
            raise UserError(f'{self.path(image_path)}: no label map for {image_path}')
        scores, ids = check_map(array, self.num_classes, path)
        check_meta(self.meta, array.shape, os.path.join(self.folder, META), path)
        return scores, ids

    def missing(self, image_paths):
        """Those of the images that have no map; looks at listings only, not into files."""
        present = self.maps.contains([map_name(path) for path in image_paths])
        return [path for path, there in zip(image_paths, present) if not there]

    def require(self, image_paths):
        """Raises UserError that says how many images have no map, and which is the first, if there are any."""
        missing = self.missing(image_paths)
        if missing:
            raise UserError(
                f'{self.path(missing[0])}: no label map for {missing[0]}; {len(missing)} of '
                f'{len(image_paths)} images have none in {self.folder}'
            )

    def covered(self, width, height):
        """(x, y, width, height) of the part of a source image that its map covers, in pixels."""
        if self.coverage == 'full':
            return 0.0, 0.0, float(width), float(height)
        side = float(min(width, height))
        return (width - side) / 2, (height - side) / 2, side, side


def map_name(image_path):
    """`<class folder>/<stem>` of an image."""
    folder, name = os.path.split(image_path)
    return f'{os.path.basename(folder)}/{os.path.splitext(name)[0]}'


# -- the two kinds ----------------------------------------------------------------------------------------------------


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
        path = os.path.join(self.folder, *name.split('/'))
        return path + ('.pt' if not os.path.exists(path + '.npy') and os.path.exists(path + '.pt') else '.npy')

    def read(self, name):
        """(array, path); FileNotFoundError if there is none, UserError if it is unreadable."""
        path = self.path(name)
        return read_array(path), path

    def _stems(self, folder):
        path = os.path.join(self.folder, folder)
        names = os.listdir(path) if os.path.isdir(path) else ()
        return {os.path.splitext(n)[0] for n in names if n.endswith(('.npy', '.pt')) and not n.startswith('.')}

    def names(self):
        """All names, sorted by bytes."""
        folders = [entry.name for entry in os.scandir(self.folder) if entry.is_dir() and not entry.name.startswith('.')]
        return sorted((f'{folder}/{stem}' for folder in folders for stem in self._stems(folder)), key=os.fsencode)

    def contains(self, names):
        """A bool per name; one listing per class folder."""
        pairs = [name.split('/') for name in names]
        stems = {folder: self._stems(folder) for folder in {folder for folder, _ in pairs}}
        return [stem in stems[folder] for folder, stem in pairs]


class PackedSet:
    """`<folder>/label_maps.npy`, mapped into memory, and names.txt. Raises UserError if they do not belong together.

    The names stay one array of bytes: forked loader processes then share it, as they would not share a million strings.
    """

    def __init__(self, folder):
        self.file, self.index = os.path.join(folder, ARRAY), os.path.join(folder, NAMES)
        self._array, self._process = None, None
        self.shape, self.dtype = self._maps().shape[1:], self._maps().dtype
        check_shape(self.shape, self.dtype, self.file)
        try:
            with open(self.index, 'rb') as f:
                listing = f.read()
        except OSError as error:
            raise UserError(f'{self.index}: cannot be read ({error.strerror or error}); it names the maps of {ARRAY}')
        if listing.count(b'\n') != len(self._maps()):
            count = listing.count(b'\n')
            raise UserError(f'{self.index}: names {count} maps, but {self.file} holds {len(self._maps())}')
        self._names = np.array(listing.split(b'\n')[:-1], 'S')
        if not (self._names[1:] > self._names[:-1]).all():
            raise UserError(f'{self.index}: not sorted, or a name is there twice; pack the set again')

    def __getstate__(self):
        return {**vars(self), '_array': None, '_process': None}

    def _maps(self):
        """The array, opened once in each process."""
        if self._process != os.getpid():
            try:
                array = npy_file.memory_map(self.file)
                if array.ndim != 5:
                    raise ValueError(f'shape {list(array.shape)} instead of [n, 2, K, H, H]')
            except (OSError, ValueError) as error:
                raise UserError(f'{self.file}: not a readable packed set of label maps ({one_line(error)})')
            self._array, self._process = array, os.getpid()
        return self._array

    def path(self, name):
        return self.file

    def read(self, name):
        """(array, where it is from); FileNotFoundError if there is none."""
        key = os.fsencode(name)
        place = np.searchsorted(self._names, np.array(key, self._names.dtype))
        if place == len(self._names) or self._names[place] != key:
            raise FileNotFoundError(name)
        return self._maps()[place], f'{self.file}, map {name}'

    def names(self):
        """All names, sorted by bytes."""
        return [os.fsdecode(name) for name in self._names.tolist()]

    def contains(self, names):
        """A bool per name."""
        return np.isin(np.array([os.fsencode(name) for name in names], 'S'), self._names)


# -- one map ----------------------------------------------------------------------------------------------------------


def read_array(path):
    """The array in a .npy or .pt file. Raises FileNotFoundError; UserError that names the file if it holds none."""
    if path.endswith('.pt') and os.path.exists(path):
        array = torch_file.load(path)
        if not isinstance(array, np.ndarray):
            raise UserError(f'{path}: a label map is one tensor, this file holds a {type(array).__name__}')
        return array
    try:
        return npy_file.load(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: not a readable .npy array ({one_line(error)})')


def check_shape(shape, dtype, path):
    """Raises UserError unless a map has shape [2, K, H, H] and holds numbers."""
    if len(shape) != 4 or shape[0] != 2 or 0 in shape or shape[2] != shape[3]:
        raise UserError(f'{path}: a label map has shape [2, K, H, H], this file has {list(shape)}')
    if dtype.kind not in 'fiu':
        raise UserError(f'{path}: a label map holds numbers, this file has {dtype}')
    if math.prod(shape) > MAX_VALUES:
        raise UserError(f'{path}: a label map of {list(shape)} is too large, more than {MAX_VALUES} values')


def check_map(array, num_classes, path):
    """Split a map [2, K, H, H] into (scores float32, ids int64); raises UserError that says what is wrong with it."""
    check_shape(array.shape, array.dtype, path)
    with np.errstate(all='ignore'):  # what float32 cannot hold becomes infinite, and is refused below
        scores, ids = array[0].astype('float32'), array[1].astype('float64')  # in float16, 2048 < 2049 does not hold
    if not np.isfinite(scores).all():
        raise UserError(f'{path}: has scores that are not finite')
    if array.dtype == np.float16 and num_classes > 2049 and (ids >= 2048).any():  # 2049 was rounded to 2048
        raise UserError(
            f'{path}: has class ids that float16 does not hold exactly (above 2048); a set of '
            f'{num_classes} classes needs another dtype, float32'
        )
    if not (np.isfinite(ids).all() and (ids >= 0).all() and (ids < num_classes).all()):
        raise UserError(f'{path}: has class ids outside 0…{num_classes - 1}; check --nb_classes')
    if (ids != np.floor(ids)).any():
        raise UserError(f'{path}: has class ids that are not whole numbers; [0] must be the scores and [1] the ids')
    return scores, ids.astype('int64')


def read_meta(folder):
    """The object in meta.json, {} without one. Raises UserError that names the file."""
    path = os.path.join(folder, META)
    if not os.path.exists(path):
        return {}
    meta = read_json(path, hint='; mend or delete it')
    if not isinstance(meta, dict):
        raise UserError(f'{path}: not a readable JSON object (a {type(meta).__name__}); mend or delete it')
    if (
        not all(type(meta.get(key, 0)) is int for key in ('num_classes', 'K', 'label_size'))
        or type(meta.get('shape', [])) is not list
    ):
        raise UserError(f'{path}: num_classes, K, label_size must be whole numbers and shape a list; mend or delete it')
    return meta


def check_meta(meta, shape, meta_path, path):
    """Raises UserError if what meta.json says of the maps' shape is not that of a map."""
    _, k, size, _ = shape
    for key, found in (('shape', list(shape)), ('K', k), ('label_size', size)):
        if meta.get(key, found) != found:
            raise UserError(f'{meta_path}: says {key} {one_line(json.dumps(meta[key]))}, but it is {found} in {path}')
