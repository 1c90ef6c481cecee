"""util/weights/unpickle.py: plain data come out of any pickle; nothing that a pickle asks for is executed."""

import argparse
import collections
import io
import pickle

import numpy as np
import pytest

from util.errors import UserError
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


# ---- nothing is executed

CORE = np.zeros(1).__reduce__()[0].__module__.encode()
EMPTY = b'c' + CORE + b'\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
F8 = b'cnumpy\ndtype\n\x8c\x02f8\x85R'
FULL = EMPTY + b'(K\x01K\x01\x85' + F8 + b'\x89C\x08AAAAAAAAtb'


def test_a_name_that_is_not_on_the_list_is_a_user_error():
    for name in ('os.system', 'builtins.eval', 'builtins.getattr', 'numpy.load', 'functools.partial'):
        module, _, function = name.rpartition('.')
        with pytest.raises(UserError, match=f"asks for '{name}', which weights do not need; not loaded"):
            load(f'c{module}\n{function}\n.'.encode())


@pytest.mark.parametrize('state', [b'}\x8c\x08functionNs', b'N}\x8c\x08functionNs\x86'])  # as __dict__ and as slots
@pytest.mark.parametrize(
    'target',
    [
        *[b'cbuiltins\ntuple\n', b'c_codecs\nencode\n', b'cnumpy\ndtype\n', b'c' + CORE + b'\n_reconstruct\n'],
        *[b'cargparse\nNamespace\n', b'ccollections\nOrderedDict\n', b'cnumpy\nndarray\n', F8, EMPTY, FULL],
    ],
)
def test_a_file_cannot_set_attributes_of_the_objects_behind_a_name(target, state):
    before = {name: dict(getattr(value, '__dict__', {})) for name, value in unpickle.NAMES.items()}
    try:
        load(b'\x80\x04' + target + state + b'b0N.')
    except Exception:
        pass  # most are refused
    assert {name: dict(getattr(value, '__dict__', {})) for name, value in unpickle.NAMES.items()} == before


@pytest.mark.parametrize(
    'program, word',
    [
        (b'\x8c\x05numpy\x8c\x11ndarray.__class__\x93', 'ndarray.__class__'),
        (b'cnumpy\nndarray\nK\x01\x85R', 'not callable'),  # ndarray(1) would be memory of others
        (b'cnumpy\ndtype\n\x8c\x01O\x85R', "type 'O'"),
        (b'cnumpy\ndtype\n\x8c\x05f4,O8\x85R', "'f4,O8'"),
        (b'cnumpy\ndtype\n](\x8c\x01a\x8c\x01O\x86e\x85R', 'type '),
        (EMPTY + b'(K\x01K\x01\x85\x8c\x01O\x89C\x08AAAAAAAAtb', 'does not fit'),
        (EMPTY, 'type Array where a value'),
        (b'cnumpy\ndtype\n', 'type Function where a value'),
        (b'cargparse\nNamespace\n', 'type type where a value'),
        (b'cbuiltins\ntuple\n}\x8c\x08functionNsb', 'sets attributes of a Function'),
        (b'}' + F8 + b'Ns', 'a Dtype as a dictionary key'),
        (b'})\x85Ns', 'a tuple as a dictionary key'),
        (b']}\x8c\x09__class__Nsb', '__dict__'),
        (b'(ios\nsystem\n', 'os.system'),
        (b'(cos\nsystem\no', 'os.system'),
        (b'\x82\x01', 'extension code'),
        (b'K\x01Q', 'persistent'),
        (b'\x97', 'buffer'),
        (b'\x8f', 'type set where'),
        (b'\x8c\x02\n\x1b\x8c\x02\x1b[\x93', "asks for '.['"),
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
