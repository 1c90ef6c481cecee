"""demo/app.py: what the page shows is what the model says, and what is no photo is refused in a line.

tests/test_app_page.py tests the page itself, in a headless browser.
"""

import os
import socket
import sys

import numpy as np
import paddle
import pytest
from inference_helpers import AS_EXPORTED, FORMATS, MODEL, WORDS, random_weights, records
from PIL import Image

import predict
from conftest import ROOT
from util.data.images import BadImage
from tools import drawing
from util.data.transforms import to_input
from util.errors import UserError
from util.weights import checkpoint

sys.path.insert(0, str(ROOT / 'demo'))
import predictions
import app

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version

CHELSEA = str(ROOT / 'demo' / 'chelsea.png')


def network(*flags):
    return predictions.load(app.parser().parse_args([str(flag) for flag in flags]))


@pytest.fixture(scope='module')
def model(ckpt, label_list):
    return network(*MODEL, *AS_EXPORTED, '--resume', ckpt, '--label_list', label_list)


# ---- answers


def test_the_classes_are_those_of_predict_py(run, model, ckpt, label_list):
    flags = [*MODEL, *AS_EXPORTED, '--resume', ckpt, '--label_list', label_list]
    (record,) = records(run(predict, *flags, '--infer_imgs', CHELSEA))
    best = predictions.predict(model, CHELSEA).best
    assert list(best) == record['label_names'] and set(best) < set(WORDS)
    np.testing.assert_allclose(list(best.values()), record['scores'], atol=2e-5)


def test_the_tokens_are_those_of_each_block_and_at_last_the_model_s_own(model):
    tokens = predictions.predict(model, CHELSEA).tokens
    assert len(tokens) == model.blocks == 6
    image = paddle.to_tensor(to_input(model.transform.crop(Image.open(CHELSEA).convert('RGB')))[None])
    own = paddle.nn.functional.softmax(model.model.forward_dense(image)[1])[0].numpy()
    assert tokens[-1].ids.tolist() == own.argmax(axis=1).tolist()
    np.testing.assert_allclose(tokens[-1].scores, own.max(axis=1), atol=1e-6)
    assert tokens[0].scores.tolist() != tokens[-1].scores.tolist()


def test_tokens_are_drawn_over_the_square_that_the_model_sees_and_the_rest_is_pale(model):
    answer = predictions.predict(model, CHELSEA)  # 451 x 300 pixels, cropped to 0.8 of the short side
    picture = np.asarray(predictions.picture(answer, model.blocks, model.names)).astype(int)
    x, y = answer.corner
    washed, square = picture[y : y + predictions.SIDE, x : x + predictions.SIDE], np.asarray(answer.square).astype(int)
    assert (np.abs(washed - square).max(axis=-1) > 10).mean() > 0.5
    beside = np.ones(picture.shape[:2], bool)
    beside[y : y + predictions.SIDE, x : x + predictions.SIDE] = False
    assert picture[beside].min() >= 0.6 * 255 - 1 and beside.mean() > 0.3
    seen = model.transform.crop(Image.open(CHELSEA).convert('RGB'))
    small = answer.square.resize(seen.size, Image.BICUBIC)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(seen)).mean() < 8  # the same piece of the photo


def test_the_blocks_of_the_slider_count_from_1(model):
    answer = predictions.predict(model, CHELSEA)
    expected = answer.faded.copy()
    expected.paste(drawing.overlay(answer.square, answer.tokens[0], model.names), answer.corner)
    assert predictions.picture(answer, 1, model.names) == expected != predictions.picture(answer, 6, model.names)
    assert predictions.summary(answer, 1, model.names).startswith('After block 1 of 6, ')
    assert 'of 4 tokens prefer a class' in predictions.summary(answer, 6, model.names)


def test_a_model_trained_without_token_labels_gives_classes_and_says_so(tmp_path):
    weights = random_weights(0)
    for name in ('aux_head.weight', 'aux_head.bias'):
        weights[name] = np.zeros_like(weights[name])
    checkpoint.save(weights, str(tmp_path / 'labels.pdparams'))
    silent = network(*MODEL, '--resume', tmp_path / 'labels.pdparams')
    answer = predictions.predict(silent, CHELSEA)
    assert len(answer.best) == 5 and answer.tokens is None and silent.blocks == 0
    assert 'without token labels' in silent.why_no_tokens
    assert predictions.picture(answer, 1, silent.names).size == answer.faded.size


@pytest.mark.parametrize('kind', FORMATS)
def test_an_exported_model_gives_the_same_classes_and_says_that_it_has_no_tokens(model, exported, kind):
    other = network('--model_file', exported / f'model.{kind}')
    ours, theirs = predictions.predict(model, CHELSEA), predictions.predict(other, CHELSEA)
    assert list(ours.best) == list(theirs.best) and theirs.tokens is None
    np.testing.assert_allclose(list(ours.best.values()), list(theirs.best.values()), atol=1e-4)
    assert ours.corner == theirs.corner and 'classes only' in other.why_no_tokens


def test_an_export_without_inference_yml_takes_the_flags(exported, label_list, tmp_path):
    for name in ('model.pdmodel', 'model.pdiparams'):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    flags = ['--input_size', 32, *AS_EXPORTED, '--label_list', label_list]
    bare, whole = (
        network('--model_file', tmp_path / 'model.pdmodel', *flags),
        network('--model_file', exported / 'model.pdmodel'),
    )
    assert predictions.predict(bare, CHELSEA).best == predictions.predict(whole, CHELSEA).best


def test_two_classes_of_one_name_are_both_listed(model):
    names = dict(model.names)
    model.names = {i: 'crane' for i in range(10)}
    try:
        best = predictions.predict(model, CHELSEA).best
    finally:
        model.names = names
    assert len(best) == 5 and all(name.startswith('crane') for name in best)


# ---- what is no photo


def refusal(path):
    with pytest.raises(BadImage) as error:
        predictions.read_photo(str(path))
    text = str(error.value)
    assert '\n' not in text and str(path.parent) not in text and text.startswith(path.name)
    return text


def test_what_is_no_photo_is_refused_in_a_line_without_its_folder(tmp_path):
    (tmp_path / 'notes.png').write_text('no image')
    assert 'cannot be decoded' in refusal(tmp_path / 'notes.png')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    assert 'cannot be decoded' in refusal(tmp_path / 'empty.jpg')
    Image.open(CHELSEA).save(tmp_path / 'animation.gif')
    assert 'cannot be decoded' in refusal(tmp_path / 'animation.gif')
    assert 'cannot be read' in refusal(tmp_path / 'gone.png')


@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp'])
def test_a_photo_that_is_cut_off_is_refused(tmp_path, ending):
    path = tmp_path / f'half.{ending}'
    Image.open(CHELSEA).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 'cannot be decoded' in refusal(path)


def test_a_photo_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, 'MAX_PIXELS', 451 * 300 - 1)
    monkeypatch.setattr(predictions, 'open_rgb', lambda path: pytest.fail('decoded'))
    path = tmp_path / 'large.png'
    path.write_bytes((ROOT / 'demo' / 'chelsea.png').read_bytes())
    assert '451 x 300 pixels' in refusal(path)


def test_an_exif_orientation_is_ignored_as_everywhere_else(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.open(CHELSEA).save(tmp_path / 'turned.png', exif=exif)
    assert predictions.read_photo(str(tmp_path / 'turned.png')).tobytes() == predictions.read_photo(CHELSEA).tobytes()


# ---- flags


@pytest.mark.parametrize('flags', [['--resume', 'x.pd'], ['--pretrained'], ['--ema']])
def test_an_exported_model_and_a_checkpoint_are_not_both_given(flags):
    with pytest.raises(UserError, match=f'--model_file and {flags[0]}: .* give one'):
        network('--model_file', 'model.pdmodel', *flags)


def test_without_gradio_or_with_an_old_one_a_line_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert 'Gradio is not installed: pip install -r demo/requirements-app.txt' in refused(app, '--resume', 'x.pd')
    old = type(sys)('gradio')
    old.__version__ = '5.49.1'
    monkeypatch.setitem(sys.modules, 'gradio', old)
    assert 'Gradio 5.49.1 is too old: pip install -r demo/requirements-app.txt' in refused(app, '--resume', 'x.pd')


@pytest.fixture
def with_gradio(monkeypatch):
    """As if Gradio were installed, for commands that end before it is used."""
    new = type(sys)('gradio')
    new.__version__ = '6.0.0'
    monkeypatch.setitem(sys.modules, 'gradio', new)


def test_an_address_where_nobody_can_listen_is_refused_at_once(refused, with_gradio):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(app, '--resume', 'x.pd', '--port', port)
    assert f'--host 127.0.0.1 --port {port}: cannot listen there (Address already in use' in line
    assert '--host nowhere.invalid' in refused(app, '--resume', 'x.pd', '--host', 'nowhere.invalid')
    assert '--port: must be 1 to 65535' in refused(app, '--resume', 'x.pd', '--port', 65536)


def test_missing_files_are_named(refused, with_gradio):
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    for flags, says in (
        ([], '--resume is missing'),
        (['--resume', 'nowhere.pd'], 'nowhere.pd'),
        (['--model_file', 'nowhere.json'], 'nowhere.json: no such file'),
    ):
        assert says in refused(app, '--port', port, *flags)


def test_examples_are_the_demo_s_or_those_named(images):
    files = app.examples(app.parser().parse_args([]))
    assert files[0].endswith('chelsea.png') and all(os.path.isfile(file) for file in files) and len(files) <= 11
    assert len(app.examples(app.parser().parse_args(['--examples', str(images)]))) == 5
