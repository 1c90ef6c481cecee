"""UserError, and making foreign text safe and short for a message on one line."""

import re


class UserError(Exception):
    """An error that the user can repair. Scripts show it as one line. The message names the file or flag."""

    def __init__(self, message):
        super().__init__(visible(message))


def visible(text):
    """Text in which each character that is invisible or breaks a line is an escape, such as \\t, \\x1b, \\xa0, \\u200b.

    Blanks stay. A byte of a file name that is not UTF-8 becomes \\udc80 to \\udcff.
    """
    return ''.join(char if char.isprintable() else char.encode('unicode_escape').decode() for char in text)


def one_line(text):
    """Text of a file, or another library's exception, for a message: visible, at most 200 characters.

    The lines of an exception's message are joined by blanks.
    """
    if isinstance(text, BaseException):
        text = re.sub(r'\s*\n\s*', ' ', str(text).strip())
    shown = visible(str(text)[:201])
    return shown if len(shown) <= 200 else shown[:199] + '…'


def shorten(words, most=10):
    """The first words of a list, with commas, and how many follow. most: how many to show."""
    more = f' and {len(words) - most} more' if len(words) > most else ''
    return ', '.join(words[:most]) + more
