"""A loss that is not finite: the message that stops the run, with the images that it came from."""

import contextlib
import os

import numpy as np

from util import dist

SHOWN = 4  # files in the message
REMEDY = 'try a lower --lr, a longer --warmup_epochs or --clip_grad 1; checkpoints are untouched'


def explain(error, epoch, samples, output_dir=''):
    """A line that names epoch, step, rank and the batch's files, for a logger.NonFinite with where = (step, index).

    samples: [(path, class id)] of the set, which `index` points into. All files of the batch are also listed in
    <output_dir>/nonfinite-rank<N>.txt.
    """
    step, index = error.where
    files = [samples[i][0] for i in np.asarray(index)]
    text = f'epoch {epoch}, step {step}, rank {dist.rank()}: {error}; files: {", ".join(files[:SHOWN])}'
    if len(files) > SHOWN:
        text += f' and {len(files) - SHOWN} more'
    if output_dir:
        path = os.path.join(output_dir, f'nonfinite-rank{dist.rank()}.txt')
        with contextlib.suppress(OSError):  # a full disk must not hide the message
            with open(path, 'w', encoding='utf-8', errors='surrogateescape') as f:
                f.write('\n'.join(files) + '\n')
            text += f' (all in {path})'
    return f'{text}; {REMEDY}'
