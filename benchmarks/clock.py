"""Measures the seconds that are spent in chosen functions."""

import functools
import time


class Clock:
    """Seconds spent in watched functions, by stage: `spent`. Time in a watched function does not count for its caller.

    synchronize: called before the clock is read; on a GPU it waits for the kernels.
    """

    def __init__(self, stages, synchronize=lambda: None):
        self.spent, self.inner, self.synchronize = dict.fromkeys(stages, 0.0), [0.0], synchronize

    def now(self):
        self.synchronize()
        return time.perf_counter()

    def watch(self, stage, function):
        """The function, whose time counts for `stage`."""

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
