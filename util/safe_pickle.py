"""Reading pickles of strangers: plain containers and numpy arrays come out, nothing that the file asks for is executed.

A pickle is a program for a small stack machine. `load` is such a machine that knows the instructions that build
containers and a fixed list of names; Python's own `pickle.Unpickler`, even with a list of allowed names, would still let
a file set attributes of whatever it can name, hash what is nested too deep for the C stack, and allocate at will.
"""
import io
import math
import pickletools
import re

import numpy as np

from util.runtime import UserError

MAX_STEPS = 5_000_000   # instructions; a state dict of 1,000 arrays has 30,000
MAX_VALUES = 10_000_000  # values of the result, shared ones counted wherever they appear
MAX_DEPTH = 100         # containers inside one another, so that a caller may walk the result by recursion
SCALARS = (type(None), bool, int, float, str, bytes)


class Namespace(dict):
    """What an argparse.Namespace held, as a dict."""


class _Ordered(dict):
    """An OrderedDict while it is read: the one dict that may be given attributes (torch's `_metadata`), which are dropped."""


class _Function:
    """A name of the list that can be called; on the stack it is only this."""

    def __init__(self, call):
        self.call = call


class _Pending:
    """A dtype or array whose content comes with a later BUILD. `finish` makes the value of that instruction's state."""

    def __init__(self, finish):
        self.finish, self.value = finish, None


class _Input:
    """Bounds each read by what the file holds: the lengths in a pickle are only claims."""

    def __init__(self, file):
        self.file, self.tell, self.readline = file, file.tell, file.readline
        start = file.tell()
        self.end = file.seek(0, io.SEEK_END)
        self.size = self.end - file.seek(start)

    def read(self, count):
        return self.file.read(min(count, self.end - self.file.tell()))


def load(data, allowed_extra=None, persistent_load=None, what='checkpoint'):
    """The object that a pickle describes: nested dict, list, tuple, set, Namespace, numbers, text, bytes, numpy arrays
    (which own their data and can be written to), scalars and dtypes of numbers and text; an OrderedDict is a dict.

    data: bytes-like, or a binary file that can seek; of a file exactly one pickle is read.
    allowed_extra: {(module, name): function or constant}, names beyond the usual ones. A function is called with the
    arguments that the file gives, which can be anything; a constant stands for itself.
    persistent_load: called with each persistent id (as untrusted); without it they are refused.
    what: the thing that is read, for messages.
    Raises UserError, one line without a file name: names that are not listed, damage, unreasonable size or nesting.
    """
    try:
        file = io.BytesIO(data) if isinstance(data, (bytes, bytearray, memoryview)) else data
        machine = _Machine(_Input(file), allowed_extra or {}, persistent_load, what)
        return _checked(machine.run())
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f'not a readable {what}, or cut short ({type(error).__name__}: {one_line(error)})')


def one_line(text):
    """Text of a file or an error message for use in a message of our own: printable, short, no line breaks."""
    return ' '.join(re.sub(r'[^ -~]', ' ', str(text)[:1000]).split())[:200]


# -- values -----------------------------------------------------------------------------------------------------------

def _key(value):
    """A dict key or set member: hashing a tuple that is nested deep enough would crash the interpreter."""
    for part in value if type(value) is tuple else (value,):
        if type(part) not in SCALARS or (type(part) is int and part.bit_length() > 64):
            raise UserError(f'has a {type(part).__name__} in a dictionary key; not loaded')
    return value


def _dtype(code, *_):
    """numpy.dtype(code, align, copy), completed by its state (version, byte order, …); numbers and text only."""
    dtype = np.dtype(code) if isinstance(code, str) and re.fullmatch(r'[|<>=]?[a-zA-Z]\d{0,9}', code) else None
    if dtype is None or dtype.kind not in 'biufcSU' or not dtype.itemsize:
        raise UserError(f"has an array of type '{one_line(code if dtype is None else dtype)}'; not loaded")
    return _Pending(lambda state: dtype.newbyteorder(state[1]) if state[1] in ('<', '>') else dtype)


def _checked(root):
    """The result itself, once it is known to be finite, plain and shallow. Raises UserError if it is not.

    A short file can describe an endless structure (a list in itself) or one of 2^n values (n lists of twice the last).
    """
    measured, entered, todo = {}, set(), [root]  # measured: id of container -> (values in it, depth)
    while todo:
        node = todo[-1]
        children = _children(node)
        if children is None or id(node) in measured:
            todo.pop()
        elif id(node) not in entered:
            entered.add(id(node))
            for child in children:
                if id(child) in entered and id(child) not in measured:
                    raise UserError('holds a container that contains itself; not loaded')
                if _children(child) is not None:
                    todo.append(child)
        else:
            todo.pop()
            sizes = [measured.get(id(child), (1, 0)) for child in children]
            size, depth = 1 + sum(s for s, _ in sizes), 1 + max((d for _, d in sizes), default=0)
            if size > MAX_VALUES or depth > MAX_DEPTH:
                raise UserError(f'is nested more than {MAX_DEPTH} deep; not loaded' if depth > MAX_DEPTH else
                                f'describes more than {MAX_VALUES} values; not loaded')
            measured[id(node)] = size, depth
    return root


def _children(value):
    """What a container holds, None for any other value. Raises UserError for what is no plain value."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set)):
        return value
    if isinstance(value, SCALARS + (bytearray, np.ndarray, np.generic, np.dtype)):
        return None
    raise UserError('has an unfinished array or a bare function where a value belongs; not loaded')


# -- the machine ------------------------------------------------------------------------------------------------------

class _Machine:
    """Runs one pickle. Names of methods that serve an instruction are those of the instruction in pickletools."""

    def __init__(self, file, allowed_extra, persistent_load, what):
        self.file, self.persistent_load, self.what = file, persistent_load, what
        self.stack, self.below, self.memo = [], [], {}  # below: the stacks under each MARK
        self.allowance = file.size
        self.names = {
            ('collections', 'OrderedDict'): self._ordered,
            ('argparse', 'Namespace'): Namespace,
            ('builtins', 'tuple'): self._tuple,       # paddle.save writes tensors so
            ('builtins', 'bytes'): lambda: b'',       # protocol 2 writes empty bytes so …
            ('_codecs', 'encode'): self._bytes,       # … and others so
            ('numpy', 'ndarray'): 'numpy.ndarray',    # only ever an argument of _reconstruct
            ('numpy', 'dtype'): _dtype}
        for core in ('numpy.core', 'numpy._core'):    # numpy 1 and 2
            self.names[core + '.multiarray', '_reconstruct'] = self._reconstruct
            self.names[core + '.multiarray', 'scalar'] = lambda dtype, data: self._array((1,), dtype, 'C', data)[0]
            self.names[core + '.numeric', '_frombuffer'] = \
                lambda data, dtype, shape, order: self._array(shape, dtype, order, data)
        self.names.update(allowed_extra)

    def run(self):
        for step, (instruction, argument, _) in enumerate(pickletools.genops(self.file)):
            if step > MAX_STEPS:
                raise UserError(f'has more than {MAX_STEPS} instructions; not loaded')
            name = instruction.name
            if name in _CONSTANTS:
                if type(argument) is int and argument.bit_length() > 1024:
                    raise UserError(f'has a number of {argument.bit_length()} bits; not loaded')
                self.stack.append(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name == 'STOP':
                return self.stack.pop()
            elif name not in ('PROTO', 'FRAME'):
                raise UserError(f'uses the instruction {name}, which a {self.what} has no use for; not loaded')

    # names that can be called

    def _spend(self, count):
        """Account for memory that an instruction takes beyond its own length: in sum no more than the file's length."""
        self.allowance -= count
        if self.allowance < 0:
            raise UserError('describes more data than it holds; not loaded')

    def _ordered(self, items=()):
        self._spend(len(items))
        return _Ordered((_key(key), value) for key, value in items)

    def _tuple(self, items=()):
        if type(items) is not tuple:
            raise TypeError('tuple() of something else')
        return items

    def _bytes(self, text, encoding='latin1'):
        self._spend(len(text))
        return text.encode('latin1')

    def _reconstruct(self, kind, shape, typecode):
        return _Pending(lambda state: self._array(state[1], state[2], 'F' if state[3] else 'C', state[4]))

    def _array(self, shape, dtype, order, data):
        if isinstance(data, str):  # Python 2's bytes
            data = self._bytes(data)
        if not isinstance(dtype, np.dtype) or type(shape) is not tuple or \
                not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
            raise UserError(f'has an array whose header does not fit its {len(data)} bytes; not loaded')
        self._spend(len(data))
        array = np.ndarray(shape, dtype, data, order='F' if order == 'F' else 'C').copy(order='K')
        if dtype.kind == 'U' and (array.reshape(-1).view(dtype.byteorder.replace('|', '=') + 'u4') > 0x10FFFF).any():
            raise UserError('has an array of damaged text; not loaded')
        return array

    # instructions

    def MARK(self, _):
        self.below.append(self.stack)
        self.stack = []

    def above_mark(self, _=None):
        """Remove and return what is on the stack above the last MARK."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def GLOBAL(self, pair):
        module, _, name = pair.partition(' ')
        self.find(module, name)

    def STACK_GLOBAL(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self.find(module, name)

    def find(self, module, name):
        module = 'builtins' if module == '__builtin__' else module  # as Python 2 and protocol 2 call it
        if not (isinstance(module, str) and isinstance(name, str) and (module, name) in self.names):
            raise UserError(f"asks for '{one_line(module)}.{one_line(name)}', "
                            f'which a {self.what} has no use for; not loaded')
        value = self.names[module, name]
        self.stack.append(_Function(value) if callable(value) else value)

    def REDUCE(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Function or type(arguments) is not tuple:
            raise UserError(f'calls something that is no function ({type(function).__name__}); not loaded')
        self.stack.append(function.call(*arguments))

    def BUILD(self, _):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _Pending and target.value is None:
            target.value = self.stack[-1] = target.finish(state)
        elif type(target) is Namespace and isinstance(state, dict):
            self._spend(len(state))
            target.update(state)
        elif type(target) is not _Ordered:
            raise UserError(f'sets attributes of a {type(target).__name__}; not loaded')

    def PUT(self, key):
        self.memo[key] = self.stack[-1]

    def GET(self, key):
        value = self.memo[key]
        self.stack.append(value.value if type(value) is _Pending and value.value is not None else value)

    def PERSID(self, name):
        if self.persistent_load is None:
            raise UserError(f'refers to data outside of it, which a {self.what} has no use for; not loaded')
        self.stack.append(self.persistent_load(name))

    def POP(self, _):
        if self.stack:
            self.stack.pop()
        else:
            self.above_mark()

    def append(self, items):
        if type(self.stack[-1]) is not list:
            raise TypeError('append to something that is no list')
        self.stack[-1].extend(items)

    def set_items(self, items):
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError('items for something that is no dict')
        target.update((_key(key), value) for key, value in zip(items[::2], items[1::2]))

    def ADDITEMS(self, _):
        items = self.above_mark()
        if type(self.stack[-1]) is not set:
            raise TypeError('members for something that is no set')
        self.stack[-1].update(_key(item) for item in items)

    def take(self, count):
        """Remove and return the topmost `count` values."""
        if len(self.stack) < count:
            raise IndexError('stack underflow')
        items = self.stack[len(self.stack) - count:]
        del self.stack[len(self.stack) - count:]
        return items

    def push_dict(self, items):
        self.stack.append({})
        self.set_items(items)


_CONSTANTS = {i.name for i in pickletools.opcodes if i.arg is not None and len(i.stack_after) == 1
              and not i.stack_before and i.name not in ('GET', 'BINGET', 'LONG_BINGET', 'GLOBAL', 'INST', 'PERSID',
                                                        'EXT1', 'EXT2', 'EXT4')}
_M = _Machine
_ACTIONS = {
    **{name: getattr(_M, name) for name in ('MARK', 'GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'BUILD', 'POP', 'ADDITEMS',
                                            'PERSID')},
    **dict.fromkeys(('PUT', 'BINPUT', 'LONG_BINPUT'), _M.PUT), **dict.fromkeys(('GET', 'BINGET', 'LONG_BINGET'), _M.GET),
    'MEMOIZE': lambda m, _: m.PUT(len(m.memo)), 'BINPERSID': lambda m, _: m.PERSID(m.stack.pop()),
    'NEWOBJ': _M.REDUCE, 'POP_MARK': _M.above_mark, 'DUP': lambda m, _: m.stack.append(m.stack[-1]),
    'NONE': lambda m, _: m.stack.append(None), 'NEWTRUE': lambda m, _: m.stack.append(True),
    'NEWFALSE': lambda m, _: m.stack.append(False), 'EMPTY_SET': lambda m, _: m.stack.append(set()),
    'EMPTY_LIST': lambda m, _: m.stack.append([]), 'EMPTY_DICT': lambda m, _: m.stack.append({}),
    'EMPTY_TUPLE': lambda m, _: m.stack.append(()), 'LIST': lambda m, _: m.stack.append(m.above_mark()),
    'TUPLE': lambda m, _: m.stack.append(tuple(m.above_mark())), 'DICT': lambda m, _: m.push_dict(m.above_mark()),
    **{f'TUPLE{n}': lambda m, _, n=n: m.stack.append(tuple(m.take(n))) for n in (1, 2, 3)},
    'APPEND': lambda m, _: m.append(m.take(1)), 'APPENDS': lambda m, _: m.append(m.above_mark()),
    'SETITEM': lambda m, _: m.set_items(m.take(2)), 'SETITEMS': lambda m, _: m.set_items(m.above_mark())}
