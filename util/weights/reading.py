"""What goes wrong while a file of weights is read, as one line that names the file."""

import contextlib

from util.errors import UserError, one_line


@contextlib.contextmanager
def reading(path, what):
    """Any error within the block becomes a UserError of one line that names the file `path`. what: it should be one."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{path}: {error}')
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({one_line(error.strerror or error)})')
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f'{path}: not a readable {what}, or cut short ({type(error).__name__}: {one_line(error)})')
