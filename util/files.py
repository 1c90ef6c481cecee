"""Result files, all of a file or none; and small text files, with the file's name in every error."""

import contextlib
import json
import os
import shutil
import tempfile

import yaml

from util.errors import UserError, one_line


def check_folder(folder, named):
    """Make a folder if need be and try to write into it. Raises UserError, which calls it what `named` says."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f'{named}: cannot be written to ({error.strerror or error})')


def check_target(flag, path):
    """Raise UserError, before the work is done, if the file that `flag` names could not be written afterwards."""
    if os.path.isdir(path):
        raise UserError(f'{flag} {path}: cannot be written to (it is a folder)')
    check_folder(os.path.dirname(os.path.abspath(path)), f'{flag} {path}')


@contextlib.contextmanager
def replacing(path, *also, previous=None, sync=True):
    """Opens a temporary binary file beside `path` for writing; it gets its names when the block ends.

    First it replaces the files `also`, one by one, last `path`. If the block raises, all files are as they were before.
    Where the file system has hard links the names share one file on disk, so such files must never be changed in place.
    previous: another name to keep the old file of `path` under. sync: wait (milliseconds) until the disk has the file,
    so that it survives a power failure. Makes the folder if need be. An OSError becomes a UserError that names `path`.
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
        for name in also:
            name_as_well(temporary, name)
        if previous and os.path.exists(path):  # only now: a save that fails leaves two good files, not one
            name_as_well(path, previous)
        os.replace(temporary, path)
        if sync:
            folder_handle = os.open(folder, os.O_RDONLY)
            os.fsync(folder_handle)  # or the new name could be lost with the power
            os.close(folder_handle)
    except OSError as error:
        raise UserError(f'{path}: could not be written ({error.strerror or error}); what was there before is untouched')
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def name_as_well(path, name):
    """Make `name` another name of the file `path`, at once, in place of what had that name before."""
    passing = os.path.join(os.path.dirname(name), f'.{os.path.basename(name)}.{os.getpid()}.tmp')
    try:
        try:
            os.link(path, passing)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, passing)
        os.replace(passing, name)
    finally:
        if os.path.exists(passing):
            os.unlink(passing)


def write(path, data):
    """Write bytes to `path` by `replacing`."""
    with replacing(path) as f:
        f.write(data)


# -- small text files --------------------------------------------------------------------------------------------------


def read_text(path, hint=''):
    """The text of a UTF-8 file, without a byte order mark. Raises UserError that names the file.

    hint: what to do about it, for the message.
    """
    try:
        with open(path, encoding='utf-8-sig') as f:
            return f.read()
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(
            f'{path}: not a readable text file ({one_line(getattr(error, "strerror", None) or error)}){hint}'
        )


def read_lines(path):
    """[(number, line)] of the lines of a text file that are not blank, stripped. Raises as read_text."""
    return [(number, line.strip()) for number, line in enumerate(read_text(path).split('\n'), 1) if line.strip()]


def read_json(path, hint=''):
    """What a JSON file holds. Raises as read_text."""
    text = read_text(path, hint)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not readable JSON ({one_line(error)}){hint}')


def read_yaml(path, hint=''):
    """What a YAML file holds, plain values only. Raises as read_text."""
    text = read_text(path, hint)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: not readable YAML ({one_line(error)}){hint}')
