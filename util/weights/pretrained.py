"""Weights of a file into a model: which files, which of their weights, whether they fit, what fine-tuning changes."""

import os

import numpy as np
import paddle

from util.errors import UserError, one_line
from util.logger import log
from util.weights import checkpoint, layout, safetensors_file, torch_file

TRAINED = ('model', 'state_dict')  # what a checkpoint calls its weights: ours, PyTorch's projects
AVERAGED = ('model_ema', 'state_dict_ema')
HEADS = ('head.weight', 'head.bias', 'aux_head.weight', 'aux_head.bias')


# -- which weights ----------------------------------------------------------------------------------------------------


def read(path):
    """The content of a file of weights as plain containers and arrays, in the file's own layout: a checkpoint of ours,
    what paddle.save or torch.save wrote, or safetensors. Recognised by content, not by name; executes nothing.

    Of a checkpoint of PyTorch only the sets of weights: its optimizer state, epoch and so on mean nothing here, and
    are named in the log. Raises UserError that names the file.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise UserError(f'{path}: not a file')
    if safetensors_file.is_safetensors_file(path):
        return safetensors_file.load(path, log)
    if not torch_file.is_torch_file(path):
        return checkpoint.load(path)
    state = torch_file.load(path, log)
    if not isinstance(state, dict):
        raise UserError(f'{path}: no state dict (holds a {type(state).__name__})')
    weights = {
        key: value
        for key, value in state.items()
        if is_weights(value) or (isinstance(value, dict) and key in TRAINED + AVERAGED)
    }
    others = [str(key) for key in state if key not in weights]
    if weights and others:
        log(f'{path}: of a PyTorch checkpoint only the weights are used, not {one_line(", ".join(others))}')
    return weights or state


def is_weights(value):
    """Whether something is a state dict: named arrays and nothing else."""
    return isinstance(value, dict) and len(value) > 0 and all(isinstance(v, np.ndarray) for v in value.values())


def holds_average(state):
    """Whether --ema has something to take from what `read` returned."""
    return _set(state, AVERAGED) is not None


def _set(state, names):
    """The first of `names` under which `state` has weights, or None."""
    return next((name for name in names if isinstance(state.get(name), dict)), None)


def choose(state, path, ema=False):
    """(key or None, state dict in the file's layout, what it is) of what `read` returned.

    ema: the averaged weights; without it the trained ones. The last value is for the user to read.
    """
    trained, averaged = _set(state, TRAINED), _set(state, AVERAGED)
    if ema and averaged is None:
        raise UserError(f'{path}: holds no averaged weights (model_ema); leave out --ema')
    if not ema and averaged and trained is None:
        raise UserError(f'{path}: holds averaged weights ({averaged}) only; add --ema')
    if trained is averaged is None:
        sets = [key for key, value in state.items() if is_weights(value)]
        if len(sets) > 1:
            found = one_line(', '.join(map(str, sets)))
            raise UserError(
                f'{path}: holds several sets of weights ({found}), none of them called {" or ".join(TRAINED)}'
            )
        trained = sets[0] if sets else None
    key = averaged if ema else trained
    what = f'{"averaged" if ema else "trained"} weights ({key})' if key else 'plain weights'
    also = '; it also holds averaged weights, which --ema selects' if averaged and not ema else ''
    return key, layout.unwrapped(state[key] if key else state), f'{what} of {path}{also}'


def pick_weights(state, path, ema=False):
    """(state dict in Paddle's layout, what it is) of what `read` returned; see choose."""
    _, weights, source = choose(state, path, ema)
    weights, notes = layout.to_paddle(weights, path)
    return weights, '; '.join([source, *notes])


def load_weights(path, ema=False):
    """pick_weights of a file."""
    return pick_weights(read(path), path, ema)


# -- into a model -----------------------------------------------------------------------------------------------------


def misfits(own, weights):
    """How `weights` differ from `own`, the state dict of a model: [str], each beginning with what is wrong of a key."""
    problems = [f'missing {key}' for key in own if key not in weights]
    problems += [f'unexpected {one_line(key)}' for key in weights if key not in own]
    for key in own:
        value = weights.get(key, own[key])
        if not isinstance(value, (np.ndarray, paddle.Tensor)):
            problems.append(f'{key} is a {type(value).__name__} in the file')
        elif list(value.shape) != list(own[key].shape):
            problems.append(f'{key} is {list(value.shape)} in the file and {list(own[key].shape)} in the model')
        elif isinstance(value, np.ndarray) and value.dtype.kind != 'f':
            problems.append(f'{key} is {value.dtype} in the file')
    return problems


def check_fit(model, weights, path):
    """Raises UserError that names the first keys if `weights` are not those of `model`."""
    problems = misfits(model.state_dict(), weights)
    if problems:
        more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
        raise UserError(
            f'{path}: does not fit this model: {", ".join(problems[:3])}{more}; '
            'check --model, --input_size and --nb_classes'
        )


def restore(model, weights, path):
    """Set all of a model's weights, in the model's own precision, or raise UserError (see check_fit) and set none."""
    check_fit(model, weights, path)
    dtypes = {key: str(value.dtype).split('.')[-1] for key, value in model.state_dict().items()}
    model.set_state_dict({key: np.asarray(value, dtypes[key], order='C') for key, value in weights.items()})


def load_into(model, path, ema=False):
    """Load the weights that --resume and --ema name into a model; returns a line that says which. Raises UserError."""
    if not path:
        raise UserError('--resume is missing: the checkpoint or state dict (.pdparams, .pth, .safetensors) to use')
    weights, source = load_weights(path, ema)
    restore(model, weights, path)
    return f'using {source}'


# -- from another model -----------------------------------------------------------------------------------------------


def resize_pos_embed(array, grid):
    """Position embedding [1, N+1, D] for another token grid [1, grid²+1, D]: class token kept, the rest bicubic."""
    cls, patches = array[:, :1], np.asarray(array[:, 1:], 'float32')
    old = round(patches.shape[1] ** 0.5)
    square = paddle.to_tensor(patches.reshape(1, old, old, -1).transpose(0, 3, 1, 2))
    resized = paddle.nn.functional.interpolate(square, size=[grid, grid], mode='bicubic', align_corners=False)
    return np.concatenate([cls, resized.numpy().transpose(0, 2, 3, 1).reshape(1, grid * grid, -1)], axis=1)


def fit_pos_embed(weights, model):
    """(weights, lines that say what was done): with the position embedding of the model's token grid, if there is
    one of another grid. What is no grid, and another width, is left for check_fit to name."""
    shape = getattr(weights.get('pos_embed'), 'shape', ())
    tokens = shape[1] - 1 if len(shape) == 3 else 0
    if tokens < 1 or tokens == model.grid**2 or round(tokens**0.5) ** 2 != tokens:
        return weights, []
    resized = resize_pos_embed(np.asarray(weights['pos_embed']), model.grid)
    return {**weights, 'pos_embed': resized}, [f'pos_embed: resized from {tokens} to {model.grid**2} tokens']


def finetune(model, weights, path, remove_head=False):
    """Start `model` from other weights: heads of another class count (or all, with remove_head) are left as
    initialised and the position embedding is resized. Returns lines that say what was done; other misfits raise.
    """
    own, (weights, resized) = model.state_dict(), fit_pos_embed(dict(weights), model)
    notes = []
    for key in HEADS:
        fits = list(getattr(weights.get(key), 'shape', ())) == list(own[key].shape) if key in own else False
        if key in own and (remove_head or not fits):
            weights[key] = own[key].numpy()
            notes.append(f'{key}: initialised anew')
        elif key not in own and weights.pop(key, None) is not None:
            notes.append(f'{key}: not used, this model has none')
    restore(model, weights, path)
    return notes + resized
