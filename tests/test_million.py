"""benchmarks/million.py makes its set, measures it, and removes it."""

import os
import re

from benchmarks import million


def test_it_measures_every_step_and_removes_its_set(run, tmp_path):
    result = run(million, tmp_path / 'set', '--images', 40)
    assert result.code == 0, result.err
    rows = dict(re.findall(r'^\| (.+) \| ([\d.]+) (?:s|MB) \|$', result.out, re.M))
    assert len(rows) == 9 and sum('first batch' in row for row in rows) == 2
    assert float(rows['growth of a loader process over an epoch, maps packed']) < 10
    assert '40 images, 2 loader processes' in result.out and os.listdir(tmp_path) == []


def test_a_folder_that_exists_is_left_alone(refused, tmp_path):
    (tmp_path / 'mine').write_text('')
    assert 'choose a new folder' in refused(million, tmp_path, '--images', 40)
    assert os.listdir(tmp_path) == ['mine']
