"""The same weights as PyTorch and as Paddle lay them out. A state dict differs in three ways:

    of a layer      in PyTorch                   in Paddle
    Linear          weight [out, in]             weight [in, out]
    BatchNorm       running_mean, running_var    _mean, _variance
    BatchNorm       num_batches_tracked          nothing; PyTorch itself only uses it with momentum=None

Every matrix that is called `weight` is taken for a Linear layer's. That holds for all models here and in paddle.vision,
which have no embeddings (tests/weights/test_layout.py). Transposed arrays are views, nothing is copied.
"""

import math

import numpy as np

from util.errors import UserError

TORCH, PADDLE = 'PyTorch', 'Paddle'
STATISTICS = {'running_mean': '_mean', 'running_var': '_variance'}
COUNTER = 'num_batches_tracked'
NOT_LEARNED = (*STATISTICS, *STATISTICS.values(), COUNTER)


def to_paddle(weights):
    """A state dict of PyTorch in Paddle's layout. The counters are left out."""
    return {
        _renamed(key, STATISTICS): _transposed(key, value)
        for key, value in weights.items()
        if _split(key)[1] != COUNTER
    }


def to_torch(weights):
    """A state dict of Paddle in PyTorch's layout. Counters of 0 are added: PyTorch's strict loading asks for them."""
    names = {ours: theirs for theirs, ours in STATISTICS.items()}
    result = {}
    for key, value in weights.items():
        result[_renamed(key, names)] = _transposed(key, value)
        if _split(key)[1] == '_variance':
            result[_split(key)[0] + COUNTER] = np.array(0, 'int64')
    return result


def guess(weights, path):
    """TORCH or PADDLE, for a file that does not say whose layout it has; PADDLE where both would be the same.

    Told by the statistics' names, or by which side of a Linear weight is as long as its bias.
    Raises UserError that names `path` if all such weights are square.
    """
    names = {_split(key)[1] for key in weights}
    if names & {*STATISTICS, COUNTER}:
        return TORCH
    if names & {*STATISTICS.values()}:
        return PADDLE
    linears = [key for key, value in weights.items() if is_linear(key, value)]
    for key in linears:
        rows, columns = weights[key].shape
        bias = weights.get(f'{_split(key)[0]}bias')
        if rows != columns and bias is not None and bias.shape in ((rows,), (columns,)):
            return TORCH if bias.shape == (rows,) else PADDLE
    if linears:
        raise UserError(f"{path}: nothing tells whether {linears[0]} is in PyTorch's layout or in Paddle's")
    return PADDLE


def is_linear(key, value):
    """Whether an entry of a state dict is the weight of a Linear layer."""
    return _split(key)[1] == 'weight' and getattr(value, 'ndim', 0) == 2


def counters(weights):
    """num_batches_tracked of bn1, bn2, bn3 and 50 more; '' if a state dict has none."""
    owners = [_split(key)[0][:-1] for key in weights if _split(key)[1] == COUNTER]
    more = f' and {len(owners) - 3} more' if len(owners) > 3 else ''
    return f'{COUNTER} of {", ".join(owners[:3])}{more}' if owners else ''


def count_parameters(weights):
    """How many numbers of a state dict are learned: all but statistics and counters."""
    return sum(math.prod(value.shape) for key, value in weights.items() if _split(key)[1] not in NOT_LEARNED)


def _split(key):
    """('blocks.0.attn.qkv.', 'weight')"""
    stem, dot, name = str(key).rpartition('.')
    return stem + dot, name


def _renamed(key, names):
    stem, name = _split(key)
    return stem + names.get(name, name)


def _transposed(key, value):
    return np.asarray(value).T if is_linear(key, value) else value
