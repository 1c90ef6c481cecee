"""util/real_labels.py: an image may have several labels, or none."""

import json

import pytest

from test_metrics import PREDICTIONS
from util import real_labels
from util.errors import UserError


@pytest.fixture
def write(tmp_path):
    def call(content):
        path = tmp_path / 'real.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return call


def test_any_of_an_images_labels_is_correct_and_images_without_labels_do_not_count(capsys):
    real = [[1, 3], [1], [], [0, 2], [3]]  # wrong, right, does not count, right, right: 3 of 4, not of 5
    assert real_labels.report(PREDICTIONS, real, (1, 2)) == {'real1': 75.0, 'real2': 100.0, 'real_images': 4}
    assert '* ReaL@1 75.000 ReaL@2 100.000 on 4 images (1 without a label do not count)' in capsys.readouterr().out
    with pytest.raises(UserError, match='no image of the set has a label'):
        real_labels.report(PREDICTIONS, [[]] * 5)


def test_a_list_goes_by_the_number_in_an_images_name(write):
    path = write([[i % 1000] if i % 3 else [] for i in range(50_000)])
    names = 'val/a/{}00000002.JPEG b/{}00050000.JPEG {}00000001.JPEG {}00000009_n01440764.JPEG'
    images = names.replace('{}', 'ILSVRC2012_val_').split()
    assert real_labels.read(path, images, 1000) == [[1], [999], [], [8]]


def test_an_object_goes_by_folder_and_name_before_the_name(write):
    path = write({'x.png': [1], 'cats/y.png': [], 'y.png': [2, 0], 'never.png': [3]})
    assert real_labels.read(path, ['set/cats/x.png', 'set/cats/y.png', 'set/dogs/y.png'], 4) == [[1], [], [2, 0]]


VAL = 'ILSVRC2012_val_00000001.JPEG'
REFUSED = [
    ('[[0], [1', 'a.png', 'not readable JSON'),
    ('7', 'a.png', 'neither a list nor an object, but 7'),
    ([[0]] * 49_999, VAL, 'a list of 49999 entries; real.json has 50000'),
    ([[10]] * 50_000, VAL, r'is \[10\], not a list of class ids from 0 to 9'),
    ([[-1]] * 50_000, VAL, r'is \[-1\], not a list'),
    ([3] * 50_000, VAL, f'the entry of {VAL} is 3, not a list'),
    ({'b.png': [1]}, 'a.png', 'has no entry a.png'),
    ([[0]] * 50_000, 'val/cat.png', 'no such number'),
    ([[0]] * 50_000, 'ILSVRC2012_val_00050001.JPEG', 'no such number'),
]


@pytest.mark.parametrize('content, image, says', REFUSED)
def test_a_file_that_does_not_fit_is_refused(write, content, image, says):
    with pytest.raises(UserError, match=f'real.json: .*{says}'):
        real_labels.read(write(content), [image], 10)


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match='--real_labels /none.json: no such file'):
        real_labels.read('/none.json', ['a.png'], 10)
