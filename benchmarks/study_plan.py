"""The arms of benchmarks/study.py, its runs, and the rows of its CSV."""

import csv
import io
from typing import NamedTuple

from util import files


class Arm(NamedTuple):
    photos: str  # few: those with labels; rest: all, without the labels of the others; all
    maps: str = ''  # who makes them: few, all: an annotator fitted on so many labels; labeler
    flags: str = ''  # of main.py


ARMS = {
    'labels_few': Arm('few'),
    'maps_few': Arm('few', 'few', '--ground_truth only'),
    'maps_rest': Arm('rest', 'few', '--ground_truth only'),
    'class_rest': Arm('rest', 'few', '--ground_truth only --dense_weight 0'),
    'labels_all': Arm('all'),
    'maps_all': Arm('all', 'all', '--ground_truth only'),
    'self_few': Arm('few', 'labeler', '--ground_truth only --token_label_gumbel'),
    'labeler_few': Arm('few', '', '--token_pool_weight 1'),
}
COLUMNS = ['arm', 'labels', 'seed', 'steps', 'top1', 'tokens_agree', 'image_agrees', 'seconds', 'commit', 'curve']


class Run(NamedTuple):
    """A row of the CSV, and a folder of OUT."""

    arm: str
    labels: int  # a class
    seed: int

    def __str__(self):
        return f'{self.arm}-{self.labels}-seed{self.seed}'


def read_rows(path):
    """{Run: row of the CSV}."""
    if not path.exists():
        return {}
    with open(path, newline='') as f:
        return {Run(row['arm'], int(row['labels']), int(row['seed'])): row for row in csv.DictReader(f)}


def write_rows(path, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows.values())
    files.write(str(path), text.getvalue().encode())


def planned(arms, seeds, labels, all_labels):
    """The runs, all arms of a seed before the next seed. Arms that use all labels are runs of `all_labels`, once."""
    runs = [
        Run(arm, all_labels if ARMS[arm].photos == 'all' else number, seed)
        for number in labels
        for seed in seeds
        for arm in arms
    ]
    return list(dict.fromkeys(runs))
