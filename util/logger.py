"""Console lines with a time stamp, the statistics in them, and a progress bar."""

import datetime
import sys
import time
from collections import deque

import numpy as np
import paddle
from tqdm import tqdm

from util import dist
from util.errors import UserError, visible

_copy = None  # the file of log_to


def log_to(path):
    """Append the lines of `log`, and the error that ends the run, to the file `path` too. Raises UserError.

    Only the first process does that.
    """
    global _copy
    if path and dist.is_main():
        try:
            _copy = open(path, 'a', encoding='utf-8', errors='backslashreplace', buffering=1)
        except OSError as error:
            raise UserError(f'{path}: cannot be written to ({error.strerror or error})')


def log(message):
    """Print with a time stamp, on the first process only."""
    if dist.is_main():
        line = f'[{datetime.datetime.now():%H:%M:%S.%f}] {visible(message)}'
        print(line, flush=True)
        copy(line)


def copy(line):
    """Write a line to the file of `log_to`, if there is one, and not to the console. Raises UserError."""
    if _copy:
        try:
            _copy.write(line + '\n')
        except OSError as error:
            raise UserError(f'{_copy.name}: cannot be written to ({error.strerror or error})')


def duration(seconds):
    """Text such as 1:02:03 for the log."""
    return str(datetime.timedelta(seconds=int(seconds)))


class SmoothedValue:
    """A series of numbers: median of the last `window`, mean of all."""

    def __init__(self, window=20, fmt='{median:.4f} ({mean:.4f})'):
        self.recent, self.total, self.count, self.fmt = deque(maxlen=window), 0.0, 0, fmt

    def update(self, value):
        self.recent.append(value)
        self.total += value
        self.count += 1

    @property
    def mean(self):
        return self.total / max(self.count, 1)

    def __str__(self):
        recent = list(self.recent) or [float('nan')]
        return self.fmt.format(median=float(np.median(recent)), mean=self.mean, value=recent[-1])


class MetricLogger:
    """Meters of one epoch and the console line that shows them.

    `flush` reads the tensors given to `update`, all at once, so that a step does not wait for the device.
    totals: what `totals` of another MetricLogger returned, to continue from; seconds: its attribute of that name, the
    time that `log_every` took.
    """

    def __init__(self, totals=None, seconds=0.0):
        self.meters, self.pending, self.seconds = {}, [], seconds
        for name, (total, count) in (totals or {}).items():
            meter = self._meter(name)
            meter.total, meter.count = total, int(count)

    def _meter(self, name):
        if name not in self.meters:
            self.meters[name] = SmoothedValue(fmt='{value:.6f}') if name == 'lr' else SmoothedValue()
        return self.meters[name]

    def update(self, step, **values):
        """values: {name: number or one-element tensor} of a step."""
        self.pending += [(step, name, value) for name, value in values.items()]

    def flush(self):
        """Read the values of `update`. Raises FloatingPointError that names the step if a value is not finite."""
        pending, self.pending = self.pending, []
        tensors = [value.astype('float32').reshape([]) for _, _, value in pending if isinstance(value, paddle.Tensor)]
        numbers = iter(paddle.stack(tensors).tolist() if tensors else [])  # the host waits for the device once
        for step, name, value in pending:
            value = next(numbers) if isinstance(value, paddle.Tensor) else float(value)
            if not np.isfinite(value):
                raise FloatingPointError(f'step {step}: {name} is {value}')
            self._meter(name).update(value)

    def totals(self):
        """{name: (sum, count)} on this process; flushes."""
        self.flush()
        return {name: (meter.total, meter.count) for name, meter in self.meters.items()}

    def means(self):
        """{name: mean over the values of all processes}; flushes. One collective."""
        totals = self.totals()
        sums = dist.all_sum(list(totals.values())) if totals else []
        return {name: total / max(count, 1) for name, (total, count) in zip(totals, sums)}

    def log_every(self, iterable, total, freq, header, first=0):
        """Yield from `iterable`; print a line after every `freq`-th step and after the last of `total` steps.

        The line shows the values that were flushed. first: the step to begin with (a resumed run).
        """
        step_time, data_time = SmoothedValue(fmt='{mean:.4f}'), SmoothedValue(fmt='{mean:.4f}')
        start = end = time.time()
        before = self.seconds
        for i, item in enumerate(iterable, first):
            data_time.update(time.time() - end)
            yield item
            step_time.update(time.time() - end)
            end = time.time()
            self.seconds = before + end - start
            if i % freq == 0 or i == total - 1:
                eta = duration((end - start) / (i + 1 - first) * (total - i - 1))
                meters = ''.join(f'  {name}: {meter}' for name, meter in self.meters.items())
                log(
                    f'{header}  [{i:>{len(str(total))}}/{total}]  eta: {eta}{meters}'
                    f'  time: {step_time}  data: {data_time}'
                )


def progress(items, name, total=None):
    """Yield from items and show the progress with an ETA: on a terminal a bar, else a line every 10 seconds.

    total: the number of items that have no length. Nothing is shown in the first 5 seconds. Only the first process
    shows it.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=name,
        total=total,
        disable=not dist.is_main(),
        delay=5,
        leave=False,
        mininterval=0.1 if terminal else 10,
        bar_format=None if terminal else '{desc}: {n_fmt}/{total_fmt}  eta: {remaining}\n',
    )
