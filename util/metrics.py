"""Accuracies of an evaluation, and the tables that eval.py writes.

All of them are computed from Predictions, so that no result depends on the batch size or the number of processes.
"""

import csv
import io
from typing import NamedTuple

import numpy as np

from util import files
from util.logger import log


class Predictions(NamedTuple):
    """A model's predictions for the N images of a set, in the order of the set."""

    labels: np.ndarray  # int64 [N], the true classes
    top: np.ndarray  # int64 [N, K], the K best classes, best first
    losses: np.ndarray  # float64 [N], cross-entropy


def correct(predictions, k):
    """bool [N]: whether the label is among the k best classes."""
    return (predictions.top[:, :k] == predictions.labels[:, None]).any(axis=1)


def statistics(predictions, topk=(1, 5)):
    """{'acc<k>': in percent for each k of topk, 'loss': mean}."""
    count = len(predictions.labels)
    stats = {f'acc{k}': 100 * int(correct(predictions, k).sum()) / count for k in topk}
    return {**stats, 'loss': float(predictions.losses.mean())}


def report(predictions, topk=(1, 5)):
    """Log the closing line of an evaluation; returns its statistics."""
    stats = statistics(predictions, topk)
    accuracies = ' '.join(f'Acc@{k} {stats[f"acc{k}"]:.3f}' for k in topk)
    log(f'* {accuracies} loss {stats["loss"]:.3f} on {len(predictions.labels)} images')
    return stats


def log_accuracy(model, accuracy, images):
    """Log top-1 in percent as the port does. model: 'network' or 'model EMA'; images: how many."""
    test_images = f'{images} test images' if model == 'model EMA' else f'the {images} test images'
    log(f'Accuracy of the {model} on {test_images}: {accuracy:.1f}%')


# -- tables -----------------------------------------------------------------------------------------------------------


def write_per_class(path, predictions, classes, names, topk=(1, 5)):
    """Write a CSV file with columns class_id, name, images, and for each k correct@k and acc@k in percent.

    classes: the ids to write, ascending. names: {class id: name}. acc@k is empty for a class without images.
    """
    classes = np.asarray(classes)
    images = np.bincount(predictions.labels, minlength=classes[-1] + 1)[classes]
    header = ['class_id', 'name', 'images']
    rows = [[i, names.get(i, ''), count] for i, count in zip(classes, images)]
    for k in topk:
        header += [f'correct@{k}', f'acc@{k}']
        hits = np.bincount(predictions.labels[correct(predictions, k)], minlength=classes[-1] + 1)[classes]
        for row, hit, count in zip(rows, hits, images):
            row += [hit, f'{100 * hit / count:.3f}' if count else '']
    write_csv(path, [header, *rows])


def write_confusion(path, predictions, classes):
    """Write the confusion matrix as a CSV file: row i, column j counts the images of class i predicted as class j.

    classes: the ids of all labels and predictions, ascending.
    """
    count = len(classes)
    cells = np.searchsorted(classes, predictions.labels) * count + np.searchsorted(classes, predictions.top[:, 0])
    matrix = np.bincount(cells, minlength=count**2).reshape(count, count)
    rows = [[i, *row] for i, row in zip(classes, matrix.tolist())]
    write_csv(path, [['true\\predicted', *classes], *rows])


def write_predictions(path, predictions, images, k):
    """Write a CSV file with a row for each image: file_name, label, loss, top1 … top<k>. images: their paths."""
    k = min(k, predictions.top.shape[1])
    rows = [['file_name', 'label', 'loss', *(f'top{i + 1}' for i in range(k))]]
    top_k = predictions.top[:, :k].tolist()
    for image, label, loss, top in zip(images, predictions.labels, predictions.losses, top_k):
        rows.append([image, label, f'{loss:.6g}', *top])
    write_csv(path, rows)


def write_results(path, results):
    """Write a CSV file with a row for each checkpoint; results: [{column: value}] with the same columns."""
    write_csv(path, [list(results[0]), *(_cells(row) for row in results)])


def log_results(results):
    """Log the same table, the best accuracy first."""
    accuracy = next(name for name in results[0] if name.startswith('acc'))
    ranked = sorted(results, key=lambda row: -row[accuracy])
    rows = [list(results[0]), *map(_cells, ranked)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        log('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _cells(row):
    return [f'{value:.3f}' if isinstance(value, float) else str(value) for value in row.values()]


def write_csv(path, rows, errors='surrogateescape'):
    """Write a CSV file. errors: how to encode a byte of a file name that is not UTF-8 (default: as it is)."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    files.write(path, text.getvalue().encode(errors=errors))
    log(f'wrote {path}')
