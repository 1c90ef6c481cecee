"""Label maps: found by the image they belong to, read and checked. map_names.py names them, map_sets.py reads files.

A label map is an array [2, K, H, H], float16 or float32. [0] holds the scores (raw logits) and [1] the class ids of the
K best classes of each cell; row = y, column = x. A set of maps is a folder with one file per image, or packed:

    SET/<name>.npy or .pt                          n01/a.npy for the image n01/a.JPEG
    SET/label_maps.npy, SET/names.txt              packed by tools/pack_token_label.py
    SET/meta.json                                  optional, with either: coverage, shape, num_classes, class_names, …

The packed array is [n, 2, K, H, H]. Line i of names.txt, which is sorted by bytes, is the name of its map i.
"""

import json
import os

import numpy as np

from util import class_names, files
from util.data.map_names import check_distinct, map_names, short_names
from util.data.map_sets import PackedSet, open_set
from util.errors import UserError, one_line
from util.logger import log

META = 'meta.json'
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
        an image without a map unless allow_missing and it has a label; also if a class has another id in the maps.
        """
        self.check_classes(samples)
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

    def check_classes(self, samples):
        """Raise UserError if a class folder of `samples` has another class id than in meta.json."""
        names = class_names.of_checkpoint(self.meta, self.meta_path, self.num_classes) or []
        ids = {name: i for i, name in enumerate(names)}
        for i, name in enumerate(samples.class_names or []):
            if ids.get(name, i) != i:
                raise UserError(
                    f'{self.meta_path}: class {name} has id {ids[name]} in these maps, but {i} by the class folders of '
                    f'{samples.paths.root}; make the maps again with an annotator of these classes, or with '
                    'generate_label.py --class_map'
                )

    def _existing(self, names):
        """The names (an array of bytes), with b'' in place of each that has no map."""
        return np.where(self.maps.contains(names), names, b'')

    def name_for(self, image_path):
        """The name of the map of one image, if its data folder is not known: the longest end of its path that names a
        map. Raises UserError if there is none.
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
