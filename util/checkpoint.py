"""Checkpoints: written so that a crash loses nothing, read so that a stranger's file executes nothing.

A file is a pickle of plain containers, numbers and numpy arrays. `load` knows these, Paddle's own `.pdparams`/`.pd`
layouts and old files whose `args` is an argparse.Namespace, and refuses everything else by name.
"""
import os
import pickle
import tempfile

import numpy as np
import paddle

from util import safe_pickle
from util.runtime import UserError


# -- writing ----------------------------------------------------------------------------------------------------------

def to_numpy(state):
    """Replace tensors by numpy arrays in nested dicts, lists and tuples."""
    if isinstance(state, paddle.Tensor):
        if state.dtype == paddle.bfloat16:
            state = state.astype('float32')
        return state.numpy()
    if isinstance(state, dict):
        return {key: to_numpy(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(to_numpy(value) for value in state)
    return state


def save(state, path):
    """Write `state` to `path`: a temporary file in the same folder, synced, then renamed over the old one.

    Raises UserError if that fails (disk full, no permission); the file that was there before is untouched then.
    """
    folder = os.path.dirname(os.path.abspath(path))
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix='.' + os.path.basename(path) + '.', suffix='.tmp', dir=folder)
        with os.fdopen(handle, 'wb') as f:
            pickle.dump(to_numpy(state), f, protocol=4)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        folder_handle = os.open(folder, os.O_RDONLY)
        os.fsync(folder_handle)
        os.close(folder_handle)
    except OSError as error:
        raise UserError(f'{path}: could not be written ({error.strerror or error}); what was saved before is untouched')
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def check_writable(folder):
    """Create an output folder and try to write into it. Raises UserError if that is impossible."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f'--output_dir {folder}: cannot be written to ({error.strerror or error})')


# -- reading ----------------------------------------------------------------------------------------------------------

def _plain(value):
    """Undo the layouts of paddle.save: a tensor inside a structure is the tuple (name, array)."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if key != 'StructuredToParameterName@@'}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], np.ndarray):
        return value[1]
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value


def load(path):
    """The content of a checkpoint as plain containers and arrays; executes nothing that the file asks for.

    Raises UserError that names the file: missing, truncated, not a checkpoint, or asking for something else.
    """
    try:
        with open(path, 'rb') as f:
            state = _plain(safe_pickle.load(f))
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})')
    except UserError as error:
        raise UserError(f'{path}: {error}')
    if not isinstance(state, dict):
        raise UserError(f'{path}: not a checkpoint (holds a {type(state).__name__})')
    return state
