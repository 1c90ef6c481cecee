"""util/metrics.py: what counts as correct, by the set's labels and by ReaL; and the tables that eval.py writes."""

import csv
import json
import os
from argparse import Namespace

import numpy as np
import pytest

from util import metrics
from util.errors import UserError
from util.metrics import Answers

pytestmark = pytest.mark.cross_version

# five images of three classes of four: right, wrong but second, right, wrong, wrong but third
LABELS = [0, 0, 1, 2, 2]
TOP = [[0, 1, 2], [1, 0, 2], [1, 2, 0], [0, 1, 3], [3, 0, 2]]


@pytest.fixture
def answers():
    return Answers(np.array(LABELS), np.array(TOP), np.array([0.5, 1.0, 0.25, 2.0, 1.5]))


def test_accuracy_counts_labels_among_the_k_best(answers, capsys):
    assert metrics.report(answers, (1, 2, 3)) == {'acc1': 40.0, 'acc2': 60.0, 'acc3': 80.0, 'loss': 1.05}
    assert '* Acc@1 40.000 Acc@2 60.000 Acc@3 80.000 loss 1.050 on 5 images' in capsys.readouterr().out


# ---- ReaL


def test_real_takes_any_of_an_images_labels_and_leaves_out_images_without(answers, capsys):
    real = [[1, 3], [1], [], [0, 2], [3]]  # wrong, right, does not count, right, right: 3 of 4, not of 5
    assert metrics.report_real(answers, real, (1, 2)) == {'real1': 75.0, 'real2': 100.0, 'real_images': 4}
    assert '* ReaL@1 75.000 ReaL@2 100.000 on 4 images (1 without a label do not count)' in capsys.readouterr().out
    with pytest.raises(UserError, match='not one image of the set has a label'):
        metrics.report_real(answers, [[]] * 5)


@pytest.fixture
def real(tmp_path):
    def write(content):
        path = tmp_path / 'real.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_an_entry_goes_by_the_number_in_an_images_name_or_by_its_name_or_folder_and_name(real):
    path = real([[i % 1000] if i % 3 else [] for i in range(50_000)])
    named = 'val/a/{}00000002.JPEG b/{}00050000.JPEG {}00000001.JPEG {}00000009_n01440764.JPEG'
    images = named.replace('{}', 'ILSVRC2012_val_').split()
    assert metrics.read_real(path, images, 1000) == [[1], [999], [], [8]]
    path = real({'x.png': [1], 'cats/y.png': [], 'dogs/y.png': [2, 0], 'never.png': [3]})
    assert metrics.read_real(path, ['set/cats/x.png', 'set/cats/y.png', 'set/dogs/y.png'], 4) == [[1], [], [2, 0]]


VAL = 'ILSVRC2012_val_00000001.JPEG'
NAMELESS = ('val/cat.png', *(f'ILSVRC2012_{name}.JPEG' for name in ('val_00050001', 'val_000000012', 'train_00000001')))
BAD_FILES = [
    ('[[0], [1', 'a.png', 'not readable JSON'),
    ('7', 'a.png', 'neither a list nor an object, but 7'),
    ([[0]] * 49_999, VAL, 'a list of 49999 entries; real.json has 50000'),
    ([[10]] * 50_000, VAL, r'is \[10\], not a list of class ids from 0 to 9'),
    ([3] * 50_000, VAL, f'the entry of {VAL} is 3, not a list'),
    ({'b.png': [1]}, 'a.png', 'has no entry a.png'),
    ([[True]] * 50_000, VAL, 'not a list of class ids'),
    *(([[0]] * 50_000, name, 'has none') for name in NAMELESS),
]


@pytest.mark.parametrize('content, image, says', BAD_FILES, ids=[case[2] for case in BAD_FILES])
def test_a_bad_file_of_real_labels_is_named_with_what_is_wrong(real, content, image, says):
    with pytest.raises(UserError, match=f'real.json: .*{says}'):
        metrics.read_real(real(content), [image], 10)


def test_a_missing_file_and_an_ambiguous_name_are_errors(real):
    with pytest.raises(UserError, match='--real_labels /none.json: no such file'):
        metrics.read_real('/none.json', ['a.png'], 10)
    with pytest.raises(UserError, match="entry y.png could mean cats/y.png and dogs/y.png; use 'folder/name'"):
        metrics.read_real(real({'y.png': [1]}), ['cats/y.png', 'dogs/y.png'], 10)


# ---- tables


def read(path):
    with open(path, newline='', encoding='utf-8', errors='surrogateescape') as f:
        return list(csv.reader(f))


def test_tables_are_written_as_csv(answers, tmp_path):
    paths = {name: str(tmp_path / f'{name}.csv') for name in metrics.OUTPUTS}
    images = ['a.png', 'b, c.png', 'd.png', 'e.png', 'caf\udce9.png']  # the last in Latin-1
    metrics.write_tables(Namespace(nb_classes=4, **paths), answers, images, {0: 'cat', 2: 'dog, hound'}, (1, 2))
    assert read(paths['per_class']) == [
        ['class_id', 'name', 'images', 'correct@1', 'acc@1', 'correct@2', 'acc@2'],
        ['0', 'cat', '2', '1', '50.000', '2', '100.000'],
        ['1', '', '1', '1', '100.000', '1', '100.000'],
        ['2', 'dog, hound', '2', '0', '0.000', '0', '0.000'],
        ['3', '', '0', '0', '', '0', ''],
    ]
    matrix = [','.join(row) for row in read(paths['confusion'])]
    assert matrix == ['true\\predicted,0,1,2,3', '0,1,1,0,0', '1,0,1,0,0', '2,1,0,0,1', '3,0,0,0,0']
    header, *rows = read(paths['save_predictions'])
    assert header == ['file_name', 'label', 'loss', 'top1', 'top2']
    assert rows[1] == ['b, c.png', '0', '1', '1', '0'] and rows[4] == ['caf\udce9.png', '2', '1.5', '3', '0']
    assert sorted(os.listdir(tmp_path)) == sorted(f'{name}.csv' for name in metrics.OUTPUTS)


FLAGS = [
    (dict(confusion='.'), '--confusion .*: cannot be written to .it is a folder'),
    (dict(per_class='/proc/nowhere/a.csv'), '--per_class /proc/nowhere/a.csv: cannot be written'),
    (dict(per_class='a.csv', confusion='./a.csv'), '--per_class and --confusion: name different'),
]


@pytest.mark.parametrize('given, says', FLAGS)
def test_outputs_that_cannot_be_are_said_before_anything_is_read(given, says):
    with pytest.raises(UserError, match=says):
        metrics.check_flags(
            Namespace(**{'topk': None, 'results_file': '', **dict.fromkeys(metrics.OUTPUTS, ''), **given})
        )
