"""Weights of a file into a model, in this order:

    state = read(path)                         what the file holds, in Paddle's layout
    weights, source = choose(state, path)      one state dict of it: the trained weights or their average
    set_weights(model, weights, path)          into a model that they fit, or
    finetune(model, weights, path)             into one with other heads or another input size

read_weights is the first two, load_into the first three.
"""

import os
import struct

import numpy as np
import paddle
import safetensors

from util.errors import UserError, one_line
from util.logger import log
from util.weights import checkpoint, layout, torch_file
from util.weights.reading import reading

TRAINED = ('model', 'state_dict')  # what a checkpoint calls its weights: ours, PyTorch's projects
AVERAGED = ('model_ema', 'state_dict_ema')
HEADS = ('head.weight', 'head.bias', 'aux_head.weight', 'aux_head.bias')
LAYOUTS = {'pt': layout.TORCH, 'pd': layout.PADDLE}  # what safetensors say of themselves
DATA_PARALLEL = 'module.'  # what torch.nn.DataParallel puts in front of every name
BFLOAT16 = 'BF16'
SAFETENSORS_DTYPES = {
    **{'F64': 'f8', 'F32': 'f4', 'F16': 'f2', BFLOAT16: 'u2', 'BOOL': 'b1'},
    **{'I64': 'i8', 'I32': 'i4', 'I16': 'i2', 'I8': 'i1', 'U64': 'u8', 'U32': 'u4', 'U16': 'u2', 'U8': 'u1'},
}


# -- what a file holds ------------------------------------------------------------------------------------------------


def read(path):
    """The content of a file of weights as plain containers and arrays in Paddle's layout: a checkpoint of ours, what
    paddle.save or torch.save wrote, or safetensors. Recognised by content, not by name; executes nothing.

    Of a checkpoint of PyTorch only the sets of weights; the log names the rest. Raises UserError that names the file.
    """
    state, its_layout = read_as_written(path)
    if its_layout == layout.PADDLE:
        return state
    weights = next(iter(_sets(state).values()), state)  # the first set, or all of a file that is one
    if layout.counters(weights):
        log(f'{path}: left out, for Paddle has no such counter: {layout.counters(weights)}')
    return _with_each_set(state, layout.to_paddle)


def read_as_written(path):
    """(content, layout.TORCH or layout.PADDLE) of a file of weights, in that layout; see `read`."""
    if _is_safetensors(path):
        state, its_layout = _read_safetensors(path)
    elif torch_file.is_torch_file(path):
        state, its_layout = _read_torch(path), layout.TORCH
    else:
        state, its_layout = checkpoint.load(path), layout.PADDLE
    return _with_each_set(state, _without_prefix), its_layout


def _read_torch(path):
    """A state dict, or several of them by their names in a checkpoint."""
    state = torch_file.load_file(path, log)
    if not isinstance(state, dict):
        raise UserError(f'{path}: no state dict (holds a {type(state).__name__})')
    sets = _sets(state)
    others = [str(key) for key in state if key not in sets]
    if sets and others:
        log(f'{path}: of a PyTorch checkpoint only the weights are used, not {one_line(", ".join(others))}')
    return sets or state


def _is_safetensors(path):
    """Whether a file begins with the length of a header and a bracket; False for one that cannot be read."""
    try:
        with open(path, 'rb') as f:
            head = f.read(9)
            size = os.fstat(f.fileno()).st_size
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b'{' and struct.unpack('<Q', head[:8])[0] <= size - 8


def _read_safetensors(path):
    """(state dict, its layout). bfloat16 becomes float32, which numpy knows."""
    weights, bfloat16 = {}, 0
    with reading(path, 'safetensors file'), open(path, 'rb') as f:
        for name, entry in sorted(safetensors.deserialize(f.read())):
            array = np.frombuffer(entry['data'], SAFETENSORS_DTYPES[entry['dtype']]).reshape(entry['shape'])
            if entry['dtype'] == BFLOAT16:
                array, bfloat16 = torch_file.widened(array), bfloat16 + 1
            weights[name] = array
        with safetensors.safe_open(path, framework='numpy') as header:
            label = (header.metadata() or {}).get('format')
    if bfloat16:
        log(f'{path}: {bfloat16} tensors in bfloat16 are read as float32')
    return weights, LAYOUTS.get(label) or layout.guess(weights, path)


def _is_weights(value):
    """Whether something is a state dict: named arrays and nothing else."""
    return isinstance(value, dict) and len(value) > 0 and all(isinstance(v, np.ndarray) for v in value.values())


def _sets(state):
    """The state dicts in a checkpoint by their names; none in a file that is one itself."""
    return {
        key: value
        for key, value in state.items()
        if _is_weights(value) or (isinstance(value, dict) and key in TRAINED + AVERAGED)
    }


def _with_each_set(state, change):
    """What a file holds, each state dict replaced by change(it)."""
    sets = _sets(state)
    if not sets:
        return change(state)
    return {**state, **{key: change(weights) for key, weights in sets.items()}}


def _without_prefix(weights):
    """A state dict without the prefix of torch.nn.DataParallel, if all names have it."""
    if weights and all(isinstance(key, str) and key.startswith(DATA_PARALLEL) for key in weights):
        return {key[len(DATA_PARALLEL) :]: value for key, value in weights.items()}
    return weights


# -- which of its weights ---------------------------------------------------------------------------------------------


def choose(state, path, ema=False):
    """(state dict, what it is) of what `read` returned; the latter is for the user to read.

    ema: the averaged weights; without it the trained ones. Raises UserError if they are not there.
    """
    trained, averaged = _first_of(TRAINED, state), _first_of(AVERAGED, state)
    if ema:
        if averaged is None:
            raise UserError(f'{path}: holds no averaged weights (model_ema); leave out --ema')
        return state[averaged], f'averaged weights ({averaged}) of {path}'
    if trained is None and averaged:
        raise UserError(f'{path}: holds averaged weights ({averaged}) only; add --ema')
    if trained is None:
        sets = list(_sets(state))
        if not sets:
            return state, f'plain weights of {path}'
        if len(sets) > 1:
            found = one_line(', '.join(map(str, sets)))
            raise UserError(
                f'{path}: holds several sets of weights ({found}), none of them called {" or ".join(TRAINED)}'
            )
        trained = sets[0]
    also = '; it also holds averaged weights, which --ema selects' if averaged else ''
    return state[trained], f'trained weights ({trained}) of {path}{also}'


def holds_average(state):
    """Whether --ema has something to choose from what `read` returned."""
    return _first_of(AVERAGED, state) is not None


def _first_of(names, state):
    """The first of `names` under which `state` has a state dict, or None."""
    return next((name for name in names if isinstance(state.get(name), dict)), None)


def read_weights(path, ema=False):
    """choose(read(path))"""
    return choose(read(path), path, ema)


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


def set_weights(model, weights, path):
    """Set all of a model's weights, in the model's own precision. Raises UserError that names the first keys, and sets
    none, if `weights` are not those of this model."""
    own = model.state_dict()
    problems = misfits(own, weights)
    if problems:
        more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
        raise UserError(
            f'{path}: does not fit this model: {", ".join(problems[:3])}{more}; '
            'check --model, --input_size and --nb_classes'
        )
    dtypes = {key: str(value.dtype).split('.')[-1] for key, value in own.items()}
    model.set_state_dict({key: np.asarray(value, dtypes[key], order='C') for key, value in weights.items()})


def load_into(model, path, ema=False):
    """Load the weights that --resume and --ema name into a model; returns a line that says which. Raises UserError."""
    if not path:
        raise UserError('--resume is missing: the checkpoint or state dict (.pd, .pth, .safetensors); or --pretrained')
    weights, source = read_weights(path, ema)
    set_weights(model, weights, path)
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
    one of another grid. What is no grid, and another width, is left for set_weights to name."""
    shape = getattr(weights.get('pos_embed'), 'shape', ())
    num_tokens = shape[1] - 1 if len(shape) == 3 else 0
    if num_tokens < 1 or num_tokens == model.grid**2 or round(num_tokens**0.5) ** 2 != num_tokens:
        return weights, []
    resized = resize_pos_embed(np.asarray(weights['pos_embed']), model.grid)
    return {**weights, 'pos_embed': resized}, [f'pos_embed: resized from {num_tokens} to {model.grid**2} tokens']


def finetune(model, weights, path, remove_head=False):
    """Start `model` from other weights: heads of another class count (or all, with remove_head) are left as
    initialised and the position embedding is resized. Returns lines that say what was done; other misfits raise.
    """
    own = model.state_dict()
    resized, resizing_notes = fit_pos_embed(weights, model)
    weights, notes = dict(resized), []
    for key in HEADS:
        if key not in own:
            if weights.pop(key, None) is not None:
                notes.append(f'{key}: not used, this model has none')
        elif remove_head or list(getattr(weights.get(key), 'shape', ())) != list(own[key].shape):
            weights[key] = own[key].numpy()
            notes.append(f'{key}: initialised anew')
    set_weights(model, weights, path)
    return notes + resizing_notes
