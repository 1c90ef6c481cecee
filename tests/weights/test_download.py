"""--pretrained: published weights fetched from a server on this machine, kept, and refused when they are no weights."""

import os
import shutil
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from paddle.utils import download as paddle_download
from PIL import Image

import eval
import export_model
import generate_label
import main
import models
import predict
from conftest import ROOT
from util.errors import UserError
from util.weights import download, pretrained

sys.path.insert(0, str(ROOT / 'tools'))
sys.path.insert(0, str(ROOT / 'tests' / 'data_260439a'))
import make
import visualize

pytestmark = pytest.mark.cross_version

FILES = ROOT / 'tests' / 'data_260439a'  # weights.pth, .safetensors and .pdparams of one tiny model
MODEL = ['--model', 'lvvit_s', '--input_size', 32, '--nb_classes', 10]


class Server(ThreadingHTTPServer):
    """Sends the files of FILES, whatever folder is asked for; the folder says how. `asked` counts requests."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked, self.closing = Counter(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, how, name):
        return f'http://127.0.0.1:{self.server_port}/{how}/{name}'

    def stop(self):
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked[self.path] += 1
        how, name = self.path.strip('/').split('/')
        if how == 'missing':
            return self.send_error(404)
        content = (FILES / name).read_bytes()
        length = len(content)
        if how == 'page':
            content = b'<!DOCTYPE html><html><body>Sign in to the network</body></html>'
            length = len(content)
        if how in ('cut', 'silent'):  # fewer bytes than announced
            content = content[:1000]
        if how == 'half':  # the file on the server is cut
            content = content[: length // 2]
            length = len(content)
        self.send_response(200)
        self.send_header('Content-Length', str(length))
        self.end_headers()
        self.wfile.write(content)
        if how == 'silent':
            self.wfile.flush()
            self.server.closing.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    if not server.closing.is_set():
        server.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and one attempt instead of three."""
    monkeypatch.setattr(paddle_download, 'WEIGHTS_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(paddle_download, 'DOWNLOAD_RETRY_LIMIT', 1)
    return tmp_path / 'cache'


@pytest.fixture
def publish(monkeypatch):
    """publish(url, …): weights of a tiny lvvit_s at 32 and 64 pixels."""

    def call(url, url_of_64='http://127.0.0.1:9/none.pth'):
        entry = models.FAMILY['lvvit_s']._replace(architecture=make.TINY, weights={32: url, 64: url_of_64})
        monkeypatch.setitem(models.FAMILY, 'lvvit_s', entry)
        return url

    return call


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'images' / 'a' / 'photo.png'
    path.parent.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), 'uint8')).save(path)
    return path


def said(call, *args):
    with pytest.raises(UserError) as error:
        call(*args)
    return str(error.value)


# ---- fetching


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors', 'weights.pdparams'])
def test_weights_are_fetched_once_and_then_taken_from_the_cache(server, cache, name, capsys):
    url = server.url('good', name)
    path = download.fetch(url)
    assert path == str(cache / name) and os.listdir(cache) == [name]
    assert (cache / name).read_bytes() == (FILES / name).read_bytes()
    assert f'{url}: fetched, kept as {path}' in capsys.readouterr().out
    server.stop()
    assert download.fetch(url) == path and server.asked.total() == 1
    assert f'{path}: fetched before, from {url}' in capsys.readouterr().out


@pytest.mark.parametrize(
    'how, name',
    [('page', 'weights.pth'), ('page', 'weights.safetensors')]
    + [('half', f'weights.{kind}') for kind in ('pth', 'safetensors', 'pdparams')],
)
def test_what_is_no_whole_file_of_weights_is_not_kept(server, cache, how, name):
    url = server.url(how, name)
    message = said(download.fetch, url)
    assert message.startswith(f'{url}: what came from there is no file of weights') and '--resume' in message
    assert os.listdir(cache) == []
    good = server.url('good', name)
    assert pretrained.read(download.fetch(good))  # the same name, fetched anew


def test_a_damaged_file_in_the_cache_is_removed(server, cache):
    url = server.url('good', 'weights.pth')
    os.truncate(download.fetch(url), 5000)
    assert 'It was deleted; try again' in said(download.fetch, url)
    assert download.fetch(url) and server.asked.total() == 2


@pytest.mark.parametrize('how', ['cut', 'missing'])
def test_a_download_that_fails_leaves_nothing_that_would_be_used(server, cache, how):
    url = server.url(how, 'weights.pth')
    message = said(download.fetch, url)
    assert message.startswith(f'{url}: could not be fetched') and 'give it with --resume' in message
    assert not (cache / 'weights.pth').exists()


def test_without_a_server_the_message_names_the_address(server):
    url = server.url('good', 'weights.pth')
    server.stop()
    assert said(download.fetch, url).startswith(f'{url}: could not be fetched')


def test_a_server_that_falls_silent_is_given_up(server, monkeypatch, time_limit):
    monkeypatch.setattr(download, 'PATIENCE', 1)
    with time_limit(20):
        message = said(download.fetch, server.url('silent', 'weights.pth'))
    assert 'nothing came for 1 seconds' in message


def test_a_cache_that_cannot_be_written_to_is_named(server, cache):
    cache.write_text('a file')
    assert said(download.fetch, server.url('good', 'weights.pth')).startswith(f'{cache}, the folder for')


# ---- which weights


def test_an_address_is_picked_by_name_and_size(publish, monkeypatch):
    monkeypatch.setattr(download, 'fetch', lambda url: url)
    publish('small', 'large')
    assert models.published_weights('lvvit_s', 32) == 'small' and models.published_weights('lvvit_s', 64) == 'large'
    assert models.published_weights('lvvit_s', 576, nearest=True) == 'large'
    assert models.published_weights('lvvit_t', 224).endswith('/lvvit_t.pth')


@pytest.mark.parametrize('name, size', [('lvvit_s', 48), ('lvvit_nano', 224), ('lvvit_x', 224)])
def test_what_is_not_published_is_refused_with_a_list_of_what_is(publish, name, size):
    publish('http://127.0.0.1:9/x.pth')
    message = said(models.published_weights, name, size)
    assert f'{name} at {size} pixels' in message
    assert 'lvvit_t at 224; lvvit_s at 32, 64; lvvit_m at 224, 384, 448' in message


# ---- the scripts


def test_the_scripts_take_the_published_weights(run, server, cache, publish, image, tmp_path):
    url = publish(server.url('good', 'weights.pth'))
    (tmp_path / 'list.txt').write_text('images/a/photo.png 0\n')
    data = ['--data_path', tmp_path, '--cls_label_path_val', tmp_path / 'list.txt', '--num_workers', 0]
    for script, *flags in (
        (predict, '--infer_imgs', image),
        (eval, *data),
        (export_model, '--output_dir', tmp_path / 'export'),
        (visualize, '--input', image, '--output', tmp_path / 'tokens.png'),
    ):
        result = run(script, *MODEL, '--pretrained', *flags)
        assert result.code == 0, result.err
        assert f'{cache / "weights.pth"}' in result.out and url in result.out
        assert 'they fit lvvit_s at 32 pixels' in result.out
    assert server.asked.total() == 1
    given = run(predict, *MODEL, '--resume', FILES / 'weights.pth', '--infer_imgs', image)
    fetched = run(predict, *MODEL, '--pretrained', '--infer_imgs', image)
    assert given.out.splitlines()[-1] == fetched.out.splitlines()[-1]


def test_label_maps_are_made_with_the_weights_of_the_nearest_size(run, server, publish, image, tmp_path):
    publish(server.url('good', 'weights.pth'), server.url('missing', 'weights.pth'))
    flags = ['--pretrained', '--nb_classes', 10, '--img_size', 48, '--num_workers', 0]
    shutil.copytree(image.parents[1], tmp_path / 'train')
    result = run(generate_label, tmp_path / 'train', tmp_path / 'maps', '--model', 'lvvit_s', *flags)
    assert result.code == 0 and 'pos_embed: resized from 4 to 9 tokens' in result.out, result.err
    assert (tmp_path / 'maps' / 'a' / 'photo.npy').exists()


def test_training_starts_from_the_published_weights(run, server, cache, publish, image, tmp_path):
    publish(server.url('good', 'weights.safetensors'))
    (tmp_path / 'list.txt').write_text('images/a/photo.png 0\n')
    data = ['--data_path', tmp_path, '--cls_label_path_val', tmp_path / 'list.txt', '--num_workers', 0]
    model = ['--model', 'lvvit_s', '--input_size', 48, '--nb_classes', 7]
    result = run(main, *model, *data, '--pretrained', '--eval')
    assert result.code == 0, result.err
    assert f'fine-tuning from plain weights of {cache / "weights.safetensors"}' in result.out
    assert 'head.weight: initialised anew' in result.out and 'pos_embed: resized from 4 to 9 tokens' in result.out


def test_a_run_that_is_resumed_fetches_nothing(run, server, cache, publish, image, tmp_path):
    publish(server.url('good', 'weights.safetensors'))
    server.stop()
    (tmp_path / 'list.txt').write_text('images/a/photo.png 0\n')
    data = ['--data_path', tmp_path, '--cls_label_path_val', tmp_path / 'list.txt', '--num_workers', 0]
    result = run(main, *MODEL, *data, '--pretrained', '--resume', FILES / 'weights.pth', '--eval')
    assert result.code == 0 and 'resuming from' in result.out and server.asked.total() == 0, result.err


def test_two_sources_of_weights_are_refused(refused, publish, image, tmp_path):
    publish('http://127.0.0.1:9/x.pth')
    line = refused(predict, *MODEL, '--pretrained', '--resume', 'x.pd', '--infer_imgs', image)
    assert '--pretrained and --resume both name the weights' in line
    flags = ['--model', 'lvvit_s', '--pretrained']
    line = refused(generate_label, image.parents[1], tmp_path / 'maps', *flags, '--resume', 'x.pd')
    assert '--resume and --pretrained both name the weights' in line


def test_weights_of_another_class_count_are_refused(run, server, publish, image):
    publish(server.url('good', 'weights.safetensors'))
    model = ['--model', 'lvvit_s', '--input_size', 32, '--nb_classes', 7]
    result = run(predict, *model, '--pretrained', '--infer_imgs', image)
    assert result.code == 1 and 'does not fit this model: head.weight is [8, 10]' in result.err.splitlines()[-1]
