"""main.py with notes: what test_gpu.py starts, by itself or through Paddle's launcher.

    probe.py NOTES [flags of its own] [main.py's flags]

NOTES.rank<R>.json receives: losses of all steps; dtypes of the token logits; flushes, [seconds, steps done] of each
moment at which losses were read; reads, {place in the code: count} of tensors that Python read between those moments,
each of which makes the host wait for the device; scale, of the loss; mb, the most device memory; digest of the weights.
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

from util import dist, runtime
from util.logger import MetricLogger
from util.train import train_state
from util.train.amp import on_gpu
from util.train.loss import TokenLabelLoss
from util.train.train_state import TrainState

READS = '__array__ __bool__ __float__ __index__ __int__ cpu item numpy tolist'.split()

own_parser = argparse.ArgumentParser(allow_abbrev=False)
own_parser.add_argument('notes')
own_parser.add_argument('--as_gpu', action='store_true', help='agree on stopping as on GPUs')
own_parser.add_argument('--stop_after', type=int, help='SIGTERM to itself after so many optimizer steps')
own_parser.add_argument('--stop_rank', type=int, default=0, help='the process that --stop_after is for')
own, flags = own_parser.parse_known_args()

losses, dtypes, flushes, reads = [], set(), [], Counter()
counting = False  # whether reads are counted: within an epoch, not in flush, means and save
state = None  # the TrainState


def place(frame):
    """'engine.py:57' of a stack frame; Paddle's own files below its folder."""
    name = frame.f_code.co_filename
    for folder in (Path(main.__file__).parent, Path(paddle.__file__).parents[1]):
        name = name.removeprefix(f'{folder}/')
    return f'{name}:{frame.f_lineno}'


def wrap(owner, name, before=None, after=None, count=None):
    """Call before(*args) and after(result, *args) around owner.name, with `counting` set to `count` meanwhile."""
    real = getattr(owner, name)

    def wrapped(*args, **kwargs):
        global counting
        if before:
            before(*args)
        was, counting = counting, counting if count is None else count
        try:
            result = real(*args, **kwargs)
        finally:
            counting = was
        if after:
            after(result, *args)
        return result

    setattr(owner, name, wrapped)


def note_loss(loss, criterion, outputs, targets):
    losses.append(loss.detach())
    dtypes.add(str(outputs[1].dtype).rpartition('.')[2])


def note_flush(_, meters):
    if counting:  # within an epoch
        flushes.append((time.monotonic(), len(losses)))


def note_read(tensor, *_):
    if counting and (tensor.place.is_gpu_place() or not on_gpu()):
        reads[place(sys._getframe(2))] += 1


def note_state(running, *_):
    global state
    state = running


def maybe_stop(running):
    if own.stop_after == running.step and own.stop_rank == dist.rank():
        os.kill(os.getpid(), signal.SIGTERM)


def write_notes():
    digest = hashlib.sha256()
    for name, value in sorted(state.model.state_dict().items()):
        if not name.endswith(('_mean', '_variance')):  # without SyncBN each process has its own
            digest.update(value.astype('float32').numpy().tobytes())
    scale = state.amp.scaler.state_dict().get('scale')
    notes = {
        'losses': [loss.item() for loss in losses],
        'dtypes': sorted(dtypes),
        'flushes': flushes,
        'reads': dict(reads),
        'scale': None if scale is None else float(scale.item()),
        'mb': paddle.device.cuda.max_memory_allocated() / 1e6 if on_gpu() else None,
        'weights': digest.hexdigest(),
    }
    Path(f'{own.notes}.rank{dist.rank()}.json').write_text(json.dumps(notes))


def noted_main(args):
    if own.as_gpu:
        train_state.on_gpu = lambda: True
    for name in READS:
        wrap(paddle.Tensor, name, before=note_read, count=False)  # a read within a read is the same one
    wrap(TokenLabelLoss, 'forward', after=note_loss)
    wrap(MetricLogger, 'flush', after=note_flush, count=False)
    wrap(MetricLogger, 'means', count=False)
    wrap(TrainState, 'save', count=False)
    wrap(TrainState, 'after_step', before=maybe_stop)
    wrap(main, 'train_one_epoch', before=note_state, count=True)
    main.main(args)
    write_notes()


class Parser:
    """What runtime.run asks of a parser."""

    prog = 'main.py'

    @staticmethod
    def parse_args(_):
        return main.parser().parse_args(flags)


if __name__ == '__main__':
    runtime.run(noted_main, Parser)
