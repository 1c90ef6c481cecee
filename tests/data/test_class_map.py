"""class_map.py and generate_label.py --class_map: the annotator's classes become the user's."""

import json

import numpy as np
import onnx_files
import paddle
import pytest

import generate_label
from util.data.class_map import MappedClasses, read_class_map
from util.errors import UserError

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture
def write(tmp_path):
    """write(text) -> the path of a class map."""

    def call(text, name='classes.txt'):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return call


class Scores:
    """An annotator that returns fixed scores [N, C]."""

    def __init__(self, scores):
        self.scores = paddle.to_tensor(scores)
        self.side, self.num_classes = round(len(scores) ** 0.5), scores.shape[1]

    def __call__(self, images):
        return self.scores.unsqueeze(0)


# ---- what it holds


def test_a_class_map_is_read(write):
    groups = read_class_map(write('\ufeff7 1\n\n2   0\r\n5\t1\n 0 2 \n'), num_classes=8)
    assert groups == [[2], [5, 7], [0]]


@pytest.mark.cross_version
def test_probabilities_of_classes_that_become_one_add_up_and_unlisted_ones_are_left_out():
    scores = np.random.default_rng(0).normal(0, 4, (4, 8)).astype('float32')
    mapped = MappedClasses(Scores(scores), [[2], [5, 7], [0]])
    found = mapped(None)
    assert found.shape == [1, 4, 3] and (mapped.num_classes, mapped.side) == (3, 2)
    exp = np.exp(scores)
    expected = np.stack([exp[:, 2], exp[:, 5] + exp[:, 7], exp[:, 0]], axis=-1)
    np.testing.assert_allclose(np.exp(found.numpy()[0]), expected, rtol=1e-5)
    np.testing.assert_array_equal(found.numpy()[0][:, [0, 2]], scores[:, [2, 0]])  # alone: the very score


# ---- generate_label.py


def test_meta_json_identifies_the_class_map(run, scenes, write, tmp_path):
    network = onnx_files.save(tmp_path / 'patches.onnx', *onnx_files.patches(classes=12))
    command = [generate_label, scenes, tmp_path / 'maps', '--model', network, '--img_size', 32, '--num_workers', 0]
    ten = ''.join(f'{i} {i}\n' for i in range(10))
    result = run(*command, '--class_map', write(ten))
    assert result.code == 0 and '* Acc@1' in result.out, "the annotator's 12 classes are the 10 of the folders now"
    meta = json.loads((tmp_path / 'maps' / 'meta.json').read_text())
    assert meta['num_classes'] == 10 and len(meta['class_map_sha256']) == 16
    reordered = ''.join(reversed(ten.splitlines(keepends=True)))
    assert run(*command, '--class_map', write(reordered)).code == 0, 'the same in another order'
    for flags in (['--class_map', write(ten.replace('9 9', '11 9'))], []):
        result = run(*command, *flags)
        assert result.code == 1 and 'begun with' in result.err and result.err.count('\n') == 1


# ---- what is refused


@pytest.mark.parametrize(
    'text, words',
    [
        ('0 0\n1 2\n', ['no class of the annotator maps to class 1', 'to class 2']),
        ('0 0\n12 1\n', ['line 2', 'no class 12', '0 to 11']),
        ('3 0\n\n3 1\n', ['line 3', 'class 3', 'line 1 already']),
        ('0 0 cat\n', ['line 1', "found '0 0 cat'"]),
        ('\n\n', ['lists no classes']),
    ],
)
def test_a_wrong_class_map_is_refused_with_its_line(write, text, words):
    path = write(text)
    with pytest.raises(UserError) as error:
        read_class_map(path, num_classes=12)
    assert path in str(error.value) and all(word in str(error.value) for word in words)
