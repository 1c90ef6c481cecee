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
from pathlib import Path

import numpy as np

from processes import Run, check
from tiny import flags, make_scenes

EPOCH, BATCH = 100, 4  # steps of an epoch, images of a step
SAMPLED = (50, 75)  # steps of each epoch; before, its loader processes still grow


def resident(pid):
    """(own memory in MB, resident memory in MB, open files) of a process; zeros if it is gone.

    Own: anonymous and shared memory, of pages that n processes share one n-th; not the files of libraries, whose share
    depends on what else runs on the machine.
    """
    try:
        with open(f'/proc/{pid}/smaps_rollup') as f:
            sizes = dict(re.findall(r'^(Rss|Pss_Anon|Pss_Shmem): +(\d+) kB', f.read(), re.M))
        own = int(sizes['Pss_Anon']) + int(sizes['Pss_Shmem'])
        return own / 1024, int(sizes['Rss']) / 1024, len(os.listdir(f'/proc/{pid}/fd'))
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


def slope(samples, column, first):
    """MB per 1,000 steps of a fitted line, from step `first` on, and its standard error."""
    steps, values = np.array([(s[0], s[column]) for s in samples if s[0] >= first]).T
    x = steps / 1000 - np.mean(steps / 1000)
    rise = (x @ values) / (x @ x)
    rest = values - values.mean() - rise * x
    return rise, np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x))


def grows(samples, column, first, slack):
    """Whether the least of the second half of the samples is more than `slack` above the least of the first half.

    The least: Paddle closes the pipes of a loader that is through some 5 s late.
    """
    values = [s[column] for s in samples if s[0] >= first]
    half = len(values) // 2
    return min(values[half:]) > min(values[:half]) + slack


def soak(folder, steps, first, limit, slack=10, workers=2, say=print):
    """Run and watch; returns the samples (step, own memory of all, resident memory of the main process, open files,
    files in /dev/shm).

    limit: MB per 1,000 steps that a line through the samples from step `first` on may rise; slack: how many open files
    may come to be. Raises Failure.
    """
    data = Path(folder) / 'digits'
    make_scenes(data, EPOCH * BATCH, 20)
    sizes = f'--batch_size {BATCH} --epochs {steps // EPOCH - 1} --print_freq 25 --save_freq_steps 70'
    command = flags(data, *sizes.split(), '--keep_checkpoints', 1, workers=workers)
    run = Run(Path(folder) / 'out', command, Path(folder) / 'consoles')
    samples, begin, due = [], time.monotonic(), [epoch + step for epoch in range(0, steps, EPOCH) for step in SAMPLED]
    while run.running():
        time.sleep(0.02)
        step = step_of(run)
        if step is None or not due or step < due[0]:
            continue
        pids = run.look()
        each = [resident(pid) for pid in pids]
        if len(pids) == workers + 1:  # not on the way into evaluation
            own, _, files = np.sum(each, axis=0)
            samples.append((step, own, resident(run.process.pid)[1], int(files), len(run.shared_memory())))
        due.pop(0)
        if len(due) % 6 == 0 and samples:
            eta = (time.monotonic() - begin) / step * (steps - step)
            _, own, main, files, shm = samples[-1]
            rise = f'  {slope(samples, 1, first)[0]:+.2f} MB per 1,000 steps' if step > first + 5 * EPOCH else ''
            say(
                f'[{time.strftime("%H:%M:%S")}] step {step}/{steps}  eta {eta / 60:.1f} min  all {own:.1f} MB  '
                f'main process {main:.1f} MB  open files {files}  /dev/shm {shm}{rise}'
            )
    check(run.end() == 0 and run.finished(), f'{run.err}: {run.error()}')
    check(not run.saving(), f'temporary files are left: {run.saving()}')
    left = run.shared_memory()
    for column, name in ((1, 'all processes, own memory'), (2, 'main process, resident')):
        rise, error = slope(samples, column, first)
        say(f'{name}: {rise:+.3f} ± {error:.3f} MB per 1,000 steps ({len(samples)} samples, from step {first} on)')
    say(
        f'open files {samples[0][3]} at first, {samples[-1][3]} at last; files left in /dev/shm: {len(left)}; '
        f'no process left; {(time.monotonic() - begin) / 60:.1f} min'
    )
    rise = slope(samples, 1, first)[0]
    check(rise < limit, f'memory grows by {rise:.2f} MB per 1,000 steps')
    check(not grows(samples, 3, first, slack), f'the number of open files grows: {[s[3] for s in samples]}')
    check(not left and not grows(samples, 4, first, slack), f'shared memory grows, or is left: {left}')
    return samples


def plot(samples, path):
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    steps, everything, main, *_ = np.array(samples).T
    plt.figure(figsize=(7, 3))
    plt.plot(steps, everything, label='own memory of it and its loader processes')
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
