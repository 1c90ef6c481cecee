"""Reading pickles of strangers: plain containers and numpy arrays come out, nothing that the file asks for is executed.

A pickle is a program for a small stack machine. `load` is such a machine that knows the instructions that build
containers and a fixed list of names. Python's own `pickle.Unpickler`, even with a list of names, would still let a file
set attributes of whatever it can name, hash what is nested too deep for the C stack, and allocate at will.
"""

import io
import math
import pickletools
import re

import numpy as np

from util.errors import UserError, one_line
from util.weights.pickle_input import PickleInput

# A state dict of 1,000 arrays has 30,000 instructions, 4,000 calls and 1,000 values. An instruction of one byte takes
# up to 150 bytes of memory and a call up to 20 microseconds: together they bound what a short file can ask for.
MAX_STEPS = 1_000_000  # instructions; values of the result; the highest number that a memorised value can have
MAX_CALLS = 100_000
MAX_DEPTH = 100  # containers inside one another, so that a caller may walk the result by recursion
MAX_NUMBER_KEYS = 10_000  # a file can choose numbers that collide in a dict, but not text: its hash has a secret
ENTRY = 100  # bytes that an entry of a dict takes
SCALARS = (type(None), bool, int, float, str, bytes)

_NEW = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
    'EMPTY_TUPLE': tuple,
}
_COLLECT = {
    'TUPLE1': 1,
    'TUPLE2': 2,
    'TUPLE3': 3,
    'APPEND': 1,
    'SETITEM': 2,  # how many values; None: all above a mark
    **dict.fromkeys(('TUPLE', 'LIST', 'DICT', 'APPENDS', 'SETITEMS')),
}
_CONSTANTS = {i.name for i in pickletools.opcodes if i.arg and i.stack_after and not i.stack_before} - {
    'GLOBAL',
    'GET',
    'BINGET',
    'LONG_BINGET',
    'PERSID',
    'EXT1',
    'EXT2',
    'EXT4',
}

_NOTHING = object()  # where the memory of the machine has a gap


class Namespace(dict):
    """What an argparse.Namespace held, as a dict."""


class _Function:
    """A name of the list that can be called; on the stack it is only this."""

    def __init__(self, call):
        self.call = call


class _Pending:
    """A dtype or array that a BUILD instruction completes: `finish` makes the value from that instruction's state."""

    def __init__(self, finish):
        self.finish, self.value = finish, None


def load(data, allowed_extra=None, persistent_load=None, what='checkpoint', max_steps=None):
    """The object that a pickle describes: nested dict (an OrderedDict too), list, tuple, Namespace; numbers, text and
    bytes; numpy arrays (that own their data and can be written to), scalars and dtypes, of numbers and text only.

    data: bytes-like, or a binary file that can seek, of which exactly one pickle is read.
    allowed_extra: {(module, name): function or constant}, names beyond the usual ones. A function is called with the
    arguments that the file gives, which can be anything; a constant stands for itself.
    persistent_load: called with each persistent id, just as untrusted; what: the thing that is read, for messages.
    max_steps: instructions, MAX_STEPS unless given.
    Raises UserError, one line that does not name the file: other names, damage, unreasonable size or nesting.
    """
    try:
        file = io.BytesIO(data) if isinstance(data, (bytes, bytearray, memoryview)) else data
        return _checked(_Machine(file, allowed_extra or {}, persistent_load, what, max_steps or MAX_STEPS).run())
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f'not a readable {what}, or cut short ({type(error).__name__}: {one_line(error)})')


def _same(items):
    """tuple(a tuple), as files have it; of anything else it would copy, time and again if a file says so."""
    if type(items) is not tuple:
        raise TypeError('tuple of something else')
    return items


def _dtype(code, *_):
    """numpy.dtype(code, align, copy), to be completed by its state (version, byte order, …)."""
    dtype = np.dtype(code) if isinstance(code, str) and re.fullmatch(r'[|<>=]?[biufcSUOVMm]\d{0,9}', code) else None
    if dtype is None or dtype.kind not in 'biufcSU' or not dtype.itemsize:
        raise UserError(f"has an array of type '{one_line(code if dtype is None else dtype)}'; not loaded")
    return _Pending(lambda state: dtype.newbyteorder(state[1]) if state[1] in ('<', '>') else dtype)


def _checked(root):
    """The result, if it is plain and bounded: a short file can describe a list in itself or 2^n values."""
    count, todo = 0, [(root, 1)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, (list, tuple, dict)):
            count += len(value)
            if depth > MAX_DEPTH or count > MAX_STEPS:
                raise UserError(f'is nested more than {MAX_DEPTH} deep, or describes millions of values; not loaded')
            todo += [(child, depth + 1) for child in (value.values() if isinstance(value, dict) else value)]
        elif not isinstance(value, SCALARS + (bytearray, np.ndarray, np.generic, np.dtype)):
            raise UserError('has an unfinished array or a bare function where a value belongs; not loaded')
    return root


class _Machine:
    """Runs one pickle."""

    def __init__(self, file, allowed_extra, persistent_load, what, max_steps):
        self.input, self.persistent_load, self.what = PickleInput(file, max_steps), persistent_load, what
        self.allowance, self.calls_left, self.number_keys_left = self.input.size + (1 << 20), MAX_CALLS, MAX_NUMBER_KEYS
        self.stack, self.below = [], []  # below: the stacks under each mark
        self.memo = []  # a list: the numbers are the file's choice, and could be made to collide in a dict
        self.names = {
            ('collections', 'OrderedDict'): self._ordered,
            ('argparse', 'Namespace'): lambda: Namespace(),
            ('builtins', 'tuple'): _same,  # paddle.save writes tensors so
            ('builtins', 'bytes'): lambda: b'',  # protocol 2 writes empty bytes so …
            ('_codecs', 'encode'): self._bytes,  # … and others so
            ('numpy', 'ndarray'): 'numpy.ndarray',  # only ever an argument of _reconstruct
            ('numpy', 'dtype'): _dtype,
        }
        for core in ('numpy.core.', 'numpy._core.'):  # numpy 1 and 2
            self.names[core + 'multiarray', '_reconstruct'] = lambda *_: _Pending(lambda s: self._array(*s[1:]))
            self.names[core + 'multiarray', 'scalar'] = lambda dtype, data: self._array((1,), dtype, False, data)[0]
            self.names[core + 'numeric', '_frombuffer'] = lambda data, dtype, shape, order: self._array(
                shape, dtype, order == 'F', data
            )
        self.names.update(allowed_extra)

    def run(self):
        for name, argument in self.input:
            if name in _CONSTANTS:
                if type(argument) is int and argument.bit_length() > 1024:
                    raise UserError(f'has a number of {argument.bit_length()} bits; not loaded')
                self.stack.append(argument)
            elif name in _NEW:
                self.stack.append(_NEW[name]())
            elif name in _COLLECT:
                items = self._take(_COLLECT[name])
                if name in ('LIST', 'DICT'):
                    self.stack.append(self._fill([] if name == 'LIST' else {}, items))
                elif name.startswith('TUPLE'):
                    self.stack.append(tuple(items))
                else:
                    self._fill(self.stack[-1], items)
            elif name == 'STOP':
                return self.stack.pop()
            else:
                self._other(name, argument)

    def _take(self, count):
        """Remove and return the topmost `count` values, or with None those above the last mark."""
        if count is None:
            items, self.stack = self.stack, self.below.pop()
            return items
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _other(self, name, argument):
        if name == 'MARK':
            self.below.append(self.stack)
            self.stack = []
        elif name in ('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
            place = len(self.memo) if name == 'MEMOIZE' else argument
            if not 0 <= place < MAX_STEPS:
                raise UserError('numbers its values in millions; not loaded')
            self.memo += [_NOTHING] * (place + 1 - len(self.memo))
            self.memo[place] = self.stack[-1]
        elif name in ('GET', 'BINGET', 'LONG_BINGET'):
            value = self.memo[argument] if 0 <= argument < len(self.memo) else _NOTHING
            if value is _NOTHING:
                raise KeyError(argument)
            self.stack.append(value.value if type(value) is _Pending and value.value is not None else value)
        elif name in ('GLOBAL', 'STACK_GLOBAL'):
            self.stack.append(self._find(*(argument.split(' ', 1) if name == 'GLOBAL' else self._take(2))))
        elif name in ('REDUCE', 'NEWOBJ'):
            function, arguments = self._take(2)
            if type(function) is not _Function or type(arguments) is not tuple:
                raise UserError(f'calls something that is no function ({type(function).__name__}); not loaded')
            self._called()
            self.stack.append(function.call(*arguments))
        elif name == 'BUILD':
            self.stack.append(self._built(*self._take(2)))
        elif name == 'BINPERSID' and self.persistent_load:
            self._called()
            self.stack.append(self.persistent_load(self.stack.pop()))
        elif name not in ('PROTO', 'FRAME'):
            raise UserError(f'not a readable {self.what} (uses the pickle instruction {name})')

    def _find(self, module, name):
        module = 'builtins' if module == '__builtin__' else module  # as Python 2 and protocol 2 call it
        if not (isinstance(module, str) and isinstance(name, str) and (module, name) in self.names):
            raise UserError(
                f"asks for '{one_line(module)}.{one_line(name)}', which a {self.what} has no use for; not loaded"
            )
        value = self.names[module, name]
        return _Function(value) if callable(value) else value

    def _built(self, target, state):
        if type(target) is _Pending and target.value is None:
            target.value = target.finish(state)
            return target.value
        if type(target) is Namespace and isinstance(state, dict):
            self._spend(ENTRY * len(state))
            target.update(state)
        elif type(target) is not dict:  # of an OrderedDict that has attributes (PyTorch's), which are dropped
            raise UserError(f'sets attributes of a {type(target).__name__}; not loaded')
        return target

    def _called(self):
        self.calls_left -= 1
        if self.calls_left < 0:
            raise UserError(f'makes more than {MAX_CALLS} calls; not loaded')

    def _key(self, value):
        """A dictionary key: a tuple could be nested deep enough to crash the interpreter when it is hashed."""
        if type(value) not in (str, bytes):
            if type(value) not in SCALARS or type(value) is int and value.bit_length() > 64:
                raise UserError(f'has a {type(value).__name__} as a dictionary key; not loaded')
            self.number_keys_left -= 1
            if self.number_keys_left < 0:
                raise UserError(f'has more than {MAX_NUMBER_KEYS} numbers as dictionary keys; not loaded')
        return value

    def _fill(self, target, items):
        """Add items to a list, or keys and values in turn to a dict; returns it."""
        if type(target) is list:
            target.extend(items)
        elif isinstance(target, dict) and len(items) % 2 == 0:
            target.update(zip(map(self._key, items[::2]), items[1::2]))
        else:
            raise TypeError(f'items for a {type(target).__name__}')
        return target

    def _spend(self, count):
        """Account for bytes that a call takes beyond the length of its instructions: in sum about the file's."""
        self.allowance -= count
        if self.allowance < 0:
            raise UserError('describes more data than it holds; not loaded')

    def _ordered(self, items=()):
        self._spend(ENTRY * len(items))
        return {self._key(key): value for key, value in items}

    def _bytes(self, text, encoding='latin1'):
        self._spend(len(text))
        return text.encode('latin1')

    def _array(self, shape, dtype, fortran, data):
        if isinstance(data, str):  # Python 2's bytes
            data = self._bytes(data)
        if (
            not isinstance(dtype, np.dtype)
            or type(shape) is not tuple
            or len(shape) > 32
            or not all(type(n) is int and n >= 0 for n in shape)
            or math.prod(shape) * dtype.itemsize != len(data)
        ):
            raise UserError('has an array whose header does not fit its data; not loaded')
        self._spend(len(data))
        array = np.ndarray(shape, dtype, data, order='F' if fortran else 'C').copy(order='K')
        if dtype.kind == 'U' and (array.reshape(-1).view(dtype.byteorder + 'u4') > 0x10FFFF).any():
            raise UserError('has an array of damaged text; not loaded')
        return array
