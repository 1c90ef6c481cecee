"""What counts as correct: accuracy by the labels of the set and by ReaL, by class, and who is taken for whom.

Everything is counted on the host from Answers, one row an image in the order of the set, so that no result depends on
the batch size, on the number of processes or on the order of a sum.
"""

import csv
import io
import json
import os
import re
from collections import namedtuple

import numpy as np

from util import files
from util.errors import UserError
from util.logger import log

# labels: int64 [N]; top: int64 [N, K], the K best classes, best first; losses: float64 [N], cross-entropy
Answers = namedtuple('Answers', 'labels top losses')

IMAGENET_VAL = re.compile(r'ILSVRC2012_val_(\d{8})(?!\d)')
IMAGENET_VAL_IMAGES = 50_000
OUTPUTS = ('per_class', 'confusion', 'save_predictions')


def check(args):
    """Raise UserError for flags of options.add_protocols that cannot be, before anything is read."""
    if args.topk and max(args.topk) > args.nb_classes:
        raise UserError(f'--topk {max(args.topk)}: there are {args.nb_classes} classes only (--nb_classes)')
    paths = [(f'--{name}', getattr(args, name)) for name in OUTPUTS if getattr(args, name)]
    for flag, path in paths:
        files.check_target(flag, path)
    if len({os.path.realpath(path) for _, path in paths}) < len(paths):
        raise UserError(f'{" and ".join(flag for flag, _ in paths)}: name different files')


# -- accuracy ---------------------------------------------------------------------------------------------------------


def correct(answers, k):
    """bool [N]: is the label among the k best?"""
    return (answers.top[:, :k] == answers.labels[:, None]).any(axis=1)


def report(answers, topk=(1, 5)):
    """Log the closing line of an evaluation; returns {'acc<k>' in percent for each k of topk, 'loss'}."""
    n = len(answers.labels)
    stats = {f'acc{k}': 100 * int(correct(answers, k).sum()) / n for k in topk}
    stats['loss'] = float(answers.losses.mean())
    log('* ' + ''.join(f'Acc@{k} {stats[f"acc{k}"]:.3f} ' for k in topk) + f'loss {stats["loss"]:.3f} on {n} images')
    return stats


# -- ReaL: "Are we done with ImageNet?", Beyer et al. 2020, arXiv 2006.07159 ------------------------------------------


def read_real(path, images, num_classes):
    """The ReaL labels of each of `images` (paths): a list of lists of class ids, an empty one for "does not count".

    The file is the published real.json, a list for ILSVRC2012_val_00000001 … 00050000 in this order, or for other sets
    an object {file name: [class ids]}; 'folder/name' tells equal names apart. Raises UserError.
    """
    if not os.path.exists(path):
        raise UserError(f'--real_labels {path}: no such file')
    content = files.read_json(path)
    if isinstance(content, list):
        if len(content) != IMAGENET_VAL_IMAGES:
            raise UserError(
                f'--real_labels {path}: a list of {len(content)} entries; real.json has '
                f'{IMAGENET_VAL_IMAGES}, one for each image of the ImageNet validation set; for another '
                'set use an object {file name: [class ids]}'
            )
        keys = [_number(path, image) - 1 for image in images]
    elif isinstance(content, dict):
        keys = _names(path, content, images)
    else:
        raise UserError(f'--real_labels {path}: neither a list nor an object, but {json.dumps(content)[:40]}')
    labels = [content[key] for key in keys]
    for image, ids in zip(images, labels):
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < num_classes for i in ids):
            raise UserError(
                f'--real_labels {path}: the entry of {os.path.basename(image)} is {json.dumps(ids)[:60]}, '
                f'not a list of class ids from 0 to {num_classes - 1} (--nb_classes)'
            )
    return labels


def _number(path, image):
    """The number in the name of an image of the ImageNet validation set, 1 to 50,000."""
    found = IMAGENET_VAL.match(os.path.basename(image))
    if not found or not 1 <= int(found[1]) <= IMAGENET_VAL_IMAGES:
        raise UserError(
            f'--real_labels {path}: a list goes by the number in ILSVRC2012_val_XXXXXXXX, and {image} has '
            'none; for another set use an object {file name: [class ids]}'
        )
    return int(found[1])


def _names(path, content, images):
    """For each image its key in `content`: 'folder/name' or 'name'."""
    keys, owners = [], {}
    for image in images:
        folder, name = os.path.split(image)
        key = next((k for k in (f'{os.path.basename(folder)}/{name}', name) if k in content), None)
        if key is None:
            raise UserError(
                f'--real_labels {path}: has no entry {name}; give an image that is not to count an empty list'
            )
        if owners.setdefault(key, image) != image:
            raise UserError(
                f"--real_labels {path}: the entry {key} could mean {owners[key]} and {image}; use 'folder/name'"
            )
        keys.append(key)
    return keys


def report_real(answers, real, topk=(1, 5)):
    """Log accuracy by ReaL labels; returns {'real<k>' in percent, 'real_images'}.

    An answer is correct if one of its k best classes is among the image's labels; images without any do not count.
    """
    counted = [i for i, ids in enumerate(real) if ids]
    if not counted:
        raise UserError('--real_labels: not one image of the set has a label there')
    hits = {k: sum(not set(real[i]).isdisjoint(answers.top[i, :k].tolist()) for i in counted) for k in topk}
    stats = {f'real{k}': 100 * hits[k] / len(counted) for k in topk}
    log(
        '* '
        + ''.join(f'ReaL@{k} {stats[f"real{k}"]:.3f} ' for k in topk)
        + f'on {len(counted)} images ({len(real) - len(counted)} without a label do not count)'
    )
    return {**stats, 'real_images': len(counted)}


# -- tables -----------------------------------------------------------------------------------------------------------


def per_class(answers, num_classes, names, topk=(1, 5)):
    """Rows class_id, name, images, and for each k correct@k, acc@k in percent (empty for a class without images)."""
    images = np.bincount(answers.labels, minlength=num_classes)
    hits = [np.bincount(answers.labels[correct(answers, k)], minlength=num_classes) for k in topk]
    rows = [['class_id', 'name', 'images', *(f'{word}@{k}' for k in topk for word in ('correct', 'acc'))]]
    for i, n in enumerate(images):
        shares = [(h[i], f'{100 * h[i] / n:.3f}' if n else '') for h in hits]
        rows.append([i, names.get(i, ''), n, *(value for pair in shares for value in pair)])
    return rows


def confusion(answers, num_classes):
    """int64 [C, C] as scikit-learn has it: [i, j] counts the images of class i that were taken for class j."""
    cells = answers.labels * num_classes + answers.top[:, 0]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def write_tables(args, answers, images, names, topk):
    """Write what --per_class, --confusion and --save_predictions ask for. images: their paths. Raises UserError."""
    tables = {}
    if args.per_class:
        tables[args.per_class] = per_class(answers, args.nb_classes, names, topk)
    if args.confusion:
        matrix = confusion(answers, args.nb_classes)
        tables[args.confusion] = [
            ['true\\predicted', *range(args.nb_classes)],
            *([i, *row] for i, row in enumerate(matrix.tolist())),
        ]
    if args.save_predictions:
        k = min(max(topk), answers.top.shape[1])
        tables[args.save_predictions] = [['file_name', 'label', 'loss', *(f'top{i + 1}' for i in range(k))]]
        for path, label, loss, top in zip(images, answers.labels, answers.losses, answers.top[:, :k].tolist()):
            tables[args.save_predictions].append([path, label, f'{loss:.6g}', *top])
    for path, rows in tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows(rows)
        files.write(path, text.getvalue().encode(errors='surrogateescape'))  # file names are bytes, after all
        log(f'wrote {path}')
