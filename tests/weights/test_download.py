"""--pretrained: published weights are fetched once, kept, and refused if they are not weights."""

import functools
import http.server
import os
import sys
import threading

import numpy as np
import pytest
from paddle.utils import download as paddle_download
from PIL import Image

import eval
import generate_label
import main
import models
import predict
import torch_files
from conftest import ROOT, words
from util.errors import UserError
from util.train import starting
from util.weights import checkpoint, download, torch_file

sys.path.insert(0, str(ROOT / 'tools'))
import visualize

pytestmark = pytest.mark.cross_version

TINY = dict(stem='naive', embed_dim=8, depth=2, num_heads=2)
MODEL = '--model lvvit_s --input_size 32 --nb_classes 10'


def refusal(call, *args):
    with pytest.raises(UserError) as error:
        call(*args)
    return str(error.value)


# ---- fetching


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A server of the folder `served`; `url` is its address."""
    (tmp_path / 'served').mkdir()
    handler = functools.partial(Handler, directory=str(tmp_path / 'served'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    server.folder, server.url = tmp_path / 'served', f'http://127.0.0.1:{server.server_port}'
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and one attempt instead of three."""
    monkeypatch.setattr(paddle_download, 'WEIGHTS_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(paddle_download, 'DOWNLOAD_RETRY_LIMIT', 1)
    return tmp_path / 'cache'


def test_weights_are_fetched_once_and_then_taken_from_the_cache(server, cache, capsys):
    torch_files.save({'w': np.ones(5)}, server.folder / 'weights.pth')
    content, url = (server.folder / 'weights.pth').read_bytes(), f'{server.url}/weights.pth'
    path = download.fetch(url)
    assert path == str(cache / 'weights.pth') and (cache / 'weights.pth').read_bytes() == content
    assert f'{url}: fetched, kept as {path}' in capsys.readouterr().out
    (server.folder / 'weights.pth').unlink()
    assert download.fetch(url) == path
    assert f'{path}: fetched before, from {url}' in capsys.readouterr().out


def test_a_download_that_fails_and_what_is_no_file_of_weights_are_named_and_not_kept(server, cache):
    message = refusal(download.fetch, f'{server.url}/missing.pth')
    assert message.startswith(f'{server.url}/missing.pth: could not be fetched') and '--resume' in message
    torch_files.save({'w': np.ones(500)}, server.folder / 'weights.pth')
    for content in (b'<!DOCTYPE html><html>Sign in</html>', (server.folder / 'weights.pth').read_bytes()[:1500]):
        (server.folder / 'weights.pth').write_bytes(content)
        message = refusal(download.fetch, f'{server.url}/weights.pth')
        assert message.startswith(f'{server.url}/weights.pth: not a file of weights') and '--resume' in message
        assert ('a web page' in message) == content.startswith(b'<')
        assert os.listdir(cache) == []


# ---- which weights


def test_the_address_is_chosen_by_name_and_size(monkeypatch):
    monkeypatch.setattr(download, 'fetch', lambda url: url.rpartition('/')[2])
    assert models.published_weights('lvvit_s', 384) == 'lvvit_s-26M-384-84.4.pth.tar'
    assert models.published_weights('lvvit_s', 320, nearest=True) == 'lvvit_s-26M-384-84.4.pth.tar'
    assert models.published_weights('lvvit_s', 288, nearest=True) == 'lvvit_s-26M-224-83.3.pth.tar'
    assert models.published_weights('lvvit_t', 224) == 'lvvit_t.pth'


# ---- the scripts


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The file of the published weights: of a tiny lvvit_s with 10 classes, at 32 pixels; the list of its fetches."""
    entry = models.FAMILY['lvvit_s']._replace(architecture=TINY, weights={32: 'http://127.0.0.1:9/32.pth', 96: 'none'})
    monkeypatch.setitem(models.FAMILY, 'lvvit_s', entry)
    model, path = models.build_model('lvvit_s', img_size=32, num_classes=10), tmp_path / 'published.pth'
    torch_files.save(
        {k: np.ascontiguousarray(v) for k, v in torch_file.to_torch(checkpoint.to_numpy(model.state_dict())).items()},
        path,
    )
    fetched = []
    monkeypatch.setattr(download, 'fetch', lambda url: fetched.append(url) or str(path))
    return path, fetched


@pytest.fixture
def data(tmp_path):
    """A folder with one image in each split, and a list of that of val/."""
    for split in ('train', 'val'):
        (tmp_path / 'data' / split / 'n01').mkdir(parents=True)
        photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), 'uint8')
        Image.fromarray(photo).save(tmp_path / 'data' / split / 'n01' / 'photo.png')
    (tmp_path / 'data' / 'val.txt').write_text('val/n01/photo.png 0\n')
    return tmp_path / 'data'


def test_the_scripts_take_the_published_weights(run, published, data, tmp_path):
    image = data / 'val' / 'n01' / 'photo.png'
    for script, *flags in (
        (predict, '--infer_imgs', image),
        (eval, '--data_path', data, '--cls_label_path_val', data / 'val.txt', '--num_workers', 0),
        (visualize, '--input', image, '--output', tmp_path / 'tokens.png'),
    ):
        result = run(script, *words(MODEL), '--pretrained', *flags)
        assert result.code == 0 and f'using plain weights of {published[0]}' in result.out, result.err
    assert published[1] == ['http://127.0.0.1:9/32.pth'] * 3


def test_label_maps_are_made_with_the_weights_of_the_nearest_size(run, published, data, tmp_path):
    flags = words('--model lvvit_s --pretrained --nb_classes 10 --img_size 48 --num_workers 0')
    result = run(generate_label, data, tmp_path / 'maps', *flags)
    assert result.code == 0 and 'pos_embed: resized from 4 to 9 tokens' in result.out, result.err
    assert (tmp_path / 'maps' / 'n01' / 'photo.npy').exists() and published[1] == ['http://127.0.0.1:9/32.pth']


def test_training_starts_from_the_published_weights_of_the_nearest_size(published, capfd):
    def start(*flags):
        args = main.parser().parse_args(words('--model lvvit_s --pretrained', *flags))
        main.complete(args)
        nearest = functools.partial(models.published_weights, args.model, args.input_size, nearest=True)
        starting.load_start(args, main.new_model(args), nearest)
        return capfd.readouterr().out

    out = start('--input_size 48 --nb_classes 7')
    assert f'fine-tuning from {published[0]}' in out and 'pos_embed: resized from 4 to 9 tokens' in out
    assert 'head.weight: initialised anew' in out
    published[1].clear()
    out = start('--input_size 32 --nb_classes 10 --resume', published[0])
    assert 'resuming from' in out and published[1] == [], 'a resumed run fetches nothing'


def test_two_sources_of_weights_are_refused(refused, published, data):
    for script, *flags in (predict, '--infer_imgs', data / 'val'), (eval, '--data_path', data):
        line = refused(script, *words(MODEL), '--pretrained', '--resume', 'x.pd', *flags)
        assert '--pretrained and --resume both name the weights' in line
