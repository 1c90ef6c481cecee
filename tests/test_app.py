"""demo/app.py without a browser: the page shows what the model predicts, and refuses other files in one line."""

import os
import socket
import sys

import numpy as np
import paddle
import pytest
from inference_helpers import AS_EXPORTED, MODEL, WORDS, random_weights, records
from PIL import Image

import predict
from conftest import ROOT
from tools import drawing
from util.data.images import BadImage
from util.errors import UserError
from util.weights import checkpoint

sys.path.insert(0, str(ROOT / 'demo'))
import app
import predictions

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version

CHELSEA = str(ROOT / 'demo' / 'chelsea.png')


def network(*flags):
    return predictions.load(app.parser().parse_args([str(flag) for flag in flags]))


@pytest.fixture(scope='module')
def model(ckpt, label_list):
    return network(*MODEL, *AS_EXPORTED, '--resume', ckpt, '--label_list', label_list)


# ---- predictions


def test_the_classes_are_those_of_predict_py(run, model, ckpt, label_list):
    flags = [*MODEL, *AS_EXPORTED, '--resume', ckpt, '--label_list', label_list]
    (record,) = records(run(predict, *flags, '--infer_imgs', CHELSEA))
    best = predictions.predict(model, CHELSEA).best
    assert list(best) == record['label_names'] and set(best) < set(WORDS)
    np.testing.assert_allclose(list(best.values()), record['scores'], atol=2e-5)


def test_there_are_tokens_after_each_block_and_the_last_are_the_models_own(model):
    tokens = predictions.predict(model, CHELSEA).tokens
    assert len(tokens) == model.blocks == 6
    image = paddle.to_tensor(model.transform(Image.open(CHELSEA).convert('RGB'))[None])
    own = paddle.nn.functional.softmax(model.model.forward_dense(image)[1])[0].numpy()
    assert tokens[-1].ids.tolist() == own.argmax(axis=1).tolist()
    np.testing.assert_allclose(tokens[-1].scores, own.max(axis=1), atol=1e-6)


def test_the_square_on_the_page_is_what_the_model_sees(model):
    prediction, seen = predictions.predict(model, CHELSEA), model.transform.crop(Image.open(CHELSEA).convert('RGB'))
    square = prediction.square.resize(seen.size, Image.BICUBIC)
    assert np.abs(np.asarray(square).astype(int) - np.asarray(seen)).mean() < 8


def test_the_blocks_of_the_slider_count_from_1(model):
    prediction = predictions.predict(model, CHELSEA)
    expected = prediction.faded.copy()
    palette = drawing.colours(prediction.tokens)
    square = drawing.overlay(prediction.square, prediction.tokens[0], model.names, palette=palette)
    expected.paste(square, prediction.corner)
    first, last = (predictions.picture(prediction, block, model.names) for block in (1, 6))
    assert first == expected != last
    for block in (1, 6):
        summary = predictions.summary(prediction, block, model.names)
        assert f'block {block} of 6' in summary and 'of 4 tokens' in summary


def test_a_model_trained_without_token_labels_gives_classes_only_and_says_why(tmp_path):
    weights = random_weights(0)
    for name in ('aux_head.weight', 'aux_head.bias'):
        weights[name] = np.zeros_like(weights[name])
    checkpoint.save(weights, str(tmp_path / 'labels.pdparams'))
    model = network(*MODEL, '--resume', tmp_path / 'labels.pdparams')
    prediction = predictions.predict(model, CHELSEA)
    assert len(prediction.best) == 5 and prediction.tokens is None and model.blocks == 0 and model.why_no_tokens
    assert predictions.picture(prediction, 1, model.names).size == prediction.faded.size


def test_an_exported_model_gives_the_same_classes_and_no_tokens(model, exported):
    other = network('--model_file', exported / 'model.pdmodel')
    expected, got = predictions.predict(model, CHELSEA), predictions.predict(other, CHELSEA)
    assert list(got.best) == list(expected.best) and got.tokens is None and other.why_no_tokens
    np.testing.assert_allclose(list(got.best.values()), list(expected.best.values()), atol=1e-4)
    assert got.corner == expected.corner
    with pytest.raises(UserError, match='--nb_classes 3: .*inference.yml fits --model lvvit_nano'):
        network('--model_file', exported / 'model.pdmodel', '--nb_classes', 3)


def test_two_classes_of_one_name_are_both_listed(model, monkeypatch):
    monkeypatch.setattr(model, 'names', {i: 'crane' for i in range(10)})
    best = predictions.predict(model, CHELSEA).best
    assert len(best) == 5 and all(name.startswith('crane') for name in best)


# ---- files that are refused


def error_of(path):
    with pytest.raises(BadImage) as error:
        predictions.read_photo(str(path))
    text = str(error.value)
    assert '\n' not in text and str(path.parent) not in text and text.startswith(path.name), 'without its folder'
    return text


def test_a_file_that_is_no_photo_is_refused_in_one_line(tmp_path):
    (tmp_path / 'notes.png').write_text('no image')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'half.png').write_bytes((ROOT / 'demo' / 'chelsea.png').read_bytes()[:100_000])
    for name in ('notes.png', 'folder.png', 'half.png', 'gone.png'):
        error_of(tmp_path / name)


def test_a_photo_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'large.png'
    path.write_bytes((ROOT / 'demo' / 'chelsea.png').read_bytes())
    monkeypatch.setattr(predictions, 'MAX_PIXELS', 451 * 300)
    assert predictions.read_photo(str(path)).size == (451, 300)
    monkeypatch.setattr(predictions, 'MAX_PIXELS', 451 * 300 - 1)
    assert '451 x 300 pixels' in error_of(path)


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


def test_examples_are_the_demos_or_those_named(images):
    files = app.examples(app.parser().parse_args([]))
    assert files[0] == CHELSEA and all(os.path.isfile(file) for file in files) and len(files) <= 11
    assert len(app.examples(app.parser().parse_args(['--examples', str(images)]))) == 5
