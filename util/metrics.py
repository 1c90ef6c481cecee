"""What counts as correct: accuracy by the labels of the set and by ReaL, by class, and who is taken for whom.

Everything is counted on the host from Answers, one row an image in the order of the set, so that no result depends on
the batch size, on the number of processes or on the order of a sum.
"""

import csv
import io
import json
import os
import re
from typing import NamedTuple

import numpy as np

from util import files
from util.errors import UserError
from util.logger import log

IMAGENET_VAL = re.compile(r'ILSVRC2012_val_(\d{8})(?!\d)')
IMAGENET_VAL_IMAGES = 50_000
OUTPUTS = ('per_class', 'confusion', 'save_predictions')  # flags that name a table to write


class Answers(NamedTuple):
    """A model's answers to the N images of a set, in its order."""

    labels: np.ndarray  # int64 [N]
    top: np.ndarray  # int64 [N, K], the K best classes, best first
    losses: np.ndarray  # float64 [N], cross-entropy


def check_flags(args, several=False):
    """Raise UserError for flags of options.add_protocols that cannot be, before anything is read.

    several: more than one checkpoint is to be evaluated.
    """
    if args.topk and max(args.topk) > args.nb_classes:
        raise UserError(f'--topk {max(args.topk)}: there are {args.nb_classes} classes only (--nb_classes)')
    paths = {f'--{name}': getattr(args, name) for name in OUTPUTS if getattr(args, name)}
    tables = ', '.join(paths)
    if args.results_file:
        paths['--results_file'] = args.results_file
    if several and tables:
        raise UserError(f'{tables}: of one checkpoint each, but --resume {args.resume} is a folder; use --results_file')
    for flag, path in paths.items():
        files.check_target(flag, path)
    if len(set(map(os.path.realpath, paths.values()))) < len(paths):
        raise UserError(f'{" and ".join(paths)}: name different files')


# -- accuracy ---------------------------------------------------------------------------------------------------------


def correct(answers, k):
    """bool [N]: is the label among the k best?"""
    return (answers.top[:, :k] == answers.labels[:, None]).any(axis=1)


def report(answers, topk=(1, 5)):
    """Log the closing line of an evaluation; returns {'acc<k>' in percent for each k of topk, 'loss'}."""
    count = len(answers.labels)
    stats = {f'acc{k}': 100 * int(correct(answers, k).sum()) / count for k in topk}
    stats['loss'] = float(answers.losses.mean())
    accuracies = ' '.join(f'Acc@{k} {stats[f"acc{k}"]:.3f}' for k in topk)
    log(f'* {accuracies} loss {stats["loss"]:.3f} on {count} images')
    return stats


def log_accuracy(whose, accuracy, images):
    """Log the sentence about top-1 that scripts of the field look for. whose: 'network' or 'model EMA'."""
    the_images = f'{images} test images' if whose == 'model EMA' else f'the {images} test images'
    log(f'Accuracy of the {whose} on {the_images}: {accuracy:.1f}%')


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
        keys = [_place(path, image) for image in images]
    elif isinstance(content, dict):
        keys = _keys(path, content, images)
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


def _place(path, image):
    """The place in real.json of an image of the ImageNet validation set: the number in its name, from 0."""
    found = IMAGENET_VAL.match(os.path.basename(image))
    if not found or not 1 <= int(found[1]) <= IMAGENET_VAL_IMAGES:
        raise UserError(
            f'--real_labels {path}: a list goes by the number in ILSVRC2012_val_XXXXXXXX, and {image} has '
            'none; for another set use an object {file name: [class ids]}'
        )
    return int(found[1]) - 1


def _keys(path, content, images):
    """For each image its key in the object `content`: 'folder/name' or 'name'."""
    keys, owners = [], {}
    for image in images:
        folder, name = os.path.split(image)
        key = f'{os.path.basename(folder)}/{name}'
        if key not in content:
            key = name
        if key not in content:
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
    stats = {}
    for k in topk:
        hits = sum(not set(real[i]).isdisjoint(answers.top[i, :k].tolist()) for i in counted)
        stats[f'real{k}'] = 100 * hits / len(counted)
    accuracies = ' '.join(f'ReaL@{k} {stats[f"real{k}"]:.3f}' for k in topk)
    log(f'* {accuracies} on {len(counted)} images ({len(real) - len(counted)} without a label do not count)')
    return {**stats, 'real_images': len(counted)}


# -- tables -----------------------------------------------------------------------------------------------------------


def per_class(answers, num_classes, names, topk=(1, 5)):
    """Rows class_id, name, images, and for each k correct@k, acc@k in percent (empty for a class without images)."""
    images = np.bincount(answers.labels, minlength=num_classes)
    header = ['class_id', 'name', 'images']
    rows = [[i, names.get(i, ''), count] for i, count in enumerate(images)]
    for k in topk:
        header += [f'correct@{k}', f'acc@{k}']
        hits = np.bincount(answers.labels[correct(answers, k)], minlength=num_classes)
        for row, hit, count in zip(rows, hits, images):
            row += [hit, f'{100 * hit / count:.3f}' if count else '']
    return [header, *rows]


def confusion(answers, num_classes):
    """int64 [C, C] as scikit-learn has it: [i, j] counts the images of class i that were taken for class j."""
    cells = answers.labels * num_classes + answers.top[:, 0]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def prediction_rows(answers, images, k):
    """Rows file_name, label, loss, top1 … top<k>, an image each."""
    rows = [['file_name', 'label', 'loss', *(f'top{i + 1}' for i in range(k))]]
    for path, label, loss, top in zip(images, answers.labels, answers.losses, answers.top[:, :k].tolist()):
        rows.append([path, label, f'{loss:.6g}', *top])
    return rows


def write_tables(args, answers, images, names, topk):
    """Write what --per_class, --confusion and --save_predictions ask for. images: their paths. Raises UserError."""
    if args.per_class:
        write_csv(args.per_class, per_class(answers, args.nb_classes, names, topk))
    if args.confusion:
        matrix = confusion(answers, args.nb_classes).tolist()
        header = ['true\\predicted', *range(args.nb_classes)]
        write_csv(args.confusion, [header, *([i, *row] for i, row in enumerate(matrix))])
    if args.save_predictions:
        write_csv(args.save_predictions, prediction_rows(answers, images, min(max(topk), answers.top.shape[1])))


def write_results(path, results):
    """Write a table with a row for each checkpoint; results: [{column: value}] with the same columns."""
    write_csv(path, [list(results[0]), *(_cells(row) for row in results)])


def log_results(results):
    """Log the same table, the best first."""
    ranked = sorted(results, key=lambda row: next(-value for name, value in row.items() if name.startswith('acc')))
    rows = [list(results[0]), *map(_cells, ranked)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        log('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _cells(row):
    return [f'{value:.3f}' if isinstance(value, float) else str(value) for value in row.values()]


def write_csv(path, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    files.write(path, text.getvalue().encode(errors='surrogateescape'))  # file names are bytes, after all
    log(f'wrote {path}')
