"""util/weights/unpickle.py: plain data come out of any pickle protocol; of a hostile file nothing but a UserError."""

import argparse
import collections
import io
import os
import pickle

import numpy as np
import pytest

from util.errors import UserError
from util.weights import unpickle

pytestmark = pytest.mark.cross_version

ARRAYS = {
    'matrix': np.arange(6, dtype='float32').reshape(2, 3),
    'transposed': np.arange(6.0).reshape(2, 3).T,
    'empty': np.zeros([0, 4], 'float32'),
    'scalar': np.array(3.5),
    'ids': np.array([-1, 2**40]),
    'mask': np.array([True, False]),
    'big': np.arange(3, dtype='>f4'),
    'complex': np.array([1j]),
    'text': np.array(['a', 'µß']),
    'big text': np.array(['ab'], '>U2'),
    'bytes': np.array([b'abc']),
}
PLAIN = {
    'none': None,
    'yes': True,
    'ints': [0, -1, 255, 65536, 2**40, -(2**100)],
    'float': 0.1,
    'text': 'µ\n',
    'bytes': b'\x00\xff',
    'no bytes': b'',
    'tuples': ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    1: {'nested': [{}]},
    b'a': 'key',
    None: 0,
    0.5: 1,
}


def said(data, **kwargs):
    """The message with which a pickle is turned down: one short line."""
    with pytest.raises(UserError) as error:
        unpickle.load(data, **kwargs)
    message = str(error.value)
    assert '\n' not in message and message.isprintable() and len(message) < 400
    return message


class Calls:
    """Pickles as a call, with a state."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


# ---- what comes out


@pytest.mark.parametrize('protocol', range(6))
def test_plain_values_and_arrays_come_back_from_any_protocol(protocol):
    assert unpickle.load(pickle.dumps(PLAIN, protocol)) == PLAIN
    result = unpickle.load(pickle.dumps(ARRAYS, protocol))
    for name, array in ARRAYS.items():
        assert type(result[name]) is np.ndarray and result[name].dtype == array.dtype, name
        assert result[name].shape == array.shape and np.array_equal(result[name], array), name
        assert result[name].flags.writeable and result[name].flags.owndata, name


@pytest.mark.parametrize('protocol', range(2, 6))
def test_numpy_scalars_and_dtypes(protocol):
    number, dtype = unpickle.load(pickle.dumps((np.float32(0.5), np.dtype('>i2')), protocol))
    assert type(number) is np.float32 and number == 0.5 and dtype == np.dtype('>i2')


@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_files_of_numpy_1_and_2(module):
    data = pickle.dumps(np.arange(3.0), 2)
    assert b'numpy.' in data
    for other in (b'numpy._core', b'numpy.core'):
        data = data.replace(other + b'.multiarray', module.encode() + b'.multiarray')
    assert np.array_equal(unpickle.load(data), np.arange(3.0))


def test_ordered_dicts_are_dicts_and_their_attributes_are_dropped():
    state = collections.OrderedDict(w=1)
    state._metadata = {'version': 1}  # as PyTorch does
    result = unpickle.load(pickle.dumps(state, 2))
    assert type(result) is dict and result == {'w': 1}
    assert unpickle.load(b'ccollections\nOrderedDict\n]](\x8c\x01aK\x01ea\x85R.') == {'a': 1}  # as Python 2 wrote it


@pytest.mark.parametrize('protocol', range(2, 6))
def test_a_namespace_is_a_passive_dict(protocol):
    result = unpickle.load(pickle.dumps(argparse.Namespace(lr=0.1, get='x'), protocol))
    assert type(result) is unpickle.Namespace and result == {'lr': 0.1, 'get': 'x'} and callable(result.get)


def test_shared_values_stay_shared_and_exactly_one_pickle_of_a_file_is_read():
    array = np.ones(2)
    file = io.BytesIO(pickle.dumps([array, array]) + b'rest')
    first, second = unpickle.load(file)
    assert first is second and file.read() == b'rest'


def test_extra_names_and_persistent_ids():
    data = b'\x80\x02cmy.module\nTwice\nK\x15\x85RcX\nY\n\x8c\x02id\x85Q\x87.'
    extra = {('my.module', 'Twice'): lambda n: 2 * n, ('X', 'Y'): 'constant'}
    assert unpickle.load(data, extra, lambda i: f'<{i[0]}>') == (42, 'constant', '<id>')
    assert "asks for 'my.module.Twice', which a map" in said(data, what='map')
    assert "'X.Y'" in said(data, allowed_extra={('my.module', 'Twice'): float})
    assert 'BINPERSID' in said(data, allowed_extra=extra)


# ---- nothing is executed


@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize(
    'function, asked',
    [
        (os.system, f'{os.name}.system'),
        (eval, '.eval'),
        (exec, '.exec'),
        (getattr, '.getattr'),
        (open, 'open'),
        (np.load, 'numpy.load'),
        (np.fromfile, '.fromfile'),
        (pickle.loads, '.loads'),
        (print, '.print'),
    ],
)
def test_a_call_is_refused_by_name_and_not_made(tmp_path, function, asked, protocol):
    victim = tmp_path / 'victim'
    argument = {eval: f'open({str(victim)!r}, "w")', exec: f'open({str(victim)!r}, "w")', open: str(victim)}
    message = said(pickle.dumps({'a': Calls(function, argument.get(function, f'touch {victim}'))}, protocol))
    assert asked in message and not victim.exists()


@pytest.mark.parametrize(
    'data, word',
    [
        (b'\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.', 'ndarray.__class__'),
        (b'\x80\x02cnumpy\nndarray\nK\x01\x85R.', 'calls'),  # ndarray(1) would be memory of others
        (b'\x80\x02cnumpy\ndtype\n\x8c\x01O\x85R.', "'object'"),
        (b'\x80\x02cnumpy\ndtype\n\x8c\x05f4,f8\x85R.', "'f4,f8'"),
        (
            b'\x80\x02cargparse\nNamespace\n}\x8c\x01aNsb.',
            'sets attributes of a _Function',
        ),  # would be the class itself
        (b'\x80\x02cnumpy\nndarray\n}\x8c\x01aNsb.', 'sets attributes of a str'),
        (b'\x80\x02]}\x8c\x09__class__Nsb.', 'sets attributes of a list'),
        (b'\x80\x02(ios\nsystem\n.', 'INST'),
        (b'\x80\x02(cos\nsystem\no.', 'os.system'),
        (b'\x80\x02\x82\x01.', 'EXT1'),
        (b'\x80\x02cargparse\nNamespace\n.', 'bare function'),
        (b'\x80\x05\x97.', 'NEXT_BUFFER'),
        (b'\x80\x04\x8c\x02\n\x1b\x8c\x02\x1b[\x93.', "asks for '.['"),
    ],
)
def test_other_ways_to_reach_more_than_values(data, word):
    assert word in said(data)


def test_the_state_of_an_array_gives_no_access_to_its_attributes():
    core = np.zeros(1).__reduce__()[0].__module__.encode()
    array = b'\x80\x02c' + core + b'\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
    assert 'unfinished' in said(array + b'.')
    for state in (b'}\x8c\x05shapeNs', b'N}\x8c\x05dtypeNs\x86', b')', b'(K\x01K\x01\x85\x8c\x01OK\x00C\x08AAAAAAAAt'):
        said(array + state + b'b.')


@pytest.mark.parametrize(
    'array',
    [
        np.array([Calls(os.system, 'true')], dtype=object),
        np.array([None, 1], dtype=object),
        np.zeros(2, [('a', object)]),
        np.zeros(2, [('a', 'f4')]),
        np.array(['2020-01-01'], 'datetime64[D]'),
    ],
    ids=['call', 'object', 'record-object', 'record', 'datetime'],
)
@pytest.mark.parametrize('protocol', [2, 5])
def test_arrays_of_anything_but_numbers_and_text_are_refused(array, protocol):
    said(pickle.dumps(array, protocol))


# ---- nor is it a burden


@pytest.mark.parametrize('shape', [(4,), (1000,), (10**15,), (2**62, 4), (-3,), (0, 10**30), [3], (3.0,), 3])
def test_an_array_is_never_larger_than_its_bytes(shape):
    rebuild, arguments, (version, _, dtype, order, data) = np.zeros(3, 'int8').__reduce__()
    said(pickle.dumps(Calls(rebuild, *arguments, state=(version, shape, dtype, order, data))))


def test_text_that_is_none_is_refused():
    assert 'damaged text' in said(pickle.dumps(np.array(['ab']), 2).replace(b'a\x00\x00\x00', b'a\x00\x00\x7f'))


@pytest.mark.parametrize(
    'data',
    [
        b']' * 100_000 + b'a' * 99_999 + b'.',
        b')' + b'\x85' * 100_000 + b'.',
        b'(' * 100_000 + b't' * 100_000 + b'.',
        b'(' * 100_000,
        b'}' + b'K\x01}' * 70_000 + b's' * 70_000 + b'.',
    ],
    ids=['lists', 'tuples', 'marks', 'marks-only', 'dicts'],
)
def test_deep_nesting_does_not_crash(data):
    said(data)


@pytest.mark.parametrize(
    'key',
    [b')' + b'\x85' * 100_000, b']', b'}', b'(]t', b'G' + b'\x00' * 8 + b'\x85', b'\x8a\x0a' + b'\x7f' * 10],
    ids=['deep', 'list', 'dict', 'list within', 'nested', 'big'],
)
def test_a_key_that_is_not_safe_to_hash_is_refused(key):
    assert 'dictionary key' in said(b'\x80\x02}' + key + b'Ns.')


def test_a_value_that_contains_itself_or_unfolds_to_millions_is_refused(monkeypatch):
    monkeypatch.setattr(unpickle, 'MAX_STEPS', 100_000)
    assert 'nested' in said(b'\x80\x02]q\x00h\x00a.')
    doubling = b''.join(b'](h%ch%ceq%c' % (i, i, i + 1) for i in range(60))
    assert 'millions' in said(b'\x80\x02]q\x00' + doubling + b'.')


def test_memory_is_bounded_by_the_length_of_the_file():
    big = b'\x80\x02X' + (10**6).to_bytes(4, 'little') + b'a' * 10**6 + b'q\x00'
    encode = b'c_codecs\nencode\nh\x00\x8c\x06latin1\x86R'
    assert 'more data than it holds' in said(big + encode * 5 + b'.')
    for length in (b'B\xff\xff\xff\x7f', b'X\xff\xff\xff\xff', b'\x8e' + b'\xff' * 7 + b'\0', b'\x96\xff' + b'\0' * 7):
        assert 'cut short' in said(io.BufferedReader(io.BytesIO(b'\x80\x04' + length + b'abc.')))
    assert 'bits' in said(b'\x80\x02\x8b\x00\x10\x00\x00' + b'\x7f' * 4096 + b'.')


def test_damage_is_a_user_error_whatever_it_hits():
    whole = pickle.dumps({**PLAIN, **ARRAYS, 'args': argparse.Namespace(a=1), 'o': collections.OrderedDict(a=1)}, 2)
    for length in range(0, len(whole), 7):
        said(whole[:length])
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] ^= 1 << rng.integers(0, 8)
        try:
            unpickle.load(bytes(data))
        except UserError as error:
            assert '\n' not in str(error)


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'.',
        b'just text\n',
        b'\x89PNG\r\n\x1a\n',
        b'PK\x03\x04',
        b'{"a": 1}',
        b'\x80\xff.',
        b'\x80\x02h\x00.',
        b'\x80\x02t.',
        b'\x80\x02K\x01a.',
        b'\x80\x02}K\x01a.',
    ],
)
def test_what_is_no_pickle_at_all(data):
    said(data)
