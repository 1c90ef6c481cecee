"""benchmarks/receptive_field.py finds where a cell looks."""

import re
import sys

import numpy as np
import pytest

from benchmarks import receptive_field
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'tests' / 'data'))
import onnx_files


def rows(result):
    assert result.code == 0, result.err
    found = re.findall(r'^\| (\S+) \| (\d+) \| (\S+) ± \S+ \| (\S+) ± \S+ \| (\d+) \|$', result.out, re.M)
    return {name: (int(cell), float(x), float(y), int(n)) for name, cell, x, y, n in found}


@pytest.mark.parametrize('size', [48, 64])  # one cell in the middle, and four
@pytest.mark.parametrize('part, expected', [(np.s_[:, :8], (-4, 0)), (np.s_[8:, :], (0, 4)), (np.s_[:, :], (0, 0))])
def test_an_onnx_file_whose_cells_see_half_of_their_pixels(run, tmp_path, size, part, expected):
    weight, bias = onnx_files.patches(classes=10, patch=16)
    seen = np.zeros([16, 16], 'float32')
    seen[part] = 1
    path = onnx_files.save(tmp_path / 'half.onnx', weight * seen, bias, size=size)
    for flags in (['--seeds', 4], ['--images', ROOT / 'demo' / 'chelsea.png']):
        cell, x, y, n = rows(run(receptive_field, path, *flags))['half.onnx']
        assert (cell, n) == (16, 4 if flags[0] == '--seeds' else 1)
        np.testing.assert_allclose((x, y), expected, atol=1.5)  # patches differ in how much they change


def test_strides_and_padding_of_a_resnet_move_its_cells_up_and_left_by_half_a_cell(run):
    cell, x, y, n = rows(run(receptive_field, 'resnet18', '--img_size', 224, '--seeds', 2))['resnet18']
    assert (cell, n) == (32, 2) and -19 < x < -6 and -19 < y < -6  # 2 draws, near the border
