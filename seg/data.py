"""Checks all images and masks of a PaddleSeg data set before a run starts.

Ids outside of the classes would be trained and evaluated as garbage.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from util.data.images import BadImage
from util.errors import UserError, one_line


def check(dataset, batched=False):
    """Raise UserError that names the first pair of image and mask that cannot be used.

    A file is missing or cannot be read, the mask has another size than its image, more than one channel, or ids outside
    of the classes. batched: batches are made of the images, so that the data set's transforms must give them one size.
    """
    from paddleseg.transforms import Compose

    transforms = dataset.transforms
    dataset.transforms = Compose([], img_channels=getattr(dataset, 'img_channels', 3))  # images and masks as they are
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            sizes = list(pool.map(lambda index: _check_one(dataset, index), range(len(dataset))))
    finally:
        dataset.transforms = transforms
    if batched and len(set(sizes)) > 1:
        _check_one_size(dataset, sizes)


def _check_one(dataset, index):
    """(width, height) of the image."""
    image, mask = dataset.file_list[index]
    for path in (image, mask):
        if not os.path.isfile(path):
            raise UserError(f'{path}: missing; it is on the list of the data set')
    try:
        sample = dataset[index]
        ids, (height, width) = np.asarray(sample['label']), sample['img'].shape[1:]
        with Image.open(mask) as opened:
            channels, mask_size = opened.getbands(), opened.size
    except BadImage as error:
        raise UserError(str(error))
    except Exception as error:
        raise UserError(f'{image} with {mask}: cannot be read ({type(error).__name__}: {one_line(error)})')
    if len(channels) > 1:
        raise UserError(
            f'{mask}: has the channels {", ".join(channels)}, but a mask has one, of class ids; save it as 8-bit grey'
        )
    if mask_size != (width, height):
        turned = '; the EXIF orientation of an image is ignored' if mask_size == (height, width) else ''
        raise UserError(
            f'{mask}: has {mask_size[0]}×{mask_size[1]} pixels, but its image {image} has {width}×{height}{turned}'
        )
    wrong = np.unique(ids[((ids < 0) | (ids >= dataset.num_classes)) & (ids != dataset.ignore_index)])
    if len(wrong):
        more = ' …' if len(wrong) > 5 else ''
        raise UserError(
            f'{mask}: has the ids {", ".join(map(str, wrong[:5].tolist()))}{more}, outside of the '
            f'{dataset.num_classes} classes (0 to {dataset.num_classes - 1}; {dataset.ignore_index} is ignored); '
            'set num_classes in the config or renumber the masks'
        )
    return width, height


def _check_one_size(dataset, sizes):
    """Raise UserError if the transforms leave the smallest and the largest images in different sizes.

    sizes: (width, height) of each image.
    """
    widths, heights = np.array(sizes).T
    extremes = [int(found) for side in (widths, heights) for found in (side.argmin(), side.argmax())]
    results = [dataset[index]['img'].shape[1:] for index in extremes]
    for index, result in zip(extremes, results):
        if result != results[0]:
            first, other = (dataset.file_list[i][0] for i in (extremes[0], index))
            raise UserError(
                f'after the transforms of the data set {first} has {results[0][1]}×{results[0][0]} pixels and {other} '
                f'{result[1]}×{result[0]}; a batch needs one size: add RandomPaddingCrop or Resize to the transforms'
            )
