"""tests/states.py, by which other tests compare bit for bit."""

import numpy as np
import pytest

from states import differences, same

ZERO = np.zeros([2, 3], 'float32')
STATE = {'w': ZERO, 'more': [1, None, {'x': np.arange(3)}]}


@pytest.mark.parametrize(
    'part',
    [
        {'w': np.where(np.eye(2, 3), np.float32(-0.0), ZERO)},
        {'w': ZERO.astype('float64')},
        {'w': ZERO.reshape(3, 2)},
        {'v': ZERO},
        {'more': [True, None, {'x': np.arange(3)}]},
        {'more': [1, None, {'x': np.array([0, 1, 3])}]},
    ],
    ids=['sign of zero', 'dtype', 'shape', 'key', 'type', 'nested value'],
)
def test_states_that_differ(part):
    assert not same(STATE, {**STATE, **part}) and not same({**STATE, **part}, STATE)


def test_states_that_are_the_same():
    assert same(STATE, {'w': np.asfortranarray(ZERO), 'more': [1, None, {'x': np.arange(3)}]})
    assert same({'w': np.array([np.nan])}, {'w': np.array([np.nan])})


def test_differences_have_names():
    assert differences(STATE, {**STATE, 'more': [1, None, {'x': np.array([0, 1, 3])}]}) == ['/more/2/x']
