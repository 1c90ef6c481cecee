"""Stopping a run from outside: SIGTERM and SIGINT (Ctrl-C) are noted, and the run stops where nothing is lost."""

import contextlib
import signal
import time

from util.processes import SIGNALS

_asked = None  # (name of the signal, when it came)
_at_once = False


class Interrupted(Exception):
    """The run was asked to stop; the message says by what and where it stands."""


def requested():
    """Name of the signal that asked for a stop, or None."""
    return _asked and _asked[0]


def _note(number, _):
    global _asked
    again = _asked and number == signal.SIGINT and time.monotonic() - _asked[1] > 1  # launchers send SIGTERM twice
    _asked = _asked or (signal.Signals(number).name, time.monotonic())
    if again:
        raise KeyboardInterrupt
    if _at_once:
        raise Interrupted(requested())


@contextlib.contextmanager
def listening():
    """Within: the signals are noted for `requested`, and nothing else happens; a second Ctrl-C ends the program."""
    global _asked
    before = [signal.signal(number, _note) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before):
            signal.signal(number, handler)
        _asked = None


@contextlib.contextmanager
def at_once():
    """Within (and within `listening`): a signal, also one noted before, raises Interrupted on the spot."""
    global _at_once
    _at_once = True
    try:
        if requested():
            raise Interrupted(requested())
        yield
    finally:
        _at_once = False
