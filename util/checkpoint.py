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


def load_weights(path, ema=False):
    """(state dict, what it is) from a training checkpoint or a plain state dict such as a `.pdparams` file.

    ema: take the averaged weights; without it the trained ones. The second value is for the user to read.
    """
    return pick_weights(load(path), path, ema)


def pick_weights(state, path, ema=False):
    """load_weights of a file that is loaded already."""
    if ema:
        if 'model_ema' not in state:
            raise UserError(f'{path}: holds no averaged weights (model_ema); leave out --ema')
        return state['model_ema'], f'averaged weights (model_ema) of {path}'
    if 'model' in state and isinstance(state['model'], dict):
        also = '; it also holds averaged weights, which --ema selects' if 'model_ema' in state else ''
        return state['model'], f'trained weights (model) of {path}{also}'
    return state, f'plain weights of {path}'


def check_fit(model, weights, path):
    """Raises UserError that names the first keys if `weights` are not those of `model`."""
    own = model.state_dict()
    problems = [f'missing {k}' for k in own if k not in weights]
    problems += [f'unexpected {k}' for k in weights if k not in own]
    problems += [f'{k} is {list(np.shape(weights[k]))} in the file and {list(own[k].shape)} in the model'
                 for k in own if k in weights and list(np.shape(weights[k])) != list(own[k].shape)]
    if problems:
        more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
        raise UserError(f"{path}: does not fit this model: {', '.join(problems[:3])}{more}; "
                        'check --model, --input_size and --nb_classes')


def restore(model, weights, path):
    """Set all of a model's weights, or raise UserError (see check_fit) and set none."""
    check_fit(model, weights, path)
    model.set_state_dict({k: np.asarray(v) for k, v in weights.items()})


def load_into(model, path, ema=False):
    """Load the weights that --resume and --ema name into a model; returns a line that says which. Raises UserError."""
    if not path:
        raise UserError('--resume is missing: the checkpoint or .pdparams file to use')
    weights, source = load_weights(path, ema)
    restore(model, weights, path)
    return f'using {source}'


def resize_pos_embed(array, grid):
    """Position embedding [1, N+1, D] for another token grid [1, grid²+1, D]: class token kept, the rest bicubic."""
    cls, patches = array[:, :1], np.asarray(array[:, 1:], 'float32')
    old = round(patches.shape[1] ** 0.5)
    square = paddle.to_tensor(patches.reshape(1, old, old, -1).transpose(0, 3, 1, 2))
    resized = paddle.nn.functional.interpolate(square, size=[grid, grid], mode='bicubic', align_corners=False)
    return np.concatenate([cls, resized.numpy().transpose(0, 2, 3, 1).reshape(1, grid * grid, -1)], axis=1)


def finetune(model, weights, path, remove_head=False):
    """Start `model` from other weights: heads of another class count (or all, with remove_head) are left as
    initialised and the position embedding is resized. Returns lines that say what was done; other misfits raise.
    """
    own, weights, notes = model.state_dict(), dict(weights), []
    for key in ('head.weight', 'head.bias', 'aux_head.weight', 'aux_head.bias'):
        if key in own and (remove_head or key not in weights or list(np.shape(weights[key])) != list(own[key].shape)):
            weights[key] = own[key].numpy()
            notes.append(f'{key}: initialised anew')
        elif key not in own and weights.pop(key, None) is not None:
            notes.append(f'{key}: not used, this model has none')
    pos_embed = weights.get('pos_embed')
    if pos_embed is not None and np.shape(pos_embed)[1] != own['pos_embed'].shape[1]:
        weights['pos_embed'] = resize_pos_embed(np.asarray(pos_embed), model.grid)
        notes.append(f'pos_embed: resized from {np.shape(pos_embed)[1] - 1} to {model.grid ** 2} tokens')
    restore(model, weights, path)
    return notes
