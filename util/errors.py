"""UserError, and the text of files inside its messages."""

import re


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback. The message names the file or flag."""


def one_line(text):
    """What a file or another library says, fit for a message: printable ASCII, no line breaks, 200 characters."""
    return ' '.join(re.sub(r'[^ -~]', ' ', str(text)[:1000]).split())[:200]
