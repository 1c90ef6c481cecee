"""Input images, class names and top-k records: what predict.py and infer.py share, so that they print the same."""
import glob
import json
import os

import numpy as np

from util.datasets import UNREADABLE, is_image, open_rgb
from util.runtime import UserError

IMAGENET_NAMES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                              'demo', 'imagenet1k_label_list.txt')


def find_images(inputs):
    """Image files named by files, folders (searched recursively, sorted) and glob patterns, in the order given.

    Raises UserError for an input that names no image.
    """
    found = []
    for item in inputs:
        if os.path.isdir(item):
            here = [os.path.join(root, name) for root, _, names in os.walk(item) for name in names if is_image(name)]
        elif os.path.isfile(item):
            here = [item]
        else:
            here = [path for path in glob.glob(item, recursive=True) if os.path.isfile(path) and is_image(path)]
        if not here:
            raise UserError(f'{item}: no such file, or no images there (.jpg .jpeg .png .bmp .webp)')
        found += sorted(here)
    return found


def read_label_list(path):
    """{class id: name} from a file with lines `id name`; a name keeps its synonyms, joined with ', '."""
    names = {}
    try:
        with open(path, encoding='utf-8') as f:
            for number, line in enumerate(f, 1):
                key, _, name = line.strip().partition(' ')
                if not line.strip():
                    continue
                if not key.isdecimal() or not name:
                    raise UserError(f"{path}, line {number}: expected 'id name', found '{line.strip()}'")
                names[int(key)] = name
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'--label_list {path}: not a readable label list ({error})')
    return names


def label_names(path, num_classes):
    """{class id: name}: of the given list, else ImageNet's for 1000 classes, else none."""
    if path:
        names = read_label_list(path)
        missing = [i for i in range(num_classes) if i not in names]
        if missing:
            raise UserError(f'--label_list {path}: has no name for class {missing[0]} of {num_classes}')
        return names
    return read_label_list(IMAGENET_NAMES) if num_classes == 1000 else {}


def load_batch(files, transform):
    """float32 [B, 3, S, S] of image files. Raises UserError that names the file that cannot be decoded."""
    arrays = []
    for path in files:
        try:
            arrays.append(transform(open_rgb(path)))
        except UNREADABLE as error:
            raise UserError(f'{path}: cannot be decoded ({error})')
    return np.stack(arrays)


def records(files, logits, names, topk):
    """One dict per image: class_ids and scores (softmax) of the topk classes, file_name, label_names.

    logits: [B, C]; names: {class id: name}, may be empty.
    """
    logits = np.asarray(logits, 'float64')
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    result = []
    for path, row in zip(files, scores):
        best = np.argsort(-row, kind='stable')[:topk]
        result.append({'class_ids': best.tolist(), 'scores': [round(float(s), 5) for s in row[best]],
                       'file_name': path, 'label_names': [names.get(int(i), str(i)) for i in best]})
    return result


def save_json(result, path):
    try:
        with open(path, 'w', encoding='utf-8') as f:
            json.dump(result, f, ensure_ascii=False, indent=1)
    except OSError as error:
        raise UserError(f'--save_json {path}: cannot be written to ({error.strerror})')
