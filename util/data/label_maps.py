"""Label maps by the images they belong to, checked.

A map is an array [2, K, H, H], float16 or float32: [0] the scores (raw logits) and [1] the class ids of the K best
classes of each cell, row = y, column = x. Where a set's maps lie on disk: util/data/label_sets.py.
"""

import json
import os

import numpy as np

from util.data.label_sets import META, PackedSet, open_set
from util.errors import UserError, one_line


class LabelMaps:
    """A set of label maps, in folders or packed, by the images they belong to.

    coverage: what a map covers, `center` (the centre square, as the published sets) or `full` (the whole image);
    a meta.json in the set overrides it; so does geometry `reference`, which reads every map as
    if it covered the whole image. Raises UserError for a set that cannot be used.
    """

    def __init__(self, folder, num_classes, coverage='center', geometry='exact'):
        if not os.path.isdir(folder):
            raise UserError(f'--token_label_data {folder}: no such folder')
        self.folder, self.num_classes = folder, num_classes
        self.meta_path = os.path.join(folder, META)
        self.meta = read_meta(self.meta_path)
        self.coverage = self.meta.get('coverage', coverage) if geometry == 'exact' else 'full'
        if self.coverage not in ('center', 'full'):
            raise UserError(
                f"{self.meta_path}: token-label coverage '{one_line(self.coverage)}' must be center or full"
            )
        classes = self.meta.get('num_classes', 0)
        if classes > num_classes:
            raise UserError(f'{self.meta_path}: maps of {classes} classes, but --nb_classes is {num_classes}')
        self.maps = open_set(folder)
        if isinstance(self.maps, PackedSet):  # all maps have this one shape: wrong, it is so before the first epoch
            check_shape(self.maps.shape, self.maps.dtype, self.maps.file)
            check_meta(self.meta, self.maps.shape, self.meta_path, self.maps.file)

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
        check_meta(self.meta, array.shape, self.meta_path, path)
        return scores, ids

    def missing(self, image_paths):
        """bool [n]: which of the images have no map; looks at listings only, not into files."""
        return ~self.maps.contains(map_names(image_paths))

    def require(self, image_paths):
        """Raises UserError that says how many images have no map, and which is the first, if there are any."""
        missing = self.missing(image_paths)
        if missing.any():
            first = image_paths[int(missing.argmax())]
            raise UserError(
                f'{self.path(first)}: no label map for {first}; {missing.sum()} of '
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


def map_names(image_paths):
    """The same of many images, as one array of bytes [n]."""
    return np.array([os.fsencode(map_name(path)) for path in image_paths], 'S')


# -- what is checked --------------------------------------------------------------------------------------------------


def check_shape(shape, dtype, path):
    """Raises UserError unless a map has shape [2, K, H, H] and holds numbers."""
    if len(shape) != 4 or shape[0] != 2 or 0 in shape or shape[2] != shape[3]:
        raise UserError(f'{path}: a label map has shape [2, K, H, H], this file has {list(shape)}')
    if dtype.kind not in 'fiu':
        raise UserError(f'{path}: a label map holds numbers, this file has {dtype}')


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


def read_meta(path):
    """The object in a meta.json, {} without one. Raises UserError that names the file."""
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding='utf-8-sig') as f:
            meta = json.load(f)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, or no text at all
        raise UserError(f'{path}: not readable JSON ({one_line(error)}); mend or delete it')
    if not isinstance(meta, dict):
        raise UserError(f'{path}: not a readable JSON object (a {type(meta).__name__}); mend or delete it')
    if not isinstance(meta.get('num_classes', 0), int):
        raise UserError(f'{path}: num_classes must be a whole number; mend or delete it')
    return meta


def check_meta(meta, shape, meta_path, path):
    """Raises UserError if what meta.json says of the maps' shape is not that of a map."""
    _, k, size, _ = shape
    for key, found in (('shape', list(shape)), ('K', k), ('label_size', size)):
        if meta.get(key, found) != found:
            raise UserError(f'{meta_path}: says {key} {one_line(json.dumps(meta[key]))}, but it is {found} in {path}')
