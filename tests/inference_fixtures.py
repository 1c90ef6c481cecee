"""Fixtures of the tests around prediction: a checkpoint whose predictions differ from image to image, images of many
kinds, and the checkpoint exported. A test module takes them with `pytest_plugins = 'inference_fixtures'`."""

import contextlib
import io

import numpy as np
import pytest
from conftest import execute
from inference_helpers import AS_EXPORTED, MODEL, PADDLE_3, WORDS, as_exported, random_weights
from PIL import Image

import export_model
import infer
import predict
from util.weights import checkpoint


@pytest.fixture(scope='session')
def ckpt(tmp_path_factory):
    path = str(tmp_path_factory.mktemp('weights') / 'checkpoint.pd')
    checkpoint.save({'model': random_weights(0), 'model_ema': random_weights(1)}, path)
    return path


@pytest.fixture(scope='session')
def label_list(tmp_path_factory):
    path = tmp_path_factory.mktemp('names') / 'label_list.txt'
    path.write_text(''.join(f'{i} {name}\n' for i, name in enumerate(WORDS)))
    return str(path)


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """a.jpg, sub/b.PNG, sub/c.bmp, sub/deep/d.webp, sub/E.JPEG of different shapes, and a text file."""
    root = tmp_path_factory.mktemp('images')
    names = ['a.jpg', 'sub/b.PNG', 'sub/c.bmp', 'sub/deep/d.webp', 'sub/E.JPEG']
    for seed, (name, shape) in enumerate(zip(names, [(40, 50), (32, 32), (70, 33), (20, 90), (64, 64)])):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), 'uint8'))
        coarse.resize(shape, Image.BICUBIC).save(root / name)
    (root / 'sub' / 'notes.txt').write_text('no image')
    return root


@pytest.fixture(scope='session')
def exported(tmp_path_factory, ckpt, label_list):
    """Folder with model.pdmodel (and model.json on Paddle 3), model.pdiparams and inference.yml."""
    folder = tmp_path_factory.mktemp('export')
    formats = ['--format', 'both' if PADDLE_3 else 'pdmodel']
    out = ['--resume', ckpt, '--output_dir', folder, '--label_list', label_list]
    with contextlib.redirect_stdout(io.StringIO()):
        code = execute(export_model, *MODEL, *AS_EXPORTED, *formats, *out)
    assert code == 0
    return folder


@pytest.fixture
def predict_with(refused, ckpt, images):
    return lambda *flags: refused(predict, *MODEL, '--resume', ckpt, '--infer_imgs', images, *flags)


@pytest.fixture
def infer_with(refused, exported, images):
    return lambda *flags: refused(infer, *as_exported(exported), '--input_file', images, *flags)


@pytest.fixture
def export_with(refused, ckpt, tmp_path):
    return lambda *flags: refused(export_model, *MODEL, '--resume', ckpt, '--output_dir', tmp_path / 'out', *flags)
