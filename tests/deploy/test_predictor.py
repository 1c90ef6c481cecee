"""util.deploy.predictor.Predictor: scores of images of every kind, from one thread and from several."""

import importlib.util
import http.server
import io
import json
import re
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from conftest import ROOT
from inference_helpers import WORDS, random_model
from PIL import Image

from util.data.images import BadImage
from util.deploy import paddle_engine
from util.deploy.predictor import MOST, Predictor
from util.errors import UserError

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version


def photo(seed):
    """uint8 [H, W, 3] of a size of its own."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), 'uint8'))
    return np.asarray(coarse.resize((33 + seed, 60 - seed), Image.BICUBIC))


@pytest.fixture(scope='module')
def predictor(exported):
    return Predictor(exported / 'model.pdmodel', engine='onednn')


def test_scores_are_the_softmax_of_the_model_for_paths_pictures_and_arrays(predictor, tmp_path):
    photos = [photo(seed) for seed in range(3)]
    expected = predictor(photos)
    assert expected.shape == (3, 10) and expected.dtype == 'float32'
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-6)
    paths = [tmp_path / f'{i}.png' for i in range(3)]
    for path, pixels in zip(paths, photos):
        Image.fromarray(pixels).save(path)
    mixed = [str(paths[0]), Image.open(paths[1]).convert('RGBA'), photos[2]]
    for images in (paths, mixed, [Image.open(path) for path in paths]):
        np.testing.assert_array_equal(predictor(images), expected)
    for image in (photos[0], paths[0], str(paths[0]), Image.fromarray(photos[0])):
        np.testing.assert_allclose(predictor(image), expected[:1], atol=1e-6)
    inputs = np.stack([predictor.preprocess(image) for image in photos])
    logits = random_model()(paddle.to_tensor(inputs)).numpy()
    np.testing.assert_allclose(expected, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-5)


def test_lists_of_any_length_and_arrays_of_images(predictor):
    pixels = np.stack([photo(0)] * 2)
    assert predictor(pixels).shape == (2, 10) and predictor([]).shape == (0, 10)
    many = [photo(seed % 5) for seed in range(2 * MOST + 3)]
    np.testing.assert_allclose(predictor(many), [predictor(image)[0] for image in many], atol=1e-6)


def test_best_has_the_names_of_inference_yml_or_of_a_label_list(predictor, exported, tmp_path):
    scores = predictor([photo(0), photo(1)])
    found = predictor.best(scores, topk=3)
    for row, best in zip(scores, found):
        assert best['class_ids'] == np.argsort(-row)[:3].tolist()
        assert best['label_names'] == [WORDS[i] for i in best['class_ids']]
        np.testing.assert_allclose(best['scores'], row[best['class_ids']], atol=1e-5)
    assert predictor.best(scores[0]) == predictor.best(scores)[:1]
    names = tmp_path / 'names.txt'
    names.write_text(''.join(f'{i} class {i}\n' for i in range(10)))
    other = Predictor(exported / 'model.pdmodel', engine='onednn', label_list=str(names))
    assert other.best(scores, topk=1)[0]['label_names'] == [f'class {found[0]["class_ids"][0]}']


@pytest.mark.parametrize(
    'image', [photo(0).astype('float32'), photo(0)[..., 0], np.zeros([8, 8, 4], 'uint8'), None, 3, b'bytes']
)
def test_what_is_no_image_is_refused(predictor, image):
    for images in (image, [photo(0), image]):
        with pytest.raises(UserError, match='a path, a PIL image, or an array uint8'):
            predictor(images)


def test_a_file_that_is_no_image_is_named(predictor, tmp_path):
    (tmp_path / 'x.jpg').write_text('no image')
    for path in (tmp_path / 'x.jpg', tmp_path / 'missing.jpg'):
        with pytest.raises(BadImage, match=path.name):
            predictor([photo(0), path])


def test_outputs_that_are_not_finite_are_an_error(predictor, monkeypatch):
    monkeypatch.setattr(predictor.network, 'run', lambda inputs: np.full([len(inputs), 10], np.nan, 'float32'))
    with pytest.raises(UserError, match='not finite'):
        predictor(photo(0))


ENGINES = [('model.pdmodel', name) for name in ('paddle', 'onednn', 'paddle_openvino')]
ENGINES += [('model.onnx', 'onnxruntime'), ('model.onnx', 'openvino')]


@pytest.mark.parametrize('name, engine', ENGINES)
def test_several_threads_get_the_scores_of_one(exported, tmp_path, name, engine):
    if engine == 'paddle_openvino' and not paddle_engine.has_openvino():
        pytest.skip('a Paddle without OpenVINO')
    path = exported / name
    if name == 'model.onnx':
        pytest.importorskip('onnx')
        if importlib.util.find_spec(engine) is None:
            pytest.skip(f'{engine} is not installed')
        import exported_onnx

        path = exported_onnx.save_onnx(str(tmp_path / name))
    predictor = Predictor(path, engine=engine, threads=1, input_size=32)
    batches = [[photo(seed)] * (1 + seed % 3) for seed in range(12)]
    expected = [predictor(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for got, wanted in zip(pool.map(predictor, batches), expected):
                np.testing.assert_array_equal(got, wanted)


def test_the_service_of_the_manual_answers(exported, monkeypatch):
    page, name = (ROOT / 'docs' / 'deploy.md').read_text(encoding='utf-8'), 'service'
    (code,) = re.findall(rf'<!-- run: {name} -->\n```python\n(.*?)^```', page, re.M | re.S)
    code = code.replace('export/model.xml', str(exported / 'model.pdmodel')).replace('8000', '0')  # 0: any free port
    started, servers = threading.Event(), []

    class Server(http.server.ThreadingHTTPServer):
        def serve_forever(self):
            servers.append(self)
            started.set()
            super().serve_forever(poll_interval=0.05)

    monkeypatch.setattr(http.server, 'ThreadingHTTPServer', Server)
    thread = threading.Thread(target=exec, args=(code, {'__name__': 'service'}), daemon=True)
    thread.start()
    assert started.wait(60)
    (server,) = servers
    url, file = f'http://127.0.0.1:{server.server_port}', io.BytesIO()
    Image.fromarray(photo(0)).save(file, 'PNG')
    answer = json.load(urllib.request.urlopen(url, file.getvalue(), timeout=60))
    predictor = Predictor(exported / 'model.pdmodel')
    assert answer == predictor.best(predictor(photo(0)), topk=3)[0]
    with pytest.raises(urllib.error.HTTPError, match='400'):
        urllib.request.urlopen(url, b'no image', timeout=60)
    server.shutdown()
    server.server_close()
