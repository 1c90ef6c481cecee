"""The names of a model's classes: in label lists and in checkpoints, ImageNet's, and those of --class_list.

A name is the name of a class folder. It may hold bytes that are not UTF-8, as surrogate escapes (PEP 383).
"""

import os
import re

from util import files
from util.errors import UserError, one_line, shorten, visible

KEY = 'class_names'  # of a checkpoint: [name of class 0, name of class 1, …]
LABEL_LIST = 'label_list.txt'  # in --output_dir
DEPLOY = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'deploy')
IMAGENET_NAMES = os.path.join(DEPLOY, 'imagenet1k_label_list.txt')
IMAGENET_WORDNET_IDS = os.path.join(DEPLOY, 'imagenet1k_wordnet_ids.txt')  # the names of ImageNet's folders, by id


# -- label lists -------------------------------------------------------------------------------------------------------


def read_label_list(path):
    """{class id: name} from a file with lines `id name`. Blanks or tabs stand between them.

    A name may hold several synonyms, joined with ', '. Raises UserError.
    """
    names = {}
    for number, line in files.read_lines(path):
        found = re.fullmatch(r'([0-9]{1,9})[ \t]+(.+)', line)
        if not found:
            raise UserError(f"{path}, line {number}: expected 'id name', found '{one_line(line)}'")
        class_id, name = int(found[1]), found[2]
        if class_id in names:
            raise UserError(f'{path}, line {number}: class {class_id} has a name already')
        names[class_id] = name
    return names


def of_training_list(path, num_classes):
    """[name of class 0, …] from the file of main.py --label_list. Raises UserError, also for two equal names."""
    names = to_show(path, None, num_classes)
    ids = {}
    for i in range(num_classes):
        if names[i] in ids:
            raise UserError(
                f'--label_list {path}: classes {ids[names[i]]} and {i} are both called {one_line(names[i])}; give each '
                'a name of its own'
            )
        ids[names[i]] = i
    return list(ids)


def write_label_list(folder, names):
    """Write <folder>/label_list.txt, lines `id name`. Raises UserError."""
    text = ''.join(f'{i} {visible(name)}\n' for i, name in enumerate(names))
    files.write(os.path.join(folder, LABEL_LIST), text.encode())


# -- of a model --------------------------------------------------------------------------------------------------------


def of_checkpoint(state, path, num_classes):
    """[name of class 0, …] that a checkpoint holds; None if it has no names.

    There may be fewer names than classes. state: what weights.load.read returned for the file `path`. Raises UserError.
    """
    names = state.get(KEY)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: its entry '{KEY}' is not a list of names")
    if len(set(names)) < len(names) or len(names) > num_classes:
        raise UserError(f"{path}: its entry '{KEY}' has {len(set(names))} different names for {num_classes} classes")
    return names


def to_show(label_list, kept, num_classes):
    """{class id: name} for records, tables and pictures; may be empty.

    The names are those of the file `label_list` (None: no file); else `kept`, the names of a checkpoint (or None), of
    which WordNet ids become ImageNet's names; else ImageNet's, for 1000 classes. Raises UserError for a label list that
    does not fit the number of classes.
    """
    if not label_list:
        if kept:
            words = dict(zip(imagenet_wordnet_ids(), read_label_list(IMAGENET_NAMES).values()))
            return {i: words.get(name, visible(name)) for i, name in enumerate(kept)}
        return read_label_list(IMAGENET_NAMES) if num_classes == 1000 else {}
    names = read_label_list(label_list)
    missing = [i for i in range(num_classes) if i not in names]
    if missing:
        raise UserError(f'--label_list {label_list}: has no name for class {missing[0]} of {num_classes}')
    if len(names) > num_classes:
        raise UserError(f'--label_list {label_list}: names {len(names)} classes, but the model has {num_classes}')
    return names


def imagenet_wordnet_ids():
    """['n01440764', …]: the WordNet ids of ImageNet's 1000 classes, by class id."""
    return [line for _, line in files.read_lines(IMAGENET_WORDNET_IDS)]


# -- --class_list ------------------------------------------------------------------------------------------------------


def read_class_list(path, names, num_classes):
    """{class folder: class id} from a file with one name a line.

    The lines are all among `names`, the model's class names (or None); or all are class ids; or, for 1000 classes, all
    are WordNet ids of ImageNet. Raises UserError for another line, a repeated class and an empty file.
    """
    lines = files.read_lines(path, errors='surrogateescape')
    if not lines:
        raise UserError(f'--class_list {path}: lists no classes; it needs the name of a class on each line')
    words = [word for _, word in lines]
    meanings = [{name: i for i, name in enumerate(names or [])}]
    meanings.append({word: int(word) for word in words if re.fullmatch('[0-9]{1,9}', word) and int(word) < num_classes})
    if num_classes == 1000:
        meanings.append({name: i for i, name in enumerate(imagenet_wordnet_ids())})
    ids = max(meanings, key=lambda ids: sum(word in ids for word in words))  # of equals the first
    line_of = {}
    for number, word in lines:
        if word not in ids:
            own = f"the model's class names ({shorten(names)})" if names else 'class names, of which the model has none'
            wordnet = ' or WordNet ids of ImageNet' if num_classes == 1000 else ''
            raise UserError(
                f"--class_list {path}, line {number}: '{one_line(word)}' is not a class of the model; each line must "
                f'be one name: all {own}, or all class ids below {num_classes}{wordnet}'
            )
        if ids[word] in line_of:
            raise UserError(
                f'--class_list {path}, line {number}: class {ids[word]} is in line {line_of[ids[word]]} already'
            )
        line_of[ids[word]] = number
    return {word: ids[word] for word in words}
