"""Stopping a run from outside: SIGTERM and SIGINT (Ctrl-C) are noted, and the run stops where nothing is lost."""

import contextlib
import signal
import time

from util.paddle_fixes import STOP_SIGNALS

_name = None  # of the signal that asked for a stop
_came = 0.0  # when it came, by time.monotonic
_at_once = False  # whether a signal raises Interrupted on the spot


class Interrupted(Exception):
    """The run was asked to stop; the message says by what."""


def requested():
    """Name of the signal that asked for a stop, or None."""
    return _name


def _note(number, _):
    global _name, _came
    if _name is None:
        _name, _came = signal.Signals(number).name, time.monotonic()
    elif number == signal.SIGINT and time.monotonic() - _came > 1:  # a launcher may send the first one twice
        raise KeyboardInterrupt
    if _at_once:
        raise Interrupted(_name)


@contextlib.contextmanager
def listening():
    """Within: the signals are noted for `requested`, and nothing else happens; a second Ctrl-C ends the program."""
    global _name
    before = [signal.signal(number, _note) for number in STOP_SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(STOP_SIGNALS, before):
            signal.signal(number, handler)
        _name = None


@contextlib.contextmanager
def at_once():
    """Within (and within `listening`): a signal raises Interrupted on the spot, also one that was noted before."""
    global _at_once
    _at_once = True
    try:
        if _name is not None:
            raise Interrupted(_name)
        yield
    finally:
        _at_once = False
