"""util/weights/unpickle.py: plain data come out of any pickle; nothing that a pickle asks for is executed."""

import argparse
import collections
import datetime
import decimal
import enum
import functools
import io
import os
import pathlib
import pickle
import sys

import numpy as np
import pytest

from util.weights import unpickle


ARRAYS = {
    'matrix': np.arange(6, dtype='float32').reshape(2, 3),
    'transposed': np.arange(6.0).reshape(2, 3).T,
    'empty': np.zeros([0, 4], 'float32'),
    'scalar': np.array(3.5),
    'ids': np.array([-1, 2**40]),
    'mask': np.array([True, False]),
    'big endian': np.arange(3, dtype='>f4'),
    'text': np.array(['a', 'µß']),
}
PLAIN = {
    'ints': [0, -1, 255, 65536, 2**40, -(2**100)],
    'others': [None, True, 0.1, 'µ\n', b'\x00\xff', b''],
    'tuples': ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    1: {'nested': [{}]},
    b'a': 'key',
    None: 0,
    0.5: 1,
}


def load(data):
    return unpickle.load(io.BytesIO(data))


def refusal(data):
    """The message with which a pickle is refused, by us or as damaged."""
    with pytest.raises(Exception) as error:
        load(data)
    return str(error.value)


# ---- what comes out


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_plain_values_and_arrays_come_back_from_any_protocol(protocol):
    assert load(pickle.dumps(PLAIN, protocol)) == PLAIN
    result = load(pickle.dumps(ARRAYS, protocol))
    for name, array in ARRAYS.items():
        assert type(result[name]) is np.ndarray and result[name].dtype == array.dtype, name
        assert result[name].shape == array.shape and np.array_equal(result[name], array), name
        assert result[name].flags.writeable and result[name].flags.owndata, name


@pytest.mark.parametrize('protocol', [2, 4])
def test_numpy_scalars_dtypes_and_a_namespace(protocol):
    namespace = argparse.Namespace(lr=0.1, get='x')
    number, dtype, args = load(pickle.dumps((np.float32(0.5), np.dtype('>i2'), namespace), protocol))
    assert type(number) is np.float32 and number == 0.5 and dtype == np.dtype('>i2')
    assert type(args) is dict and args == {'lr': 0.1, 'get': 'x'}


def test_files_of_numpy_1_and_2():
    data = pickle.dumps([np.arange(3.0), np.float64(7)], 2)
    for module in (b'cnumpy.core', b'cnumpy._core'):
        array, number = load(data.replace(b'cnumpy._core', module).replace(b'cnumpy.core', module))
        assert np.array_equal(array, np.arange(3.0)) and number == 7


def test_files_of_python_2():
    program = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS"b"\ntR(I1\n(I2\ntcnumpy\ndtype\n'
    program += b'(S"f4"\nI0\nI1\ntR(I3\nS"<"\nNNNI-1\nI-1\nI0\ntbI00\nS"\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0"\ntb.'
    assert np.array_equal(load(program), np.array([1, -2], 'f4'))
    assert load(b'\x80\x02ccollections\nOrderedDict\n]](U\x01aK\x01ea\x85R.') == {'a': 1}


def test_ordered_dicts_are_dicts_without_their_attributes_and_one_pickle_of_a_file_is_read():
    state = collections.OrderedDict(w=1)
    state._metadata = {'version': 1}  # as PyTorch does
    file = io.BytesIO(pickle.dumps(state, 2) + b'rest')
    result = unpickle.load(file)
    assert type(result) is dict and result == {'w': 1} and file.read() == b'rest'


# ---- objects of other classes


class Colour(enum.Enum):
    RED = 1


class Config(dict):
    class Inner:
        pass


THINGS = {
    f'{pathlib.PosixPath.__module__}.PosixPath': pathlib.PosixPath('/data'),
    'datetime.datetime': datetime.datetime(2026, 1, 1),
    'decimal.Decimal': decimal.Decimal('1.5'),
    'collections.defaultdict': collections.defaultdict(list, a=[1]),
    'functools.partial': functools.partial(print, end=''),
    f'{__name__}.Colour': Colour.RED,
    f'{__name__}.Config': Config(lr=0.1),
    'a function': collections.OrderedDict.fromkeys,
    "numpy.ndarray of type 'O8'": np.array([pathlib.PosixPath('/data'), None], object),
    "numpy.ndarray of type 'M8'": np.array(['2026-01-01'], 'M8[D]'),
}


@pytest.mark.parametrize('protocol', [0, 1, 2, 4, 5])
def test_an_object_of_another_class_becomes_a_placeholder_that_has_the_name_of_its_class(protocol):
    things = {**THINGS, 'inner': Config.Inner(), 'w': np.arange(3.0)}
    del things['a function']  # its name depends on the version of Python
    result = load(pickle.dumps(things, protocol))
    assert list(result) == list(things) and result['w'].tolist() == [0, 1, 2]
    for name in things.keys() - {'w', 'inner'}:
        assert unpickle.kind(result[name]) == name
    assert unpickle.placeholders(result['inner']) <= {f'{__name__}.Config.Inner', f'{__name__}.Config'}
    assert unpickle.placeholders(result) == {unpickle.kind(result[name]) for name in things.keys() - {'w'}}


@pytest.mark.parametrize('protocol', [2, 4])
def test_sets_become_lists_and_a_dictionary_may_have_any_keys(protocol):
    ones, keyed = load(pickle.dumps(({1}, {('a', 1): 2, Colour: 3, np.dtype('f4'): 4}), protocol))
    assert ones == [1] and keyed['a', 1] == 2 and keyed[np.dtype('f4')] == 4
    assert unpickle.placeholders(keyed) == {f'{__name__}.Colour'}


# ---- nothing is executed


SYSTEM = [  # by each instruction that calls, and by functions of Python that call others
    b'cos\nsystem\n(Vtouch canary\ntR',
    b'(Vtouch canary\nios\nsystem\n',
    b'(cos\nsystem\nVtouch canary\no',
    b'\x8c\x02os\x8c\x06system\x93(Vtouch canary\nt\x81',
    b'cos\nsystem\n(Vtouch canary\nt}\x92',
    b'cbuiltins\nexec\n(Vopen("canary", "w")\ntR',
    b'cbuiltins\ngetattr\n(c__builtin__\n__import__\n(Vos\ntRVsystem\ntR(Vtouch canary\ntR',
    b'\x8c\x06pickle\x8c\x17Unpickler.__init__.call\x93)R',
    b'ccopyreg\n_reconstructor\n(cos\nsystem\nVtouch canary\nNtR',
    b'cantigravity\nfly\n)R',
]


# BUILD, SETITEM, SETITEMS, APPEND, APPENDS, ADDITEMS
CHANGES = b'}\x8c\x01aK\x01sb' + b'K\x01K\x02s' + b'(K\x01K\x02u' + b'K\x01a' + b'(K\x01K\x02e' + b'(K\x01\x90'


@pytest.mark.parametrize('program', SYSTEM, ids=range(len(SYSTEM)))
def test_what_a_file_calls_is_neither_called_nor_imported(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attributes = dict(vars(unpickle.Placeholder))
    result = load(b'\x80\x05' + program + CHANGES + b'.')
    assert isinstance(result, unpickle.Inert) and vars(unpickle.Placeholder) == attributes
    assert os.listdir() == [] and 'antigravity' not in sys.modules


CORE = np.zeros(1).__reduce__()[0].__module__.encode()
EMPTY = b'c' + CORE + b'\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
F8 = b'cnumpy\ndtype\n\x8c\x02f8\x85R'
FULL = EMPTY + b'(K\x01K\x01\x85' + F8 + b'\x89C\x08AAAAAAAAtb'


@pytest.mark.parametrize('state', [b'}\x8c\x08functionNs', b'N}\x8c\x08functionNs\x86'])  # as __dict__ and as slots
@pytest.mark.parametrize(
    'target',
    [
        *[b'cbuiltins\ntuple\n', b'c_codecs\nencode\n', b'cnumpy\ndtype\n', b'c' + CORE + b'\n_reconstruct\n'],
        *[b'cargparse\nNamespace\n', b'ccollections\nOrderedDict\n', b'cnumpy\nndarray\n', F8, EMPTY, FULL],
        *[b'cos\nsystem\n', b'cos\nsystem\n)R'],
    ],
)
def test_a_file_cannot_set_attributes_of_the_objects_behind_a_name(target, state):
    def attributes():
        values = [*unpickle.NAMES.values(), unpickle.Inert, unpickle.Placeholder, unpickle]
        return [dict(getattr(value, '__dict__', {})) for value in values]

    before = attributes()
    try:
        load(b'\x80\x04' + target + state + b'b0N.')
    except Exception:
        pass  # most are refused
    assert attributes() == before


@pytest.mark.parametrize(
    'program, word',
    [
        (b'cnumpy\nndarray\nK\x01\x85R', 'not callable'),  # ndarray(1) would be memory of others
        (EMPTY + b'(K\x01K\x01\x85\x8c\x01O\x89C\x08AAAAAAAAtb', 'does not fit'),
        (EMPTY, 'type Array where a value'),
        (b'cbuiltins\ntuple\n}\x8c\x08functionNsb', 'sets attributes of a Function'),
        (b']}\x8c\x09__class__Nsb', '__dict__'),
        (b'ccopyreg\nadd_extension\n(Vos\nVsystem\nK\x01tR0\x82\x01', 'extension code'),
        (b'cbuiltins\ngetattr\n(cnumpy\ndtype\nV__init__\ntR}\x8c\x01aNsb', 'sets attributes of a Function'),
        (b'K\x01Q', 'persistent'),
        (b'\x97', 'buffer'),
        (b'cos\nsystem\nQ', 'persistent'),
        (b'cbuiltins\ntuple\ncos\nsystem\n\x85R', 'not iterable'),
    ],
)
def test_other_ways_to_more_than_values(program, word):
    assert word in refusal(b'\x80\x05' + program + b'.')


@pytest.mark.parametrize('shape', [(4,), (2,), (2**62, 4), (-1, -3)])
def test_an_array_whose_shape_does_not_fit_its_bytes_is_refused(shape):
    rebuild, arguments, (version, _, dtype, order, data) = np.zeros(3, 'int8').__reduce__()

    class Crafted:
        def __reduce__(self):
            return rebuild, arguments, (version, shape, dtype, order, data)

    assert refusal(pickle.dumps(Crafted()))
