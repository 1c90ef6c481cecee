"""Stopping a run from outside: SIGTERM and SIGINT (Ctrl-C) are recorded, and the run stops after the step.

A step needs a batch, and a loader that waits for a disk may never deliver one: `limited` ends such a wait.
"""

import contextlib
import signal
import time

from util.paddle_fixes import STOP_SIGNALS

BATCH_SECONDS = 10  # how long a run that was asked to stop waits for the next batch

_name = None  # of the signal that asked the run to stop
_received = 0.0  # the time of that signal, by time.monotonic
_at_once = False  # whether a signal raises Interrupted immediately
_awaits_batch = False  # whether a signal starts the timer of BATCH_SECONDS


class Interrupted(BaseException):
    """The run was asked to stop; the message is the name of the signal.

    It is not an Exception, so that `except Exception` in the code that was running does not catch it.
    """


class NoBatch(BaseException):
    """The run was asked to stop, and no batch has come since; the message is the name of the signal."""


def requested():
    """Name of the signal that asked for a stop, or None."""
    return _name


def _on_signal(number, _):
    global _name, _received
    if _name is None:
        _name, _received = signal.Signals(number).name, time.monotonic()
        if _awaits_batch:
            signal.setitimer(signal.ITIMER_REAL, BATCH_SECONDS)
    elif number == signal.SIGINT and time.monotonic() - _received > 1:  # a launcher may send one Ctrl-C twice
        raise KeyboardInterrupt
    if _at_once:
        raise Interrupted(_name)


def _on_timer(_number, _frame):
    if _awaits_batch:
        raise NoBatch(_name)


@contextlib.contextmanager
def listening():
    """Context manager: signals are recorded for `requested` and nothing else; a second Ctrl-C ends the program."""
    global _name
    handlers = dict.fromkeys(STOP_SIGNALS, _on_signal)
    handlers[signal.SIGALRM] = _on_timer
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
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


def limited(batches):
    """Yield from `batches`, used inside `listening`. Raises NoBatch if one comes too late after a stop."""
    global _awaits_batch
    batches = iter(batches)
    while True:
        _awaits_batch = True
        if _name is not None:
            signal.setitimer(signal.ITIMER_REAL, BATCH_SECONDS)
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            _awaits_batch = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        yield batch
