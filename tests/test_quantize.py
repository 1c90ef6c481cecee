"""tools/quantize.py: an int8 model that answers as the float32 one does, and what it refuses."""

import importlib
import os
import sys

import numpy as np
import pytest
import yaml
from inference_helpers import MODEL, PADDLE_3
from PIL import Image

from tools import export_onnx, quantize

pytest_plugins = 'inference_fixtures'
needs_nncf = pytest.mark.skipif(sys.version_info < (3, 10) or not PADDLE_3, reason='NNCF needs Python 3.10')


@pytest.fixture(scope='module')
def libraries():
    for name in ('paddle2onnx', 'onnx', 'onnxruntime', 'openvino', 'nncf'):
        if os.environ.get('CI') == 'true':  # requirements-deploy.txt names them
            importlib.import_module(name)
        pytest.importorskip(name)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """40 coarse patterns 0.png …, one file that is no image, and list.txt, whose labels are those of float32."""
    folder = tmp_path_factory.mktemp('photos')
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), 'uint8')
        Image.fromarray(pixels).resize((32, 32), Image.BICUBIC).save(folder / f'{i}.png')
    (folder / '00.png').write_text('no image')
    return folder


@pytest.fixture
def quantised(libraries, run, ckpt, label_list, photos, tmp_path):
    def call(*flags):
        places = ['--images', photos, '--output_dir', tmp_path / 'int8', '--label_list', label_list]
        return run(quantize, *MODEL, '--resume', ckpt, *places, *flags)

    return call


def in_openvino(path, images):
    import openvino

    return openvino.Core().compile_model(str(path), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})(images)[0]


@needs_nncf
def test_int8_answers_as_float32_does_for_batches_of_any_size(quantised, run, ckpt, photos, tmp_path):
    result = quantised()
    assert result.code == 0 and sorted(os.listdir(tmp_path / 'int8')) == ['inference.yml', 'model.bin', 'model.xml']
    assert '00.png' in result.err, 'what cannot be decoded is named'
    settings = yaml.safe_load((tmp_path / 'int8' / 'inference.yml').read_text())
    assert settings['precision'] == 'int8' and set(settings['files']) == {'xml', 'bin'}
    assert settings['label_names'][3] == 'three' and settings['input_size'] == 32

    assert run(export_onnx, *MODEL, '--resume', ckpt, '--output', tmp_path / 'fp32' / 'm.onnx').code == 0
    images = np.stack([np.asarray(Image.open(photos / f'{i}.png'), 'float32') for i in range(40)])
    images = ((images / 255 - settings['mean']) / settings['std']).transpose(0, 3, 1, 2).astype('float32')
    expected = in_openvino(tmp_path / 'fp32' / 'm.onnx', images)
    for batch in (1, 40):
        got = in_openvino(tmp_path / 'int8' / 'model.xml', images[:batch])
        assert np.abs(got - expected[:batch]).max() < 0.1 * np.abs(expected).max()
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
    assert os.path.getsize(tmp_path / 'int8' / 'model.bin') < 0.4 * os.path.getsize(tmp_path / 'fp32' / 'm.onnx')
