"""A table of trainings, the best first, and their curves, from the log.txt of each.

    python tools/runs.py output/run                     one run: epochs, accuracy, time
    python tools/runs.py output --png output/runs.png   all runs below a folder, with loss and accuracy curves
    python tools/runs.py a b c --csv runs.csv           several; --markdown for a page

The flags that differ come from the args.yaml beside log.txt. docs/runs.md explains the columns.
"""

import os
import shlex
import sys
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np

from tools import curves
from util import files
from util.args import Parser, as_words
from util.errors import UserError, visible
from util.logger import log
from util.metrics import write_csv

FLAGS = 'flags that differ'
OWN = set('output_dir resume log_file log_visualdl log_wandb wandb_entity wandb_project print_freq'.split())


class Run(NamedTuple):
    name: str
    records: list  # of log.txt, one an epoch
    flags: dict  # of args.yaml; {} if there is none

    def series(self, key):
        """float64 [epochs]: a number of each record, NaN where it has none."""
        return np.array([number(record.get(key)) for record in self.records])


def number(value):
    """A finite number of log.txt as a float; NaN for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if is_number else np.nan


# -- reading -----------------------------------------------------------------------------------------------------------


def find(folders):
    """Paths of the folders with a log.txt, among `folders` and below them. Raises UserError if there is none.

    One of `folders` that leads to no run is left out with a line in the log.
    """
    found = {}  # {real path: path}
    for folder in folders:
        if not os.path.exists(folder):
            raise UserError(f'{folder}: there is no such folder')
        below = sorted(root for root, _, names in os.walk(folder) if 'log.txt' in names)
        if not below:
            log(f'{folder}: no log.txt in it or below it, left out')
        for path in below:
            found.setdefault(os.path.realpath(path), path)
    if not found:
        raise UserError('no run found: give the --output_dir of a training, or a folder above; it must have a log.txt')
    return list(found.values())


def read(paths):
    """[Run] of folders with a log.txt, the best top-1 first. Raises UserError if none has the record of an epoch.

    A log.txt or args.yaml that cannot be read is left out, and lines that are no records, with a line in the log.
    """
    runs = []
    for path, name in zip(paths, short_names(paths)):
        try:
            records, others = files.parse_log(os.path.join(path, 'log.txt'))
        except UserError as error:
            log(f'{error}; left out')
            continue
        if others:
            log(f'{os.path.join(path, "log.txt")}: {others} line(s) are no records of an epoch, left out')
        if records:
            runs.append(Run(name, records, read_flags(path)))
        else:
            log(f'{path}: no epoch has ended yet, left out')
    if not runs:
        raise UserError('no run has the record of an epoch in its log.txt')
    return sorted(runs, key=lambda run: -best(run.series('test_acc1'))[0])  # NaN stays behind


def short_names(paths):
    """What tells the paths from each other: their parts below the folder that all share."""
    paths = [os.path.abspath(path) for path in paths]
    shared = os.path.commonpath(paths)
    if shared in paths:
        shared = os.path.dirname(shared)
    return [visible(os.path.relpath(path, shared)) for path in paths]


def read_flags(path):
    """{flag: value} of a run's args.yaml; {} without one (a run of the port)."""
    path = os.path.join(path, 'args.yaml')
    if not os.path.exists(path):
        return {}
    try:
        flags = files.read_yaml(path)
    except UserError as error:
        log(f'{error}; its flags are left out')
        return {}
    return flags if isinstance(flags, dict) else {}


# -- the table ---------------------------------------------------------------------------------------------------------


def differing(runs):
    """Names of the flags that have several values among the runs that know them, without those of OWN."""
    names = sorted({name for run in runs for name in run.flags} - OWN)
    values = {name: [run.flags[name] for run in runs if name in run.flags] for name in names}
    return [name for name in names if any(value != values[name][0] for value in values[name])]


def shown(value):
    """A flag's value as text."""
    if isinstance(value, list):
        return ' '.join(map(str, value))
    return 'default' if value is None else visible(str(value))


def best(series):
    """(largest value, its index) of an array; (NaN, -1) if it has no number."""
    if np.isnan(series).all():
        return np.nan, -1
    return np.nanmax(series), int(np.nanargmax(series))


def cell(value, digits=2):
    """A number as text; '' for NaN."""
    return '' if np.isnan(value) else f'{value:.{digits}f}'


def row(run):
    """{column: cell} of a run, without its flags."""
    accuracy, seconds, speed = (run.series(key) for key in ('test_acc1', 'seconds', 'images_per_second'))
    top, at = best(accuracy)
    planned = [run.flags.get(name) for name in ('epochs', 'cooldown_epochs')]
    cells = {
        'run': run.name,
        'epochs': str(run.records[-1]['epoch'] + 1),
        'planned': str(sum(planned)) if all(isinstance(n, int) for n in planned) else '',
        'last top-1': cell(accuracy[-1]),
        'best top-1': cell(top),
        'at epoch': '' if at < 0 else str(run.records[at]['epoch']),
    }
    averaged = run.series('test_acc1_ema')
    cells['last EMA'], cells['best EMA'] = cell(averaged[-1]), cell(best(averaged)[0])
    cells['hours'] = cell(seconds.sum() / 3600, 3)  # NaN if an epoch has no time
    cells['images/s'] = '' if np.isnan(speed).all() else cell(np.nanmedian(speed), 1)
    return cells


def table(runs, flags_in_columns=False):
    """[header, row, …] of cells. The columns of EMA are left out if no run has it.

    The last column has the flags that differ; with flags_in_columns each has a column.
    """
    rows, names = [row(run) for run in runs], differing(runs)
    columns = [name for name in rows[0] if 'EMA' not in name or any(cells[name] for cells in rows)]
    titles = [f'--{name}' for name in names]
    if names and not flags_in_columns:
        titles = [FLAGS]
    lines = [[*columns, *titles]]
    for cells, run in zip(rows, runs):
        flags = {name: run.flags[name] for name in names if name in run.flags}
        if flags_in_columns:
            last = [shown(flags[name]) if name in flags else '' for name in names]
        elif names:
            last = [visible(shlex.join(as_words(parser(), flags)))]
        else:
            last = []
        lines.append([*(cells[name] for name in columns), *last])
    return lines


def is_text(title):
    """Whether a column begins at its left side; numbers end at the right."""
    return title in ('run', FLAGS)


def as_text(lines):
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join(
        '  '.join(
            word.ljust(width) if is_text(title) else word.rjust(width)
            for title, word, width in zip(lines[0], line, widths)
        ).rstrip()
        for line in lines
    )


def as_markdown(lines):
    rule = ['---' if is_text(title) else '--:' for title in lines[0]]
    rows = [[word.replace('|', '\\|') for word in line] for line in lines]
    return ''.join(f'| {" | ".join(words)} |\n' for words in [rows[0], rule, *rows[1:]])


def main(args):
    for flag, path in ('--csv', args.csv), ('--markdown', args.markdown), ('--png', args.png):
        if path:
            files.check_target(flag, path)
    runs = read(find(args.folders))
    lines = table(runs)
    print(as_text(lines))
    if args.csv:
        write_csv(args.csv, table(runs, flags_in_columns=True))
    if args.markdown:
        files.write(args.markdown, as_markdown(lines).encode())
        log(f'wrote {args.markdown}')
    if args.png:
        curves.draw(runs, args.png)
        log(f'wrote {args.png}')


def parser():
    parser = Parser('tools/runs.py', description=__doc__)
    help = '--output_dir of trainings, or folders above them'
    parser.add_argument('folders', metavar='DIR', nargs='+', help=help)
    parser.add_argument('--csv', metavar='FILE', help='write the table as CSV too')
    parser.add_argument('--markdown', metavar='FILE', help='write the table in Markdown too')
    parser.add_argument('--png', metavar='FILE', help='draw loss and accuracy curves (needs matplotlib)')
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
