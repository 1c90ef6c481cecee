"""Reads pickles without calling the functions that a file names.

A pickle is a program: it may call every function that it names, and set attributes of every object that it makes.
Here each of the names in NAMES stands for a function or class of this module, and every other name for a placeholder,
which does nothing. No module is imported and no attribute is looked up. numpy's own classes are not used, because with
a crafted dtype they read memory that is not theirs. `load` returns plain values and placeholders.
"""

import math
import pickle
import re

import numpy as np

from util.errors import UserError, one_line

PYTHON_2 = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}  # names of modules in protocols 0 to 2
PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)


class Inert(type):
    """The type of placeholders. They take everything that a pickle does with an object, and ignore it."""

    def ignore(cls, *_arguments):
        pass

    __setstate__ = __setitem__ = append = extend = add = ignore  # these are all that the unpickler calls

    def __repr__(cls):
        return f'<{cls.__name__}>'


class Placeholder(metaclass=Inert):
    """What stands for a function or class that is not in NAMES, and for its objects: calling it returns itself.

    Each name gets a subclass, `__name__` = 'module.name'. It is a class because a pickle makes objects from classes.
    """

    def __new__(cls, *_arguments, **_keywords):
        return cls


def placeholder(name):
    """A new placeholder. name: the text that messages show."""
    return Inert(one_line(name), (Placeholder,), {})


def kind(value):
    """The class of a value that `load` returned, for messages."""
    return value.__name__ if isinstance(value, Inert) else type(value).__name__


class StandIn:
    """Takes the place of an object while the pickle is read; `value` then returns the object."""

    def __setstate__(self, state):  # without this method a pickle could set any attribute
        raise UserError(f'sets attributes of a {type(self).__name__}; not loaded')

    def value(self):
        """The plain value. Raises UserError if there is none (an array that was not filled)."""
        raise UserError(f'has an object of type {type(self).__name__} where a value is expected; not loaded')


class Function(StandIn):
    """A function that a file may call, with any arguments."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)

    def value(self):
        return placeholder('a function')


class Dtype(StandIn):
    """A numpy.dtype of numbers or text. Its state holds the byte order."""

    def __init__(self, code):
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


def make_dtype(code, *_):
    """A Dtype; for another type than numbers or text (objects, dates, structures) a placeholder."""
    if isinstance(code, str) and re.fullmatch(r'[|<>=]?[biufcSU][0-9]{1,9}', code):
        return Dtype(code)
    return placeholder(f"numpy.ndarray of type '{code}'")


def make_array(shape, dtype, order, data):
    """A new numpy array from a Dtype and bytes (from Python 2: text); if `dtype` is a placeholder, that.

    Raises UserError if they do not fit.
    """
    if isinstance(dtype, Inert):
        return dtype
    if isinstance(data, str):
        data = data.encode('latin1')
    if not isinstance(dtype, Dtype) or math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise UserError('has an array whose header does not fit its data; not loaded')
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy(order='K')


def make_number(dtype, data):
    """The stand-in of a numpy number."""
    array = make_array((1,), dtype, 'C', data)
    return array if isinstance(array, Inert) else Array(array[0])


NAMES = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('argparse', 'Namespace'): Namespace,
    ('builtins', 'tuple'): Function(tuple),  # how paddle.save writes tensors
    ('builtins', 'set'): Function(list),
    ('builtins', 'frozenset'): Function(list),
    ('builtins', 'getattr'): Function(lambda owner, _name: owner),  # how a member of an Enum is written
    ('copyreg', '_reconstructor'): Function(lambda kind, *_: kind()),  # how protocols 0 and 1 write objects
    ('builtins', 'bytes'): Function(lambda: b''),  # how protocols 0 to 2 write empty bytes …
    ('_codecs', 'encode'): Function(lambda text, _encoding: text.encode('latin1')),  # … and other bytes
    ('numpy', 'ndarray'): 'numpy.ndarray',  # an argument of _reconstruct, which ignores it
    ('numpy', 'dtype'): Function(make_dtype),
}
for core in ('numpy.core', 'numpy._core'):  # numpy 1 and 2
    NAMES[f'{core}.multiarray', '_reconstruct'] = Function(lambda *_: Array())
    NAMES[f'{core}.multiarray', 'scalar'] = Function(make_number)
    NAMES[f'{core}.numeric', '_frombuffer'] = Function(  # arrays of protocol 5
        lambda data, dtype, shape, order: Array(make_array(shape, dtype, order, data))
    )


class Unpickler(pickle.Unpickler):
    """Reads one pickle of a binary file. `finished` turns what load() returns into plain values.

    For a damaged file load() raises nearly any error (see files.reading).
    """

    names = NAMES

    def __init__(self, file):
        super().__init__(file, encoding='latin1')  # for the text and the arrays of Python 2

    def find_class(self, module, name):
        module = PYTHON_2.get(module, module)
        return self.names[module, name] if (module, name) in self.names else placeholder(f'{module}.{name}')


def finished(value):
    """What an Unpickler returned, as plain containers, numbers, text, arrays, and placeholders for all else.

    A set becomes a list. Raises UserError for an array without content.
    """
    if isinstance(value, StandIn):
        return value.value()
    if isinstance(value, dict):
        return {finished(key): finished(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(finished(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return [finished(item) for item in value]
    return value if isinstance(value, (*PLAIN, Inert)) else placeholder('a class')


def load(file):
    """The object of one pickle in a binary file, made plain by `finished`."""
    return finished(Unpickler(file).load())


def placeholders(value):
    """The names of the placeholders in what `load` returned, a set."""
    if isinstance(value, Inert):
        return {value.__name__}
    if isinstance(value, dict):
        return placeholders([*value, *value.values()])
    if isinstance(value, (list, tuple)):
        return set().union(*map(placeholders, value))
    return set()
