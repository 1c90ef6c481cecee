"""demo/digits.py --masks: what each pixel of a scene shows."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, words

pytest.importorskip('sklearn')
sys.path.insert(0, str(ROOT / 'demo'))
import digits

FLAGS = '--train 20 --val 10 --size 48'


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """The same scenes with masks and without."""
    folder = tmp_path_factory.mktemp('sets')
    digits.main([str(folder / 'masked'), *words(FLAGS, '--masks')])
    digits.main([str(folder / 'plain'), *words(FLAGS)])
    return folder / 'masked', folder / 'plain'


def test_masks_are_added_and_nothing_else_changes(sets):
    masked, plain = map(files, sets)
    options, before = json.loads(masked.pop('digits.json')), json.loads(plain.pop('digits.json'))
    assert options.pop('masks') is True and options == before
    added = {name for name in masked if name not in plain}
    assert len(added) == 30 + 2 and all(name.startswith('masks') for name in added)
    assert {name: masked[name] for name in plain} == plain


def test_lists_pair_each_image_with_its_mask(sets):
    for split, count in (('train', 20), ('val', 10)):
        lines = [line.split() for line in (sets[0] / f'masks_{split}.txt').read_text().splitlines()]
        assert len(lines) == count
        for image, mask in lines:
            assert Image.open(sets[0] / image).size == Image.open(sets[0] / mask).size == (48, 48)
            assert mask == f'masks/{image[: -len(".JPEG")]}.png'


@pytest.mark.parametrize('index', range(10))
def test_a_mask_has_the_ink_of_each_digit_in_its_box_and_ground_elsewhere(index):
    _, pile = digits.scene(index, 'val', 64)
    ids = np.asarray(digits.mask(pile, 64))
    assert set(np.unique(ids)) == {0, *(c + 1 for c, _, _ in pile)}
    for c, (x0, y0, x1, y1), _ in pile:
        rows, columns = np.where(ids == c + 1)
        assert rows.min() >= y0 and rows.max() < y1 and columns.min() >= x0 and columns.max() < x1


def test_the_upper_digit_hides_the_lower():
    box = (0, 0, 32, 32)
    row_of = [int(digits.sources('val')[c][0]) for c in (8, 1)]
    alone = np.asarray(digits.mask([(8, box, row_of[0])], 32))
    both = np.asarray(digits.mask([(1, box, row_of[1]), (8, box, row_of[0])], 32))
    assert (both[alone == 9] == 9).all() and (both == 2).any()
