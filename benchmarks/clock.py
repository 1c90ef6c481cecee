"""Where time goes: seconds spent in functions that are watched."""

import functools
import time


class Clock:
    """Seconds spent in functions, by stage. A function that is watched while another runs is taken off that one.

    synchronize: called before the clock is read; on a GPU, to wait for what was asked of it.
    """

    def __init__(self, stages, synchronize=lambda: None):
        self.spent, self.inner, self.synchronize = dict.fromkeys(stages, 0.0), [0.0], synchronize

    def now(self):
        self.synchronize()
        return time.perf_counter()

    def watch(self, stage, function):
        @functools.wraps(function)
        def timed(*given, **named):
            self.inner.append(0.0)
            begin = self.now()
            result = function(*given, **named)
            whole = self.now() - begin
            self.spent[stage] += whole - self.inner.pop()
            self.inner[-1] += whole
            return result

        return timed
