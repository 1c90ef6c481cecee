"""What test_dist.py starts through Paddle's launcher: main.py on tiny models, with notes of what each process sees.

    launched.py NOTES [main.py's flags] [flags of its own] [THEN NOTES …]

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

own_parser = argparse.ArgumentParser(allow_abbrev=False)
own_parser.add_argument('notes')
own_parser.add_argument('--naive', action='store_true', help='a stem without batch norm')
own_parser.add_argument('--as_gpu', action='store_true', help='agree on stopping as on GPUs')
own_parser.add_argument('--no_maps', action='store_true', help='a mark for test_dist.py')
own_parser.add_argument('--hit', nargs=4, metavar=('self|launcher', 'SIGNAL', 'RANK', 'STEP'), help='signal to send')

notes = defaultdict(list)
own, model, collectives = None, None, 0  # of the run: its flags, its model in training, collectives so far


def flat(tensors):
    return np.concatenate([np.zeros(0, 'float32')] + [t.numpy().ravel() for t in tensors])


def gradients():
    return flat([p.grad for p in model.parameters() if p.grad is not None])


def is_statistic(name):
    return name.endswith(('_mean', '_variance'))


def after(owner, name, note):
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
    if len(notes['loss']) > notes['batches'][-1]:  # an earlier batch of the same optimizer step has left its gradients
        notes['partial'].append(gradients())
    notes['loss'].append(loss.item())


def note_model(built, *_):
    global model
    model = built


def note_step(take_step):
    """An optimizer's step that notes what it uses and leaves, and sends the signal of --hit."""

    def step(self):
        notes['gradient'].append(gradients())
        notes['collectives'].append(collectives)
        take_step(self)
        notes['batches'].append(len(notes['loss']))
        notes['weights'].append(flat([v for k, v in model.state_dict().items() if not is_statistic(k)]))
        if own.hit:
            hit(*own.hit)

    return step


def hit(who, name, rank, when):
    if len(notes['gradient']) == int(when) and dist.rank() == int(rank):
        save()
        os.kill(os.getpid() if who == 'self' else os.getppid(), getattr(signal, name))
        limit = time.time() + 30
        while not interrupt.requested() and time.time() < limit:  # until the launcher's signal arrives here
            time.sleep(0.01)


def save():
    arrays = {key: np.array(values) for key, values in notes.items()}
    statistics = flat([v for k, v in model.state_dict().items() if is_statistic(k)])
    np.savez(f'{own.notes}-rank{dist.rank()}.npz', time=time.time(), statistics=statistics, **arrays)


def run(argv):
    global own, collectives
    own, flags = own_parser.parse_known_args(argv)
    collectives = 0
    notes.clear()
    notes['batches'].append(0)
    models.FAMILY['lvvit_nano'].architecture['stem'] = 'naive' if own.naive else '4_2'
    train_state.on_gpu = lambda: own.as_gpu
    main.main(main.parser().parse_args(flags))
    save()


class Parser:
    """What runtime.run asks of a parser: here the words of each run."""

    prog = 'main.py'

    @staticmethod
    def parse_args(_):
        return [words.split('\n') for words in '\n'.join(sys.argv[1:]).split('\nTHEN\n')]


def run_all(runs):
    models.FAMILY['lvvit_nano'].architecture.update(embed_dim=24, depth=2, num_heads=2)
    after(mixup.Mixup, 'draw', lambda shares, *_: notes['shares'].append(shares))
    after(engine.mixtoken, 'rand_box', lambda box, *_: notes['box'].append(box))
    after(paddle, 'rand', lambda drawn, *_: notes['drop_path'].append(drawn.numpy().ravel()))
    after(engine, 'batch_targets', lambda _, batch, *rest: notes['index'].append(batch['index'].numpy()))
    after(TokenLabelLoss, 'forward', note_loss)
    after(main, 'build_model', note_model)
    for name in ('all_reduce', 'all_gather', 'broadcast', 'barrier', 'reduce'):
        after(pd, name, note_collective)
    for optimizer_class in (paddle.optimizer.AdamW, paddle.optimizer.Momentum):
        optimizer_class.step = note_step(optimizer_class.step)
    for argv in runs:
        run(argv)


if __name__ == '__main__':
    runtime.run(run_all, Parser)
