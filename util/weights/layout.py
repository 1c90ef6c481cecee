"""The same weights as PyTorch and as Paddle lay them out. A state dict differs in three ways:

    weight of a Linear layer    [out, in] in PyTorch, [in, out] in Paddle
    statistics of BatchNorm     running_mean, running_var; _mean, _variance
    counter of BatchNorm        num_batches_tracked; does not exist. Only BatchNorm with momentum None reads it.

A matrix that is called `weight` is a Linear's: so it is in every model here and in paddle.vision, which has no
embeddings (tests/test_layout.py). Transposed arrays are views, nothing is copied.
"""

import math

import numpy as np

from util.errors import UserError

TORCH, PADDLE = 'PyTorch', 'Paddle'
STATISTICS = {'running_mean': '_mean', 'running_var': '_variance'}
COUNTER = 'num_batches_tracked'
WRAPPER = 'module.'  # what torch.nn.DataParallel puts in front of every name


def is_linear(key, value):
    """Whether an entry of a state dict is the weight of a Linear layer."""
    return _split(key)[1] == 'weight' and getattr(value, 'ndim', 0) == 2


def framework(weights, path):
    """TORCH, PADDLE, or None where both would have the same names and shapes.

    Told by the statistics' names, and by which side of a Linear weight is as long as its bias.
    Raises UserError that names `path` if entries contradict each other, or if square weights leave it open.
    """
    evidence, open_question = {}, None
    for key, value in weights.items():
        stem, name = _split(key)
        if name in STATISTICS or name == COUNTER:
            evidence.setdefault(TORCH, key)
        elif name in STATISTICS.values():
            evidence.setdefault(PADDLE, key)
        elif is_linear(key, value):
            rows, columns = value.shape
            outputs = tuple(getattr(weights.get(f'{stem}bias'), 'shape', ()))
            if rows == columns or outputs not in ((rows,), (columns,)):
                open_question = open_question or key
            else:
                evidence.setdefault(TORCH if outputs == (rows,) else PADDLE, key)
    if len(evidence) == 2:
        raise UserError(f"{path}: mixes PyTorch's layout ({evidence[TORCH]}) and Paddle's ({evidence[PADDLE]})")
    if not evidence and open_question:
        raise UserError(f"{path}: nothing tells whether {open_question} is in PyTorch's layout or in Paddle's")
    return next(iter(evidence), None)


def unwrapped(weights):
    """A state dict without the prefix of torch.nn.DataParallel, if all names have it."""
    if weights and all(isinstance(key, str) and key.startswith(WRAPPER) for key in weights):
        return {key[len(WRAPPER) :]: value for key, value in weights.items()}
    return weights


def to_paddle(weights, path):
    """(weights in Paddle's layout, lines that say what is left out) of a state dict in either. Raises UserError."""
    if framework(weights, path) != TORCH:
        return weights, []
    counters = [key for key in weights if _split(key)[1] == COUNTER]
    notes = [f'left out, for Paddle has no such counter: {_listed(counters)}'] if counters else []
    return {
        _renamed(key, STATISTICS): _transposed(key, value) for key, value in weights.items() if key not in counters
    }, notes


def to_torch(weights, path):
    """(weights in PyTorch's layout, lines that say what is added) of a state dict in either. Raises UserError.

    Counters that are added are 0; PyTorch's strict loading asks for them.
    """
    if framework(weights, path) == TORCH:
        return weights, []
    result, counters = {}, []
    for key, value in weights.items():
        result[_renamed(key, {ours: theirs for theirs, ours in STATISTICS.items()})] = _transposed(key, value)
        if _split(key)[1] == '_variance':
            counters.append(_split(key)[0] + COUNTER)
            result[counters[-1]] = np.array(0, 'int64')
    return result, [f'added, for PyTorch has such a counter: {_listed(counters)} = 0'] if counters else []


def count_parameters(weights):
    """How many numbers of a state dict are learned: all but statistics and counters."""
    others = (*STATISTICS, *STATISTICS.values(), COUNTER)
    return sum(math.prod(value.shape) for key, value in weights.items() if _split(key)[1] not in others)


def _listed(counters):
    """num_batches_tracked of bn1, bn2, bn3 and 50 more"""
    owners = [key[: -len(COUNTER) - 1] for key in counters]
    return f'{COUNTER} of {", ".join(owners[:3])}' + (f' and {len(owners) - 3} more' if len(owners) > 3 else '')


def _split(key):
    """('blocks.0.attn.qkv.', 'weight')"""
    stem, dot, name = str(key).rpartition('.')
    return stem + dot, name


def _renamed(key, names):
    stem, name = _split(key)
    return stem + names.get(name, name)


def _transposed(key, value):
    return np.asarray(value).T if is_linear(key, value) else value
