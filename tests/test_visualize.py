"""tools/visualize.py and tools/drawing.py: the pictures show what they should, and errors are one line."""

import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from models import build_model
from tools import distinct, drawing, fonts, visualize
from util.data.token_label import SparseTarget
from util.errors import UserError
from util.weights import checkpoint


MODEL = ['--model', 'lvvit_nano', '--input_size', 32, '--nb_classes', 3]


def grey(side=64, width=None):
    return Image.new('RGB', (width or side, side), (128, 128, 128))


# ---- drawing


def test_tokens_are_tinted_in_the_colour_of_their_class_and_undecided_ones_stay_as_they_are():
    probabilities = np.array([[1, 0, 0], [0, 1, 0], [0.36, 0.32, 0.32], [0, 0, 1]])
    tokens = drawing.Tokens.of(probabilities)
    assert tokens.decided.tolist() == [True, True, False, True], '0.36 is less than 1.1 / 3'
    image = np.asarray(drawing.overlay(grey(224), tokens, {0: 'zero'})).astype(int)
    corner = {i: image[i // 2 * 112 + 4, i % 2 * 112 + 4] for i in range(4)}
    assert (corner[2] == 128).all()
    for token, c in ((0, 0), (1, 1), (3, 2)):
        toward = np.array(drawing.colours([tokens])[c]) - 128
        assert (np.sign(corner[token] - 128) == np.sign(toward)).all() and np.abs(corner[token] - 128).max() > 50


def test_heat_reddens_the_largest_value_and_leaves_the_smallest_grey():
    image = np.asarray(drawing.heat(grey(), np.array([0.5, 1.0, 1.5, 2.5])))
    quarter = {i: image[i // 2 * 32 + 16, i % 2 * 32 + 16].astype(int) for i in range(4)}
    redness = [int(quarter[i][0] - quarter[i][1]) for i in range(4)]
    assert redness == sorted(redness) and redness[1] > 30 and redness[3] > 150
    assert (image[:32, :32] == 128).all(), 'cells are not smoothed into each other'


@pytest.mark.parametrize('values, reddest', [([1, 1, 1, 1], 0), ([0.98, 1, 1, 1.02], 8), ([0, 0, 0, 0], 0)])
def test_a_flat_map_is_hardly_reddened(values, reddest):
    image = np.asarray(drawing.heat(grey(), np.array(values, float))).astype(int)
    assert abs(image - 128).max() <= reddest


def tokens_of(ids, num_classes=1000):
    return drawing.Tokens(np.array(ids), np.full(len(ids), 0.5), num_classes)


def test_the_classes_of_one_picture_have_colours_that_differ_however_close_their_ids_are():
    palette = drawing.colours([tokens_of(range(500, 520)), tokens_of(range(510, 530))])
    rgb = np.array(list(palette.values()), float)
    apart = distinct.distance(rgb[:, None], rgb[None]) ** 0.5 + 1e9 * np.eye(30)
    assert sorted(palette) == list(range(500, 530)) and apart.min() > 100
    assert len(set(drawing.colours([tokens_of(range(1000))]).values())) == 1000


def test_a_class_has_the_same_colour_in_all_tiles_and_few_classes_in_all_pictures():
    one, other = ([drawing.Tile(grey(), '', tokens_of(ids), {})] for ids in ([7, 8, 8, 8], [9, 9, 9, 7]))
    (first,), (second,) = drawing.draw_tiles([one, other])
    assert first.getpixel((56, 56)) == second.getpixel((168, 168)) != second.getpixel((56, 56))
    assert drawing.colours([tokens_of([3], 10)]) == drawing.colours([tokens_of([1, 2, 2, 3], 10)])


@pytest.mark.parametrize(
    'side, grid, name, fits',
    [
        (224, 14, 'cat', False),
        (576, 14, 'cat', True),
        (576, 14, 'golden retriever', False),
        (224, 3, 'golden retriever', True),
    ],
)
def test_words_are_written_into_tokens_only_where_they_fit(side, grid, name, fits):
    tokens = tokens_of([1] * grid**2)
    written, colour_alone = (drawing.overlay(grey(side), tokens, {1: name}, words) for words in (True, False))
    assert (written != colour_alone) == fits
    difference = np.abs(np.asarray(written).astype(int) - np.asarray(colour_alone)).max(axis=2)
    borders = (np.arange(1, grid) * side / grid).astype(int)
    assert difference[borders].max() == difference[:, borders].max() == 0, 'no letter reaches into the next token'


@pytest.fixture
def no_fonts(monkeypatch):
    """A system without fonts."""
    monkeypatch.setattr(fonts, 'FOLDERS', [])
    monkeypatch.setattr(fonts, '_chosen', [])
    for function in (fonts.font_file, fonts.system_fonts, fonts.say_that_ids_are_drawn):
        function.cache_clear()
    yield
    for function in (fonts.font_file, fonts.system_fonts):
        function.cache_clear()


def test_without_a_font_for_its_name_a_class_is_drawn_as_its_id_and_the_log_says_so_once(no_fonts, capsys):
    names = {0: '猫', 1: 'dog', 2: '狗'}
    assert [drawing.drawn_name(i, names) for i in range(4)] == ['0', 'dog', '2', '3']
    assert capsys.readouterr().out.count('--font FILE') == 1


def test_a_font_of_the_system_or_of_the_flag_draws_what_the_built_in_one_lacks(no_fonts, monkeypatch, tmp_path):
    matplotlib = pytest.importorskip('matplotlib')
    names, font = {0: 'Жук'}, Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    (tmp_path / 'folder').mkdir()
    shutil.copy(font, tmp_path / 'folder')
    assert drawing.drawn_name(0, names) == '0'
    fonts.use(str(font))
    assert drawing.drawn_name(0, names) == 'Жук'
    monkeypatch.setattr(fonts, '_chosen', [])
    monkeypatch.setattr(fonts, 'FOLDERS', [str(tmp_path)])
    fonts.font_file.cache_clear(), fonts.system_fonts.cache_clear()
    assert drawing.drawn_name(0, names) == 'Жук' and len(fonts.runs('a Жук', 14)) == 2


@pytest.mark.parametrize(
    'size, region', [((90, 40), (25, 0, 65, 40)), ((40, 90), (0, 25, 40, 65)), ((60, 60), (5, 5, 55, 55))]
)
def test_a_square_of_a_photo_lies_at_its_place_in_the_faded_surroundings(size, region):
    """The square is black and the rest is grey: pasted at its corner it covers exactly the dark part."""
    photo = Image.new('RGB', size, (128, 128, 128))
    photo.paste((0, 0, 0), region)
    faded, square, (x, y) = drawing.in_context(photo, region, side=200)
    assert np.asarray(square)[12:-12, 12:-12].max() == 0 and square.size == (200, 200)
    seen = np.asarray(faded.convert('L')).astype(int)
    pale_black, pale_grey = round(0.6 * 255), round(0.6 * 255 + 0.4 * 128)
    assert abs(seen[y + 12 : y + 188, x + 12 : x + 188] - pale_black).max() <= 1
    outside = seen.copy()
    outside[max(0, y - 12) : y + 212, max(0, x - 12) : x + 212] = pale_grey
    assert abs(outside - pale_grey).max() <= 1 and (seen > pale_black + 10).any()


@pytest.mark.parametrize('name', ['nowhere/x.png', 'x.what'])
def test_a_picture_that_cannot_be_written_leaves_no_file(tmp_path, name):
    with pytest.raises(UserError, match=f'--output .*{name}'):
        drawing.save(grey(), str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


# ---- the tool


@pytest.fixture
def photo(tmp_path):
    folder = tmp_path / 'train' / 'a'
    folder.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype('uint8')).save(folder / 'x.png')
    return folder / 'x.png'


@pytest.fixture
def maps(tmp_path):
    """The left half is class 0, the right half class 1."""
    folder = tmp_path / 'maps' / 'a'
    folder.mkdir(parents=True)
    ids = np.zeros((1, 4, 4))
    ids[:, :, 2:] = 1
    np.save(folder / 'x.npy', np.stack([np.full((1, 4, 4), 10), ids]).astype('float16'))
    return folder.parent


@pytest.fixture
def weights(tmp_path):
    paddle.seed(0)
    path = str(tmp_path / 'weights.pdparams')
    checkpoint.save(build_model('lvvit_nano', img_size=32, num_classes=3).state_dict(), path)
    return path


@pytest.fixture
def drawn(run, photo, tmp_path):
    """drawn(flag, …) -> the tiles of the photo's picture, side by side: RGB float64 [SIDE, SIDE, 3] each."""

    def call(*flags, model=MODEL):
        out = tmp_path / 'out.png'
        done = run(visualize, *model, *flags, '--input', photo, '--output', out)
        assert done.code == 0, done.err
        image, step = np.asarray(Image.open(out)).astype('float64'), drawing.SIDE + drawing.GAP
        top, columns = drawing.MARGIN, (image.shape[1] - 2 * drawing.MARGIN + drawing.GAP) / step
        assert columns == int(columns)
        lefts = [drawing.MARGIN + i * step for i in range(int(columns))]
        return [image[top : top + drawing.SIDE, x : x + drawing.SIDE] for x in lefts]

    return call


def test_a_sparse_target_as_probabilities():
    listed = np.array([[0.5, 0.25], [0.25, 0.25]], 'float32')
    target = SparseTarget(np.array([2, 0]), listed, np.array([0.25, 0.5], 'float32'))
    assert np.allclose(visualize.dense(target, 3), [[0.25, 0.25, 0.5], [0.25, 0.5, 0.25]])


def test_the_model_sees_what_mean_and_std_make_of_the_pixels(drawn, weights, monkeypatch):
    seen, scores_and_tokens = [], visualize.insight.scores_and_tokens

    def noted(model, array):
        seen.append(np.asarray(array, 'float64').reshape(3, -1))
        return scores_and_tokens(model, array)

    monkeypatch.setattr(visualize.insight, 'scores_and_tokens', noted)
    drawn('--resume', weights)
    drawn('--resume', weights, '--mean', 0, 0, 0, '--std', 1, 1, 1)
    imagenet, pixels = seen
    assert pixels.min() >= 0 and 0.9 < pixels.max() <= 1
    mean, std = np.array([[0.485], [0.456], [0.406]]), np.array([[0.229], [0.224], [0.225]])
    np.testing.assert_allclose(imagenet, (pixels - mean) / std, atol=1e-5)


@pytest.mark.cross_version
def test_predictions_rollout_and_maps_go_into_one_picture(drawn, maps, weights):
    assert len(drawn('--resume', weights)) == 2 and len(drawn('--resume', weights, '--rollout')) == 3
    assert len(drawn('--resume', weights, '--compare', weights, weights)) == 4
    best, zero, two = (drawn('--resume', weights, '--relevance', *which)[2] for which in ([], [0], [2]))
    assert not np.array_equal(zero, two) and (np.array_equal(best, zero) or np.array_equal(best, two))
    assert len(drawn('--token_label_data', maps)) == 6, 'four draws are the default'
    assert len(drawn('--resume', weights, '--token_label_data', maps, '--draws', 2)) == 6


@pytest.mark.parametrize('size, box', [((6000, 3), (0, 111, 224, 1)), ((30, 60), (56, 0, 112, 224))])
def test_a_photo_is_shown_at_the_size_of_a_tile_however_long_it_is(size, box):
    shown = np.asarray(visualize.on_white(Image.new('RGB', size)))
    x, y, width, height = box
    expected = np.full((224, 224, 3), 255)
    expected[y : y + height, x : x + width] = 0
    assert np.array_equal(shown, expected)


def test_a_photo_is_shown_with_its_name_and_with_its_folder_if_that_is_a_class(run, photo, tmp_path, monkeypatch):
    titles, draw_tiles = [], visualize.draw_tiles
    monkeypatch.setattr(visualize, 'draw_tiles', lambda panels: titles.append(panels[0][0].title) or draw_tiles(panels))
    model = build_model('lvvit_nano', img_size=32, num_classes=3)
    for names in (['b', 'a', 'c'], ['b', 'c', 'd']):
        path = str(tmp_path / 'named.pd')
        checkpoint.save({'model': model.state_dict(), 'class_names': names}, path)
        assert run(visualize, *MODEL, '--resume', path, '--input', photo, '--output', tmp_path / 'x.png').code == 0
    assert titles[0].split('\n')[:2] == ['x.png', 'true: a']
    assert titles[1].split('\n')[0] == 'x.png' and 'true' not in titles[1]


def test_the_folder_of_a_photo_may_be_the_wordnet_id_of_an_imagenet_class():
    folders = visualize.class_names.imagenet_wordnet_ids()
    names = visualize.class_names.to_show(None, None, 1000)
    column = visualize.Column('', None, names, folders, None)
    assert visualize.true_class('val/n01443537/x.png', column).endswith('goldfish')


def test_captions_tell_checkpoints_apart():
    assert visualize.captions(['out/a/best.pd', 'out/b/c/best.pd']) == ['a', 'b/c']
    assert visualize.captions(['out/a/best.pd']) == ['best.pd']
    assert visualize.captions(['out/a/best.pd', 'out/a/last.pd']) == ['best.pd', 'last.pd']
    assert len(visualize.captions([f'out/{"x" * 40}/best.pd', 'out/b.pd'])[0]) == 30


@pytest.mark.parametrize(
    'flags, says',
    [
        ([], 'nothing to show'),
        (['--token_label_data', '/nowhere'], '/nowhere'),
        (['--resume', '/nowhere.pd'], '/nowhere.pd'),
        (['--compare', 'x.pd'], '--compare'),
        (['--rollout', '--token_label_data', 'maps'], '--rollout'),
        (['--resume', 'x.pd', '--columns', 0], '--columns'),
        (['--resume', 'x.pd', '--font', __file__], '--font'),
    ],
)
def test_errors_are_one_line(refused, photo, tmp_path, flags, says):
    assert says in refused(visualize, *MODEL, *flags, '--input', photo, '--output', tmp_path / 'x.png')


def test_a_class_that_the_model_lacks_and_an_image_that_cannot_be_decoded_are_named(refused, weights, tmp_path):
    (tmp_path / 'notes.png').write_text('no image')
    given = [*MODEL, '--resume', weights, '--output', tmp_path / 'x.png']
    assert '--relevance 3' in refused(visualize, *given, '--relevance', 3, '--input', tmp_path / 'notes.png')
    assert 'notes.png' in refused(visualize, *given, '--input', tmp_path / 'notes.png')
