"""How the weights of a file fit a model, and changes that make them fit: names, position embedding and heads."""

import numpy as np
import paddle

from util.errors import UserError, one_line
from util.logger import log
from util.weights import unpickle

HEADS = ('head.weight', 'head.bias', 'aux_head.weight', 'aux_head.bias')
WRAPPERS = ('module.', '_orig_mod.')  # prefixes of all names with torch.nn.DataParallel and torch.compile
PREFIXES = (*WRAPPERS, 'model.', 'backbone.')  # and of networks in other projects' classes


def without_prefix(weights, path, own=None):
    """A state dict without the prefix that all its names share; logs which.

    own: the names of a model. The prefix, made of PREFIXES, is the one that leaves the most names of the model; of
    several, the shortest. Without `own` it is the longest made of WRAPPERS.
    """
    prefixes = _shared_prefixes(weights, PREFIXES if own else WRAPPERS)
    if own:
        prefix = max(prefixes, key=lambda prefix: sum(str(name)[len(prefix) :] in own for name in weights))
    else:
        prefix = prefixes[-1]
    if not prefix:
        return weights
    log(f"{path}: the prefix '{prefix}' of all names is taken off")
    return {name[len(prefix) :]: value for name, value in weights.items()}


def _shared_prefixes(names, parts):
    """The prefixes made of `parts` that all names share, the shortest ('') first."""
    found = ['']
    while names:
        longer = [found[-1] + part for part in parts]
        shared = [prefix for prefix in longer if all(str(name).startswith(prefix) for name in names)]
        if not shared:
            break
        found += shared
    return found


def fit_pos_embed(weights, grid):
    """(weights, lines for the log), the position embedding resized to grid x grid tokens.

    An embedding that belongs to no square grid is not changed; set_weights then refuses it by name.
    """
    shape = getattr(weights.get('pos_embed'), 'shape', ())
    num_tokens = shape[1] - 1 if len(shape) == 3 else 0
    if num_tokens < 1 or num_tokens == grid**2 or round(num_tokens**0.5) ** 2 != num_tokens:
        return weights, []
    resized = resize_pos_embed(np.asarray(weights['pos_embed']), grid)
    return {**weights, 'pos_embed': resized}, [f'pos_embed: resized from {num_tokens} to {grid**2} tokens']


def resize_pos_embed(array, grid):
    """Position embedding [1, N+1, D] -> [1, grid²+1, D]: the class token's is kept, the others are bicubic."""
    cls, patches = array[:, :1], np.asarray(array[:, 1:], 'float32')
    old = round(patches.shape[1] ** 0.5)
    square = paddle.to_tensor(patches.reshape(1, old, old, -1).transpose(0, 3, 1, 2))
    resized = paddle.nn.functional.interpolate(square, size=[grid, grid], mode='bicubic', align_corners=False)
    return np.concatenate([cls, resized.numpy().transpose(0, 2, 3, 1).reshape(1, grid * grid, -1)], axis=1)


def fit_heads(weights, own, all_heads=False):
    """(weights, lines for the log), heads that do not fit replaced by the model's, or with all_heads all of them.

    own: the state dict of the model. Heads that the model does not have are left out.
    """
    weights, notes = dict(weights), []
    for key in HEADS:
        if key not in own:
            if weights.pop(key, None) is not None:
                notes.append(f'{key}: not used, this model has none')
        elif all_heads or list(getattr(weights.get(key), 'shape', ())) != list(own[key].shape):
            weights[key] = own[key].numpy()
            notes.append(f'{key}: initialised anew')
    return weights, notes


# -- what differs -----------------------------------------------------------------------------------------------------


class DoesNotFit(UserError):
    """Weights that do not fit a model. load_state adds `path`, their file, and `weights`, as they are there."""


def differences(own, weights):
    """Differences of `weights` from `own`, the state dict of a model: a list with a text for each name that differs."""
    problems = [f'missing {key}' for key in own if key not in weights]
    problems += [f'unexpected {one_line(key)}' for key in weights if key not in own]
    for key in own:
        value = weights.get(key, own[key])
        if not isinstance(value, (np.ndarray, paddle.Tensor)):
            problems.append(f'{key} is a {unpickle.kind(value)} in the file')
        elif list(value.shape) != list(own[key].shape):
            problems.append(f'{key} is {list(value.shape)} in the file and {list(own[key].shape)} in the model')
        elif isinstance(value, np.ndarray) and value.dtype.kind != 'f':
            problems.append(f'{key} is {value.dtype} in the file')
    return problems
