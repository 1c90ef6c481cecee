"""Files: results that are written completely or not at all, small text files, log.txt. Every error names the file."""

import contextlib
import json
import os
import re
import shutil
import tempfile

import yaml

from util.errors import UserError, one_line


def check_folder(folder, named):
    """Raise UserError if `folder` cannot be made or written to. named: flag and value, for the message."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f'{named}: cannot be written to ({error.strerror or error})')


def check_target(flag, path):
    """Raise UserError if the file `path`, the value of `flag`, cannot be written. Call it before long work."""
    if os.path.isdir(path):
        raise UserError(f'{flag} {path}: cannot be written to (it is a folder)')
    check_folder(os.path.dirname(os.path.abspath(path)), f'{flag} {path}')


@contextlib.contextmanager
def replacing(path, *more_paths, previous=None, sync=True):
    """Context manager that yields a temporary binary file, which becomes `path` when the block ends without an error.

    `more_paths` become hard links to it before `path` does, or copies if the file system has no links. If the block
    raises an error, all files stay as they were. previous: where to keep the old file of `path`. sync: wait until the
    file is on the disk, so that it survives a power failure. Makes the folder. Raises UserError that names `path`.
    """
    folder, temporary = os.path.dirname(os.path.abspath(path)), None
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f'.{os.path.basename(path)}.', suffix='.tmp', dir=folder)
        with os.fdopen(handle, 'wb') as f:
            yield f
            if sync:
                f.flush()
                os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        for name in more_paths:
            _link(temporary, name)
        if previous and os.path.exists(path):  # after the new file is complete, so that one of both always is
            _link(path, previous)
        os.replace(temporary, path)
        if sync:
            folder_handle = os.open(folder, os.O_RDONLY)
            os.fsync(folder_handle)  # the disk must have the new name too
            os.close(folder_handle)
    except OSError as error:
        raise UserError(f'{path}: could not be written ({error.strerror or error}); the old file is unchanged')
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _link(path, name):
    """Make `name` a hard link to the file `path`, or a copy; a file of that name is replaced in one operation."""
    temporary = os.path.join(os.path.dirname(name), f'.{os.path.basename(name)}.{os.getpid()}.tmp')
    try:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
        os.replace(temporary, name)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write(path, data):
    """Write bytes to the file `path`, all or nothing. Raises UserError."""
    with replacing(path) as f:
        f.write(data)


# -- files that are damaged or of another kind -------------------------------------------------------------------------

AGAIN = 'download the file itself, with its direct link'


def other_kind(path):
    """What an unreadable file is (a web page, a Git LFS pointer, a text …), with the remedy; '' if unknown."""
    try:
        with open(path, 'rb') as f:
            begin = f.read(512)
    except OSError as error:
        return f'a file that cannot be read ({error.strerror})'
    text = begin.decode('utf-8-sig', errors='replace').strip()  # a byte that is no text becomes U+FFFD
    if not begin:
        return 'an empty file; copy or download it again'
    if text.startswith('version https://git-lfs'):
        return 'a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository'
    if text.startswith('<'):
        return f'a web page (HTML or XML); {AGAIN}'
    if begin.startswith(b'\x1f\x8b'):
        return 'packed by gzip; unpack it with gunzip'
    if begin[257:262] == b'ustar':
        return 'a tar archive; unpack it with `tar xf`, and give a file that is in it'
    if not re.search('[\0-\x08\x0e-\x1f\ufffd]', text[:60]):
        return f"a text that begins with '{one_line(text[:60])}', perhaps the answer of a server; {AGAIN}"
    return ''


@contextlib.contextmanager
def reading(path, kind):
    """Context manager that turns any error into a UserError of one line with the file's path and expected kind.

    If the file is a web page, a Git LFS pointer or the like (see other_kind), the error says so.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f'{path}: {error}')
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({one_line(error.strerror or error)})')
    except Exception as error:  # a damaged file can raise nearly anything
        found = other_kind(path)
        if found:
            raise UserError(f'{path}: not a {kind}, but {found}')
        raise UserError(f'{path}: not a readable {kind}, or cut short ({type(error).__name__}: {one_line(error)})')


# -- small text files --------------------------------------------------------------------------------------------------


def read_text(path, hint='', errors='strict'):
    """The text of a UTF-8 file, without a byte order mark. Raises UserError.

    hint: the remedy, for its message. errors: as for open(); surrogateescape where the file has names of files.
    """
    try:
        with open(path, encoding='utf-8-sig', errors=errors) as f:
            return f.read()
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(
            f'{path}: not a readable text file ({one_line(getattr(error, "strerror", None) or error)}){hint}'
        )


def read_lines(path, errors='strict'):
    """[(line number, stripped line)] of a text file, without blank lines. Raises UserError. errors: see read_text."""
    lines = read_text(path, errors=errors).split('\n')
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def read_json(path, hint=''):
    """The content of a JSON file. Raises UserError."""
    text = read_text(path, hint)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not readable JSON ({one_line(error)}){hint}')


def read_yaml(path, hint=''):
    """The content of a YAML file, plain values only. Raises UserError."""
    text = read_text(path, hint)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: not readable YAML ({one_line(error)}){hint}')


# -- log.txt of a training run -----------------------------------------------------------------------------------------


def epoch_record(line):
    """The record of an epoch, a dict, in a line of log.txt (bytes); None for a line that other programs wrote."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get('epoch'), int) else None


def parse_log(path):
    """(records of the epochs in log.txt, number of other lines that are not empty). Raises UserError.

    A record replaces the earlier ones of its epoch and of later epochs: those of a run that was begun again in the same
    folder, or of one of the port that was resumed.
    """
    records, others = [], 0
    try:
        with open(path, 'rb') as f:
            for line in f:
                record = epoch_record(line)
                if record is None:
                    others += bool(line.strip())
                    continue
                while records and records[-1]['epoch'] >= record['epoch']:
                    records.pop()
                records.append(record)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})')
    return records, others


def read_log(path):
    """The records of the epochs in log.txt, see parse_log. Raises UserError if there is none."""
    records, _ = parse_log(path)
    if not records:
        raise UserError(f'{path}: has no line of an epoch')
    return records
