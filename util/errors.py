"""UserError, and making text safe for its messages."""

import re


class UserError(Exception):
    """An error that the user can repair. Scripts show it as one line. The message names the file or flag."""


def one_line(text):
    """Text from a file or a library for a message: printable ASCII, on one line, at most 200 characters."""
    return ' '.join(re.sub(r'[^ -~]', ' ', str(text)[:1000]).split())[:200]
