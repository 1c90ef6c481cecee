"""tools/quantize.py: an int8 model that answers as the float32 one does, and what it refuses."""

import importlib
import os
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from inference_helpers import MODEL, PADDLE_3
from PIL import Image

from tools import export_onnx, quantize
from util.deploy import inference_yml
from util.errors import UserError

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
    """40 coarse patterns 0.png …, and 00.png, which is no image."""
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
    assert '00.png' in result.err, 'the damaged image is named'
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


@needs_nncf
def test_top1_before_and_after_is_reported_and_a_drop_that_cannot_be_met_writes_nothing(
    quantised, photos, refused, ckpt, tmp_path, monkeypatch
):
    (tmp_path / 'list.txt').write_text(''.join(f'{i}.png {i % 10}\n' for i in range(40)))
    monkeypatch.setattr(quantize.int8, 'quantise', lambda nncf, network, images: network)  # int8 that changes nothing
    validation = ['--data_path', photos, '--cls_label_path_val', tmp_path / 'list.txt', '--max_drop', 0]
    result = quantised(*validation)
    assert result.code == 0 and re.search(r'float32: top-1 [\d.]+ % on 40 images', result.out)
    assert 'another best class for 0 of 40 images' in result.out

    monkeypatch.setattr(quantize.int8, 'report', lambda *_: 0.5)  # points lost
    monkeypatch.setattr(quantize.int8, 'quantise_partly', lambda nncf, network, *_: network)
    places = ['--resume', ckpt, '--images', tmp_path / 'list.txt', '--output_dir', tmp_path / 'none']
    assert '--max_drop 0.4: cannot be met' in refused(quantize, *places, *MODEL, *validation, '--max_drop', 0.4)
    assert os.listdir(tmp_path / 'none') == []
    assert 'in int8' not in quantised(*validation, '--max_drop', 0.5).err


@pytest.fixture(scope='module')
def onnx_file(libraries, tmp_path_factory):
    """A file of onnx with input `image` [N, 3, 32, 32] and ten classes, with an inference.yml for it."""
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp('onnx')
    image = helper.make_tensor_value_info('image', TensorProto.FLOAT, ['batch', 3, 32, 32])
    output = helper.make_tensor_value_info('logits', TensorProto.FLOAT, ['batch', 3])
    nodes = [
        helper.make_node('GlobalAveragePool', ['image'], ['mean']),
        helper.make_node('Flatten', ['mean'], ['logits']),
    ]
    model = helper.make_model(helper.make_graph(nodes, 'network', [image], [output]), ir_version=8)
    (folder / 'model.onnx').write_bytes(model.SerializeToString())
    args = SimpleNamespace(model='lvvit_nano', input_size=32, nb_classes=3, crop_pct=1.0, interpolation='bicubic')
    args.mean, args.std = [0.5] * 3, [0.5] * 3
    inference_yml.write_settings(folder, inference_yml.from_flags(args, {}), [])
    return folder / 'model.onnx'


def test_bad_input_is_one_line(libraries, run, refused, onnx_file, photos, ckpt, tmp_path):
    def refuse(*flags):
        return refused(quantize, '--output_dir', tmp_path / 'out', *flags)

    few = tmp_path / 'few.txt'
    few.write_text(''.join(f'{i}.png 0\n' for i in range(31)) + '00.png 0\n')
    given = ['--onnx', onnx_file, '--images']
    result = run(quantize, *given, few, '--data_path', photos, '--output_dir', tmp_path / 'out')
    skipped, error = result.err.splitlines()
    assert result.code == 1 and '00.png' in skipped and '31 of 32 images' in error
    assert f'{tmp_path / "empty"}: no such file' in refuse(*given, tmp_path / 'empty')
    assert 'leave out --resume' in refuse(*given, photos, '--resume', ckpt)
    assert '--cls_label_path_val' in refuse(*given, photos, '--max_drop', 1)
    assert 'tools/export_onnx.py' in refuse('--onnx', photos / 'model.onnx', '--images', photos)

    settings = yaml.safe_load((onnx_file.parent / 'inference.yml').read_text())
    for change, expected in (({'input_size': 48}, '[?,3,48,48]'), ({'files': {'onnx': {'bytes': 1}}}, 'not the file')):
        other = tmp_path / f'{len(expected)}' / 'model.onnx'
        other.parent.mkdir()
        other.write_bytes(onnx_file.read_bytes())
        (other.parent / 'inference.yml').write_text(yaml.safe_dump({**settings, **change}))
        assert expected in refuse('--onnx', other, '--images', photos)


def test_a_folder_with_the_inference_yml_of_another_model_is_refused(tmp_path):
    """tools/export_onnx.py and quantize.py keep what export_model.py recorded there of the same model."""
    args = SimpleNamespace(model='lvvit_t', input_size=32, nb_classes=3, crop_pct=1.0, interpolation='bicubic')
    args.mean, args.std = [0.5] * 3, [0.5] * 3
    settings = inference_yml.from_flags(args, {})
    (tmp_path / 'model.pdmodel').write_text('graph')
    inference_yml.write_settings(tmp_path, settings, ['model.pdmodel'])
    kept = inference_yml.of_other_files('--output x', tmp_path, settings, ['onnx'])
    assert set(kept) == {'pdmodel'} and inference_yml.of_other_files('', tmp_path, {}, ['pdmodel']) == {}
    with pytest.raises(UserError, match='--output x: .*another crop_pct'):
        inference_yml.of_other_files('--output x', tmp_path, {**settings, 'crop_pct': 0.5}, ['onnx'])


@pytest.mark.parametrize('missing', ['nncf', 'openvino'])
def test_a_missing_library_is_named(refused, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    line = refused(quantize, '--onnx', 'm.onnx', '--images', tmp_path, '--output_dir', tmp_path / 'out')
    assert missing in line and 'pip install -r requirements-deploy.txt' in line
