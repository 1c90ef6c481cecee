"""Hostile pickles, alone and in the archives and old files of PyTorch."""

import io
import os
import pickle
import struct
import warnings
import zipfile

import numpy as np

from util.weights import torch_file

PRIME = 2**61 - 1  # numbers that differ by a multiple of it have the same hash


def op(value):
    """The instructions of a plain value, of protocol 2."""
    return pickle.dumps(value, 2)[2:-1]


def call(name, *arguments):
    return b'c' + name.encode().replace(b' ', b'\n') + b'\n' + op(arguments) + b'R'


class _Reduced:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce_ex__(self, _):
        return self.reduced


def _dumps(*reduced):
    """A pickle of a call, of every protocol."""
    return {f'protocol {n}': (lambda n=n: pickle.dumps({'model': _Reduced(*reduced)}, n)) for n in range(6)}


def _programs(canary):
    """{name: instructions between the protocol and the end} that are short."""
    command, code = f'touch {canary}', f'open({canary!r}, "w")'
    core = np.zeros(1).__reduce__()[0].__module__.encode()
    array = b'c' + core + b'\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
    f8 = b'cnumpy\ndtype\n\x8c\x02f8\x85R'
    shapes = {
        'negative': op((-1,)),
        'huge': op((2**40,)),
        'overflow': op((2**33, 2**33)),
        'float': op((1.0,)),
        '70 dimensions': op((1,) * 70),
        'long product': op((2**900,) * 2) + b'q\x00' + b'h\x00' * 0,
    }
    calls = {
        name: call(name, *arguments)
        for name, arguments in {
            'os system': (command,),
            'posix system': (command,),
            'subprocess Popen': (['touch', canary],),
            'subprocess check_output': (['touch', canary],),
            'builtins eval': (code,),
            'builtins exec': (code,),
            '__builtin__ eval': (code,),
            'builtins getattr': ('a', 'upper'),
            'builtins open': (canary, 'w'),
            'builtins __import__': ('hostile_canary',),
            'importlib import_module': ('hostile_canary',),
            'hostile_canary run': (),
            'runpy run_path': (canary,),
            'pty spawn': ('touch',),
            'webbrowser open': ('x',),
            'shutil rmtree': (canary + '.d',),
            'numpy load': (canary,),
            'numpy fromfile': (canary,),
            'numpy.core.multiarray fromfile': (canary,),
            'torch load': (canary,),
            'pickle loads': (b'cos\nsystem\n.',),
            'paddle load': (canary,),
            'codecs encode': ('x', 'zip'),
            'functools partial': (1,),
            'operator attrgetter': ('a',),
            'copyreg _reconstructor': (1, 2, 3),
            'builtins bytearray': (2**40,),
            'builtins range': (2**60,),
            'builtins list': ('abc',),
            'builtins map': (1, 2),
            'types CodeType': (1,),
            'signal alarm': (1,),
            'os _exit': (0,),
            'sys exit': (0,),
            'ctypes string_at': (0,),
            'antigravity x': (),
            'this s': (),
        }.items()
    }
    return {
        **calls,
        'dotted name': b'\x8c\x05numpy\x8c\x11ndarray.__class__\x93',
        'name in the memo': b'\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93\x8c'
        + bytes([len(command)])
        + command.encode()
        + b'\x85R',
        'instance': b'(' + op(command) + b'ios\nsystem\n',
        'object': b'(cos\nsystem\n' + op(command) + b'o',
        'new object': b'cos\nsystem\n' + op(command) + b'\x85\x81',
        'new object, extended': b'cos\nsystem\n' + op(command) + b'\x85}\x92',
        'extension 1': b'\x82\x01',
        'extension 2': b'\x83\x01\x00',
        'extension 4': b'\x84\x01\x00\x00\x00',
        'persistent id': b'X\x01\x00\x00\x00aQ',
        'persistent id, text': b'Pa\n',
        'out-of-band buffer': b'\x97',
        'read-only buffer': b'\x97\x98',
        'stack games': b'(((10000222',
        'negative memo': b'Np-5\ng-5\n',
        'state of a list': b']}\x8c\x09__class__Nsb',
        'state of a class': b'cargparse\nNamespace\n}\x8c\x01aNsb',
        'state of a namespace': b'cargparse\nNamespace\n)R}\x8c\x09__class__]sb]b',
        'slots': b'cargparse\nNamespace\n)RN}\x8c\x08__dict__Ns\x86b',
        'ndarray called': b'cnumpy\nndarray\nK\x01\x85R',
        'object dtype': b'cnumpy\ndtype\n\x8c\x01O\x85R',
        'record dtype': b'cnumpy\ndtype\n\x8c\x05f4,O8\x85R',
        'void dtype': b'cnumpy\ndtype\n\x8c\x09V99999999\x85R',
        'object array': array + b'(K\x01K\x01\x85cnumpy\ndtype\n\x8c\x02O8\x85R\x89C\x08AAAAAAAAtb',
        **{
            f'array, {name} shape': array + b'(K\x01' + shape + f8 + b'\x89C\x08AAAAAAAAtb'
            for name, shape in shapes.items()
        },
        'claims of bytes': b'B\xff\xff\xff\xff',
        'claims of text': b'X\xff\xff\xff\xffabc',
        'claims of 8 bytes': b'\x8e' + b'\xff' * 7 + b'\x7f',
        'claims of a bytearray': b'\x96' + b'\xff' * 7 + b'\x7f',
        'claims of a frame': b'\x95' + b'\xff' * 8 + b'N',
        'frames in frames': (b'\x95\x04' + bytes(7)) * 1000 + b'N',
        'claims of a number': b'\x8b\xff\xff\xff\x7f',
        'negative number of bytes': b'\x8b\xff\xff\xff\xff',
        'protocol 255': b'\x80\xffN',
        'list in itself': b']q\x00h\x00a',
        'no value': b'',
        'mark only': b'(',
    }


def large():
    """{name: function that makes the instructions}: what would take memory, time or the C stack."""
    core = np.zeros(1).__reduce__()[0].__module__.encode()
    array = b'c' + core + b'\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
    f8 = b'cnumpy\ndtype\n\x8c\x02f8\x85R'
    deep = b')' + b'\x85' * 900_000
    text = b'X' + struct.pack('<I', 1 << 20) + b'a' * (1 << 20) + b'q\x00'

    def dictionary(count):
        return b'}(' + b''.join(op(f'{i:x}') + b'N' for i in range(count)) + b'uq\x00'

    def chain():  # keys that fill a run of the places that a dict tries, then keys that walk along it
        size, place, places = 1 << 17, 1, []
        for _ in range(80_000):
            places.append(place)
            place = (5 * place + 1) % size
        return (
            b'}('
            + b''.join(b'J' + struct.pack('<i', n) + b'N' for n in places)
            + (b'J' + struct.pack('<i', places[0] + size) + b'N') * 100_000
            + b'u'
        )

    return {
        'lists, a million deep': lambda: b']' * 1_000_000 + b'a' * 999_999,
        'lists, 400,000 deep': lambda: b']' * 400_000 + b'a' * 399_999,
        'tuples, 900,000 deep': lambda: deep,
        'marks': lambda: b'(' * 1_000_000,
        'dicts, deep': lambda: b'}' + b'K\x01}' * 300_000 + b's' * 300_000,
        'namespaces, deep': lambda: b'cargparse\nNamespace\nq\x00)R' + b'}\x8c\x01ah\x00)R' * 90_000 + b'sb' * 90_000,
        'key, deep': lambda: b'}' + deep + b'Ns',
        'key of a namespace, deep': lambda: b'cargparse\nNamespace\n](' + deep + b'N\x86e\x85R',
        'key of an ordered dict, deep': lambda: b'ccollections\nOrderedDict\n](' + deep + b'N\x86e\x85R',
        'persistent id, deep': lambda: deep + b'Q',
        'name, deep': lambda: deep + deep + b'\x93',
        'doubling lists': lambda: b']q\x00' + b''.join(b'](h%ch%ceq%c' % (i, i, i + 1) for i in range(60)),
        'doubling tuples': lambda: b')' + b''.join(b'q%c0h%ch%c\x86' % (i, i, i) for i in range(60)),
        'empty dicts': lambda: b'}' * 5_000_000,
        'empty lists': lambda: b']' * 900_000,
        'dicts in the memo': lambda: b'}\x94' * 450_000,
        'memo': lambda: b'N' + b'\x94' * 999_000,
        'memo, far apart': lambda: b'N' + b''.join(b'r' + struct.pack('<I', i << 12) for i in range(200_000)),
        'memo, one hash': lambda: b'N' + b''.join(b'p%d\n' % (i * PRIME) for i in range(100_000)),
        'keys, one hash': lambda: b'}(' + b''.join(op(i * PRIME) + b'N' for i in range(100_000)) + b'u',
        'keys, few hashes': lambda: b'}(' + b''.join(op((i % 7) * PRIME + i // 7) + b'N' for i in range(60_000)) + b'u',
        'keys, many a chain': chain,
        'keys, NaN': lambda: b'}(' + (b'G\x7f\xf8' + bytes(6) + b'N') * 200_000 + b'u',
        'keys, tuples': lambda: b'}(' + b''.join(op((i, -i)) + b'N' for i in range(90_000)) + b'u',
        'copies of a namespace': lambda: (
            dictionary(50_000) + b'cargparse\nNamespace\nq\x01' + b'h\x01h\x00\x85R' * 3000
        ),
        'states of namespaces': lambda: dictionary(50_000) + b'cargparse\nNamespace\nq\x01' + b'h\x01)Rh\x00b' * 3000,
        'copies of an ordered dict': lambda: (
            b']('
            + b''.join(op((f'{i:x}', 0)) for i in range(50_000))
            + b'eq\x00'
            + b'ccollections\nOrderedDict\nq\x01'
            + b'h\x01h\x00\x85R' * 3000
        ),
        'copies of a tuple': lambda: (
            b'(' + b'N' * 100_000 + b'lq\x00cbuiltins\ntuple\nq\x01' + b'h\x01h\x00\x85R' * 3000
        ),
        'copies of bytes': lambda: text + b'c_codecs\nencode\nh\x00\x8c\x06latin1\x86q\x01R' * 2000,
        'copies of an array': lambda: (
            b'B'
            + struct.pack('<I', 1 << 20)
            + bytes(1 << 20)
            + b'q\x00'
            + f8
            + b'q\x01'
            + (array + b'(K\x01J\x00\x00\x02\x00\x85h\x01\x89h\x00tb') * 2000
        ),
        'product of a million sides': lambda: (
            array
            + b'(K\x01(\x8a\x7f'
            + b'\x7f' * 127
            + b'q\x00'
            + b'h\x00' * 400_000
            + b't'
            + f8
            + b'\x89C\x08AAAAAAAAtb'
        ),
        'many calls': lambda: b'cargparse\nNamespace\nq\x00' + b'h\x00)R' * 300_000,
        'many dtypes': lambda: b'cnumpy\ndtype\nq\x00\x8c\x02f8\x85q\x01' + b'h\x00h\x01R' * 300_000,
        'wide text': lambda: b'X' + struct.pack('<I', (80 << 20) + 4) + b'a' * (80 << 20) + b'\xf0\x9f\x98\x80',
        'wide text, escaped': lambda: b'V' + b'a' * (40 << 20) + b'\\U0001f600\n',
        'long line': lambda: b'S' + b'\x80' * (60 << 20) + b'\n',
        'long number': lambda: b'I' + b'9' * 3_000_000 + b'\n',
        'long name': lambda: b'c' + b'a' * 30_000_000 + b'\n' + b'b' * 1000 + b'\n',
        'long float': lambda: b'F' + b'9' * 30_000_000 + b'\n',
        'number of 8 million bits': lambda: b'\x8b' + struct.pack('<I', 1 << 20) + b'\x7f' * (1 << 20),
        'no end': lambda: b'N0' * 3_000_000,
    }


def files(canary, legacy=False):
    """Of kind pd and so on; legacy: as the object in a file of PyTorch before 1.6."""
    head = b''.join(pickle.dumps(v, 2) for v in (torch_file.MAGIC, 1001, {})) if legacy else b''

    def whole(make):
        return lambda: head + b'\x80\x04' + (make if isinstance(make, bytes) else make()) + b'.'

    result = {name: whole(make) for name, make in {**_programs(canary), **large()}.items()}
    result.update(
        _tensors(
            lambda program: (
                head + b'\x80\x02' + program + b'.' + pickle.dumps(['0'], 2) + struct.pack('<q', 6) + bytes(24)
            )
        )
    )
    if legacy:
        result.update(
            {
                'long first pickle': lambda: b'\x80\x02' + b'N0' * 499_000 + head[2:] + b'\x80\x02}.',
                'storage claims': lambda: (
                    head + b'\x80\x02' + tensor() + b'.' + pickle.dumps(['0'], 2) + struct.pack('<q', 2**60) + bytes(24)
                ),
                'keys again and again': lambda: head + b'\x80\x02' + tensor() + b'.' + pickle.dumps(['0'] * 300_000, 2),
            }
        )
    else:
        for name, reduced in {
            'os.system': (os.system, (f'touch {canary}',)),
            'eval': (eval, (f'open({canary!r}, "w")',)),
            'state setter': (np.ndarray, (1,), {'a': 1}),
        }.items():
            result.update({f'{name}, {protocol}': make for protocol, make in _dumps(*reduced).items()})
    return result


# -- PyTorch ----------------------------------------------------------------------------------------------------------


def tensor(size=(2, 3), stride=(3, 1), offset=0, count=6, key='0', storage=b'ctorch\nFloatStorage\n'):
    return (
        b'ctorch._utils\n_rebuild_tensor_v2\n(('
        + op('storage')
        + storage
        + op(key)
        + op('cpu')
        + op(count)
        + b'tQ'
        + op(offset)
        + op(size)
        + op(stride)
        + b'\x89ccollections\nOrderedDict\n)RtR'
    )


def _tensors(whole):
    """Tensors that lie about their storage; whole: program -> file."""
    lies = {
        'beyond': dict(size=(7,), stride=(1,)),
        'stride beyond': dict(size=(2,), stride=(6,)),
        'negative offset': dict(offset=-1),
        'negative stride': dict(stride=(-3, 1)),
        'negative size': dict(size=(-2, 3)),
        'overflow': dict(size=(2**62,), stride=(2**62,)),
        'stride 0': dict(size=(2**40,), stride=(0,)),
        'empty but huge': dict(size=(0, 2**62, 2**62), stride=(0, 0, 0)),
        'count': dict(count=2**60),
        'negative count': dict(count=-6),
        'key is a path': dict(key='../../etc/passwd'),
        'key is a number': dict(key=0),
        'text for a type': dict(storage=op('O')),
        'ragged': dict(stride=(1,)),
        '70 dimensions': dict(size=(1,) * 70, stride=(1,) * 70),
    }
    return {
        f'tensor, {name}': lambda lie=lie: whole(b'}' + op('w') + tensor(**lie) + b's') for name, lie in lies.items()
    }


def archive(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, 'w', compression) as zipped_file:
        warnings.simplefilter('ignore')  # two members of one name
        for name, data in members:
            zipped_file.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


def zipped(canary):
    """Of kind pth: all of the pickles, in an archive; and hostile archives."""
    storage = ('a/data/0', np.arange(6, dtype='f4').tobytes())

    def whole(program):
        return archive([('a/data.pkl', b'\x80\x02' + program + b'.'), storage])

    def around(make):
        return lambda: whole(make if isinstance(make, bytes) else make())

    def inflating(compression, length=100 << 20):
        return lambda: archive(
            [
                ('a/data.pkl', b'\x80\x02}' + op('w') + tensor((length // 4,), (1,), count=length // 4) + b's.'),
                ('a/data/0', bytes(length)),
            ],
            compression,
        )

    def overlapping(count=3000):  # many entries of one member, as D. Fifield's bomb
        one = archive(
            [
                (
                    'a/data.pkl',
                    b'\x80\x02]('
                    + b''.join(tensor((250_000,), (1,), count=250_000, key=str(i)) for i in range(count))
                    + b'e.',
                ),
                ('a/data/0', bytes(1_000_000)),
            ]
        )
        place, end = one.rindex(b'PK\x01\x02'), one.rindex(b'PK\x05\x06')
        start = struct.unpack('<I', one[end + 16 : end + 20])[0]
        entry, first = one[place:end], one[start:place]
        entries = [
            entry[:28] + struct.pack('<H', len(name)) + entry[30:46] + name
            for name in (b'a/data/%d' % i for i in range(count))
        ]
        directory = first + b''.join(entries)
        return (
            one[:start]
            + directory
            + b'PK\x05\x06'
            + struct.pack('<HHHHIIH', 0, 0, count + 1, count + 1, len(directory), start, 0)
        )

    def entries(count):
        one = b'PK\x01\x02' + bytes(24) + struct.pack('<H', 1) + bytes(16) + b'a'
        return one * count + b'PK\x05\x06' + struct.pack('<HHHHIIH', 0, 0, 65535, 65535, len(one) * count, 0, 0)

    good = archive([('a/data.pkl', b'\x80\x02}' + op('w') + tensor() + b's.'), storage])
    aliased = b'}(' + b''.join(op(f'w{i}') + tensor() for i in range(5000)) + b'u'
    strided = b'](' + b''.join(tensor((4_000_000,), (0,)) for _ in range(60)) + b'e'
    return {
        **{name: around(make) for name, make in {**_programs(canary), **large()}.items()},
        **_tensors(whole),
        'aliased storages': lambda: whole(aliased),
        'copies by stride 0': lambda: whole(strided),
        'many tensors': lambda: whole(
            b'('
            + op('storage')
            + b'ctorch\nFloatStorage\n'
            + op('0')
            + op('cpu')
            + op(6)
            + b'tQq\x00(h\x00K\x00K\x06\x85K\x01\x85\x89}tq\x01'
            + b'ctorch._utils\n_rebuild_tensor_v2\nq\x02'
            + b'h\x02h\x01R' * 300_000
        ),
        'deflated zeros': inflating(zipfile.ZIP_DEFLATED),
        'bzip2 zeros': inflating(zipfile.ZIP_BZIP2),
        'lzma zeros': inflating(zipfile.ZIP_LZMA),
        'overlapping members': overlapping,
        'a million entries': lambda: entries(1_000_000),
        '200,000 entries': lambda: entries(200_000),
        'archive in an archive': lambda: archive([('a/data.pkl', good)]),
        'data.pkl twice': lambda: archive(
            [('a/data.pkl', b'\x80\x02}.'), ('a/data.pkl', b'\x80\x02}' + op('w') + tensor() + b's.'), storage]
        ),
        'two roots': lambda: archive([('a/data.pkl', b'\x80\x02}.'), ('b/data.pkl', b'\x80\x02}.')]),
        'climbing name': lambda: archive([('../data.pkl', b'\x80\x02' + call('os system', f'touch {canary}') + b'.')]),
        'encrypted': lambda: good.replace(b'PK\x01\x02\x14\x03\x14\x00\x00\x00', b'PK\x01\x02\x14\x03\x14\x00\x01\x00'),
        'no data.pkl': lambda: archive([('a/b', b'')]),
        'empty archive': lambda: archive([]),
        'wrong checksum': lambda: good.replace(storage[1], bytes(24)),
        'zip64 claims': lambda: (
            good[:-22]
            + b'PK\x06\x06'
            + struct.pack('<QHHIIQQQQ', 44, 45, 45, 0, 0, 2**63, 2**63, 2**62, 0)
            + b'PK\x06\x07'
            + struct.pack('<IQI', 0, len(good) - 22, 1)
            + good[-22:]
        ),
    }
