"""Console lines, running statistics, and writers for VisualDL and wandb."""
import datetime
import time
from collections import deque

import numpy as np
import paddle

from util import dist
from util.runtime import UserError


_copy = None  # the file of --log_file


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
            _copy.write(line + '\n')


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

    Tensors given to `update` are kept on their device and read together when a line is printed or the epoch ends,
    so that a step never waits for the device.
    """

    def __init__(self):
        self.meters, self.pending = {}, []

    def update(self, **values):
        self.pending.append(values)

    def flush(self):
        """Read what is pending. Raises FloatingPointError for a value that is not finite."""
        pending, self.pending = self.pending, []
        tensors = [values[name] for values in pending for name in values if isinstance(values[name], paddle.Tensor)]
        read = iter(paddle.stack([t.astype('float32').reshape([]) for t in tensors]).tolist() if tensors else [])
        for values in pending:
            for name, value in values.items():
                value = next(read) if isinstance(value, paddle.Tensor) else float(value)
                if not np.isfinite(value):
                    raise FloatingPointError(f'{name} is {value}')
                if name not in self.meters:
                    self.meters[name] = SmoothedValue(fmt='{value:.6f}') if name == 'lr' else SmoothedValue()
                self.meters[name].update(value)

    def means(self):
        """{name: mean over the epoch}; flushes."""
        self.flush()
        return {name: meter.mean for name, meter in self.meters.items()}

    def log_every(self, iterable, total, freq, header):
        """Yield from `iterable`, printing a line every `freq` steps and at the last of `total`."""
        step_time, data_time = SmoothedValue(fmt='{mean:.4f}'), SmoothedValue(fmt='{mean:.4f}')
        start = end = time.time()
        for i, item in enumerate(iterable):
            data_time.update(time.time() - end)
            yield item
            if i % freq == 0 or i == total - 1:
                self.flush()
            step_time.update(time.time() - end)
            end = time.time()
            if i % freq == 0 or i == total - 1:
                eta = datetime.timedelta(seconds=int((end - start) / (i + 1) * (total - i - 1)))
                meters = ''.join(f'  {name}: {meter}' for name, meter in self.meters.items())
                log(f'{header}  [{i:>{len(str(total))}}/{total}]  eta: {eta}{meters}'
                    f'  time: {step_time}  data: {data_time}')
        log(f'{header} Total time: {datetime.timedelta(seconds=int(time.time() - start))}')


def progress(items, name, every=5.0):
    """Yield from a sequence; a line with an ETA every `every` seconds, none for what is quickly done."""
    start = shown = time.time()
    for done, item in enumerate(items):
        now = time.time()
        if done and now - shown > every:
            shown = now
            eta = datetime.timedelta(seconds=int((now - start) / done * (len(items) - done)))
            log(f'{name}: {done}/{len(items)}  eta: {eta}')
        yield item


class Writers:
    """Scalars to VisualDL and wandb, whichever were asked for; nothing at all by default."""

    def __init__(self, args):
        self.visualdl = self.wandb = None
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
            wandb.init(entity=args.wandb_entity, project=args.wandb_project, config=vars(args), resume='allow')
            self.wandb = wandb

    def write(self, scalars, step):
        """scalars: {name: number}; step: the optimizer step they belong to."""
        if self.visualdl:
            for name, value in scalars.items():
                self.visualdl.add_scalar(tag=name, value=value, step=step)
        if self.wandb:
            self.wandb.log(scalars, step=step)

    def close(self):
        if self.visualdl:
            self.visualdl.close()
        if self.wandb:
            self.wandb.finish()
