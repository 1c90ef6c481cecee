"""The records that predict.py and infer.py print: one per image, with the best classes and their names."""

import json
import os
import re

import numpy as np

from util.errors import UserError, one_line
from util.files import read_lines
from util.logger import progress

IMAGENET_NAMES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'imagenet1k_label_list.txt')


# -- names of the classes ----------------------------------------------------------------------------------------------


def read_label_list(path):
    """{class id: name} from a file with lines `id name`. Blanks or tabs stand between them.

    A name may hold several synonyms, joined with ', '. Raises UserError.
    """
    names = {}
    for number, line in read_lines(path):
        found = re.fullmatch(r'([0-9]{1,9})[ \t]+(.+)', line)
        if not found:
            raise UserError(f"{path}, line {number}: expected 'id name', found '{one_line(line)}'")
        class_id, name = int(found[1]), found[2]
        if class_id in names:
            raise UserError(f'{path}, line {number}: class {class_id} has a name already')
        names[class_id] = name
    return names


def class_names(path, num_classes):
    """{class id: name}: of the list file `path` if one is given, else ImageNet's for 1000 classes, else none."""
    if not path:
        return read_label_list(IMAGENET_NAMES) if num_classes == 1000 else {}
    names = read_label_list(path)
    missing = [i for i in range(num_classes) if i not in names]
    if missing:
        raise UserError(f'--label_list {path}: has no name for class {missing[0]} of {num_classes}')
    if len(names) > num_classes:
        raise UserError(f'--label_list {path}: names {len(names)} classes, but the model has {num_classes}')
    return names


# -- records -----------------------------------------------------------------------------------------------------------


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
    """(paths, images float32 [B, 3, S, S]) of a batch, without the files that could not be decoded."""
    good = np.asarray(batch['label']) >= 0
    paths = [files[i] for i in np.asarray(batch['index'])[good]]
    return paths, np.asarray(batch['image'])[good]


def print_and_save(records, path=''):
    """Print the records in one line, and write them to a JSON file if one is named (--save_json)."""
    print(records, flush=True)
    if path:
        try:
            with open(path, 'w', encoding='utf-8') as f:
                json.dump(records, f, ensure_ascii=False, indent=1)
        except OSError as error:
            raise UserError(f'--save_json {path}: cannot be written to ({error.strerror})')


def check_undecoded(num_files, num_records, skip_bad):
    """Raise UserError if a file has no record; with skip_bad only if no file has one. Call it after printing."""
    if num_records == 0:
        raise UserError(f'{num_files} of {num_files} images could not be decoded (named above)')
    if num_records < num_files and not skip_bad:
        raise UserError(
            f'{num_files - num_records} of {num_files} images could not be decoded (named above) and have no record; '
            '--skip_bad accepts that'
        )
