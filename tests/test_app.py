"""demo/app.py without a browser: the page shows what the model predicts, and refuses other files in one line."""

import re
import socket
import sys

import numpy as np
import paddle
import pytest
from inference_helpers import AS_EXPORTED, MODEL, WORDS, random_weights, records
from PIL import Image

import predict
from conftest import ROOT
from tools import drawing, insight
from util import class_names
from util.data.images import BadImage
from util.errors import UserError
from util.weights import checkpoint

sys.path.insert(0, str(ROOT / 'demo'))
import app
import markup
import photo
import predictions

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version

CHELSEA = str(ROOT / 'demo' / 'chelsea.png')


def network(*flags):
    return predictions.load(app.parser().parse_args([str(flag) for flag in flags]))


def prediction_of(model, path=CHELSEA):
    return predictions.predict(model, photo.read_photo(str(path)))


@pytest.fixture(scope='module')
def model(ckpt, label_list):
    return network(*MODEL, *AS_EXPORTED, '--resume', ckpt, '--label_list', label_list)


@pytest.fixture(scope='module')
def prediction(model):
    return prediction_of(model)


# ---- predictions


def test_the_classes_are_those_of_predict_py(run, model, prediction, ckpt, label_list):
    flags = [*MODEL, *AS_EXPORTED, '--resume', ckpt, '--label_list', label_list]
    (record,) = records(run(predict, *flags, '--infer_imgs', CHELSEA))
    ids, scores = zip(*prediction.best)
    assert [model.labels[i] for i in ids] == record['label_names'] and set(model.labels) == set(WORDS)
    np.testing.assert_allclose(scores, record['scores'], atol=2e-5)


def test_there_are_the_three_best_classes_of_each_token_after_each_block(model, prediction):
    image = paddle.to_tensor(prediction.input[None])
    own = paddle.nn.functional.softmax(model.model.forward_dense(image)[1])[0].numpy()
    assert prediction.tokens.ids.shape == prediction.tokens.scores.shape == (model.blocks, 4, 3)
    assert (prediction.tokens.ids[-1] == np.argsort(-own, axis=1)[:, :3]).all(), "the last are the model's own"
    np.testing.assert_allclose(prediction.tokens.scores[-1], -np.sort(-own, axis=1)[:, :3], atol=1e-6)


def test_the_square_on_the_page_is_what_the_model_sees(model, prediction):
    seen = model.transform.crop(Image.open(CHELSEA).convert('RGB'))
    square = prediction.square.resize(seen.size, Image.BICUBIC)
    assert np.abs(np.asarray(square).astype(int) - np.asarray(seen)).mean() < 8


def test_the_blocks_of_the_slider_count_from_1(model, prediction):
    expected, tokens = prediction.faded.copy(), prediction.tokens
    first = drawing.Tokens(tokens.ids[0, :, 0], tokens.scores[0, :, 0], 10)
    square = drawing.overlay(prediction.square, first, model.names, palette=tokens.palette())
    expected.paste(square, prediction.corner)
    first, last = (predictions.picture(prediction, block, model.names) for block in (1, 6))
    assert first == expected != last
    for block in (1, 6):
        summary = markup.summary(prediction, block, model.names)
        assert f'block {block} of 6' in summary and 'of 4 tokens' in summary


def test_words_fit_into_few_tokens_and_not_into_many(model, prediction):
    assert predictions.words_fit(prediction, 6, model.names)
    scores, ids = (np.resize(values, (6, 576, 3)) for values in prediction.tokens[:2])
    many = prediction._replace(tokens=predictions.TokenClasses(scores, ids, 10))
    assert not predictions.words_fit(many, 6, model.names)


def test_heat_maps_show_the_rollout_and_the_relevance_to_a_class(model, prediction):
    rollout, relevance = predictions.heat_maps(model, prediction, 7)
    values = insight.class_relevance(model.model, prediction.input, 7)
    square = prediction.square.resize((drawing.SIDE, drawing.SIDE), Image.BICUBIC)
    assert relevance == (f'relevance to seven: {drawing.spread(values)}', drawing.heat(square, values))
    assert rollout[0].startswith('attention rollout') and rollout[1] != relevance[1]


def test_a_model_trained_without_token_labels_gives_classes_only_and_says_why(tmp_path):
    weights = random_weights(0)
    for name in ('aux_head.weight', 'aux_head.bias'):
        weights[name] = np.zeros_like(weights[name])
    checkpoint.save(weights, str(tmp_path / 'labels.pdparams'))
    model = network(*MODEL, '--resume', tmp_path / 'labels.pdparams')
    prediction = prediction_of(model)
    assert len(prediction.best) == 5 and prediction.tokens is None and model.blocks == 0 and model.why_no_tokens
    assert predictions.picture(prediction, 1, model.names).size == prediction.faded.size
    assert len(predictions.heat_maps(model, prediction, 0)) == 2
    assert 'token' not in markup.introduction(model) + markup.seen(prediction, prediction.faded, 1, model.names)


def test_an_exported_model_gives_the_same_classes_and_no_tokens(prediction, exported):
    other = network('--model_file', exported / 'model.pdmodel')
    got = prediction_of(other)
    assert got.tokens is None and other.why_no_tokens and not other.explains and other.labels == WORDS
    assert [i for i, _ in got.best] == [i for i, _ in prediction.best] and got.corner == prediction.corner
    np.testing.assert_allclose([s for _, s in got.best], [s for _, s in prediction.best], atol=1e-4)
    with pytest.raises(UserError, match='--nb_classes 3: .*inference.yml fits --model lvvit_nano'):
        network('--model_file', exported / 'model.pdmodel', '--nb_classes', 3)


def test_classes_of_one_name_are_told_apart():
    assert predictions.labels({0: 'crane', 1: 'hen', 2: 'crane'}, 4) == [
        'crane (class 0)',
        'hen',
        'crane (class 2)',
        '3',
    ]


# ---- photos


def test_a_photo_is_turned_upright_by_its_exif_orientation(model, tmp_path):
    upright, orientation = Image.open(CHELSEA).convert('RGB'), Image.Exif()
    orientation[0x0112] = 6
    upright.transpose(Image.ROTATE_90).save(tmp_path / 'turned.png', exif=orientation)
    upright.save(tmp_path / 'upright.png')
    turned, other = (photo.read_photo(str(tmp_path / name)) for name in ('turned.png', 'upright.png'))
    assert turned.image.tobytes() == other.image.tobytes() and turned.turned and not other.turned
    assert 'upright' in markup.about(turned) and 'upright' not in markup.about(other).replace('upright.png', '')


@pytest.mark.parametrize(
    'name, content, words',
    [
        ('empty.jpg', b'', 'empty.jpg is empty'),
        ('photo.heic', b'....ftypheic', 'is a HEIC file; JPEG, PNG'),
        ('notes.png', b'no image', 'is not a picture; JPEG, PNG'),
        ('half.png', (ROOT / 'demo' / 'chelsea.png').read_bytes()[:100_000], 'cannot be decoded'),
    ],
)
def test_a_file_that_is_no_photo_is_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    text = error_of(tmp_path / name)
    assert words in text and '<' not in text, 'no Python object'


def error_of(path):
    with pytest.raises(BadImage) as error:
        photo.read_photo(str(path))
    text = str(error.value)
    assert '\n' not in text and str(path.parent) not in text and text.startswith(path.name), 'without its folder'
    return text


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / 'folder.png').mkdir()
    for name in ('folder.png', 'gone.png'):
        assert 'cannot be read' in error_of(tmp_path / name)


def test_a_photo_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'large.png'
    path.write_bytes((ROOT / 'demo' / 'chelsea.png').read_bytes())
    monkeypatch.setattr(photo, 'MAX_PIXELS', 451 * 300)
    assert photo.read_photo(str(path)).image.size == (451, 300)
    monkeypatch.setattr(photo, 'MAX_PIXELS', 451 * 300 - 1)
    assert '451 x 300 pixels' in error_of(path)


# ---- the page's HTML


def test_the_page_shows_three_classes_of_each_token_and_says_less_than_1_percent(model, prediction):
    tokens = prediction.tokens._replace(scores=np.full((6, 4, 3), [0.86, 0.011, 0.002], 'float32'))
    seen = markup.seen(prediction._replace(tokens=tokens), prediction.faded, 6, model.names)
    assert seen.count('86%') == seen.count(' <b>1%') == seen.count('&lt;1%') == 4
    names = [model.names[i] for i in prediction.tokens.ids[-1, 3]]
    assert re.search('.*'.join(names), seen.split('<i>')[4])
    assert '&lt;1%' in markup.best_classes(prediction._replace(best=[(0, 0.002)]), model.labels)


def test_every_picture_of_the_page_has_a_text(model, prediction):
    cat = photo.read_photo(CHELSEA)
    html = markup.examples([cat]) + markup.about(cat) + markup.seen(prediction, prediction.faded, 6, model.names)
    html += markup.heat_maps(predictions.heat_maps(model, prediction, 0))
    assert html.count('<img ') == len(re.findall('<img [^>]* alt="[^"]+', html)) == 5
    assert 'alt="example chelsea.png"' in html and html.count('after block 6') == 1


def test_the_page_says_what_a_token_is_and_lists_the_classes(model):
    assert '2 × 2 squares' in markup.introduction(model) and '10 classes' in markup.introduction(model)
    listed = markup.class_list(['<b>hen', *model.labels])
    assert all(f'<li>{name}</li>' in listed for name in ['&lt;b&gt;hen', *WORDS])


# ---- flags


@pytest.mark.parametrize('flags', [['--resume', 'x.pd'], ['--pretrained'], ['--ema']])
def test_an_exported_model_and_a_checkpoint_exclude_each_other(flags):
    with pytest.raises(UserError, match=f'--model_file and {flags[0]}'):
        network('--model_file', 'model.pdmodel', *flags)


def test_without_gradio_or_with_an_old_one_a_line_says_what_to_install(refused, monkeypatch):
    old = type(sys)('gradio')
    old.__version__ = '5.49.1'
    for module in (None, old):
        monkeypatch.setitem(sys.modules, 'gradio', module)
        assert 'pip install -r demo/requirements-app.txt' in refused(app, '--resume', 'x.pd')


def test_bad_addresses_are_named(refused, monkeypatch):
    monkeypatch.setattr(app, 'import_gradio', lambda: None)  # none of these commands comes to use it
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        assert f'--port {port}' in refused(app, '--resume', 'x.pd', '--port', port)
    assert '--host nowhere.invalid' in refused(app, '--resume', 'x.pd', '--host', 'nowhere.invalid')
    assert '--port: must be' in refused(app, '--resume', 'x.pd', '--port', 65536)


def test_a_file_that_is_no_font_is_refused(refused, monkeypatch):
    pytest.importorskip('gradio', reason='NOT RUN: Gradio is missing')
    assert f'--font {__file__}' in refused(app, '--resume', 'x.pd', '--font', __file__, '--port', 7999)


def test_the_address_that_is_printed_can_be_opened():
    assert app.address('127.0.0.1', 80) == 'http://127.0.0.1:80/' and app.address('::1', 80) == 'http://[::1]:80/'
    assert app.address('0.0.0.0', 80).split()[0] == 'http://127.0.0.1:80/'


def test_examples_are_photos_of_what_the_model_knows(images, model, tmp_path, monkeypatch):
    def examples(*flags):
        return app.examples(app.parser().parse_args([str(flag) for flag in flags]), model)

    assert examples() == []
    assert len(examples('--examples', images)) == 5
    demo = [['--resume', tmp_path / 'train' / 'x.pd'], ['--model_file', tmp_path / 'export' / 'model.json']]
    assert examples(*demo[0]) == examples(*demo[1]) == []
    folder = tmp_path / 'digits' / 'val' / 'digit0'  # as demo/run.sh writes it
    folder.mkdir(parents=True)
    Image.new('RGB', (9, 9)).save(folder / 'a.png')
    assert examples(*demo[0]) == examples(*demo[1]) == [str(folder / 'a.png')]
    monkeypatch.setattr(model, 'names', class_names.to_show(None, None, 1000))
    assert examples() == [CHELSEA]
