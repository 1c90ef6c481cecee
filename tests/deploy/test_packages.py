"""infer.py with .onnx and .xml files, in ONNX Runtime and in OpenVINO."""

import builtins
import importlib.util
import sys

import numpy as np
import pytest
from inference_helpers import records

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
import exported_onnx

import infer
from util.data.images import open_rgb
from util.data.transforms import EvalTransform
from util.deploy import engines, inference_yml, paddle_engine
from util.deploy.records import best_classes

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version

OPENVINO = importlib.util.find_spec('openvino') is not None
needs_openvino = pytest.mark.skipif(not OPENVINO, reason='the package openvino is not installed')
ENGINES = [
    pytest.param('model.onnx', 'onnxruntime'),
    pytest.param('model.onnx', 'openvino', marks=needs_openvino),
    pytest.param('model.xml', 'openvino', marks=needs_openvino),
]
SETTINGS = dict(model='patches', input_size=32, nb_classes=10, crop_pct=0.8, interpolation='bilinear', output='logits')
SETTINGS.update(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25], precision='fp32', label_names={0: 'zero', 9: 'nine'})


@pytest.fixture(scope='module')
def exported_files(tmp_path_factory):
    """Folder with model.onnx, model.xml and model.bin if OpenVINO is installed, and inference.yml."""
    folder = tmp_path_factory.mktemp('exported')
    names = ['model.onnx']
    path = exported_onnx.save_onnx(str(folder / 'model.onnx'))
    if OPENVINO:
        exported_onnx.save_openvino(path)
        names += ['model.xml', 'model.bin']
    inference_yml.write_settings(folder, SETTINGS, names)
    return folder


@pytest.fixture
def folder(exported_files, tmp_path):
    """A copy of that folder, to be changed."""
    for path in exported_files.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def line(refused, folder, images):
    """line(name, flag, …) -> the one line with which infer.py refuses a file of the copy."""
    argv = ['--input_file', images / 'a.jpg']
    return lambda name, *flags: refused(infer, '--model_file', folder / name, *argv, *flags)


# ---- what runs


@pytest.mark.parametrize('name, engine', ENGINES)
def test_the_records_are_those_of_the_network_at_every_batch_size(run, images, exported_files, name, engine):
    argv = ['--model_file', exported_files / name, '--input_file', images, '--engine', engine, '--cpu_threads', 1]
    first = run(infer, *argv)
    files = [record['file_name'] for record in records(first)]
    transform = EvalTransform(32, 0.8, 'bilinear', mean=SETTINGS['mean'], std=SETTINGS['std'])
    inputs = np.stack([transform(open_rgb(path)) for path in files])
    expected = best_classes(files, exported_onnx.expected_logits(inputs), SETTINGS['label_names'], 5)
    assert len(files) == 5 and f'{engine} (--engine {engine}), fp32, 1 CPU thread' in first.out
    for result in first, run(infer, *argv, '-b', 2), run(infer, *argv, '-b', 16, '--enable_benchmark', 'True'):
        for record, wanted in zip(records(result), expected):
            assert record['class_ids'] == wanted['class_ids'] and record['label_names'] == wanted['label_names']
            np.testing.assert_allclose(record['scores'], wanted['scores'], atol=2e-5)
    assert f'engine: {engine}\n' in result.out and 'inference_time(ms)' in result.out


@needs_openvino
def test_auto_is_onnx_runtime_for_onnx_and_openvino_where_that_cannot(run, images, exported_files, monkeypatch):
    argv = ['--input_file', images / 'a.jpg', '--model_file']
    assert ', onnxruntime (--engine auto)' in run(infer, *argv, exported_files / 'model.onnx').out
    assert ', openvino (--engine auto)' in run(infer, *argv, exported_files / 'model.xml').out
    if engines.has_bf16():
        out = run(infer, *argv, exported_files / 'model.onnx', '--precision', 'bf16').out
        assert ', openvino (--engine auto), bf16' in out and 'bf16: outputs differ' in out
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert ', openvino (--engine auto)' in run(infer, *argv, exported_files / 'model.onnx').out


@pytest.mark.parametrize('name, engine', ENGINES)
def test_a_quantised_file_calculates_in_int8_and_precision_is_that_of_the_rest(run, images, tmp_path, name, engine):
    path = exported_onnx.save_quantised_onnx(str(tmp_path / 'model.onnx'))
    if name == 'model.xml':
        path = exported_onnx.save_openvino(path)
    argv = ['--model_file', path, '--input_file', images, '--input_size', 32, '--engine', engine, '--precision']
    results = [run(infer, *argv, 'int8'), run(infer, *argv, 'fp32')]
    assert records(results[0]) == records(results[1])
    assert all('int8 and fp32, ' in result.out for result in results)
    if engine == 'openvino' and engines.has_bf16():
        assert 'int8 and bf16, ' in run(infer, *argv, 'bf16').out


def test_flags_for_paddle_are_refused_or_said_to_have_no_effect(run, line, images, folder):
    argv = ['--model_file', folder / 'model.onnx', '--input_file', images / 'a.jpg']
    result = run(infer, *argv, '--enable_mkldnn', 'True')
    assert result.code == 0 and '--enable_mkldnn True' in result.out and 'onnxruntime' in result.out
    assert '--params_file p: is for .pdmodel' in line('model.onnx', '--params_file', 'p')
    assert '--use_tensorrt' in line('model.onnx', '--use_tensorrt', 'True')


def test_the_params_file_beside_a_model_of_paddle_is_the_default(run, images, exported, tmp_path):
    argv = ['--model_file', exported / 'model.pdmodel', '--input_file', images, '--use_gpu', 'False']
    assert records(run(infer, *argv)) == records(run(infer, *argv, '--params_file', exported / 'model.pdiparams'))


# ---- what is refused


@pytest.mark.parametrize(
    'name, flags, says',
    [
        ('model.onnx', '--precision int8', 'tools/quantize.py'),
        ('model.onnx', '--engine onnxruntime --precision bf16', 'use --engine openvino'),
        ('model.onnx', '--precision fp16', '--precision fp16 needs a GPU'),
        ('model.onnx', '--engine onednn', '--engine onednn: does not read .onnx files'),
        ('model.onnx', '--input_size 64', '--input_size 64: the model was exported for 32'),
        ('nothing.onnx', '', 'nothing.onnx: no such file'),
        pytest.param('model.xml', '--engine onnxruntime', 'does not read .xml files', marks=needs_openvino),
        pytest.param('model.xml', '--precision int8', 'tools/quantize.py', marks=needs_openvino),
    ],
)
def test_flags_that_do_not_fit_the_file(line, name, flags, says):
    assert says in line(name, *flags.split())


def test_bfloat16_on_a_processor_without_it(line, monkeypatch):
    monkeypatch.setattr(engines, 'has_bf16', lambda: False)
    assert 'no avx512_bf16' in line('model.onnx', '--precision', 'bf16')


@pytest.mark.parametrize('package, flags', [('onnxruntime', '--engine onnxruntime'), ('openvino', '--engine openvino')])
def test_a_missing_package_is_one_line_that_says_what_to_install(line, monkeypatch, package, flags):
    monkeypatch.setitem(sys.modules, package, None)
    assert f'pip install {package}' in line('model.onnx', *flags.split())


@pytest.mark.parametrize(
    'changes, says',
    [
        (dict(size=48), 'takes images [3, 48, 48], not [3, 32, 32]'),
        (dict(channels=1), 'has image float32 [?, 1, 32, 32]'),
        (dict(dtype='float16'), 'has image float16'),
        (dict(output='BCHW'), 'not a score of each class for each image'),
        (dict(classes=7), 'gives 7 classes, inference.yml says 10'),
        (dict(rename='pixels'), 'has pixels float32 [?, 3, 32, 32]'),
    ],
)
@pytest.mark.parametrize('engine', ['onnxruntime', pytest.param('openvino', marks=needs_openvino)])
def test_a_network_with_another_input_or_output(line, folder, engine, changes, says):
    exported_onnx.save_onnx(str(folder / 'model.onnx'), **changes)
    inference_yml.write_settings(folder, SETTINGS, [])
    text = line('model.onnx', '--engine', engine)
    assert says in text and f'{folder / "model.onnx"}: ' in text


@pytest.mark.parametrize('content, says', [(b'', 'an empty file'), (b'\x08\x08\x12', 'cannot')])
@pytest.mark.parametrize('engine', ['onnxruntime', pytest.param('openvino', marks=needs_openvino)])
def test_a_file_that_is_not_a_network(line, folder, engine, content, says):
    (folder / 'model.onnx').write_bytes(content)
    inference_yml.write_settings(folder, SETTINGS, [])
    text = line('model.onnx', '--engine', engine)
    assert f'--model_file {folder / "model.onnx"}: ' in text and says in text


@needs_openvino
def test_the_files_of_openvino_belong_together(line, folder):
    bin_file = folder / 'model.bin'
    whole = bin_file.read_bytes()
    bin_file.unlink()
    assert f'{bin_file}: no such file' in line('model.xml')
    bin_file.write_bytes(whole[:-4])
    assert f'{bin_file}: ' in line('model.xml') and 'of another export' in line('model.xml')
    inference_yml.write_settings(folder, SETTINGS, [])
    assert 'model.xml: OpenVINO' in line('model.xml'), 'without a record in inference.yml'
    (folder / 'model.xml').write_text('<html>')
    assert 'a web page' in line('model.xml') or 'cannot load it' in line('model.xml')


def test_a_model_of_another_export_than_inference_yml(run, line, folder, images):
    exported_onnx.save_quantised_onnx(str(folder / 'model.onnx'))
    assert 'model.onnx: ' in line('model.onnx') and 'of another export' in line('model.onnx')
    (folder / 'other').write_text('')
    inference_yml.write_settings(folder, SETTINGS, ['other'])
    argv = ['--model_file', folder / 'model.onnx', '--input_file', images / 'a.jpg']
    assert 'inference.yml was written for other files' in run(infer, *argv).out


def test_a_file_without_read_permission(line, folder, monkeypatch):
    real = builtins.open

    def denied(path, *args, **kwargs):
        if str(path).endswith('model.onnx'):
            raise PermissionError(13, 'Permission denied')
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, 'open', denied)
    assert 'model.onnx: cannot be read (Permission denied)' in line('model.onnx')


@pytest.mark.skipif(paddle_engine.has_gpu(), reason='a GPU')
def test_engines_for_files_of_paddle_refuse_packages(infer_with):
    assert '--engine onnxruntime: does not read .pdmodel files' in infer_with('--engine', 'onnxruntime')
