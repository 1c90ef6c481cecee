"""Reads pickles without calling the functions that a file names.

A pickle is a program: it may call every function that it names, and set attributes of every object that it makes.
Here it may use only the names in NAMES, and each of them stands for a function or class of this module. numpy's own
classes are not used, because with a crafted dtype they read memory that is not theirs. `load` returns plain values.
"""

import contextlib
import math
import pickle
import re

import numpy as np

from util.errors import UserError, one_line

PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)
KEYS = (type(None), bool, int, float, str, bytes)  # of dicts


class StandIn:
    """Takes the place of an object while the pickle is read; `value` then returns the object."""

    def __setstate__(self, state):  # without this method a pickle could set any attribute
        raise UserError(f'sets attributes of a {type(self).__name__}; not loaded')

    def value(self):
        """The plain value. Raises UserError if there is none (a function, an array that was not filled)."""
        raise UserError(f'has an object of type {type(self).__name__} where a value is expected; not loaded')


class Function(StandIn):
    """A function that a file may call, with any arguments."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)


class Dtype(StandIn):
    """A numpy.dtype of numbers or text. Its state holds the byte order."""

    def __init__(self, code, *_):
        if not (isinstance(code, str) and re.fullmatch(r'[|<>=]?[biufcSU][0-9]{1,9}', code)):
            raise UserError(f"has an array of type '{one_line(code)}'; not loaded")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])

    def value(self):
        return self.dtype


class Array(StandIn):
    """A numpy.ndarray or a numpy number. The state of an ndarray holds its content."""

    def __init__(self, array=None):
        self.array = array

    def __setstate__(self, state):
        _version, shape, dtype, fortran, data = state
        self.array = make_array(shape, dtype, 'F' if fortran else 'C', data)

    def value(self):
        return super().value() if self.array is None else self.array


class Namespace(dict):
    """The attributes of an argparse.Namespace."""

    def __setstate__(self, state):
        self.update(state)


class OrderedDict(dict):
    """A collections.OrderedDict. Its state is ignored; PyTorch keeps versions of layers there."""

    def __setstate__(self, state):
        pass


def make_array(shape, dtype, order, data):
    """A new numpy array from a Dtype and bytes (from Python 2: text). Raises UserError if they do not fit."""
    if isinstance(data, str):
        data = data.encode('latin1')
    if not isinstance(dtype, Dtype) or math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise UserError('has an array whose header does not fit its data; not loaded')
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy(order='K')


NAMES = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('argparse', 'Namespace'): Namespace,
    ('builtins', 'tuple'): Function(tuple),  # how paddle.save writes tensors
    ('builtins', 'bytes'): Function(lambda: b''),  # how protocols 0 to 2 write empty bytes …
    ('_codecs', 'encode'): Function(lambda text, _encoding: text.encode('latin1')),  # … and other bytes
    ('numpy', 'ndarray'): 'numpy.ndarray',  # an argument of _reconstruct, which ignores it
    ('numpy', 'dtype'): Function(Dtype),
}
for core in ('numpy.core', 'numpy._core'):  # numpy 1 and 2
    NAMES[f'{core}.multiarray', '_reconstruct'] = Function(lambda *_: Array())
    NAMES[f'{core}.multiarray', 'scalar'] = Function(lambda dtype, data: Array(make_array((1,), dtype, 'C', data)[0]))
    NAMES[f'{core}.numeric', '_frombuffer'] = Function(  # arrays of protocol 5
        lambda data, dtype, shape, order: Array(make_array(shape, dtype, order, data))
    )


class Unpickler(pickle.Unpickler):
    """Reads one pickle of a binary file. `finished` turns what load() returns into plain values.

    load() raises UserError for a name that is not in `names`; for a damaged file, nearly any error (see `reading`).
    """

    names = NAMES

    def __init__(self, file):
        super().__init__(file, encoding='latin1')  # for the text and the arrays of Python 2

    def find_class(self, module, name):
        module = 'builtins' if module == '__builtin__' else module  # its name in protocols 0 to 2
        if (module, name) not in self.names:
            raise UserError(f"asks for '{one_line(module)}.{one_line(name)}', which weights do not need; not loaded")
        return self.names[module, name]


def finished(value):
    """What an Unpickler returned, as plain containers, numbers, text and arrays. Raises UserError for anything else."""
    if isinstance(value, StandIn):
        return value.value()
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, KEYS):
                raise UserError(f'has a {type(key).__name__} as a dictionary key; not loaded')
        return {key: finished(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(finished(item) for item in value)
    if not isinstance(value, PLAIN):
        raise UserError(f'has an object of type {type(value).__name__} where a value is expected; not loaded')
    return value


def load(file):
    """The object of one pickle in a binary file, made plain by `finished`."""
    return finished(Unpickler(file).load())


@contextlib.contextmanager
def reading(path, kind):
    """Context manager that turns any error into a UserError of one line with the file's path and expected kind."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{path}: {error}')
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({one_line(error.strerror or error)})')
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f'{path}: not a readable {kind}, or cut short ({type(error).__name__}: {one_line(error)})')
