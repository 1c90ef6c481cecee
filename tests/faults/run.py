"""Fault suite: real training processes are killed and hindered in every way we could think of, and continued.

    python tests/faults/run.py                      all of it
    python tests/faults/run.py --kills 10           fewer kills of each kind
    python tests/faults/run.py --only disk          rows with this word in their name
    python tests/faults/run.py --effective          instead: what random kills cost in time (effective.py)

Every run is tiny (lvvit_nano on scenes of 32 px from demo/digits.py, 36 steps in 3 epochs, token labels, EMA) and
started by the same command, with --resume auto in it. After its kills it must end exactly as a run that was left alone:
every array of model, average and optimizer in latest, best and numbered checkpoints, log.txt to the byte, no file more
or fewer. No process may be left 5 s after an end. Kills are drawn from --seed; their instants depend on the machine.

Steps lost is how many optimizer steps a fault made the run do again: what the console said was done (--print_freq 1)
less where the next start continues; of a step that was done and not yet printed we do not know. The checkpoint is
written every 5 steps (--save_freq_steps).

Prints a table; exit code 1 if anything failed. FAULTS_PATIENCE=10 for slow machines (time limits are multiplied by it).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from util import runtime

import numpy as np

import effective
import kills
import mishaps
from bench import Bench
from processes import Failure

PLAN = {
    kills.ANY: 20,
    'SIGKILL during a save': 14,
    'SIGKILL during evaluation': 8,
    'SIGKILL while it starts': 6,
    'SIGTERM, any instant of training': 6,
    'SIGINT, any instant of training': 6,
    'SIGTERM during evaluation': 4,
    'SIGKILL of a loader process': 4,
}


def say(line):
    print(f'[{time.strftime("%H:%M:%S")}] {line}', flush=True)


def run_mishaps(bench, chosen, failures):
    """Rows of the table for everything that is not a kill. chosen: {name: function}"""
    rows = []
    for i, (name, mishap) in enumerate(chosen.items()):
        begin, row = time.monotonic(), kills.Tally(name)
        row.tried, error = 1, None
        try:
            row.note, row.survived = mishap(bench) or '', 1
        except Failure as failure:
            error = f'{name}: {failure}'
            failures.append(error)
        outcome = f'FAILED {error}' if error else 'survived'
        say(f'{i + 1:2d}/{len(chosen)}  {name}: {outcome}  ({time.monotonic() - begin:.1f} s)')
        rows.append(row)
    return rows


def table(rows):
    lines = ['| fault | tried | survived | steps lost, mean | at most | |', '|---|--:|--:|--:|--:|---|']
    for row in rows:
        mean, most = (f'{np.mean(row.lost):.1f}', max(row.lost)) if row.lost else ('', '')
        lines.append(f'| {row.name} | {row.tried} | {row.survived} | {mean} | {most} | {row.note} |')
    return '\n'.join(lines)


def measure_effective(args):
    """The table of --effective; returns whether anything failed."""
    failed, rows = False, []
    with tempfile.TemporaryDirectory(prefix='effective-') as folder:
        course = effective.Course(args.folder or folder, args.epochs)
        say(f'undisturbed: {course.steps} steps in {course.run_undisturbed():.1f} s')
        for every in args.effective or effective.EVERY:
            rng = np.random.default_rng([args.seed, round(1000 * every)])
            try:
                rows.append(effective.disturbed(course, every, effective.intervals(every, rng), say))
            except Failure as failure:
                say(f'FAILED T = {every:g} s: {failure}')
                failed = True
    print(effective.table(rows))
    return failed


def main():
    parser = runtime.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, metavar='N', help='at most N of each kind')
    parser.add_argument('--only', default='', metavar='WORD', help='rows whose name contains it')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', help='where to work, kept afterwards (default: a temporary one)')
    parser.add_argument(
        '--effective',
        nargs='*',
        type=float,
        metavar='T',
        help='measure the share of the undisturbed speed that kills every T seconds leave (default: 10 20 40)',
    )
    parser.add_argument('--epochs', type=int, default=15, help=f'with --effective: of {effective.EPOCH} steps')
    args = parser.parse_args()
    if args.effective is not None:
        return measure_effective(args)
    with tempfile.TemporaryDirectory(prefix='faults-') as folder:
        begin, bench = time.monotonic(), Bench(args.folder or folder)
        seconds = bench.run_undisturbed()
        say('undisturbed run: ' + ', '.join(f'{name} {value:.2f} s' for name, value in seconds.items()))
        rows, failures = [], []
        plan = {name: min(n, args.kills or n) for name, n in PLAN.items() if args.only in name}
        if plan:
            chains = kills.Chains(bench, plan, np.random.default_rng(args.seed), say)
            rows += chains.run().values()
            failures += chains.failures
            left = f'{chains.shm} files ({chains.shm_bytes / 1e6:.1f} MB)'
            say(f'{left} were left in /dev/shm by {chains.runs} runs; removed now')
        rows += run_mishaps(bench, {name: f for name, f in mishaps.MISHAPS.items() if args.only in name}, failures)
        print(table(rows))
        survived, tried = sum(row.survived for row in rows), sum(row.tried for row in rows)
        print(f'{survived} of {tried} survived, {(time.monotonic() - begin) / 60:.1f} min')
        for failure in failures:
            print(f'FAILED {failure}')
    return bool(failures)


if __name__ == '__main__':
    sys.exit(main())
