"""The checks of tests/gpu/run.sh, and the table of what they found.

    python tests/gpu/acceptance.py [--rehearse] [--only WORD] [--folder DIR]

A check takes a Bed, whose device is 'gpu' or, to rehearse, 'cpu', and returns what it measured, or raises NotRun (what
the machine lacks) or Wrong. Exit code 0 only if something ran and all that ran passed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from util import runtime

import paddle

import cards
import serving
import training
from bed import ROOT, Bed
from outcome import FAILED, NOT_RUN, PASSED, NotRun, Row, Wrong, exit_code, table
from util.args import Parser

CHECKS = {**training.CHECKS, **cards.CHECKS, **serving.CHECKS}


def parser():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rehearse', action='store_true', help='on the CPU with a tiny model; accepts nothing')
    parser.add_argument('--only', default='', metavar='WORD', help='checks with this word in their name')
    parser.add_argument('--folder', help='where to work, kept afterwards (default: a temporary one)')
    return parser


def say(line):
    print(f'[{time.strftime("%H:%M:%S")}] {line}', flush=True)


def run(checks, bed):
    """Rows for {name: check}; no check keeps the others from running, whatever it raises."""
    rows = []
    for number, (name, check) in enumerate(checks.items(), 1):
        begin = time.monotonic()
        try:
            row = Row(name, PASSED, check(bed))
        except NotRun as why:
            row = Row(name, NOT_RUN, str(why))
        except Wrong as wrong:
            row = Row(name, FAILED, ' '.join(str(wrong).split()))
        except Exception as error:  # a slip in the check itself must not cost the table
            row = Row(name, FAILED, f'the check broke: {type(error).__name__}: {error}')
        rows.append(row)
        say(f'{number:2d}/{len(checks)}  {name}: {row.result}  ({time.monotonic() - begin:.0f} s)  {row.found}')
    return rows


def first_line(*command):
    """Of a program's output; 'unknown' if it is not there or fails."""
    try:
        return subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL).splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return 'unknown'


def machine(device):
    """Lines that say on what the checks ran."""
    commit = first_line('git', 'rev-parse', '--short', 'HEAD')
    lines = [f'Commit {commit}, Paddle {paddle.__version__}, Python {sys.version.split()[0]}.']
    if device == 'gpu':
        gpu = first_line('nvidia-smi', '--query-gpu=name,memory.total,driver_version', '--format=csv,noheader')
        count = paddle.device.cuda.device_count()
        lines.append(f'{count} × {gpu}; CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}.')
    return lines


def gpus():
    return paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0


def main(args):
    checks = {name: check for name, check in CHECKS.items() if args.only in name}
    if not checks:
        sys.exit(f'acceptance.py: error: --only {args.only}: no check has it in its name')
    device, count = ('cpu', 2) if args.rehearse else ('gpu', gpus())
    if count == 0:
        sys.exit(
            f'acceptance.py: error: Paddle {paddle.__version__} sees no GPU; --rehearse tries the checks on the CPU'
        )
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='acceptance-') as folder:
        bed = Bed(args.folder or folder, device, count)
        bed.prepare()
        rows = run(checks, bed)
    heading = 'CPU rehearsal: no acceptance, the checks themselves were tried' if args.rehearse else 'GPU acceptance'
    print('\n'.join(['', f'### {heading}', '', *machine(device), '', table(rows, args.rehearse), '']))
    counts = {result: sum(row.result == result for row in rows) for result in (PASSED, FAILED, NOT_RUN)}
    print(', '.join(f'{n} {name}' for name, n in counts.items()), f'in {(time.monotonic() - begin) / 60:.1f} min')
    sys.exit(exit_code(rows))


if __name__ == '__main__':
    runtime.run(main, parser())
