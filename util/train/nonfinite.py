"""A loss or gradient that is not finite: which images it came from, and leaving such steps out."""

import contextlib
import os
import sys

import numpy as np
import paddle

from util import dist
from util.errors import UserError
from util.logger import NonFinite

SHOWN = 4  # files in the message
REMEDY = 'try a lower --lr, a longer --warmup_epochs, --clip_grad 1 or --skip_nonfinite N; checkpoints are untouched'


def explain(error, epoch, loader, output_dir=''):
    """UserError for a NonFinite whose `where` is (step, index): names epoch, step, rank and the files of the batch,
    which are also listed in <output_dir>/nonfinite-rank<N>.txt.
    """
    step, index = error.where
    files = [loader.dataset.samples[i][0] for i in np.asarray(index)]
    text = f'epoch {epoch}, step {step}, rank {dist.rank()}: {error}; files: {", ".join(files[:SHOWN])}'
    if len(files) > SHOWN:
        text += f' and {len(files) - SHOWN} more'
    if output_dir:
        path = os.path.join(output_dir, f'nonfinite-rank{dist.rank()}.txt')
        with contextlib.suppress(OSError):  # the message is what matters
            with open(path, 'w', encoding='utf-8') as f:
                f.write('\n'.join(files) + '\n')
            text += f' (all in {path})'
    return UserError(text)


class StepGuard:
    """--skip_nonfinite: leaves out up to `limit` optimizer steps whose gradients are not finite.

    Costs a look at all gradients and a wait for the device in every step, so with limit 0 it does nothing at all. The
    processes agree without a word: the gradients they look at are already the mean of all. With loss scaling, where
    the scaler leaves such steps out by itself, only the loss is looked at. explain: from NonFinite to UserError.
    """

    def __init__(self, net, limit, scaled, explain):
        self.limit, self.scaled, self.explain, self.skipped = limit, scaled, explain, 0
        self.parameters = [p for p in net.parameters() if not p.stop_gradient]
        self.statistics = [p for p in net.parameters() if p.stop_gradient]  # batch norm's, in which a NaN would stay

    def begin(self):
        """Before the first forward pass of an optimizer step."""
        if self.limit:
            self.before = [p.clone() for p in self.statistics]

    @paddle.no_grad()
    def accepts(self, losses):
        """Whether the step may be taken; losses: [(where, loss)] of its batches on this process.

        A step left out is named on stderr, by the process with the bad loss. Raises UserError beyond the limit.
        """
        if not self.limit:
            return True
        values = [loss.astype('float32').reshape([]) for _, loss in losses]
        if not self.scaled:
            values += [p.grad.astype('float32').square().sum() for p in self.parameters if p.grad is not None]
        finite = paddle.isfinite(paddle.stack(values)).tolist()
        if all(finite):
            return True
        for p, value in zip(self.statistics, self.before):
            p.set_value(value)
        self.skipped += 1
        for (where, loss), good in zip(losses, finite):
            if not good:
                error = self.explain(NonFinite('loss', loss.item(), where))
                break
        else:
            error = self.explain(NonFinite('a gradient', 'not finite', losses[-1][0]))
        if self.skipped > self.limit:
            raise UserError(f'{error}; {REMEDY}')
        if dist.is_main() or not all(finite[: len(losses)]):
            left_out = f'step left out, {self.skipped} of {self.limit} allowed'
            print(f'warning: {error}; {left_out}', file=sys.stderr, flush=True)
        return False
