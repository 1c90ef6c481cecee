"""The records that predict.py and infer.py print: one per image, with the best classes and their names."""

import itertools
import json

import numpy as np

from util import files, metrics
from util.errors import UserError
from util.logger import progress


def best_classes(files, outputs, names, topk, are_scores=False):
    """One dict per image: class_ids and scores (softmax) of the topk classes, file_name, label_names.

    outputs: float [B, C], logits, or with are_scores their softmax. names: {class id: name}, may be empty.
    Raises UserError that names the image if its outputs are not finite.
    """
    for path, row in zip(files, np.asarray(outputs)):
        if not np.isfinite(row).all():
            raise UserError(
                f"{path}: the network's outputs for this image are not finite (NaN or infinite); check the weights, "
                '--mean and --std, and the precision'
            )
    records = []
    for path, row in zip(files, np.asarray(outputs, 'float64') if are_scores else softmax(outputs)):
        best = np.argsort(-row, kind='stable')[:topk]
        record = {'class_ids': best.tolist(), 'scores': [round(float(s), 5) for s in row[best]], 'file_name': path}
        record['label_names'] = [names.get(int(i), str(i)) for i in best]
        records.append(record)
    return records


def softmax(logits):
    """Scores, float64 [B, C], of logits [B, C]."""
    scores = np.asarray(logits, 'float64')
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def classify(files, loader, network, names, topk, title, are_scores=False):
    """The records of those files that can be decoded, in their order.

    loader: of build_predict_loader. network: float32 [B, 3, S, S] -> [B, C]. title: of the progress bar.
    """
    records = []
    for batch in progress(loader, title):
        paths, images = decoded(files, batch)
        if paths:
            records += best_classes(paths, network(images), names, topk, are_scores)
    return records


def decoded(files, batch):
    """(paths, images float32 [B, 3, S, S]) of a batch, without the bad images."""
    good = np.asarray(batch['label']) >= 0
    paths = [files[i] for i in np.asarray(batch['index'])[good]]
    return paths, np.asarray(batch['image'])[good]


def check_targets(save_json, save_csv):
    """Raise UserError if a file of --save_json or --save_csv, '' without the flag, cannot be written."""
    for flag, path in ('--save_json', save_json), ('--save_csv', save_csv):
        if path:
            files.check_target(flag, path)


def print_and_save(records, save_json, save_csv):
    """Print the records in one line, and write them to a JSON file and a CSV file, '' for none.

    The CSV file has columns file_name, class_id_1, label_name_1, score_1, class_id_2, …, with 1 for the best class.
    A byte of a file name that is not UTF-8 is an escape in both files, \\udc80 to \\udcff.
    """
    print(records, flush=True)
    if save_json:
        text = json.dumps(records, ensure_ascii=False, indent=1)
        files.write(save_json, text.encode(errors='backslashreplace'))
    if save_csv:
        ranks = range(1, len(records[0]['class_ids']) + 1) if records else []
        rows = [['file_name', *(f'{name}_{rank}' for rank in ranks for name in ('class_id', 'label_name', 'score'))]]
        for record in records:
            classes = zip(record['class_ids'], record['label_names'], record['scores'])
            rows.append([record['file_name'], *itertools.chain.from_iterable(classes)])
        metrics.write_csv(save_csv, rows, errors='backslashreplace')


def check_undecoded(num_files, num_records, skip_bad):
    """Raise UserError if a file has no record; with skip_bad only if no file has one. Call it after printing."""
    if num_records == 0:
        raise UserError(f'{num_files} of {num_files} images could not be read or decoded (named above)')
    if num_records < num_files and not skip_bad:
        raise UserError(
            f'{num_files - num_records} of {num_files} images could not be read or decoded (named above) and have no '
            'record; --skip_bad accepts that'
        )
