"""What test_dist.py starts through Paddle's launcher: main.py on tiny models, with notes of what each process saw.

    launched.py NOTES [--main_py_flags …] [flags of our own] [THEN NOTES …]

Each run's notes become NOTES-rank<R>.npz: arrays with a row for every optimizer step or batch.
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
from util import dist, runtime
from util.train import interrupt, mixup, train_state
from util.train.loss import TokenLabelLoss

notes = defaultdict(list)
collectives = 0  # of ours since the run began
learner = None  # the model in training
own = None  # flags of this script for the run


def own_parser():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('--naive', action='store_true', help='a stem without batch norm')
    parser.add_argument('--as_gpu', action='store_true', help='agree on stopping as on GPUs')
    parser.add_argument('--no_maps', action='store_true', help='a mark for test_dist.py')
    parser.add_argument('--hit', nargs=4, metavar=('self|launcher', 'SIGNAL', 'RANKS', 'STEP'))
    parser.add_argument('--lost', type=int, metavar='RANK', help='a process that does not find its data')
    return parser


def flat(tensors):
    return np.concatenate([np.zeros(0, 'float32')] + [t.numpy().ravel() for t in tensors])


def gradients():
    return flat([p.grad for p in learner.parameters() if p.grad is not None])


def is_statistic(name):
    return name.endswith(('_mean', '_variance'))


def noting(owner, name, note):
    """Have note(result, *args) called after every call of owner.name."""
    real = getattr(owner, name)

    def wrapped(*args, **kwargs):
        result = real(*args, **kwargs)
        note(result, *args)
        return result

    setattr(owner, name, wrapped)


def note_collective(*_):
    global collectives
    collectives += 1


def note_loss(loss, *_):
    if len(notes['loss']) > notes['batches'][-1]:  # a batch of the same step has left its gradients
        notes['partial'].append(gradients())
    notes['loss'].append(loss.item())


def watch_steps(optimizer_class):
    """Note what each step of an optimizer uses and leaves, and do what --hit asks for after it."""
    take = optimizer_class.step

    def step(self):
        notes['gradient'].append(gradients())
        notes['collectives'].append(collectives)
        take(self)
        notes['batches'].append(len(notes['loss']))
        notes['weights'].append(flat([v for k, v in learner.state_dict().items() if not is_statistic(k)]))
        if own.hit:
            hit(*own.hit)

    optimizer_class.step = step


def note_model(model, *_):
    global learner
    if learner is None:  # a second one is the moving average
        learner = model


def hit(who, name, ranks, when):
    if len(notes['gradient']) == int(when) and str(dist.rank()) in ranks.split(','):
        save()
        os.kill(os.getpid() if who == 'self' else os.getppid(), getattr(signal, name))
        limit = time.time() + 30
        while not interrupt.requested() and time.time() < limit:  # until what the launcher does has come back to us
            time.sleep(0.01)


def save():
    arrays = {key: np.array(values) for key, values in notes.items()}
    statistics = flat([v for k, v in learner.state_dict().items() if is_statistic(k)])
    np.savez(f'{own.notes}-rank{dist.rank()}.npz', time=time.time(), statistics=statistics, **arrays)


def run(argv):
    global own, learner, collectives
    own, flags = own_parser().parse_known_args(argv[1:])
    own.notes, learner, collectives = argv[0], None, 0
    notes.clear()
    notes['batches'].append(0)
    models.FAMILY['lvvit_nano'].architecture['stem'] = 'naive' if own.naive else '4_2'
    args = main.parser().parse_args(flags)
    if dist.rank() == own.lost:
        args.data_path += '-lost'
    main.main(args)
    save()


class Words:
    """The parser that runtime.run wants: the words of each run, as they are."""

    prog = 'main.py'

    @staticmethod
    def parse_args(_):
        return [run.split('\n') for run in '\n'.join(sys.argv[1:]).split('\nTHEN\n')]


def every(runs):
    models.FAMILY['lvvit_nano'].architecture.update(embed_dim=24, depth=2, num_heads=2)
    noting(mixup.Mixup, 'draw', lambda shares, *_: notes['shares'].append(shares))
    noting(engine.mixtoken, 'rand_box', lambda box, *_: notes['box'].append(box))
    noting(paddle, 'rand', lambda drawn, *_: notes['drop_path'].append(drawn.numpy().ravel()))
    noting(engine, 'batch_targets', lambda _, batch, *rest: notes['index'].append(batch['index'].numpy()))
    noting(TokenLabelLoss, 'forward', note_loss)
    noting(main, 'build_model', note_model)
    for optimizer_class in (paddle.optimizer.AdamW, paddle.optimizer.Momentum):
        watch_steps(optimizer_class)
    train_state.on_gpu = lambda: own.as_gpu
    for name in ('all_reduce', 'all_gather', 'broadcast', 'barrier', 'reduce'):
        noting(pd, name, note_collective)
    for argv in runs:
        run(argv)


if __name__ == '__main__':
    runtime.run(every, Words)
