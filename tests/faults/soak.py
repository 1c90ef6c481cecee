"""Soak: one long training process with loader processes, evaluation and checkpoints, watched from outside.

    python tests/faults/soak.py                     5,000 steps, 50 evaluations, about 170 saves
    python tests/faults/soak.py --steps 400         shorter
    python tests/faults/soak.py --plot memory.png   and a picture (needs matplotlib)

Twice an epoch of 100 steps, in its second half, /proc tells the memory of the process and its loader processes
(anonymous and shared, pages that several of them share counted once), their open files, and the batches in /dev/shm. A
line is fitted to the memory after the first 500 steps. Passes if it rises by less than 1 MB in 1,000 steps, if open
files and shared memory do not grow, and if no process is left at the end.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import numpy as np

from processes import Run, check
from tiny import flags, make_scenes

EPOCH, BATCH = 100, 4  # steps of an epoch, images of a step
SAMPLED = (50, 75)  # steps of each epoch; before, its loader processes still grow
# Own memory of all processes and resident memory of the main process in MB; open files; files in /dev/shm.
Sample = namedtuple('Sample', 'step own main files shm')


def resident(pid):
    """(own memory in MB, resident memory in MB, open files) of a process; zeros if it is gone.

    Own: anonymous and shared memory, of pages that n processes share one n-th; not the files of libraries, whose share
    depends on what else runs on the machine.
    """
    try:
        text = Path(f'/proc/{pid}/smaps_rollup').read_text()
        sizes = {name: int(kb) / 1024 for name, kb in re.findall(r'^(\w+): +(\d+) kB', text, re.M)}
        return sizes['Pss_Anon'] + sizes['Pss_Shmem'], sizes['Rss'], len(os.listdir(f'/proc/{pid}/fd'))
    except (OSError, KeyError):
        return 0.0, 0.0, 0


def step_of(run):
    """Steps done according to the last console line of training; None during evaluation."""
    for line in reversed(run.lines()):
        if found := re.match(r'Epoch: \[(\d+)\]  \[ *(\d+)/', line):
            return int(found[1]) * EPOCH + int(found[2])
        if line.startswith('Test'):
            return None
    return None


def slope(samples, name, first):
    """MB per 1,000 steps of a fitted line, from step `first` on, and its standard error."""
    steps, values = np.array([(s.step, getattr(s, name)) for s in samples if s.step >= first]).T
    x = steps / 1000 - np.mean(steps / 1000)
    rise = (x @ values) / (x @ x)
    rest = values - values.mean() - rise * x
    return rise, np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x))


def grows(samples, name, first, slack):
    """Whether the least of the second half of the samples is more than `slack` above the least of the first half.

    The least: Paddle closes the pipes of a loader that is through some 5 s late.
    """
    values = [getattr(s, name) for s in samples if s.step >= first]
    half = len(values) // 2
    return min(values[half:]) > min(values[:half]) + slack


def soak(folder, steps, first, limit, slack=10, workers=2, say=print):
    """Run and watch; returns a Sample for each of the steps SAMPLED.

    limit: MB per 1,000 steps that a line through the samples from step `first` on may rise; slack: how many open files
    may come to be. Raises Failure.
    """
    data, begin = Path(folder) / 'digits', time.monotonic()
    make_scenes(data, EPOCH * BATCH, 20)
    sizes = f'--batch_size {BATCH} --epochs {steps // EPOCH - 1} --print_freq 25 --save_freq_steps 70'
    command = flags(data, *sizes.split(), '--keep_checkpoints', 1, workers=workers)
    run = Run(Path(folder) / 'out', command, Path(folder) / 'consoles')
    samples, due = [], [epoch + step for epoch in range(0, steps, EPOCH) for step in SAMPLED]
    while run.running():
        time.sleep(0.02)
        step = step_of(run)
        if step is None or not due or step < due[0]:
            continue
        due.pop(0)
        pids = run.look()
        own, _, files = np.sum([resident(pid) for pid in pids], axis=0)
        if len(pids) == workers + 1:  # not on the way into evaluation
            main = resident(run.process.pid)[1]
            samples.append(Sample(step, own, main, int(files), len(run.shared_memory())))
            say(f'{(time.monotonic() - begin) / 60:.1f} min  of {steps} steps: {samples[-1]}')
    check(run.end() == 0 and run.finished(), f'{run.err}: {run.error()}')
    check(not run.saving(), f'temporary files are left: {run.saving()}')
    left = run.shared_memory()
    for name in ('own', 'main'):
        rise, error = slope(samples, name, first)
        say(f'{name}: {rise:+.3f} ± {error:.3f} MB per 1,000 steps ({len(samples)} samples, from step {first} on)')
    rise, _ = slope(samples, 'own', first)
    check(rise < limit, f'memory grows by {rise:.2f} MB per 1,000 steps')
    check(not grows(samples, 'files', first, slack), f'open files grow: {[s.files for s in samples]}')
    check(not left and not grows(samples, 'shm', first, slack), f'shared memory grows, or is left: {left}')
    return samples


def plot(samples, path):
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    steps, own, main, *_ = np.array(samples).T
    plt.figure(figsize=(7, 3))
    plt.plot(steps, own, label='own memory of it and its loader processes')
    plt.plot(steps, main, label='main process, resident, with libraries')
    plt.ylim(0)
    plt.xlabel('step')
    plt.ylabel('resident memory, MB')
    plt.legend(loc='lower right')
    plt.tight_layout()
    plt.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=5000)
    parser.add_argument('--plot', metavar='PNG')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='soak-') as folder:
        limits = (1.0, 10) if args.steps >= 5000 else (50.0, 100)
        samples = soak(folder, args.steps, min(500, args.steps // 4), *limits, say=lambda line: print(line, flush=True))
    if args.plot:
        plot(samples, args.plot)
    print('flat: passed')


if __name__ == '__main__':
    try:
        main()
    except Exception as failure:  # a Failure in a line
        sys.exit(f'soak.py: FAILED: {failure}')
