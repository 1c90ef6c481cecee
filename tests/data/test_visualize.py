"""tools/visualize.py: the pictures show what they say, and its refusals are one line."""

import numpy as np
import paddle
import pytest
from PIL import Image

from models import build_model
from tools import visualize
from util.data.token_label import SparseTarget
from util.deploy import drawing
from util.weights import checkpoint

NAMES = {0: 'zero', 1: 'one', 2: 'two'}


@pytest.fixture
def photo(tmp_path):
    folder = tmp_path / 'train' / 'a'
    folder.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype('uint8')).save(folder / 'x.png')
    return folder / 'x.png'


@pytest.fixture
def maps(tmp_path):
    folder = tmp_path / 'maps' / 'a'
    folder.mkdir(parents=True)
    ids = np.zeros((1, 4, 4))
    ids[:, :, 2:] = 1  # left half class 0, right half class 1
    np.save(folder / 'x.npy', np.stack([np.full((1, 4, 4), 10), ids]).astype('float16'))
    return folder.parent


@pytest.fixture
def weights(tmp_path):
    paddle.seed(0)
    path = str(tmp_path / 'weights.pdparams')
    checkpoint.save(build_model('lvvit_nano', img_size=32, num_classes=3).state_dict(), path)
    return path


MODEL = ['--model', 'lvvit_nano', '--input_size', 32, '--nb_classes', 3]


def test_tokens_are_washed_in_the_colour_of_their_class_and_those_that_know_nothing_stay_as_they_are():
    grey = Image.new('RGB', (224, 224), (128, 128, 128))
    probabilities = np.array([[1, 0, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1]])
    image = np.asarray(drawing.overlay(grey, drawing.Tokens.of(probabilities), NAMES)).astype(int)
    corner = {i: image[i // 2 * 112 + 4, i % 2 * 112 + 4] for i in range(4)}
    assert (corner[2] == 128).all()
    for token, c in ((0, 0), (1, 1), (3, 2)):
        toward = np.array(drawing.colour(c)) - 128
        assert (np.sign(corner[token] - 128) == np.sign(toward)).all() and np.abs(corner[token] - 128).max() > 50


def test_a_sparse_target_is_shown_as_it_is():
    listed = np.array([[0.5, 0.25], [0.25, 0.25]], 'float32')
    target = SparseTarget(np.array([2, 0]), listed, np.array([0.25, 0.5], 'float32'))
    assert np.allclose(visualize.dense(target, 3), [[0.25, 0.25, 0.5], [0.25, 0.5, 0.25]])


def test_the_map_lies_on_its_side_of_the_picture(run, photo, maps, tmp_path):
    """The second tile shows the map over the centre square: class 0's colour on the left, class 1's on the right."""
    out = tmp_path / 'maps.png'
    done = run(visualize, *MODEL, '--token_label_data', maps, '--input', photo, '--draws', 1, '--output', out)
    assert done.code == 0, done.err
    image = np.asarray(Image.open(out)).astype('float64')
    side, margin = drawing.SIDE, drawing.MARGIN
    tile = image[margin : margin + side, margin + side + 4 : margin + 2 * side + 4]
    for half, c in ((tile[:, : side // 2], 0), (tile[:, side // 2 :], 1)):
        toward = np.array(drawing.colour(c), float) - 128
        assert np.dot(half.mean(axis=(0, 1)) - 128, toward) > 0.5 * np.dot(toward, toward)


def test_predictions_and_maps_go_into_one_picture(run, photo, maps, weights, tmp_path):
    widths = {}
    for name, flags in (
        ('model', ['--resume', weights]),
        ('maps', ['--token_label_data', maps, '--draws', 2]),
        ('both', ['--resume', weights, '--token_label_data', maps, '--draws', 2]),
    ):
        out = tmp_path / f'{name}.png'
        done = run(visualize, *MODEL, *flags, '--input', photo, '--output', out)
        assert done.code == 0, done.err
        widths[name] = (Image.open(out).width - 2 * drawing.MARGIN + 4) / (drawing.SIDE + 4)
    assert widths == {'model': 2, 'maps': 4, 'both': 6}


@pytest.mark.parametrize(
    'flags, says',
    [
        ([], 'nothing to show'),
        (['--token_label_data', '/nowhere'], '/nowhere'),
        (['--resume', '/nowhere.pd'], '/nowhere.pd'),
    ],
)
def test_refusals_are_one_line(refused, photo, tmp_path, flags, says):
    assert says in refused(visualize, *MODEL, *flags, '--input', photo, '--output', tmp_path / 'x.png')
