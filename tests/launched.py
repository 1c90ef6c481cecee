"""What test_dist.py starts through Paddle's launcher: main.py on tiny models, with notes of what each process saw.

    launched.py NOTES [--naive] [--main_py_flags …] [THEN NOTES …]

Each run's notes become NOTES-rank<R>.npz. --naive: the stem without batch norm. --no_maps: a mark for test_dist.py.
--as_gpu: agree on stopping when a GPU run does. --agree: time that. --hit WHO SIGNAL RANKS DONE: send a signal after
so many optimizer steps of this start, WHO is self or launcher, RANKS as in 0,1. --lost RANK: a process that does not
find its data.
"""

import argparse
import os
import signal
import sys
import time
from collections import defaultdict

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import main  # before paddle, which it sets up

import paddle
import paddle.distributed as pd

import engine
import models
from util import dist, logger, runtime
from util.train import interrupt, mixup, nonfinite, train_state

notes = defaultdict(list)
moving = 0  # collectives of ours since the run began


def flat(tensors):
    return np.concatenate([t.numpy().ravel() for t in tensors])


def noting(owner, name, note):
    """Have note(result, *args) called after every call of owner.name."""
    real = getattr(owner, name)

    def wrapped(*args, **kwargs):
        result = real(*args, **kwargs)
        note(result, *args)
        return result

    setattr(owner, name, wrapped)


class Guard(nonfinite.StepGuard):
    """Looks at the gradients where a step starts to use them, and where a batch has left them for the next one."""

    unfinished = None  # the guard of a step some of whose batches are still to come

    def begin(self):
        Guard.unfinished = self
        super().begin()

    def accepts(self, losses):
        Guard.unfinished = None
        notes['gradient'].append(flat([p.grad for p in self.parameters if p.grad is not None]))
        notes['index'] += [index.numpy() for (_, index), _ in losses]
        notes['loss'] += [loss.item() for _, loss in losses]
        notes['collectives'].append(moving)
        return super().accepts(losses)


def note_gradient_so_far(*_):
    if Guard.unfinished:
        notes['partial'].append(flat([p.grad for p in Guard.unfinished.parameters if p.grad is not None]))


def note_collective(*_):
    global moving
    moving += 1


def note_save(_, state, *tags):
    named = state.model.state_dict()
    notes['weights'].append(flat([v for k, v in named.items() if not k.endswith(('_mean', '_variance'))]))
    notes['statistics'].append(
        flat([v for k, v in named.items() if k.endswith(('_mean', '_variance'))])
        if any(k.endswith('_mean') for k in named)
        else np.zeros(0)
    )


def note_means(means, meters):
    notes['seen'].append([meters.meters['loss'].total, meters.meters['loss'].count])
    notes['reported'].append(means['loss'])


def hit(args):
    """What --hit asks for, after each optimizer step."""
    who, name, ranks, when = args.hit
    if len(notes['gradient']) == int(when) and str(dist.rank()) in ranks.split(','):
        save(args.notes)
        os.kill(os.getpid() if who == 'self' else os.getppid(), getattr(signal, name))
        limit = time.time() + 30
        while not interrupt.requested() and time.time() < limit:  # until what the launcher does has come back to us
            time.sleep(0.01)


def save(path):
    arrays = {key: np.array(values) for key, values in notes.items()}
    np.savez(f'{path}-rank{dist.rank()}.npz', pid=os.getpid(), time=time.time(), **arrays)


def watch():
    nonfinite.StepGuard = Guard
    noting(mixup.Mixup, 'draw', lambda shares, *_: notes['shares'].append(shares))
    noting(engine.mixtoken, 'rand_box', lambda box, *_: notes['box'].append(box))
    noting(paddle, 'rand', lambda drawn, *_: notes['drop_path'].append(drawn.numpy().ravel()))
    noting(engine, 'step_rng', note_gradient_so_far)
    noting(train_state.TrainState, 'save', note_save)
    noting(logger.MetricLogger, 'means', note_means)
    for name in ('all_reduce', 'all_gather', 'broadcast', 'barrier', 'reduce'):
        noting(pd, name, note_collective)


def run(argv):
    global moving
    parser = main.parser()
    parser.add_argument('notes')
    for name in ('--naive', '--as_gpu', '--agree', '--no_maps'):
        parser.add_argument(name, action='store_true')
    parser.add_argument('--hit', nargs=4)
    parser.add_argument('--lost', type=int)
    args = parser.parse_args(argv)
    notes.clear()
    moving = 0
    Guard.unfinished = None
    stem, own = models.FAMILY['lvvit_nano'].architecture, argparse.Namespace(**vars(args))
    stem.update(stem='naive' if args.naive else '4_2')
    train_state.on_gpu = lambda: own.as_gpu
    if dist.rank() == args.lost:
        args.data_path += '-lost'
    after = train_state.TrainState.after_update

    def after_update(state, done):
        if own.hit:
            hit(own)
        after(state, done)

    train_state.TrainState.after_update = after_update
    for name in ('notes', 'naive', 'as_gpu', 'agree', 'no_maps', 'hit', 'lost'):
        delattr(args, name)
    try:
        main.main(args)
    finally:
        train_state.TrainState.after_update = after
    if own.agree:
        for _ in range(200):
            begin = time.perf_counter()
            dist.all_sum([0])
            notes['agreement'].append(time.perf_counter() - begin)
    save(own.notes)


class Words:
    """The parser that runtime.run wants: the runs' words as they are."""

    prog = 'main.py'

    @staticmethod
    def parse_args(_):
        runs = [[]]
        for word in sys.argv[1:]:
            runs.append([]) if word == 'THEN' else runs[-1].append(word)
        return runs


def every(runs):
    models.FAMILY['lvvit_nano'].architecture.update(embed_dim=24, depth=2, num_heads=2)
    watch()
    for argv in runs:
        run(argv)


if __name__ == '__main__':
    runtime.run(dist.peers_named()(every), Words)
