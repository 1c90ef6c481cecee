"""tests/states.py, by which other tests say "bit for bit": it sees a single bit, a dtype, a shape, a type."""

import numpy as np
import pytest

from states import differences, same

ZERO = np.zeros([2, 3], 'float32')
BASE = {'w': ZERO, 'more': [1, 0.5, None, {'x': np.arange(3)}]}


def changed(**parts):
    return {**BASE, **parts}


OTHERS = {
    'a sign of zero': changed(w=np.where(np.eye(2, 3), np.float32(-0.0), ZERO)),
    'one bit': changed(w=np.nextafter(ZERO, np.float32(1))),
    'dtype': changed(w=ZERO.astype('float64')),
    'byte order': changed(w=ZERO.astype('>f4')),
    'shape': changed(w=ZERO.reshape(3, 2)),
    'a list for an array': changed(w=ZERO.tolist()),
    'another key': {'v': ZERO, 'more': BASE['more']},
    'a key more': changed(v=ZERO),
    'a shorter list': changed(more=BASE['more'][:3]),
    'a tuple for a list': changed(more=tuple(BASE['more'])),
    'True for 1': changed(more=[True, 0.5, None, {'x': np.arange(3)}]),
    'deep in it': changed(more=[1, 0.5, None, {'x': np.array([0, 1, 3])}]),
}


@pytest.mark.parametrize('name', OTHERS)
def test_what_is_not_the_same_bit_for_bit(name):
    assert not same(BASE, OTHERS[name]) and not same(OTHERS[name], BASE)


def test_what_is():
    copy = {'w': np.asfortranarray(ZERO), 'more': [1, 0.5, None, {'x': np.arange(3)}]}
    assert same(BASE, copy) and same({'w': np.array([np.nan])}, {'w': np.array([np.nan])})
    assert not same(0.0, -0.0) and same(float('nan'), float('nan'))


def test_differences_have_names():
    assert differences(BASE, OTHERS['deep in it']) == ['/more/3/x'] and differences(BASE, OTHERS['dtype']) == ['/w']
    assert differences(BASE, {}) == ['/'], 'other keys'
