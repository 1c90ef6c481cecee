"""Small files of text, JSON and YAML: bounded in size, nesting and numbers, so that none is a burden to read."""

import json
import os
import stat

import numpy as np

from util.errors import UserError, one_line

MAX_BYTES = 4 << 20  # of JSON
MAX_YAML = 3 << 19  # 20,000 class names have 1 MB; numbers as keys can be chosen so that they collide in a dict
MAX_LINE = 10_000  # characters
MAX_DEPTH, MAX_SCALAR = 20, 10_000  # of YAML: levels, and characters of one value


def open_plain(path, flags):
    """For open(opener=…): a plain file, and no waiting for the other end of a pipe. Raises OSError, ValueError."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError('not a plain file')
    return handle


def _reason(error):
    return one_line(getattr(error, 'strerror', None) or error)


def read_text(path, max_bytes=MAX_BYTES, hint=''):
    """The text of a file in UTF-8 (a byte order mark is dropped). Raises FileNotFoundError if there is none;
    UserError that names the file if it is no plain file, unreadable, larger than max_bytes, or not text.

    hint: what to do about it, for the message.
    """
    try:
        with open(path, 'rb', opener=open_plain) as f:
            data = f.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ValueError(f'larger than {max_bytes} bytes')
        if b'\0' in data:
            raise ValueError('has null bytes')
        return data.decode('utf-8-sig')
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # of which UnicodeDecodeError is one
        raise UserError(f'{path}: not a readable text file ({_reason(error)}){hint}')


def read_lines(path):
    """(number, line) of those lines of a text file in UTF-8 that are not blank, without the blanks around them.

    Raises UserError that names the file: missing, no plain file, not text, or a line of more than MAX_LINE characters.
    """
    try:
        with open(path, encoding='utf-8-sig', opener=open_plain) as f:
            number = 0
            while line := f.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE or '\0' in line:
                    raise ValueError(
                        f'line {number} is longer than {MAX_LINE} characters'
                        if len(line) == MAX_LINE
                        else f'line {number} has a null byte'
                    )
                if line.strip():
                    yield number, line.strip()
    except (OSError, ValueError) as error:  # of which UnicodeDecodeError is one
        raise UserError(f'{path}: not a readable text file ({_reason(error)})')


def array_of_lines(data, path):
    """The lines of some bytes as an array of type S, made without an object for each of them.

    The longest line sets the width of all: raises UserError that names the file if that takes far more memory than it.
    """
    data = np.frombuffer(data, 'u1')
    ends = np.flatnonzero(data == ord('\n'))
    lengths = np.diff(ends, prepend=-1) - 1
    width = int(lengths.max(initial=1))
    if width * len(ends) > 2 * data.size + (64 << 20):
        raise UserError(f'{path}: has a line of {width} bytes, one of {len(ends)}; shorten it')
    lines = np.zeros((len(ends), width), 'u1')
    for column in range(width):
        there = lengths > column
        lines[there, column] = data[(ends - lengths)[there] + column]
    return lines.reshape(-1).view(f'S{width}')


def read_json(path, max_bytes=MAX_BYTES, hint=''):
    """What a JSON file holds. Raises as read_text, and for a name that is there twice."""

    def unique(pairs):
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError('a name is there twice in one object')
        return result

    text = read_text(path, max_bytes, hint)
    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not readable JSON ({one_line(error)}){hint}')


def read_yaml(path, max_bytes=MAX_YAML, hint=''):
    """What a YAML file holds, if that is plain values without tags, anchors or aliases. Raises as read_text.

    PyYAML's safe_load by itself multiplies a file of a few hundred bytes by `<<: [*a, *a, …]`, recurses as deep as the
    file is nested, and takes minutes for a number of a megabyte.
    """
    import yaml

    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    text, depth = read_text(path, max_bytes, hint), 0
    try:
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f'nested more than {MAX_DEPTH} deep')
            if getattr(event, 'anchor', None) or getattr(event, 'tag', None):
                raise ValueError('has an anchor, an alias or a tag')
            if len(getattr(event, 'value', '')) > MAX_SCALAR:
                raise ValueError(f'has a value of more than {MAX_SCALAR} characters')
        return yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise UserError(f'{path}: not readable YAML ({one_line(error)}){hint}')
