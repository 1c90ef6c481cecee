"""Tables and a picture of the results of benchmarks/study.py, in Markdown and PNG.

python benchmarks/study_report.py CSV [--curves PNG]
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

import numpy as np

from benchmarks.study_plan import ARMS, read_rows
from util.args import Parser
from util.errors import UserError

PAIRS = [  # what is compared with what, for the same seed
    ('maps_rest', 'labels_few'),
    ('maps_rest', 'labels_all'),
    ('maps_rest', 'class_rest'),
    ('class_rest', 'labels_few'),
    ('maps_few', 'labels_few'),
    ('self_few', 'labels_few'),
    ('maps_all', 'labels_all'),
]
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t


def by_seed(rows, arm, labels, column='top1'):
    """{seed: number} of the runs of an arm, in the order of the seeds; empty cells are left out.

    rows: {study.Run: row of the CSV}. Arms that use all labels have one number of labels, whatever `labels` is.
    """
    chosen = [
        (run.seed, row[column])
        for run, row in rows.items()
        if run.arm == arm and (run.labels == labels or ARMS[arm].photos == 'all')
    ]
    return {seed: float(value) for seed, value in sorted(chosen) if value != ''}


def mean_and_std(values):
    if len(values) == 1:
        return f'{values[0]:.1f}'
    return f'{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}'


def mean_and_interval(values):
    """Mean of paired differences as text, with its 95 % confidence interval by Student's t if there are two or more."""
    if len(values) == 1:
        return f'{values[0]:+.1f}'
    half = T_975[len(values) - 1] * np.std(values, ddof=1) / math.sqrt(len(values))
    return f'{np.mean(values):+.1f} [{np.mean(values) - half:+.1f}, {np.mean(values) + half:+.1f}]'


def table(head, lines):
    """A table in Markdown. head: titles, numbers in all columns but the first; lines: lists of cells."""
    rule = ['---'] + ['--:'] * (len(head) - 1)
    return '\n'.join('| ' + ' | '.join(map(str, cells)) + ' |' for cells in [head, rule, *lines])


def arms_table(rows):
    """Accuracy and agreement with the annotator of every arm and number of labels."""
    lines = []
    for arm in ARMS:
        for labels in sorted({run.labels for run in rows if run.arm == arm}, reverse=True):
            top1 = by_seed(rows, arm, labels)
            cells = [f'`{arm}`', labels, len(top1), mean_and_std([*top1.values()])]
            cells.append(', '.join(f'{value:.1f}' for value in top1.values()))
            for column in ('tokens_agree', 'image_agrees'):
                shares = by_seed(rows, arm, labels, column)
                cells.append(mean_and_std([*shares.values()]) if shares else '')
            lines.append(cells)
    head = ['arm', 'labels a class', 'n', 'top-1, mean ± std', 'each seed', 'tokens agree', 'image agrees']
    return table(head, lines)


def pairs_table(rows):
    """Paired differences in accuracy, for each number of labels."""
    lines = []
    for labels in sorted({run.labels for run in rows}, reverse=True):
        for arm, other in PAIRS:
            if ARMS[arm].photos == 'all' and labels != max(run.labels for run in rows):
                continue
            first, second = by_seed(rows, arm, labels), by_seed(rows, other, labels)
            gains = [first[seed] - second[seed] for seed in first if seed in second]
            if gains:
                each = ', '.join(f'{gain:+.1f}' for gain in gains)
                lines.append([f'`{arm}` − `{other}`', labels, len(gains), each, mean_and_interval(gains)])
    return table(['difference', 'labels a class', 'n', 'each seed', 'mean [95 % interval]'], lines)


def draw_curves(rows, path):
    """Top-1 by step: the mean, smallest and largest of an arm's seeds, for the largest number of few labels."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(f'{path}: not drawn, matplotlib is not installed: pip install matplotlib')
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot(xlabel='optimizer steps', ylabel='top-1 on the validation photos, %')
    few = max((run.labels for run in rows if ARMS[run.arm].photos != 'all'), default=0)
    for arm in ARMS:
        chosen = [row for run, row in rows.items() if run.arm == arm and ARMS[arm].photos == 'all']
        chosen = chosen or [row for run, row in rows.items() if run == (arm, few, run.seed)]
        if chosen:
            curves = np.array([[float(value) for value in row['curve'].split()] for row in chosen])
            steps = np.arange(1, curves.shape[1] + 1) * int(chosen[0]['steps']) / curves.shape[1]
            (line,) = axes.plot(steps, curves.mean(axis=0), label=f'{arm} (n = {len(chosen)})')
            axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), alpha=0.15, color=line.get_color())
    axes.legend(loc='lower right')
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main(args):
    rows = read_rows(args.csv)
    print(f'{arms_table(rows)}\n\n{pairs_table(rows)}')
    if args.curves:
        draw_curves(rows, args.curves)


def parser():
    parser = Parser('benchmarks/study_report.py', description=__doc__)
    parser.add_argument('csv', metavar='CSV', type=Path, help='the results')
    parser.add_argument('--curves', metavar='PNG', help='draw accuracy by step')
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
