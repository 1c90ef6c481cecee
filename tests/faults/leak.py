"""Leak: the bytes that a training process has allocated, counted by the allocator itself, at the ends of two epochs.

    python tests/faults/leak.py                 10 epochs of 50 steps, with a loader process, evaluation and saves
    python tests/faults/leak.py --keep 800      the same, with 800 bytes a step kept on purpose

The soak watches a long run from outside, where freed memory, libraries and loader processes blur a slope by some MB.
Inside, glibc's mallinfo2 tells the bytes in use exactly; PYTHONMALLOC=malloc sends Python's own objects there, too. At
the end of an epoch, when the loaders' pipes are closed and garbage is collected, the same things are alive every time:
what has come to be in between is a leak.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tiny import ROOT, flags, make_scenes

STEPS, BATCH = 50, 4  # steps of an epoch, images of a step
FIRST, LAST = 4, 10  # epochs done when the bytes are counted; before, caches fill
LIMIT = 400  # bytes a step; without a leak 70 to 140 (n = 3), Paddle's names of shared-memory files were 800 and more
PATIENCE = 60  # seconds for Paddle to close the pipes of a loader, which takes it some 5


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'.split()
    ]


def available():
    """glibc 2.33 or newer."""
    return hasattr(ctypes.CDLL(None), 'mallinfo2')


def in_use():
    """Bytes allocated and not freed: of all arenas, and blocks that are mapped."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def loader_pipes():
    """Pipes of this process beyond its standard ones."""
    found = []
    for number in os.listdir('/proc/self/fd'):
        try:
            found.append(int(number) > 2 and os.readlink(f'/proc/self/fd/{number}').startswith('pipe:'))
        except OSError:  # the descriptor of the listing itself
            pass
    return sum(found)


def settle():
    """Wait for what an epoch leaves behind to go."""
    end = time.monotonic() + PATIENCE
    while loader_pipes():
        if time.monotonic() > end:
            raise TimeoutError(f'{loader_pipes()} pipes of loaders are open {PATIENCE} s after their epoch')
        time.sleep(0.1)
        gc.collect()
    gc.collect()


def watch(keep):
    """Have main.py count after the epochs FIRST and LAST, and keep `keep` bytes in every step."""
    import engine
    from util.train.train_state import TrainState

    kept, end_epoch, batch_targets = [], TrainState.end_epoch, engine.batch_targets

    def ended(state, *args):
        end_epoch(state, *args)
        if state.epoch in (FIRST, LAST):
            settle()
            print('IN USE', json.dumps([state.epoch * STEPS, in_use()]), flush=True)

    def targets(*args, **kwargs):
        if keep:
            kept.append(bytearray(keep))
        return batch_targets(*args, **kwargs)

    TrainState.end_epoch, engine.batch_targets = ended, targets


def bytes_a_step(folder, keep=0):
    """Train in a process of its own; what it has come to hold between the two epochs, in bytes a step."""
    data = Path(folder) / 'digits'
    make_scenes(data, STEPS * BATCH, 20)
    sizes = f'--batch_size {BATCH} --epochs {LAST - 1} --print_freq 25 --save_freq_steps 20 --keep_checkpoints 1'
    command = flags(data, *sizes.split(), '--output_dir', Path(folder) / 'out', workers=1)
    env = {**os.environ, 'PYTHONMALLOC': 'malloc', 'OMP_NUM_THREADS': '1'}
    inside = [sys.executable, __file__, '--inside', str(keep), *map(str, command)]
    done = subprocess.run(inside, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    counts = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith('IN USE')]
    if done.returncode or len(counts) != 2:
        raise RuntimeError(f'exit code {done.returncode}: {done.stdout[-2000:]}')
    (first, before), (last, after) = counts
    return (after - before) / (last - first)


def train_inside(keep, command):
    sys.path.insert(0, str(ROOT))
    import main
    from util import runtime

    watch(keep)
    runtime.run(main.main, main.parser(), command)


def report():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--keep', type=int, default=0, metavar='BYTES')
    args = parser.parse_args()
    if not available():
        sys.exit('leak.py: needs glibc 2.33 or newer, for mallinfo2')
    with tempfile.TemporaryDirectory(prefix='leak-') as folder:
        rise = bytes_a_step(folder, args.keep)
    print(f'{rise:+.1f} bytes a step from step {FIRST * STEPS} to {LAST * STEPS}; the limit is {LIMIT}')
    sys.exit(rise > LIMIT)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--inside']:
        train_inside(int(sys.argv[2]), sys.argv[3:])
    else:
        report()
