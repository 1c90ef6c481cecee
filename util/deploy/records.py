"""Input images, class names and top-k records: what predict.py and infer.py share, so that they print the same."""

import json
import os

import numpy as np

from util.errors import UserError, one_line
from util.files import read_lines

IMAGENET_NAMES = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'demo', 'imagenet1k_label_list.txt'
)


def read_label_list(path):
    """{class id: name} from a file with lines `id name`; a name keeps its synonyms, joined with ', '."""
    names = {}
    for number, line in read_lines(path):
        key, _, name = line.partition(' ')
        if not key.isdecimal() or len(key) > 5 or not name:  # 5: few enough ids that they cannot collide in a dict
            raise UserError(f"{path}, line {number}: expected 'id name', found '{one_line(line)}'")
        if int(key) in names:
            raise UserError(f'{path}, line {number}: class {int(key)} has a name already')
        names[int(key)] = name
    return names


def label_names(path, num_classes):
    """{class id: name}: of the given list, else ImageNet's for 1000 classes, else none."""
    if path:
        names = read_label_list(path)
        missing = [i for i in range(num_classes) if i not in names]
        if missing:
            raise UserError(f'--label_list {path}: has no name for class {missing[0]} of {num_classes}')
        if len(names) > num_classes:
            raise UserError(f'--label_list {path}: names {len(names)} classes, but the model has {num_classes}')
        return names
    return read_label_list(IMAGENET_NAMES) if num_classes == 1000 else {}


def records(files, outputs, names, topk, are_scores=False):
    """One dict per image: class_ids and scores (softmax) of the topk classes, file_name, label_names.

    outputs: [B, C], logits, or are_scores: their softmax; names: {class id: name}, may be empty.
    """
    scores = np.asarray(outputs, 'float64')
    if not are_scores:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    result = []
    for path, row in zip(files, scores):
        best = np.argsort(-row, kind='stable')[:topk]
        result.append(
            {
                'class_ids': best.tolist(),
                'scores': [round(float(s), 5) for s in row[best]],
                'file_name': path,
                'label_names': [names.get(int(i), str(i)) for i in best],
            }
        )
    return result


def show(result, args):
    """Print the records, and write them to --save_json."""
    print(result, flush=True)
    if args.save_json:
        try:
            with open(args.save_json, 'w', encoding='utf-8') as f:
                json.dump(result, f, ensure_ascii=False, indent=1)
        except OSError as error:
            raise UserError(f'--save_json {args.save_json}: cannot be written to ({error.strerror})')


def check_bad(bad, total, skip_bad):
    """Raises UserError, after the results are out, for images that did not decode ([(file, reason)]), unless skip_bad
    allows that and there are others."""
    if bad and (len(bad) == total or not skip_bad):
        listed = ', '.join(f'{path}: cannot be decoded ({reason})' for path, reason in bad[:5])
        more = f' and {len(bad) - 5} more' if len(bad) > 5 else ''
        remedy = '' if len(bad) == total else '; with --skip_bad that is no error'
        raise UserError(f'{len(bad)} of {total} images left out: {listed}{more}{remedy}')
