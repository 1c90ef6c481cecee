"""Label maps on disk: found by the image they belong to, read and checked. map_names.py says how maps are named.

A label map is an array [2, K, H, H], float16 or float32. [0] holds the scores (raw logits) and [1] the class ids of the
K best classes of each cell; row = y, column = x. A set of maps is a folder with one file per image, or packed:

    SET/<name>.npy or .pt                          n01/a.npy for the image n01/a.JPEG
    SET/label_maps.npy, SET/names.txt              packed by tools/pack_token_label.py
    SET/meta.json                                  optional, with either: coverage, shape, num_classes, …

The packed array is [n, 2, K, H, H]. Line i of names.txt, which is sorted by bytes, is the name of its map i.
"""

import io
import json
import os
from collections import Counter

import numpy as np

from util import files
from util.data.folders import walk_files
from util.data.map_names import check_distinct, map_names, short_names
from util.errors import UserError, one_line
from util.logger import log
from util.weights import torch_file
from util.weights.unpickle import kind

ARRAY, NAMES, META = 'label_maps.npy', 'names.txt', 'meta.json'
PARTIAL = 'label_maps.npy.partial'  # the packed array until it is complete
FLOAT16_EXACT = 2048  # float16 represents every class id up to this one


class LabelMaps:
    """The label maps of a folder, by the paths of their images.

    coverage: the part of an image that its map covers, `center` (the centre square, as in the published sets) or `full`
    (the whole image); meta.json overrides it. With geometry `reference` it is always `full`, because the original reads
    every map as if it covered the whole image. Raises UserError for a set that cannot be used.
    """

    def __init__(self, folder, num_classes, coverage='center', geometry='exact'):
        if not os.path.isdir(folder):
            raise UserError(f'--token_label_data {folder}: no such folder')
        self.folder, self.num_classes = folder, num_classes
        self.meta_path = os.path.join(folder, META)
        self.meta = read_meta(self.meta_path)
        self.coverage = self.meta.get('coverage', coverage) if geometry == 'exact' else 'full'
        if self.coverage not in ('center', 'full'):
            raise UserError(f"{self.meta_path}: coverage '{one_line(self.coverage)}' must be center or full")
        classes = self.meta.get('num_classes', 0)
        if classes > num_classes:
            raise UserError(f'{self.meta_path}: maps of {classes} classes, but --nb_classes is {num_classes}')
        self.maps = open_set(folder)
        if isinstance(self.maps, PackedSet):  # all maps have one shape, so a wrong one is found before training begins
            check_shape(self.maps.shape, self.maps.dtype, self.maps.file)
            check_meta(self.meta, self.maps.shape, self.meta_path, self.maps.file)

    def path(self, name):
        """The file that holds the map of this name, or should hold it."""
        return self.maps.path(name)

    def read(self, name):
        """(scores float32 [K, H, H], ids int64 [K, H, H]) of a map. Raises UserError that names the file."""
        array, path = self.maps.read(name)
        scores, ids = check_map(array, self.num_classes, path)
        check_meta(self.meta, array.shape, self.meta_path, path)
        return scores, ids

    def names_for(self, samples, allow_missing=False):
        """The name of the map of each sample (listing.Samples), an array of bytes [n]; b'' for an image without a map.

        If there is no map of an image's name, the image gets the map of its short name, unless that is the name of
        another image. Looks at file names only. Raises UserError that names two images if they would have one map, and
        an image without a map unless allow_missing and it has a label.
        """
        wanted = map_names(samples)
        names = self._existing(wanted)
        check_distinct(names, samples.paths, 'rename one of the two and make its map with generate_label.py')
        without = np.flatnonzero(names == b'')
        if without.size:
            short = self._existing(short_names(samples.paths, without))
            short[np.isin(short, names)] = b''
            names = names.astype(np.promote_types(names.dtype, short.dtype))
            names[without] = short
            by_short = int((short != b'').sum())
            if by_short:
                log(f'{self.folder}: {by_short} images have the map <last folder>/<stem>, as in the published set')
            remedy = 'make the maps again with generate_label.py, which names them by the path below the data folder'
            check_distinct(names, samples.paths, remedy)
        missing = names == b''
        samples.require_labels(f'it needs a label map, and {self.folder} has none of it', among=missing)
        if missing.any() and not allow_missing:
            first = int(missing.argmax())
            raise UserError(
                f'{self.path(os.fsdecode(wanted[first]))}: no label map for {samples.paths[first]}; {missing.sum()} of '
                f'{len(samples)} images have none in {self.folder}; make them with generate_label.py, or add '
                '--allow_missing_token_label'
            )
        return names

    def _existing(self, names):
        """The names (an array of bytes) with b'' in place of those of which there is no map."""
        return np.where(self.maps.contains(names), names, b'')

    def name_for(self, image_path):
        """The name of the map of a single image whose data folder is not known: the longest end of its path that is the
        name of a map. Raises UserError if there is none.
        """
        parts = os.path.splitext(os.path.abspath(image_path))[0].split('/')[1:]
        ends = ['/'.join(parts[start:]) for start in range(len(parts))]
        found = np.flatnonzero(self.maps.contains(np.array([os.fsencode(end) for end in ends], 'S')))
        if not found.size:
            raise UserError(f'{image_path}: has no label map in {self.folder}')
        return ends[found[0]]

    def covered(self, width, height):
        """(x, y, width, height) in pixels: the part that a map covers of an image of this size."""
        if self.coverage == 'full':
            return 0.0, 0.0, float(width), float(height)
        side = float(min(width, height))
        return (width - side) / 2, (height - side) / 2, side, side


# -- the two kinds of sets --------------------------------------------------------------------------------------------


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


def read_meta(path):
    """The object in a meta.json, {} if there is no such file. Raises UserError that names the file."""
    if not os.path.exists(path):
        return {}
    remedy = '; correct or delete the file'
    meta = files.read_json(path, remedy)
    if not isinstance(meta, dict):
        raise UserError(f'{path}: holds a {type(meta).__name__}, not a JSON object{remedy}')
    if not isinstance(meta.get('num_classes', 0), int):
        raise UserError(f'{path}: num_classes must be a whole number{remedy}')
    return meta


# -- checks -----------------------------------------------------------------------------------------------------------


def check_shape(shape, dtype, path):
    """Raise UserError unless a map has shape [2, K, H, H] and holds numbers."""
    if len(shape) != 4 or shape[0] != 2 or 0 in shape or shape[2] != shape[3]:
        raise UserError(f'{path}: a label map has shape [2, K, H, H], this file has {list(shape)}')
    if dtype.kind not in 'fiu':
        raise UserError(f'{path}: a label map holds numbers, this file has {dtype}')


def check_map(array, num_classes, path):
    """Split a map [2, K, H, H] into (scores float32, ids int64), each [K, H, H]. Raises UserError for wrong values."""
    check_shape(array.shape, array.dtype, path)
    with np.errstate(all='ignore'):  # a value beyond float32 becomes infinite and is refused below
        scores = array[0].astype('float32')
        ids = array[1].astype('float64')  # compared in float16, 2048 < 2049 would be false
    if not np.isfinite(scores).all():
        raise UserError(f'{path}: has scores that are not finite')
    # float16 rounds 2049 to 2048, so with more than 2049 classes an id of 2048 is ambiguous
    if array.dtype == np.float16 and num_classes > FLOAT16_EXACT + 1 and (ids >= FLOAT16_EXACT).any():
        raise UserError(
            f'{path}: has class ids that float16 does not hold exactly (above {FLOAT16_EXACT}); a set of '
            f'{num_classes} classes needs another dtype, float32'
        )
    if not (np.isfinite(ids).all() and (ids >= 0).all() and (ids < num_classes).all()):
        raise UserError(f'{path}: has class ids outside 0…{num_classes - 1}; check --nb_classes')
    if (ids != np.floor(ids)).any():
        raise UserError(f'{path}: has class ids that are not whole numbers; [0] must be the scores and [1] the ids')
    return scores, ids.astype('int64')


def check_meta(meta, shape, meta_path, path):
    """Raise UserError if meta.json describes maps of another shape than `shape`, [2, K, H, H] of the map in `path`."""
    _, k, size, _ = shape
    for key, found in (('shape', list(shape)), ('K', k), ('label_size', size)):
        if meta.get(key, found) != found:
            raise UserError(f'{meta_path}: says {key} {one_line(json.dumps(meta[key]))}, but it is {found} in {path}')
