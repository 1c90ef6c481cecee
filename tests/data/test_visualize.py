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

pytestmark = pytest.mark.cross_version

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


def test_the_model_sees_what_mean_and_std_make_of_the_pixels(run, photo, weights, tmp_path, monkeypatch):
    seen, answer = [], visualize.insight.scores_and_tokens
    monkeypatch.setattr(
        visualize.insight, 'scores_and_tokens', lambda model, array: (seen.append(array), answer(model, array))[1]
    )
    for flags in ([], ['--mean', 0, 0, 0, '--std', 1, 1, 1], ['--mean', 0.1, 0.2, 0.3, '--std', 0.5, 0.6, 0.7]):
        done = run(visualize, *MODEL, '--resume', weights, '--input', photo, *flags, '--output', tmp_path / 'x.png')
        assert done.code == 0, done.err
    imagenet, pixels, other = [np.asarray(array, 'float64').reshape(3, -1) for array in seen]
    assert pixels.min() >= 0 and 0.9 < pixels.max() <= 1
    for array, mean, std in (
        (imagenet, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (other, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]),
    ):
        assert np.allclose(array, (pixels - np.array(mean)[:, None]) / np.array(std)[:, None], atol=1e-5)


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


def columns_of(path):
    """Tiles side by side in a picture of one image."""
    return (Image.open(path).width - 2 * drawing.MARGIN + drawing.GAP) / (drawing.SIDE + drawing.GAP)


def tile_of(path, column):
    """RGB float64 [SIDE, SIDE, 3] of the picture in a column, counted from 0."""
    x = drawing.MARGIN + column * (drawing.SIDE + drawing.GAP)
    image = np.asarray(Image.open(path)).astype('float64')
    return image[drawing.MARGIN : drawing.MARGIN + drawing.SIDE, x : x + drawing.SIDE]


@pytest.fixture
def single_minded(tmp_path):
    """single_minded(c, folder): a checkpoint whose tokens all say class c, whatever they see; returns its path."""

    def make(c, folder):
        model = build_model('lvvit_nano', img_size=32, num_classes=3)
        model.disable_aux_head()
        bias = np.zeros(3, 'float32')
        bias[c] = 5
        model.aux_head.bias.set_value(bias)
        (tmp_path / folder).mkdir()
        checkpoint.save({'model': model.state_dict()}, str(tmp_path / folder / 'checkpoint-best.pd'))
        return tmp_path / folder / 'checkpoint-best.pd'

    return make


def test_checkpoints_stand_side_by_side_each_with_its_own_tokens(run, photo, single_minded, tmp_path):
    files = [single_minded(c, name) for c, name in ((2, 'with'), (0, 'without'), (1, 'third'))]
    out = tmp_path / 'compared.png'
    flags = ['--resume', files[0], '--compare', *files[1:]]
    done = run(visualize, *MODEL, *flags, '--input', photo, '--output', out)
    assert done.code == 0, done.err
    assert columns_of(out) == 4
    plain = tile_of(out, 0)
    for column, c in ((1, 2), (2, 0), (3, 1)):
        change = (tile_of(out, column) - plain).mean(axis=(0, 1))
        toward = [np.dot(change, np.array(drawing.colour(k)) - plain.mean(axis=(0, 1))) for k in range(3)]
        assert np.argmax(toward) == c


def test_captions_tell_checkpoints_apart():
    assert visualize.captions(['out/a/best.pd', 'out/b/best.pd']) == ['a', 'b']
    assert visualize.captions(['out/a/best.pd', 'out/b/c/best.pd']) == ['a', 'b/c']
    assert visualize.captions(['out/a/best.pd']) == ['best.pd']
    assert visualize.captions(['out/a/best.pd', 'out/a/last.pd']) == ['best.pd', 'last.pd']
    long = [f'out/{"x" * 40}/{name}/best.pd' for name in 'ab']
    assert visualize.captions(long) == ['a', 'b']
    assert len(visualize.captions([long[0], 'out/b.pd'])[0]) == 30


def test_a_checkpoint_trained_without_token_labels_is_compared_too(run, photo, weights, tmp_path):
    model = build_model('lvvit_nano', img_size=32, num_classes=3)
    model.disable_aux_head()
    checkpoint.save(model.state_dict(), str(tmp_path / 'labels.pdparams'))
    out = tmp_path / 'compared.png'
    flags = ['--resume', weights, '--compare', tmp_path / 'labels.pdparams']
    assert run(visualize, *MODEL, *flags, '--input', photo, '--output', out).code == 0
    assert (tile_of(out, 2) == tile_of(out, 0)).all()  # its tokens say nothing


@pytest.mark.parametrize('model, tiles', [('lvvit_nano', 3), ('lvvit', 3)])
def test_rollout_is_drawn_over_the_photo_in_grey(run, tiny, photo, tmp_path, model, tiles):
    """Beside the prediction and the tokens; models without a token classifier have a rollout too."""
    paddle.seed(0)
    file, out = str(tmp_path / 'weights.pdparams'), tmp_path / 'rollout.png'
    checkpoint.save(build_model(model, img_size=32, num_classes=3).state_dict(), file)
    flags = ['--model', model, '--input_size', 32, '--nb_classes', 3, '--resume', file]
    done = run(visualize, *flags, '--rollout', '--input', photo, '--output', out)
    assert done.code == 0, done.err
    assert columns_of(out) == tiles
    red, green, blue = np.moveaxis(tile_of(out, 2), -1, 0)
    half = drawing.SIDE // 2
    redness = [(red - green)[y : y + half, x : x + half].mean() for y in (0, half) for x in (0, half)]
    assert min(redness) == 0 and max(redness) > 50


def test_maps_are_drawn_at_the_tokens_of_the_model(run, photo, maps, tmp_path):
    """lvvit_nano_patch8 has 4x4 tokens at 32 px, of which a whole row lies in a quarter of the height."""
    out = tmp_path / 'draws.png'
    model = ['--model', 'lvvit_nano_patch8', '--input_size', 32, '--nb_classes', 3]
    asked = []
    original = visualize.token_target

    def noted(*map_and_classes, grid, **others):
        asked.append(grid)
        return original(*map_and_classes, grid=grid, **others)

    visualize.token_target = noted
    try:
        done = run(visualize, *model, '--token_label_data', maps, '--input', photo, '--draws', 1, '--output', out)
    finally:
        visualize.token_target = original
    assert done.code == 0 and asked == [4]


@pytest.mark.parametrize(
    'flags, says',
    [
        ([], 'nothing to show'),
        (['--token_label_data', '/nowhere'], '/nowhere'),
        (['--resume', '/nowhere.pd'], '/nowhere.pd'),
        (['--compare', 'x.pd'], '--compare: needs a model; give --resume'),
        (['--rollout', '--token_label_data', 'maps'], '--rollout: needs a model; give --resume'),
        (['--resume', 'x.pd', '--columns', 0], '--columns: must be at least 1'),
    ],
)
def test_refusals_are_one_line(refused, photo, tmp_path, flags, says):
    assert says in refused(visualize, *MODEL, *flags, '--input', photo, '--output', tmp_path / 'x.png')


def test_what_a_file_has_to_do_with_a_refusal_is_named(refused, photo, weights, tmp_path):
    other = str(tmp_path / 'other.pdparams')
    checkpoint.save(build_model('lvvit_nano', img_size=32, num_classes=4).state_dict(), other)
    out = tmp_path / 'x.png'
    given = [*MODEL, '--resume', weights, '--output', out]
    assert 'other.pdparams: does not fit' in refused(visualize, *given, '--compare', other, '--input', photo)
    (tmp_path / 'notes.png').write_text('no image')
    assert 'notes.png: cannot be decoded' in refused(visualize, *given, '--input', tmp_path / 'notes.png')
    assert 'nowhere' in refused(visualize, *given, '--input', photo, '--output', tmp_path / 'nowhere' / 'x.png')
    assert not out.exists()
