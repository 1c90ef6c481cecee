"""util/metrics.py: accuracies and the tables that eval.py writes."""

import csv
import os

import numpy as np

from util import metrics
from util.metrics import Predictions


# five images of three classes of four: right, wrong but second, right, wrong, wrong but third
LABELS = [0, 0, 1, 2, 2]
TOP = [[0, 1, 2], [1, 0, 2], [1, 2, 0], [0, 1, 3], [3, 0, 2]]
PREDICTIONS = Predictions(np.array(LABELS), np.array(TOP), np.array([0.5, 1.0, 0.25, 2.0, 1.5]))


def read(path):
    with open(path, newline='', encoding='utf-8', errors='surrogateescape') as f:
        return list(csv.reader(f))


def test_accuracy_counts_labels_among_the_k_best(capsys):
    assert metrics.report(PREDICTIONS, (1, 2, 3)) == {'acc1': 40.0, 'acc2': 60.0, 'acc3': 80.0, 'loss': 1.05}
    assert '* Acc@1 40.000 Acc@2 60.000 Acc@3 80.000 loss 1.050 on 5 images' in capsys.readouterr().out


def test_accuracy_of_each_class(tmp_path):
    metrics.write_per_class(tmp_path / 'x.csv', PREDICTIONS, range(4), {0: 'cat', 2: 'dog, hound'}, (1, 2))
    assert read(tmp_path / 'x.csv') == [
        ['class_id', 'name', 'images', 'correct@1', 'acc@1', 'correct@2', 'acc@2'],
        ['0', 'cat', '2', '1', '50.000', '2', '100.000'],
        ['1', '', '1', '1', '100.000', '1', '100.000'],
        ['2', 'dog, hound', '2', '0', '0.000', '0', '0.000'],
        ['3', '', '0', '0', '', '0', ''],
    ]


def test_confusion_has_the_true_classes_in_rows(tmp_path):
    metrics.write_confusion(tmp_path / 'x.csv', PREDICTIONS, range(4))
    matrix = [','.join(row) for row in read(tmp_path / 'x.csv')]
    assert matrix == ['true\\predicted,0,1,2,3', '0,1,1,0,0', '1,0,1,0,0', '2,1,0,0,1', '3,0,0,0,0']


def test_predictions_of_each_image_whatever_its_name(tmp_path):
    images = ['a.png', 'b, c.png', 'd.png', 'e.png', 'caf\udce9.png']  # the last in Latin-1
    metrics.write_predictions(tmp_path / 'x.csv', PREDICTIONS, images, 2)
    header, *rows = read(tmp_path / 'x.csv')
    assert header == ['file_name', 'label', 'loss', 'top1', 'top2']
    assert rows[1] == ['b, c.png', '0', '1', '1', '0'] and rows[4] == ['caf\udce9.png', '2', '1.5', '3', '0']
    assert os.listdir(tmp_path) == ['x.csv'], 'no temporary file is left'
    metrics.write_predictions(tmp_path / 'x.csv', PREDICTIONS, images, 9)
    assert read(tmp_path / 'x.csv')[0][-1] == 'top3', 'no more than there are'
