"""main.py with notes: what the checks start, by itself or through Paddle's launcher.

    probe.py NOTES [flags of our own] [main.py's flags]

NOTES.rank<R>.json receives: losses of all steps; dtype of the token scores; flushes, [seconds, steps done] of each
moment at which losses were read; reads, {place in the code: how often} of tensors that Python read between those
moments, each of which makes the host wait for the device; scale of the losses; MB of device memory at most; digest of
the weights.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import main  # before paddle, which it sets up

import paddle

import models
from util import dist, logger, runtime
from util.train import train_state
from util.train.amp import on_gpu
from util.train.loss import TokenLabelLoss

ROOT = Path(__file__).resolve().parents[2]
READS = '__array__ __bool__ __float__ __index__ __int__ cpu item numpy tolist'.split()


def own_parser():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('--plain_stem', action='store_true', help='lvvit_nano without batch norm')
    parser.add_argument('--as_gpu', action='store_true', help='agree on stopping as on GPUs')
    parser.add_argument('--stop_after', type=int, help='SIGTERM to itself after so many optimizer steps')
    parser.add_argument('--stop_rank', type=int, default=0, help='the process that --stop_after is for')
    return parser


class Notes:
    """Watches a run of main.py from inside, without reading from the device itself until the run is over."""

    def __init__(self):
        self.losses, self.dtypes, self.flushes, self.reads = [], set(), [], Counter()
        self.state, self.watching, self.depth = None, False, 0

    def place(self, frame):
        """'engine.py:57' of a stack frame; Paddle's own files are named below its folder."""
        name = frame.f_code.co_filename
        for folder in (f'{ROOT}/', f'{Path(paddle.__file__).parents[1]}/'):
            name = name.replace(folder, '')
        return f'{name}:{frame.f_lineno}'

    def watch_reads(self):
        """Count every outermost call that brings a tensor's values to Python, while steps are under way."""
        for name in READS:
            setattr(paddle.Tensor, name, self.counted(getattr(paddle.Tensor, name)))

    def counted(self, real):
        def wrapped(tensor, *args, **kwargs):
            on_device = tensor.place.is_gpu_place() or not on_gpu()
            if self.watching and self.depth == 0 and on_device:
                self.reads[self.place(sys._getframe(1))] += 1
            self.depth += 1
            try:
                return real(tensor, *args, **kwargs)
            finally:
                self.depth -= 1

        return wrapped

    def pause_in(self, owner, name):
        """Do not count reads in owner.name: it is where the host may wait."""
        real = getattr(owner, name)

        def wrapped(*args, **kwargs):
            before, self.watching = self.watching, False
            try:
                return real(*args, **kwargs)
            finally:
                self.watching = before

        setattr(owner, name, wrapped)

    def watch_steps(self, own):
        forward, flush, after_update = TokenLabelLoss.forward, logger.MetricLogger.flush, main.TrainState.after_step
        epoch = main.train_one_epoch

        def noted_forward(criterion, outputs, targets):
            loss = forward(criterion, outputs, targets)
            self.losses.append(loss.detach())
            self.dtypes.add(str(outputs[1].dtype).rpartition('.')[2])
            return loss

        def noted_flush(meters):
            pending = len(meters.pending)
            flush(meters)
            if pending:
                self.flushes.append((time.monotonic(), len(self.losses)))

        def stop_or_go_on(state):
            if own.stop_after == state.step and own.stop_rank == dist.rank():
                os.kill(os.getpid(), signal.SIGTERM)
            after_update(state)

        def noted_epoch(state, *args, **kwargs):
            self.state, self.watching = state, True
            try:
                return epoch(state, *args, **kwargs)
            finally:
                self.watching = False

        TokenLabelLoss.forward, logger.MetricLogger.flush = noted_forward, noted_flush
        main.TrainState.after_step, main.train_one_epoch = stop_or_go_on, noted_epoch
        self.pause_in(logger.MetricLogger, 'flush')
        self.pause_in(logger.MetricLogger, 'means')
        self.pause_in(main.TrainState, 'save')

    def write(self, path):
        digest = hashlib.sha256()
        for name, value in sorted(self.state.model.state_dict().items()):
            if not name.endswith(('_mean', '_variance')):  # without SyncBN each process has its own
                digest.update(value.astype('float32').numpy().tobytes())
        scale = self.state.amp.scaler.state_dict().get('scale')
        notes = {
            'losses': [loss.item() for loss in self.losses],
            'dtypes': sorted(self.dtypes),
            'flushes': self.flushes,
            'reads': dict(self.reads),
            'scale': None if scale is None else float(scale.item()),
            'mb': paddle.device.cuda.max_memory_allocated() / 1e6 if on_gpu() else None,
            'weights': digest.hexdigest(),
        }
        with open(f'{path}.rank{dist.rank()}.json', 'w') as f:
            json.dump(notes, f)


class Words:
    """The parser that runtime.run wants: our flags, NOTES, and main.py's flags, parsed by main.py's own."""

    prog = 'main.py'

    @staticmethod
    def parse_args(_):
        own, flags = own_parser().parse_known_args(sys.argv[2:])
        return own, main.parser().parse_args(flags)


def run(words):
    own, args = words
    if own.plain_stem:
        models.FAMILY['lvvit_nano'].architecture['stem'] = 'naive'
    if own.as_gpu:
        train_state.on_gpu = lambda: True
    notes = Notes()
    notes.watch_steps(own)
    notes.watch_reads()
    main.main(args)
    notes.write(sys.argv[1])


if __name__ == '__main__':
    runtime.run(run, Words)
