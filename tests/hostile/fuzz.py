"""Damage to a good file: cut, flipped bits, other bytes overwritten, inserted, deleted, copied; the same every time."""

import numpy as np

# Bytes that mean something to one format or another: instructions of pickles, marks of archives, brackets, extremes.
WORDS = b'\x00 \xff \x80\x04 ( . } ] ) h\x00 q\x00 \x94 R b \x93 \x85 c i O8 |O PK\x01\x02 PK\x03\x04 PK\x05\x06'.split(
    b' '
)
WORDS += b'\xff\xff\xff\x7f [ { " &a *a -1 1e999 99999999999999999999 NaN \n \\ \xff\xda \xff\xd8 \xed\xa0\x80'.split(
    b' '
)
WORDS += [b'cos\nsystem\n', b'cbuiltins\neval\n', b'!!python/object/apply:os.system', bytes(8), b'\x1b[2J']


def cuts(data):
    """The first part of a file, of 60 lengths."""
    for length in sorted({len(data) * i // 60 for i in range(60)}):
        yield f'cut at {length}', data[:length]


def changes(data, count, seed):
    """`count` changed files."""
    for number in range(count):
        rng, changed = np.random.default_rng([seed, number]), bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 4])):
            change(changed, rng)
        yield f'change {number}', bytes(changed)


def change(data, rng):
    """One change; half of them in the first or last 300 bytes, where most formats have their structure."""
    near, far = rng.integers(min(300, len(data))), rng.integers(len(data))
    place = int(rng.choice([far, far, near, len(data) - 1 - near]))
    word, length = WORDS[rng.integers(len(WORDS))], int(rng.integers(1, 200))
    kind = rng.integers(5)
    if kind == 0:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[place : place + len(word)] = word
    elif kind == 2:
        data[place:place] = word
    elif kind == 3 and len(data) > 300:
        del data[place : place + int(rng.integers(1, 17))]
    else:
        data[place:place] = data[far : far + length]
