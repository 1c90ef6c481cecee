"""Checks all images and masks of a PaddleSeg data set before a run starts.

Ids outside of the classes would be trained and evaluated as garbage. A file that cannot be read would make Paddle's
loader with num_workers=0 wait for ever.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from util.errors import UserError, one_line


def check(dataset):
    """Raise UserError that names the first missing or unreadable file, or the first mask with wrong ids."""
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
    wrong = np.unique(ids[((ids < 0) | (ids >= dataset.num_classes)) & (ids != dataset.ignore_index)])
    if len(wrong):
        more = ' …' if len(wrong) > 5 else ''
        raise UserError(
            f'{mask}: has the ids {", ".join(map(str, wrong[:5].tolist()))}{more}, outside of the '
            f'{dataset.num_classes} classes (0 to {dataset.num_classes - 1}; {dataset.ignore_index} is ignored); '
            'set num_classes in the config or renumber the masks'
        )
