"""A look at all images and masks of a data set of PaddleSeg, before anything is computed.

Ids outside the classes would be trained and counted as garbage; and what cannot be read leaves Paddle's loader, when
it has no processes of its own, waiting for ever.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from util.errors import UserError, one_line


def check(dataset):
    """Raise UserError that names the file for an image or mask that is missing or cannot be read, or a wrong mask."""
    from paddleseg.transforms import Compose

    transforms = dataset.transforms
    dataset.transforms = Compose([], img_channels=getattr(dataset, 'img_channels', 3))  # images and masks as they are
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(lambda index: _check_one(dataset, index), range(len(dataset))):
                pass
    finally:
        dataset.transforms = transforms


def _check_one(dataset, index):
    image, mask = dataset.file_list[index]
    for path in (image, mask):
        if not os.path.isfile(path):
            raise UserError(f'{path}: missing; it is on the list of the data set')
    try:
        ids = np.asarray(dataset[index]['label'])
    except Exception as error:
        raise UserError(f'{image} with {mask}: cannot be read ({type(error).__name__}: {one_line(error)})')
    check_ids(ids, mask, dataset.num_classes, dataset.ignore_index)


def check_ids(ids, path, num_classes, ignore_index):
    """Raise UserError if the mask `path` has ids that are no class, and not the one to ignore."""
    wrong = np.unique(ids[((ids < 0) | (ids >= num_classes)) & (ids != ignore_index)])
    if len(wrong):
        more = ' …' if len(wrong) > 5 else ''
        raise UserError(
            f'{path}: has the ids {", ".join(map(str, wrong[:5].tolist()))}{more}, outside the {num_classes} classes '
            f'(0 to {num_classes - 1}; {ignore_index} is ignored); set num_classes in the config or renumber the masks'
        )
