"""Loads the weights of a file into a model: `load`, for the scripts, paddle.hub and training.

The content tells the format: a checkpoint of this project, a file of paddle.save or torch.save, or safetensors.
The steps of `load` are the functions read, choose and set_weights; seg/ and tools/ call them one by one.
"""

import json

import numpy as np
import safetensors

from util import class_names, files
from util.errors import UserError, one_line, shorten
from util.logger import log
from util.weights import checkpoint, settings, torch_file, unpickle
from util.weights.fit import DoesNotFit, differences, fit_heads, fit_pos_embed, without_prefix
from util.weights.torch_file import FROM_BFLOAT16, PADDLE, TORCH

TRAINED = ('model', 'state_dict')  # the names of weights in a checkpoint: this project's, PyTorch's
AVERAGED = ('model_ema', 'state_dict_ema')
WEIGHTS_ALONE = 'save model.state_dict() instead of the model'
KEPT = (class_names.KEY, settings.KEY)  # entries beside plain weights, as tools/convert_weight.py writes them
LAYOUTS = {'pt': TORCH, 'pd': PADDLE}  # the entry 'format' of a safetensors file's metadata
SAFETENSORS_DTYPES = {
    **{'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'BF16': 'u2', 'BOOL': 'b1'},
    **{'I64': 'i8', 'I32': 'i4', 'I16': 'i2', 'I8': 'i1', 'U64': 'u8', 'U32': 'u4', 'U16': 'u2', 'U8': 'u1'},
}


def load(model, path, ema=False, new_heads=False, resize=False):
    """Load the weights of the file `path` into a model, and log which they are. Returns what `read` returned.

    ema: take the averaged weights of a checkpoint. resize: resize a position embedding of another token grid.
    new_heads: True: heads that do not fit keep their initial weights; 'all': every head does.
    Raises UserError that names the file if it cannot be read or its weights do not fit; the model is then unchanged.
    """
    state = read(path)
    load_state(model, state, path, ema, new_heads, resize)
    return state


def load_state(model, state, path, ema=False, new_heads=False, resize=False):
    """As `load`, for a file whose content `state` was read before."""
    weights, source = choose(state, path, ema)
    of_file = without_prefix(weights, path, model.state_dict())
    weights, notes = of_file, []
    if resize:
        weights, notes = fit_pos_embed(weights, model.grid)
    if new_heads:
        weights, notes_of_heads = fit_heads(weights, model.state_dict(), new_heads == 'all')
        notes = notes_of_heads + notes
    try:
        set_weights(model, weights, path)
    except DoesNotFit as error:
        error.path, error.weights = path, of_file
        raise
    for line in [f'using {source}', *notes]:
        log(line)


# -- what a file holds ------------------------------------------------------------------------------------------------


def read(path):
    """The content of a file of weights: a dict of plain containers and numpy arrays, in Paddle's layout.

    The content is a state dict, or a checkpoint with state dicts in it; of a PyTorch checkpoint only these are kept.
    bfloat16 becomes float32. Objects of other classes are placeholders (unpickle.py); the log names their classes.
    Calls no function that the file names. Raises UserError that names the file.
    """
    state, layout = read_as_written(path)
    return state if layout == PADDLE else _for_each_set(state, torch_file.to_paddle)


def read_as_written(path):
    """(content, layout of the file, TORCH or PADDLE): as `read`, but the content keeps that layout."""
    try:
        with open(path, 'rb') as f:
            head = f.read(32)
    except OSError:
        head = b''  # checkpoint.load raises the error
    if head[8:9] == b'{':  # safetensors: 8 bytes with the length of a header, and the header, which is JSON
        state, layout = _read_safetensors(path)
    elif torch_file.is_torch_file(head):
        state, layout = _read_torch(path), TORCH
    else:
        state, layout = _read_paddle(path), PADDLE
    kept = {name: state[name] for name in KEPT if name in state}
    if kept and not _sets(state):
        state = {'model': {name: value for name, value in state.items() if name not in KEPT}, **kept}
    return state, layout


def _read_paddle(path):
    """The content of a checkpoint of ours or a file of paddle.save, which writes bfloat16 as uint16."""
    state = checkpoint.load(path)
    _log_placeholders(state, path)
    arrays = [value for weights in (_sets(state) or {'': state}).values() for value in weights.values()]
    if not any(getattr(value, 'dtype', None) == np.uint16 for value in arrays):
        return state
    log(f'{path}: {FROM_BFLOAT16}')
    return _for_each_set(state, _from_uint16)


def _from_uint16(weights):
    """A state dict with its uint16 arrays, which hold bfloat16, as float32."""
    return {
        key: torch_file.bfloat16_to_float32(value) if getattr(value, 'dtype', None) == np.uint16 else value
        for key, value in weights.items()
    }


def _log_placeholders(state, path):
    classes = sorted(unpickle.placeholders(state))
    if classes:
        log(f'{path}: not read, because they are no weights: objects of {shorten(classes, 5)}')


def _read_torch(path):
    """A state dict, or the state dicts of a checkpoint by their names."""
    notes = []
    state = torch_file.load_file(path, notes)
    if not isinstance(state, dict):
        raise UserError(f'{path}: no state dict (holds a {unpickle.kind(state)}); {WEIGHTS_ALONE}')
    for line in notes:
        log(f'{path}: {line}')
    _log_placeholders(state, path)
    sets = _sets(state)
    others = [str(key) for key in state if key not in sets]
    if sets and others:
        log(f'{path}: of a PyTorch checkpoint only the weights are used, not {one_line(", ".join(others))}')
    return sets or state


def _read_safetensors(path):
    """(state dict, with the entries of KEPT that the file has; its layout).

    bfloat16 becomes float32, because numpy has no bfloat16.
    """
    weights, found = {}, set()
    with files.reading(path, 'safetensors file'), open(path, 'rb') as f:
        for name, entry in sorted(safetensors.deserialize(f.read())):
            found.add(entry['dtype'])
            array = np.frombuffer(entry['data'], SAFETENSORS_DTYPES[entry['dtype']]).reshape(entry['shape'])
            weights[name] = torch_file.bfloat16_to_float32(array) if entry['dtype'] == 'BF16' else array
        with safetensors.safe_open(path, framework='numpy') as header:
            metadata = header.metadata() or {}
        kept = {name: json.loads(metadata[name]) for name in KEPT if name in metadata}
    layout = LAYOUTS.get(metadata.get('format')) or torch_file.guess_layout(weights, path)
    if 'BF16' in found:
        log(f'{path}: {FROM_BFLOAT16}')
    return {**weights, **kept}, layout


def _sets(state):
    """{name: state dict} of a checkpoint; {} if the content is itself a state dict."""

    def is_state_dict(value):
        return len(value) > 0 and all(isinstance(item, np.ndarray) for item in value.values())

    return {
        key: value
        for key, value in state.items()
        if isinstance(value, dict) and (key in TRAINED + AVERAGED or is_state_dict(value))
    }


def _for_each_set(state, change):
    """The content of a file with each state dict replaced by what change(state dict) returns."""
    sets = _sets(state)
    if not sets:
        return change(state)
    return {**state, **{key: change(weights) for key, weights in sets.items()}}


# -- which weights of the file ----------------------------------------------------------------------------------------


def choose(state, path, ema=False):
    """(state dict, description for the log) from what `read` returned: the trained weights, with ema the averaged ones.

    Raises UserError if the file does not have them.
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
            _check_arrays(state, path)
            return state, f'plain weights of {path}'
        if len(sets) > 1:
            found = one_line(', '.join(map(str, sets)))
            raise UserError(
                f'{path}: holds several sets of weights ({found}), none of them called {" or ".join(TRAINED)}'
            )
        trained = sets[0]
    also = '; it also holds averaged weights, which --ema selects' if averaged else ''
    return state[trained], f'trained weights ({trained}) of {path}{also}'


def _check_arrays(state, path):
    """Raise UserError if the content of a file has no arrays."""
    if any(isinstance(value, np.ndarray) for value in state.values()):
        return
    for key, value in state.items():
        if isinstance(value, unpickle.Inert):
            raise UserError(f'{path}: holds no weights; {one_line(key)} is a {unpickle.kind(value)}; {WEIGHTS_ALONE}')
    raise UserError(
        f'{path}: holds no weights; {"it has " + one_line(", ".join(map(str, state))) if state else "it is empty"}'
    )


def has_average(state):
    """Whether what `read` returned holds averaged weights."""
    return _first_of(AVERAGED, state) is not None


def _first_of(names, state):
    """The first of `names` under which `state` has a state dict, or None."""
    return next((name for name in names if isinstance(state.get(name), dict)), None)


# -- into a model -----------------------------------------------------------------------------------------------------


def set_weights(model, weights, path, hint='; check --model, --input_size and --nb_classes'):
    """Set all weights of a model, in the model's own dtypes. weights: {name: array}.

    Raises DoesNotFit, which names the first differences and ends with `hint`, and UserError for weights that are not
    finite. The model is then unchanged.
    """
    own = model.state_dict()
    problems = differences(own, weights)
    if problems:
        raise DoesNotFit(f'{path}: does not fit this model: {_shown(problems, own, weights)}{hint}')
    dtypes = {key: str(value.dtype).split('.')[-1] for key, value in own.items()}
    with np.errstate(over='ignore'):  # a float64 may be infinite in float32
        arrays = {key: np.asarray(value, dtypes[key], order='C') for key, value in weights.items()}
    broken = [key for key, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(
            f'{path}: {len(broken)} of {len(arrays)} weights are not finite (NaN or infinite), the first is '
            f'{broken[0]}; use an earlier checkpoint, or get the file again'
        )
    model.set_state_dict(arrays)


def _shown(problems, own, weights):
    """The first three of `differences`; if most names differ, three names of the file and three of the model."""
    new, missing = [key for key in weights if key not in own], [key for key in own if key not in weights]
    if 2 * len(missing) > len(own):
        return (
            f'only {len(weights) - len(new)} of its {len(weights)} names are in the model; the file has '
            f'{one_line(", ".join(map(str, new[:3])))} …, the model {", ".join(missing[:3])} …'
        )
    return shorten(problems, 3)
