"""Pictures of seg/predict.py: colours of classes and the legend."""

import numpy as np
from PIL import Image

from seg import pictures
from tools import fonts


def test_a_picture_has_the_colours_of_its_classes_and_a_legend_below():
    ids = np.zeros((32, 48), 'uint8')
    ids[:, 24:] = 1
    white = Image.new('RGB', (48, 32), 'white')
    picture = np.asarray(pictures.over_image(white, ids, {0: 'background', 1: 'zero'}))
    ground, digit = picture[90, 20], picture[90, 200]
    assert len(set(ground.tolist())) == 1 and digit[0] > 200 > digit[1]  # grey, and red
    below = picture[200:].reshape(-1, 3).tolist()
    assert [40, 40, 40] in below and [230, 25, 75] in below and [255, 255, 255] in below


def test_a_legend_wraps_and_cuts_long_names():
    ids = np.arange(12, dtype='uint8')[None]
    entries = pictures.legend(ids, {0: 'x' * 500}, 12, 200)
    assert [entry[2] for entry in entries] == list(range(12))
    assert entries[0][3].endswith('…') and fonts.width(entries[0][3], 12) < 200
    assert entries[1][0] == 1  # the second class stands in the next line
    rows = [entry[0] for entry in entries]
    assert rows == sorted(rows)
