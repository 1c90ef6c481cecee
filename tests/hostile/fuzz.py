"""Mutations of a good file: truncations, flipped bits, spliced, repeated, moved and inserted bytes; deterministic."""

import numpy as np

# Bytes that mean something to one format or another: instructions of pickles, marks of archives, brackets, extremes.
WORDS = (
    b'\x00',
    b'\xff',
    b'\x00' * 8,
    b'\xff' * 8,
    b'\xff\xff\xff\x7f',
    b'\x00\x00\x00\x80',
    b'\x7f' * 8,
    b'\x80\x04',
    b'(',
    b'.',
    b'}',
    b']',
    b')',
    b'h\x00',
    b'q\x00',
    b'\x94',
    b'R',
    b'b',
    b'\x93',
    b'\x85',
    b'\x86',
    b'c',
    b'i',
    b'cos\nsystem\n',
    b'cbuiltins\neval\n',
    b'O8',
    b'|O',
    b'PK\x01\x02',
    b'PK\x03\x04',
    b'PK\x05\x06',
    b'[',
    b'{',
    b'"',
    b'&a',
    b'*a',
    b'!!python/object/apply:os.system',
    b'-1',
    b'1e999',
    b'9' * 40,
    b'NaN',
    b'\n',
    b'\\',
    b'\xff\xda',
    b'\xff\xd8',
    b'\xed\xa0\x80',
    b'\xe2\x80\xa8',
    b'\x1b[2J',
)


def truncations(data):
    """The file cut at every kilobyte, and at every byte of its first and its last kilobyte."""
    lengths = {*range(0, len(data), 1024), *range(min(1024, len(data))), *range(max(0, len(data) - 1024), len(data))}
    for length in sorted(lengths):
        yield f'cut at {length}', data[:length]


def mutations(data, others, count, seed):
    """`count` changed files. others: good files to take pieces from."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        changed, steps = bytearray(data), []
        for _ in range(int(rng.choice([1, 1, 1, 2, 3, 8]))):
            step = CHANGES[rng.integers(len(CHANGES))]
            step(changed, rng, others)
            steps.append(step.__name__.strip('_'))
        yield f'{number}: {", ".join(steps)}', bytes(changed)


def _place(changed, rng):
    """Half of them in the first or last 300 bytes, where most formats have their structure."""
    size = max(len(changed), 1)
    if rng.random() < 0.5:
        return int(rng.integers(size))
    near = int(rng.integers(min(300, size)))
    return near if rng.random() < 0.5 else size - 1 - near


def _flip(changed, rng, _):
    if changed:
        changed[_place(changed, rng)] ^= 1 << int(rng.integers(8))


def _overwrite(changed, rng, _):
    place, word = _place(changed, rng), WORDS[rng.integers(len(WORDS))]
    changed[place : place + len(word)] = word


def _insert(changed, rng, _):
    place = _place(changed, rng)
    changed[place:place] = WORDS[rng.integers(len(WORDS))]


def _delete(changed, rng, _):
    place = _place(changed, rng)
    del changed[place : place + int(rng.integers(1, 17))]


def _splice(changed, rng, others):
    place, other = _place(changed, rng), others[rng.integers(len(others))]
    start, length = int(rng.integers(len(other))), int(rng.integers(1, 257))
    changed[place : place + length] = other[start : start + length]


def _repeat(changed, rng, _):
    place, length = _place(changed, rng), int(rng.integers(1, 257))
    changed[place:place] = changed[place : place + length] * int(rng.integers(1, 9))


def _move(changed, rng, _):
    place, length = _place(changed, rng), int(rng.integers(1, 257))
    piece = changed[place : place + length]
    del changed[place : place + length]
    place = _place(changed, rng)
    changed[place:place] = piece


def _number(changed, rng, _):
    """Another number of 4 bytes where one may be."""
    place = _place(changed, rng)
    number = int(rng.choice([0, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1]))
    changed[place : place + 4] = number.to_bytes(4, 'little' if rng.random() < 0.7 else 'big')


CHANGES = (_flip, _flip, _overwrite, _insert, _delete, _splice, _repeat, _move, _number)
