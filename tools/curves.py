"""The picture of tools/runs.py: loss and accuracy of several trainings by epoch."""

import io
import math

import numpy as np

from tools import fonts
from util import files
from util.errors import UserError

PANELS = {  # key of log.txt: title
    'test_acc1': 'top-1 on the validation set, %',
    'test_acc1_ema': 'top-1 of the model EMA, %',
    'train_loss': 'training loss',
    'test_loss': 'loss on the validation set',
}
STYLES = ['-', '--', ':', '-.']  # ten colours each
PER_COLUMN = 55  # characters of the legend below a column of panels


def draw(runs, path):
    """Write a PNG with a panel for each of PANELS that a run has. runs: [tools.runs.Run]. Raises UserError."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(f'--png {path}: matplotlib is not installed; run `pip install matplotlib`')
    keys = [key for key in PANELS if not all(np.isnan(run.series(key)).all() for run in runs)]
    if not keys:
        raise UserError(f'--png {path}: log.txt has no loss and no accuracy to draw')
    rows, columns = (2, 2) if len(keys) == 4 else (1, len(keys))
    names = [drawable(run.name, columns * PER_COLUMN) for run in runs]
    legend_columns = max(1, min(len(runs), columns * PER_COLUMN // (max(map(len, names)) + 8)))
    legend_rows = math.ceil(len(runs) / legend_columns)
    with matplotlib.rc_context({'font.family': families(''.join(names))}):
        figure = Figure(figsize=(5 * columns, 3.6 * rows + 0.3 + 0.24 * legend_rows), layout='constrained')
        axes = None
        for i, key in enumerate(keys, 1):
            axes = figure.add_subplot(rows, columns, i, sharex=axes, xlabel='epoch', title=PANELS[key])
            lines = [draw_line(axes, run, key, number) for number, run in enumerate(runs)]
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        figure.legend(lines, names, loc='outside lower left', ncols=legend_columns, frameon=False)
        picture = io.BytesIO()
        figure.savefig(picture, format='png', dpi=110)
    files.write(path, picture.getvalue())


def draw_line(axes, run, key, number):
    """Draw a curve of the run with this number; returns the line. A short curve has points, so that one epoch shows."""
    epochs = [record['epoch'] for record in run.records]
    style = STYLES[number // 10 % len(STYLES)]
    marker = 'o' if len(epochs) <= 20 else ''
    (line,) = axes.plot(epochs, run.series(key), style, color=f'C{number % 10}', marker=marker, markersize=3)
    return line


def drawable(name, most):
    """A name for the legend: its last `most` characters, and a question mark for each that no font has."""
    name = name if len(name) <= most else '…' + name[1 - most :]
    name = ''.join('?' if fonts.font_file(character) is None else character for character in name)
    return ' ' + name.replace('$', r'\$')  # matplotlib leaves out names that begin with _, and $ begins a formula


def families(text):
    """Names of the fonts that matplotlib needs for a text: its own, and fonts of the system for other characters."""
    from matplotlib import font_manager

    paths = sorted({fonts.font_file(character) for character in text} - {'', None})
    for path in paths:
        font_manager.fontManager.addfont(path)
    return ['DejaVu Sans', *(font_manager.FontProperties(fname=path).get_name() for path in paths)]
