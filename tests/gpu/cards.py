"""Checks of training on two cards."""

import outcome
from bed import EPOCHS, PRINT_FREQ
from outcome import demand
from training import FINISHED, FIRST

ALLOWED = 1e-4  # relative: the same sums in another order, in float32 proper
EXACT = {'NVIDIA_TF32_OVERRIDE': '0'}  # no TensorFloat-32, whose kernels depend on the batch


def two(bed, name, *flags, own=()):
    return bed.train(name, *flags, cards=2, own=own, environment=EXACT)


def against_one(bed):
    """Two cards with SyncBN train as one card on the joined batch, and hold the same weights."""
    bed.needs_two_cards()
    plain = [] if bed.on_gpu else ['--plain_stem']  # Paddle has no SyncBN for CPUs: a stem without batch norm
    one = bed.train('one-card', '--batch_size', 2 * bed.batch, own=plain, environment=EXACT)
    both = two(bed, 'two-cards', *(['--sync_bn'] if bed.on_gpu else []), own=plain)
    worst = outcome.apart(both.losses, one.losses, FIRST)
    demand(worst <= ALLOWED, f'the first {FIRST} losses differ by {worst:.1e} from one card, allowed {ALLOWED:.0e}')
    demand(len({note['weights'] for note in both.notes}) == 1, 'the two cards end with different weights')
    outcome.fall(both.losses)
    alone = two(bed, 'two-cards-alone')  # statistics of their own: shows that the comparison would see it
    bed.forget(*(run.out.name for run in (one, both, alone)))
    control = outcome.apart(alone.losses, one.losses, FIRST)
    demand(control > worst, f'without --sync_bn the losses differ by {control:.1e}, no more than with it')
    return f'first losses {worst:.1e} from one card ({control:.1e} without SyncBN), the same weights on both'


def stop_together(bed):
    """SIGTERM to the second process: both stop after the same logged step, and the run goes on from there."""
    bed.needs_two_cards()
    own = ['--stop_after', PRINT_FREQ - 2, '--stop_rank', 1] + ([] if bed.on_gpu else ['--as_gpu'])
    stopped = two(bed, 'two-cards-stopped', own=own)
    said = stopped.said(r'stopped by .+ in epoch (\d+) after (\d+) of (\d+) steps')
    epoch, done, updates = (int(number) for number in said.groups())
    demand(updates == bed.steps // 2, f'{updates} steps an epoch')
    demand((epoch, done) == (0, PRINT_FREQ), f'stopped in epoch {epoch} after {done} steps, not after {PRINT_FREQ}')
    steps = [len(note['losses']) for note in stopped.notes]
    demand(steps == [PRINT_FREQ, PRINT_FREQ], f'the two processes made {steps} steps')
    continued = bed.train('two-cards-stopped', cards=2, environment=EXACT, again=True)
    continued.said(FINISHED)
    steps = len(continued.losses)
    demand(steps == EPOCHS * updates - done, f'{steps} steps after the stop, {EPOCHS * updates} in all')
    bed.forget(continued.out.name)
    return f'asked after step {PRINT_FREQ - 2}, both stopped after step {done} and went on to the end'


CHECKS = {'two cards, NCCL and SyncBN, against one': against_one, 'two cards: a stop at a logged step': stop_together}
