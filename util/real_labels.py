"""Accuracy by ReaL labels, of which an image may have several (Beyer et al. 2020, arXiv 2006.07159)."""

import json
import os
import re

from util import files
from util.errors import UserError
from util.logger import log

IMAGENET_VAL = re.compile(r'ILSVRC2012_val_(\d{8})(?!\d)')
IMAGENET_VAL_IMAGES = 50_000


def read(path, images, num_classes):
    """The ReaL labels of `images` (paths): a list of class ids for each. Images with an empty list do not count.

    The file is the published real.json, a list for ILSVRC2012_val_00000001 … 00050000 in this order, or for other sets
    an object {file name: [class ids]}. Its keys are 'folder/name' or 'name'; the first is preferred. Raises UserError.
    """
    if not os.path.exists(path):
        raise UserError(f'--real_labels {path}: no such file')
    content = files.read_json(path)
    if isinstance(content, list) and len(content) != IMAGENET_VAL_IMAGES:
        raise UserError(
            f'--real_labels {path}: a list of {len(content)} entries; real.json has {IMAGENET_VAL_IMAGES}, one for '
            'each image of the ImageNet validation set; for another set use an object {file name: [class ids]}'
        )
    if not isinstance(content, (list, dict)):
        raise UserError(f'--real_labels {path}: neither a list nor an object, but {json.dumps(content)[:40]}')
    find_key = _number if isinstance(content, list) else _name
    labels = [content[find_key(path, content, image)] for image in images]
    for image, ids in zip(images, labels):
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < num_classes for i in ids):
            raise UserError(
                f'--real_labels {path}: the entry of {os.path.basename(image)} is {json.dumps(ids)[:60]}, '
                f'not a list of class ids from 0 to {num_classes - 1} (--nb_classes)'
            )
    return labels


def _number(path, content, image):
    """The index in real.json of an image of the ImageNet validation set: the number in its name, minus 1."""
    found = IMAGENET_VAL.match(os.path.basename(image))
    if not found or not 1 <= int(found[1]) <= IMAGENET_VAL_IMAGES:
        raise UserError(
            f'--real_labels {path}: a list needs images named ILSVRC2012_val_XXXXXXXX, and {image} has no such '
            'number; for another set use an object {file name: [class ids]}'
        )
    return int(found[1]) - 1


def _name(path, content, image):
    """The key of an image in the object: 'folder/name' or 'name'."""
    folder, name = os.path.split(image)
    key = f'{os.path.basename(folder)}/{name}'
    if key in content:
        return key
    if name not in content:
        raise UserError(f'--real_labels {path}: has no entry {name}; give an image that is not to count an empty list')
    return name


def report(predictions, real, topk=(1, 5)):
    """Log accuracy by ReaL labels; returns {'real<k>': in percent, 'real_images': how many count}.

    A prediction is correct if one of its k best classes is among the image's labels; images without any do not count.
    """
    counted = [i for i, ids in enumerate(real) if ids]
    if not counted:
        raise UserError('--real_labels: no image of the set has a label there')
    stats = {}
    for k in topk:
        hits = sum(not set(real[i]).isdisjoint(predictions.top[i, :k].tolist()) for i in counted)
        stats[f'real{k}'] = 100 * hits / len(counted)
    accuracies = ' '.join(f'ReaL@{k} {stats[f"real{k}"]:.3f}' for k in topk)
    log(f'* {accuracies} on {len(counted)} images ({len(real) - len(counted)} without a label do not count)')
    return {**stats, 'real_images': len(counted)}
