"""The time of each part of a training step; see docs/results/training_step.md.

    python benchmarks/training_step.py FLAGS OF main.py [--steps 10]

Runs engine.train_one_epoch and measures its parts. On a GPU the host waits for the device before and after each part,
so the step takes longer than usual. Prints means over the steps after the third. Nothing is saved.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import paddle

import engine
import main as trainer
from benchmarks.clock import Clock

from util.errors import UserError
from util.ranges import count
from util.train import starting
from util.train.amp import Amp, on_gpu
from util.train.loss import TokenLabelLoss
from util.train.train_state import TrainState

STAGES = ('waiting for the batch', 'targets', 'forward', 'loss', 'backward', 'optimizer', 'moving average')
WARM_UP = 3  # steps


class Enough(Exception):
    """All steps are measured."""


def parser():
    parser = trainer.parser()
    parser.prog, parser.description = 'benchmarks/training_step.py', __doc__
    parser.add_argument('--steps', default=10, type=count, help='steps to measure (default: 10)')
    return parser


class WatchedLoader:
    """A loader that measures how long each batch is waited for."""

    def __init__(self, batches, clock):
        self.batches, self.clock, self.dataset = batches, clock, batches.dataset

    def __len__(self):
        return len(self.batches)

    def set_epoch(self, epoch, first=0):
        self.batches.set_epoch(epoch, first)

    def __iter__(self):
        batches = iter(self.batches)
        wait = self.clock.watch(STAGES[0], lambda: next(batches, None))
        while (batch := wait()) is not None:
            yield batch


def main(args):
    args.output_dir = ''  # nothing is saved
    trainer.complete(args)
    batches = trainer.new_train_loader(args)
    if len(batches) < WARM_UP + args.steps:
        raise UserError(f'--steps {args.steps}: an epoch has {len(batches)} steps of --batch_size {args.batch_size}')
    clock = Clock(STAGES, paddle.device.synchronize if on_gpu() else lambda: None)
    model = trainer.new_model(args)
    state = TrainState(args, model, WatchedLoader(batches, clock), Amp(args.use_amp, args.amp_dtype, args.amp_level))
    starting.start(state)
    state.amp.decorate(model, state.optimizer)
    criterion = TokenLabelLoss(args.cls_weight, args.dense_weight, args.token_pool_weight)

    watched = [(engine, 'batch_targets', 'targets'), (model, 'forward', 'forward'), (criterion, 'forward', 'loss')]
    watched += [(paddle.Tensor, 'backward', 'backward'), (state.amp.scaler, 'step', 'optimizer')]
    if state.ema:
        watched.append((state.ema, 'update', 'moving average'))
    for owner, name, stage in watched:
        setattr(owner, name, clock.watch(stage, getattr(owner, name)))
    begin, after_step = 0.0, state.after_step

    def count_steps():
        nonlocal begin
        after_step()
        if state.steps_done == WARM_UP:
            clock.spent, begin = dict.fromkeys(STAGES, 0.0), clock.now()
        if state.steps_done == WARM_UP + args.steps:
            raise Enough

    state.after_step = count_steps
    try:
        engine.train_one_epoch(state, model, criterion)
    except Enough:
        whole = clock.now() - begin
    rows = {**clock.spent, 'the rest': whole - sum(clock.spent.values())}
    print(f'{args.model}, {args.input_size} px, batch {args.batch_size}. {runtime.CPU}\n')
    print('| part of a step | ms | share |\n|---|--:|--:|')
    for stage, seconds in rows.items():
        print(f'| {stage} | {1000 * seconds / args.steps:.1f} | {100 * seconds / whole:.1f} % |')
    print(f'| all | {1000 * whole / args.steps:.1f} | |')


if __name__ == '__main__':
    runtime.run(main, parser())
