"""Rows (section, what, kind of error, tolerance, measured) of the comparisons here, and docs/results/fidelity.md."""

import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

DOCUMENT = Path(__file__).resolve().parents[2] / 'docs' / 'results' / 'fidelity.md'
BEGIN, END = '<!-- begin: written by pytest tests/parity --write_fidelity -->', '<!-- end -->'
SECTIONS = (
    'Forward pass, Label maps, Token-label targets, Loss, Gradients, Optimizers, Drop path, '
    'Initial weights, Training, RandAugment, Train transform, Mixup and CutMix, Evaluation transform, Weights of files'
).split(', ')
# Largest factor between a figure of the document and that of a run on another machine. Two long trainings drift apart
# by rounding alone, ten to thirty times more on one machine than on another.
SPREAD = 5
SPREADS = {'Training': 50}
# A measured 0 counts as a rounding error of float32, or as the value of its kind here. A tolerance of 0 is exact.
ROUNDING = 1.2e-7
ROUNDINGS = {'standard errors': 0.1}
RELATIVE = 'max abs difference / largest value'
ABSOLUTE = 'max abs difference'


class Row(NamedTuple):
    section: str
    what: str
    kind: str
    tolerance: float
    measured: float


class Record:
    """Rows of one run by (section, what). Of several measurements of a row the largest counts."""

    def __init__(self):
        self.rows = {}

    def add(self, section, what, measured, tolerance, kind=RELATIVE):
        """Record a comparison, then assert measured <= tolerance. kind: what the two figures are."""
        assert section in SECTIONS, f'{section!r} is not a section of docs/results/fidelity.md: {SECTIONS}'
        assert '|' not in what + kind, 'a table cell'
        row, before = Row(section, what, kind, float(tolerance), float(measured)), self.rows.get((section, what))
        if before is not None:
            assert before[:4] == row[:4], f'{section}: {what}: recorded with another tolerance or kind before'
            row = row._replace(measured=max(before.measured, row.measured))
        self.rows[section, what] = row
        assert measured <= tolerance, f'{section}: {what}: {kind} is {measured:.3g}, allowed {tolerance:g}'

    def tables(self):
        """Markdown: a table for each section, in the order of SECTIONS."""
        parts = []
        for section in SECTIONS:
            rows = [row for row in self.rows.values() if row.section == section]
            if rows:
                head = ['| comparison | error | tolerance | measured |', '|---|---|---|---|']
                parts.append(f'### {section}\n\n' + '\n'.join([*head, *map(_line, rows)]))
        return '\n\n'.join(parts)

    def write(self):
        """Write the tables between the markers of the document."""
        text = DOCUMENT.read_text(encoding='utf-8')
        before, rest = text.split(BEGIN)
        after = rest.split(END, 1)[1]
        DOCUMENT.write_text(f'{before}{BEGIN}\n{versions()}\n\n{self.tables()}\n{END}{after}', encoding='utf-8')

    def differences(self, whole):
        """Lines about rows of this run that the document lacks, or has with another tolerance or a figure far from the
        measured one; and, if the whole suite ran, about rows of the document that no test records."""
        ran = {_key(_line(row)): row for row in self.rows.values()}
        text = DOCUMENT.read_text(encoding='utf-8').split(BEGIN)[1].split(END)[0]
        rows = [line for line in text.splitlines() if re.match(r'\| (?!comparison)', line)]
        written = {_key(line): float(line.rstrip(' |').rpartition('| ')[2]) for line in rows}
        lines = [
            f'{row.section}: {row.what}: measured {row.measured:.2g}, the document says {written[key]:.2g}'
            for key, row in ran.items()
            if key in written and far_apart(row, written[key])
        ]
        lines += [f'not in the document: {row.section}: {row.what}' for key, row in ran.items() if key not in written]
        if whole:
            lines += [f'recorded by no test: {" | ".join(key)}' for key in sorted(written.keys() - ran.keys())]
        return lines


RECORD = Record()


def far_apart(row, written):
    """Whether the document's figure for a row differs from the measured one by more than a factor of SPREAD."""
    if row.tolerance == 0:
        return written != row.measured
    rounding = ROUNDINGS.get(row.kind, ROUNDING)
    small, large = sorted([written or rounding, row.measured or rounding])
    return large > SPREADS.get(row.section, SPREAD) * small


def _line(row):
    return f'| {row.what} | {row.kind} | {row.tolerance:g} | {row.measured:.2g} |'


def _key(line):
    return tuple(line.split(' | ')[:3])


def versions():
    names = {'paddlepaddle': 'Paddle', 'torch': 'PyTorch'}
    names.update({name: name for name in ('tlt', 'timm-clean', 'numpy', 'Pillow')})
    return 'Measured with ' + ', '.join(f'{name} {metadata.version(package)}' for package, name in names.items()) + '.'
