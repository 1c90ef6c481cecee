"""Console lines, running statistics, and writers for VisualDL and wandb."""

import datetime
import sys
import time
from collections import deque

import numpy as np
import paddle
from tqdm import tqdm

from util import dist
from util.errors import UserError

_copy = None  # the file of --log_file


class NonFinite(FloatingPointError):
    """A meter got a number that is not finite; `where` is what came with it."""

    def __init__(self, name, value, where):
        super().__init__(f'{name} is {value}')
        self.where = where


def log_to(path):
    """Append every further line of `log` to this file too, on the first process."""
    global _copy
    if path and dist.is_main():
        try:
            _copy = open(path, 'a', encoding='utf-8', buffering=1)
        except OSError as error:
            raise UserError(f'--log_file {path}: cannot be written to ({error.strerror or error})')


def log(message):
    """Print with a time stamp, on the first process only."""
    if dist.is_main():
        line = f'[{datetime.datetime.now():%H:%M:%S.%f}] {message}'
        print(line, flush=True)
        if _copy:
            try:
                _copy.write(line + '\n')
            except OSError as error:
                raise UserError(f'--log_file {_copy.name}: cannot be written to ({error.strerror or error})')


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

    Tensors given to `update` are kept on their device and read together by `flush`, so that a step does not wait for
    the device. totals: what `totals` returned, to go on from there.
    """

    def __init__(self, totals=None):
        self.meters, self.pending = {}, []
        for name, (total, count) in (totals or {}).items():
            meter = self._meter(name)
            meter.total, meter.count = total, int(count)

    def _meter(self, name):
        if name not in self.meters:
            self.meters[name] = SmoothedValue(fmt='{value:.6f}') if name == 'lr' else SmoothedValue()
        return self.meters[name]

    def update(self, where=None, **values):
        """values: {name: number or one-element tensor}; where: handed out with a value that is not finite."""
        self.pending.append((where, values))

    def flush(self):
        """Read what is pending. Raises NonFinite for a value that is not finite."""
        pending, self.pending = self.pending, []
        values = [value for _, named in pending for value in named.values()]
        tensors = [value.astype('float32').reshape([]) for value in values if isinstance(value, paddle.Tensor)]
        numbers = iter(paddle.stack(tensors).tolist() if tensors else [])  # one wait for the device
        for where, named in pending:
            for name, value in named.items():
                value = next(numbers) if isinstance(value, paddle.Tensor) else float(value)
                if not np.isfinite(value):
                    raise NonFinite(name, value, where)
                self._meter(name).update(value)

    def totals(self):
        """{name: (sum, count)} on this process; flushes."""
        self.flush()
        return {name: (meter.total, meter.count) for name, meter in self.meters.items()}

    def means(self):
        """{name: mean over what all processes have seen}; flushes. One collective."""
        totals = self.totals()
        sums = dist.all_sum(list(totals.values())) if totals else []
        return {name: total / max(count, 1) for name, (total, count) in zip(totals, sums)}

    def log_every(self, iterable, total, freq, header, first=0):
        """Yield from `iterable`, printing a line after every `freq`-th step and after the last of `total`.

        The line shows what was flushed. first: steps that were done before (a resumed run).
        """
        step_time, data_time = SmoothedValue(fmt='{mean:.4f}'), SmoothedValue(fmt='{mean:.4f}')
        start = end = time.time()
        for i, item in enumerate(iterable, first):
            data_time.update(time.time() - end)
            yield item
            step_time.update(time.time() - end)
            end = time.time()
            if i % freq == 0 or i == total - 1:
                eta = datetime.timedelta(seconds=int((end - start) / (i + 1 - first) * (total - i - 1)))
                meters = ''.join(f'  {name}: {meter}' for name, meter in self.meters.items())
                log(
                    f'{header}  [{i:>{len(str(total))}}/{total}]  eta: {eta}{meters}'
                    f'  time: {step_time}  data: {data_time}'
                )
        log(f'{header} Total time: {datetime.timedelta(seconds=int(time.time() - start))}')


def progress(items, name):
    """Yield from a sequence: on a terminal under a bar, elsewhere with a line every 10 seconds; both with an ETA.

    Only on the first process, and nothing for what takes less than 5 seconds.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=name,
        disable=not dist.is_main(),
        delay=5,
        leave=False,
        mininterval=0.1 if terminal else 10,
        bar_format=None if terminal else '{desc}: {n_fmt}/{total_fmt}  eta: {remaining}\n',
    )


class Writers:
    """Scalars to VisualDL and wandb, whichever were asked for; nothing at all by default.

    run_id: of wandb's run, when it is to be continued; None for a new one.
    """

    def __init__(self, args, run_id=None):
        self.visualdl, self.wandb, self.run_id = None, None, run_id
        if not dist.is_main():
            return
        if args.log_visualdl:
            try:
                from visualdl import LogWriter
            except ImportError:
                raise UserError('--log_visualdl: VisualDL is not installed; run `pip install visualdl`')
            self.visualdl = LogWriter(logdir=args.log_visualdl)
        if args.log_wandb:
            try:
                import wandb
            except ImportError:
                raise UserError('--log_wandb: wandb is not installed; run `pip install wandb`')
            run = wandb.init(
                entity=args.wandb_entity, project=args.wandb_project, config=vars(args), id=run_id, resume='allow'
            )
            self.wandb, self.run_id = wandb, getattr(run, 'id', None)

    @property
    def active(self):
        """Whether anything is written."""
        return bool(self.visualdl or self.wandb)

    def write(self, scalars, step):
        """scalars: {name: number or one-element tensor}; step: the optimizer step they belong to."""
        if self.visualdl:
            for name, value in scalars.items():
                self.visualdl.add_scalar(tag=name, value=float(value), step=step)
        if self.wandb:
            values = {name: float(value) for name, value in scalars.items()}
            # of a step also by the names that the port gave: loss, lr, norm, scale
            values.update({name.split('/')[1]: value for name, value in values.items() if name.startswith('train/')})
            self.wandb.log(values, step=step)

    def close(self):
        if self.visualdl:
            self.visualdl.close()
        if self.wandb:
            self.wandb.finish()
