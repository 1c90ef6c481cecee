"""main.py with notes: what test_gpu.py starts, by itself or through Paddle's launcher.

    probe.py NOTES [flags of its own] [main.py's flags]

NOTES.rank<R>.json receives: losses of all steps; dtypes of the token logits; flushes, [seconds, steps done] of each
moment at which losses were read; scale, of the loss; mb, the most device memory; digest of the weights.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import main  # before paddle, which it sets up

import paddle

from util import dist, runtime
from util.logger import MetricLogger
from util.train.amp import on_gpu
from util.train.loss import TokenLabelLoss
from util.train.train_state import TrainState

own_parser = argparse.ArgumentParser(allow_abbrev=False)
own_parser.add_argument('notes')
own_parser.add_argument('--stop_after', type=int, help='SIGTERM to itself after so many optimizer steps')
own, flags = own_parser.parse_known_args()

losses, dtypes, flushes = [], set(), []
state = None  # the TrainState


def wrap(owner, name, before=None, after=None):
    """Call before(*args) and after(result, *args) around owner.name."""
    real = getattr(owner, name)

    def wrapped(*args, **kwargs):
        if before:
            before(*args)
        result = real(*args, **kwargs)
        if after:
            after(result, *args)
        return result

    setattr(owner, name, wrapped)


def note_loss(loss, criterion, outputs, targets):
    losses.append(loss.detach())
    dtypes.add(str(outputs[1].dtype).rpartition('.')[2])


def note_flush(_, meters):
    if not flushes or flushes[-1][1] < len(losses):
        flushes.append((time.monotonic(), len(losses)))


def note_state(running, *_):
    global state
    state = running


def maybe_stop(running):
    if own.stop_after == running.step:
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
        'scale': None if scale is None else float(scale.item()),
        'mb': paddle.device.cuda.max_memory_allocated() / 1e6 if on_gpu() else None,
        'weights': digest.hexdigest(),
    }
    Path(f'{own.notes}.rank{dist.rank()}.json').write_text(json.dumps(notes))


def noted_main(args):
    wrap(TokenLabelLoss, 'forward', after=note_loss)
    wrap(MetricLogger, 'flush', after=note_flush)
    wrap(TrainState, 'after_step', before=maybe_stop)
    wrap(main, 'train_one_epoch', before=note_state)
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
