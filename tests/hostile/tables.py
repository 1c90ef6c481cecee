"""Hostile arrays: .npy files and names of packed label maps, .safetensors."""

import json
import struct

import numpy as np

GOOD = "{'descr': '<f2', 'fortran_order': False, 'shape': %s, }"


def _npy(header, data=b'', version=1, claimed=None):
    header = header.encode('latin-1') if isinstance(header, str) else header
    size = len(header) if claimed is None else claimed
    return b'\x93NUMPY' + bytes([version, 0]) + struct.pack('<H' if version == 1 else '<I', size) + header + data


def npy(canary, packed=False):
    shape, data = ('(30, 2, 3, 6, 6)' if packed else '(2, 3, 6, 6)'), bytes(2 * 216 * (30 if packed else 1))
    code = f"open({canary!r}, 'w')"
    headers = {
        'huge shape': GOOD % '(2, 5, 1000000, 1000000)',
        'negative shape': GOOD % '(2, -3, 6, -6)',
        'overflowing shape': GOOD % '(4294967296, 4294967296, 1, 1)',
        'zero times huge': GOOD % '(0, 9999999999999999)',
        'float shape': GOOD % '(2.0, 3, 6, 6)',
        'no tuple': GOOD % '432',
        '5,000 digits': GOOD % f'({"9" * 5000},)',
        '3,000 dimensions': GOOD % f'({"1," * 3000})',
        'names for a shape': GOOD % '(a, b)',
        'code': code,
        'code in the shape': GOOD % f'({code},)',
        'code for a type': "{'descr': %s, 'fortran_order': False, 'shape': (2, 3, 6, 6), }" % code,
        'object': GOOD.replace('<f2', '|O') % shape,
        'objects of 8 bytes': GOOD.replace('<f2', 'O8') % shape,
        'text': GOOD.replace('<f2', '<U4') % shape,
        'void': GOOD.replace('<f2', '|V2') % shape,
        'dates': GOOD.replace('<f2', '<M8[s]') % shape,
        'record': GOOD.replace("'<f2'", "[('a', '<f2')]") % shape,
        'no such type': GOOD.replace('<f2', '<f3') % shape,
        'itemsize 99': GOOD.replace('<f2', '<f99') % shape,
        'another size': GOOD.replace('<f2', '<f8') % shape,
        'order is a number': (GOOD % shape).replace('False', '7'),
        'key missing': "{'descr': '<f2', 'shape': (2,), }",
        'key twice': (GOOD % shape).replace('}', "'descr': '|O', }"),
        'more keys': (GOOD % shape).replace('}', "'x': 1}"),
        'parentheses': '(' * 9999,
        'brackets': '[' * 5000 + ']' * 5000,
        'minus': '-' * 9990 + '1',
        'plus': '1' + '+1' * 4900,
        'not': 'not ' * 2400 + '1',
        'attributes': 'a' + '.a' * 4900,
        'power': '9**9**9**9',
        'null': '\0' * 100,
        'a megabyte of blanks': b' ' * (1 << 20),
        'no header': '',
    }
    result = {
        f'header: {name}': lambda header=header: _npy(header, data, 2 if len(header) > 65535 else 1)
        for name, header in headers.items()
    }
    grows = {'truncated': data[:-1], 'more than there should be': data + b'\0', 'nothing': b''}
    result.update({f'data: {name}': lambda rest=rest: _npy(GOOD % shape, rest) for name, rest in grows.items()})
    result.update(
        {
            'header of 4 GB': lambda: _npy(GOOD % shape, data, 2, 2**32 - 1),
            'version 0': lambda: _npy(GOOD % shape, data, 0),
            'header of 100 MB': lambda: _npy(b' ' * (100 << 20), data, 2),
            'version 200': lambda: _npy(GOOD % shape, data, 200),
            'archive': lambda: b'PK\x03\x04' + bytes(100),
            'pickle': lambda: b'\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.',
        }
    )
    if not packed:
        for name, spoil in {
            'NaN': (0, np.nan),
            'infinity': (0, np.inf),
            'beyond float32': (0, 1e300),
            'id 10': (1, 10),
            'id -1': (1, -1),
            'id 0.5': (1, 0.5),
            'id NaN': (1, np.nan),
            'id 1e300': (1, 1e300),
        }.items():
            array = np.zeros((2, 3, 6, 6))
            array[spoil[0], 1, 2, 3] = spoil[1]
            result[f'values: {name}'] = lambda array=array: _npy(GOOD.replace('<f2', '<f8') % shape, array.tobytes())
        result['a map of 160 MB'] = lambda: _npy(GOOD % '(2, 1000, 200, 200)', bytes(160_000_000))
    else:
        result['no maps'] = lambda: _npy(GOOD % '(0, 2, 3, 6, 6)')
        result['four dimensions'] = lambda: _npy(GOOD % '(30, 2, 3, 36)', data)
    return result


def names(_):
    lines = [b'n01/x', *(b'n02/image%d' % i for i in range(29))]
    return {
        'one of 30 MB': lambda: b'\n'.join(sorted([*lines[:-1], b'n99/' + b'x' * 30_000_000])) + b'\n',
        'ten million blank lines': lambda: b'\n' * 10_000_000,
        'nulls': lambda: b'\0\n' * 30,
        'no line ends': lambda: b'a' * 10**7,
        'unsorted': lambda: b'\n'.join(lines[::-1]) + b'\n',
        'twice': lambda: b'a\n' * 30,
        'too few': lambda: b'n01/x\n',
        'not UTF-8': lambda: b'\n'.join(bytes([200 + i]) for i in range(30)) + b'\n',
    }


def safetensors(_):
    def whole(header, data=b'', length=None):
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack('<Q', len(header) if length is None else length) + header + data

    def entry(begin=0, end=4, shape=(1,), dtype='F32'):
        return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [begin, end]}

    one = {'w': entry()}
    headers = {
        'negative offset': {'w': entry(-4, 0)},
        'end before begin': {'w': entry(4, 0)},
        'beyond': {'w': entry(0, 400, (100,))},
        'huge shape': {'w': entry(shape=(2**40, 2**40))},
        'misfit': {'w': entry(shape=(2,))},
        'gap': {'w': entry(1, 5)},
        'overlap': {'w': entry(), 'v': entry()},
        'float shape': {'w': entry(shape=(1.0,))},
        'a list': [1],
        'a number': 3,
        'no such type': {'w': entry(dtype='O')},
        'type is a list': {'w': {**entry(), 'dtype': ['F32']}},
        'entry is a number': {'w': 3},
        'key missing': {'w': {'dtype': 'F32'}},
        'negative shape': {'w': entry(shape=(-1, -1))},
        'bool shape': {'w': entry(shape=(True,))},
        'metadata is a list': {'__metadata__': [1], 'w': 3},
    }
    result = {name: lambda header=header: whole(header, bytes(4)) for name, header in headers.items()}
    return {
        **result,
        'length of 16 exabytes': lambda: whole(one, bytes(4), 2**64 - 1),
        'length beyond': lambda: whole(one, bytes(4), 10**6),
        'length of 90 MB, sparse': lambda: whole(one, bytes(4), 90 << 20),
        'bytes left': lambda: whole(one, bytes(400)),
        'truncated': lambda: whole(one, bytes(3)),
        'nested': lambda: whole(b'{"a":' + b'[' * 1_000_000),
        'nested, closed': lambda: whole(b'{"a":' + b'[' * 10**6 + b']' * 10**6 + b'}'),
        'number of a million digits': lambda: whole(b'{"a":' + b'9' * 10**6 + b'}'),
        'many lists': lambda: whole(b'{"a":[' + b'[],' * 12_000_000 + b'[]]}'),
        'many lists, 6 MB': lambda: whole(b'{"a":[' + b'{},' * 2_000_000 + b'[]]}'),
        'empty tensors, 6 MB': lambda: whole({f'{i}': entry(0, 0, (0,)) for i in range(90_000)}, b'x'),
        'sides of 4,000 digits': lambda: whole(
            b'{"w":{"dtype":"F32","data_offsets":[0,4],"shape":[' + (b'9' * 4000 + b',') * 4000 + b'1]}}', bytes(4)
        ),
        'names twice': lambda: whole(
            b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry()).encode() + b'}', bytes(4)
        ),
        'empty tensors': lambda: whole({f'{i}': entry(0, 0, (0,)) for i in range(400_000)}),
        'not UTF-8': lambda: whole(b'{"\xff":1}'),
        'null': lambda: whole(b'{\0'),
        'no header': lambda: whole(b'{'),
        'line ends in a name': lambda: whole({'a\n\x1b[2J\n': entry(3, 4)}, bytes(4)),
    }
