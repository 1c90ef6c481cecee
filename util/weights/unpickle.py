"""Reads pickles from anywhere into plain containers and numpy arrays, without executing anything that a file asks for.

A pickle is a program: it may call every function that it names, and set attributes of every object that it gets. So
the names are limited to a short list, and each stands for a function or class of this module. Not even numpy's classes
are given out: their constructors can be made to read memory that is not theirs. A StandIn's attributes cannot be set.
"""

import math
import pickle
import re

import numpy as np

from util.errors import UserError, one_line

PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)  # arrays come out of stand-ins only
KEYS = (type(None), bool, int, float, str, bytes)  # of dicts


class StandIn:
    """Stands for what a file names until the whole file is read; `value` then gives what is meant."""

    def __setstate__(self, state):  # without this method a pickle could set any attribute
        raise UserError(f'sets attributes of a {type(self).__name__}; not loaded')

    def value(self):
        """The plain value; this base raises UserError, for what is none."""
        raise UserError('has an unfinished array or a bare function where a value belongs; not loaded')


class Function(StandIn):
    """A function that a file may call, with any arguments."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)


class Dtype(StandIn):
    """A numpy.dtype of numbers or text; its byte order comes as its state."""

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
    """A numpy.ndarray or a number of numpy's. What is in an array comes as its state."""

    def __init__(self, array=None):
        self.array = array

    def __setstate__(self, state):
        _version, shape, dtype, fortran, data = state
        self.array = make_array(shape, dtype, 'F' if fortran else 'C', data)

    def value(self):
        if self.array is None:
            return super().value()  # which refuses the file
        return self.array


class Namespace(dict):
    """What an argparse.Namespace held."""

    def __setstate__(self, state):
        self.update(state)


class OrderedDict(dict):
    """A collections.OrderedDict. PyTorch gives it an attribute, the versions of layers, which is not needed here."""

    def __setstate__(self, state):
        pass


def make_array(shape, dtype, order, data):
    """A new numpy array from a Dtype and the bytes (from Python 2: text) of a file, which must fit each other."""
    if isinstance(data, str):
        data = data.encode('latin1')
    if not isinstance(dtype, Dtype) or math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise UserError('has an array whose header does not fit its data; not loaded')
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy(order='K')


NAMES = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('argparse', 'Namespace'): Namespace,
    ('builtins', 'tuple'): Function(tuple),  # paddle.save writes tensors so
    ('builtins', 'bytes'): Function(lambda: b''),  # protocols 0 to 2 write empty bytes so …
    ('_codecs', 'encode'): Function(lambda text, _encoding: text.encode('latin1')),  # … and other bytes so
    ('numpy', 'ndarray'): 'numpy.ndarray',  # only ever an argument of _reconstruct, which ignores it
    ('numpy', 'dtype'): Function(Dtype),
}
for core in ('numpy.core', 'numpy._core'):  # numpy 1 and 2
    NAMES[f'{core}.multiarray', '_reconstruct'] = Function(lambda *_: Array())
    NAMES[f'{core}.multiarray', 'scalar'] = Function(lambda dtype, data: Array(make_array((1,), dtype, 'C', data)[0]))
    NAMES[f'{core}.numeric', '_frombuffer'] = Function(
        lambda data, dtype, shape, order: Array(make_array(shape, dtype, order, data))
    )


class Unpickler(pickle.Unpickler):
    """Reads one pickle of a binary file; `finished` makes plain values of what its load() returns.

    Raises UserError for a name that is not on the list, and for damage nearly anything (see reading.py).
    """

    names = NAMES

    def __init__(self, file):
        super().__init__(file, encoding='latin1')  # the text of Python 2, which is also the data of its arrays

    def find_class(self, module, name):
        module = 'builtins' if module == '__builtin__' else module  # as protocols 0 to 2 call it
        if (module, name) not in self.names:
            asked = f'{one_line(module)}.{one_line(name)}'
            raise UserError(f"asks for '{asked}', which a file of arrays has no use for; not loaded")
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
        raise UserError(f'has a {type(value).__name__} where a value belongs; not loaded')
    return value


def load(file):
    """The object of one pickle in a binary file, as `finished` makes it."""
    return finished(Unpickler(file).load())
