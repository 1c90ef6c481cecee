"""Checkpoints: writing them, finding them in a folder, reading them.

A checkpoint is a pickle of plain containers, numbers and numpy arrays, followed by its SHA-256. `load` also reads the
files of paddle.save, and those with objects of other classes. It calls no function that a file names.
"""

import filecmp
import hashlib
import os
import pickle
import re

import numpy as np
import paddle

from util import files
from util.errors import UserError
from util.logger import log
from util.weights import unpickle

MARK = b'\nsha256:'  # between the pickle and its SHA-256, both of which other readers of pickles ignore
TAIL = len(MARK) + 32
ENDINGS = ('.pd', '.pdparams', '.pth', '.pth.tar', '.pt', '.safetensors')
LATEST, PREVIOUS = 'checkpoint-latest.pd', 'checkpoint-previous.pd'
PADDLE_NAMES = 'StructuredToParameterName@@'  # an entry that paddle.save adds to a state dict


# -- writing ----------------------------------------------------------------------------------------------------------


def to_numpy(state):
    """Nested dicts, lists and tuples, with each tensor replaced by a numpy array; bfloat16 becomes float32."""
    if isinstance(state, paddle.Tensor):
        if state.dtype == paddle.bfloat16:
            state = state.astype('float32')
        return state.numpy()
    if isinstance(state, dict):
        return {key: to_numpy(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(to_numpy(value) for value in state)
    return state


class HashedFile:
    """A binary file that computes the SHA-256 of what is written to it."""

    def __init__(self, file):
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data):
        self.sha256.update(data)
        return self.file.write(data)


def save(state, path, *more_paths, previous=None):
    """Write `state` to `more_paths`, then to `path`, each completely or not at all. previous: see files.replacing.

    Raises UserError if that fails (disk full, no permission); the old files are then unchanged.
    """
    with files.replacing(path, *more_paths, previous=previous) as f:
        hashed = HashedFile(f)
        pickler = pickle.Pickler(hashed, protocol=4)
        pickler.fast = True  # without it the pickler keeps a copy of every array to the end
        pickler.dump(to_numpy(state))
        f.write(MARK + hashed.sha256.digest())


# -- in a folder ------------------------------------------------------------------------------------------------------


def numbered(folder):
    """Paths of the checkpoint-{epoch}.pd of a folder, newest first."""
    found = {}
    for name in os.listdir(folder):
        path, match = os.path.join(folder, name), re.fullmatch(r'checkpoint-(\d+)\.pd', name)
        if match and os.path.isfile(path):
            found[int(match[1])] = path
    return [found[epoch] for epoch in sorted(found, reverse=True)]


def of_folder(folder):
    """Paths of the files of weights in a folder, sorted by the numbers in their names. Raises UserError if none.

    Of files with the same content, such as hard links, only the first is among them; the log names the others.
    """
    names = [name for name in os.listdir(folder) if name.endswith(ENDINGS) and not name.startswith('.')]
    if not names:
        raise UserError(f'--resume {folder}: no checkpoints in this folder (looked for {" ".join(ENDINGS)})')
    paths = []
    for path in (os.path.join(folder, name) for name in sorted(names, key=_by_number)):
        same = next((other for other in paths if _are_equal(other, path)), None)
        if same:
            log(f'{path}: the same as {os.path.basename(same)}')
        else:
            paths.append(path)
    return paths


def _are_equal(path, other):
    """Whether two files are one, or have the same content."""
    try:
        return os.path.samefile(path, other) or filecmp.cmp(path, other, shallow=False)
    except OSError:  # reading it for evaluation says why
        return False


def _by_number(name):
    """Sorts checkpoint-9.pd before checkpoint-10.pd."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r'(\d+)', name)]


def tidy(folder, keep=None):
    """Delete temporary files of a killed run, and all but the newest `keep` of the numbered checkpoints."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if re.fullmatch(r'\.(checkpoint-|log\.txt\.|args\.yaml\.).*\.tmp', name) and os.path.isfile(path):
            os.unlink(path)
    if keep:
        for path in numbered(folder)[keep:]:
            os.unlink(path)


def load_newest(folder, warn):
    """(content, path) of the newest readable checkpoint of an output folder; None if the folder has no checkpoint.

    warn: a function that gets a line about each damaged file. Raises UserError if all are damaged.
    """
    if not os.path.isdir(folder):
        return None
    paths = [os.path.join(folder, LATEST), os.path.join(folder, PREVIOUS), *numbered(folder)]
    paths = [path for path in paths if os.path.lexists(path)]  # a dangling link is a damaged one
    for path in paths:
        try:
            return load(path), path
        except UserError as error:
            warn(f'warning: {error}; going back to the checkpoint before it')
    if paths:
        raise UserError(f'--resume auto: every checkpoint in {folder} is damaged; to start anew, move them away')
    return None


# -- reading ----------------------------------------------------------------------------------------------------------


def load(path):
    """The content of a checkpoint, a dict of plain containers, numpy arrays and placeholders (unpickle.py).

    Raises UserError that names the file if it is missing, damaged or not a checkpoint.
    """
    with files.reading(path, 'checkpoint'), open(path, 'rb') as f:
        _check_sha256(f)
        state = _without_names(unpickle.load(f))
        if not isinstance(state, dict):
            raise UserError(f'not a checkpoint (holds a {unpickle.kind(state)})')
        return state


def automatic_names(path):
    """{Paddle's automatic name: name in the model} from a checkpoint that paddle.save wrote; {} for other files."""
    with files.reading(path, 'checkpoint'), open(path, 'rb') as f:
        model = unpickle.load(f).get('model', {})
    named = model.items() if isinstance(model, dict) else ()
    return {value[0]: name for name, value in named if isinstance(value, tuple) and isinstance(value[0], str)}


def _check_sha256(file):
    """Raise UserError if the SHA-256 at the end of the file is not that of its content. It may be absent."""
    content_size = file.seek(0, os.SEEK_END) - TAIL
    file.seek(max(0, content_size))
    tail = file.read()
    file.seek(0)
    if not tail.startswith(MARK):
        return
    sha256, left = hashlib.sha256(), content_size
    while left:
        block = file.read(min(left, 1 << 20))
        sha256.update(block)
        left -= len(block)
    if sha256.digest() != tail[len(MARK) :]:
        raise UserError('damaged: its content has changed since it was written (SHA-256)')
    file.seek(0)


def _without_names(value):
    """Replace each (name, array) by the array. paddle.save writes such tuples for tensors inside a structure."""
    if isinstance(value, dict):
        return {key: _without_names(item) for key, item in value.items() if key != PADDLE_NAMES}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], np.ndarray):
        return value[1]
    if isinstance(value, (list, tuple)):
        return type(value)(_without_names(item) for item in value)
    return value
