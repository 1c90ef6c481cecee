"""Stopping a run from outside: SIGTERM and SIGINT (Ctrl-C) are recorded, and the run stops after the step."""

import contextlib
import signal
import time

from util.paddle_fixes import STOP_SIGNALS

_name = None  # of the signal that asked the run to stop
_received = 0.0  # the time of that signal, by time.monotonic
_at_once = False  # whether a signal raises Interrupted immediately


class Interrupted(Exception):
    """The run was asked to stop; the message is the name of the signal."""


def requested():
    """Name of the signal that asked for a stop, or None."""
    return _name


def _on_signal(number, _):
    global _name, _received
    if _name is None:
        _name, _received = signal.Signals(number).name, time.monotonic()
    elif number == signal.SIGINT and time.monotonic() - _received > 1:  # a launcher may send one Ctrl-C twice
        raise KeyboardInterrupt
    if _at_once:
        raise Interrupted(_name)


@contextlib.contextmanager
def listening():
    """Context manager: signals are recorded for `requested` and nothing else; a second Ctrl-C ends the program."""
    global _name
    before = [signal.signal(number, _on_signal) for number in STOP_SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(STOP_SIGNALS, before):
            signal.signal(number, handler)
        _name = None


@contextlib.contextmanager
def at_once():
    """Context manager, used inside `listening`: a signal, also one recorded before, raises Interrupted immediately."""
    global _at_once
    _at_once = True
    try:
        if _name is not None:
            raise Interrupted(_name)
        yield
    finally:
        _at_once = False
