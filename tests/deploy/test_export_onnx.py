"""tools/export_onnx.py: the ONNX file computes what the model does, for batches of any size."""

import importlib
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT
from inference_helpers import MODEL, PADDLE_3, random_images, random_model

from tools import export_onnx
from util.deploy import export

pytest_plugins = 'inference_fixtures'


@pytest.mark.skipif(not PADDLE_3, reason='needs Paddle 3')
def test_what_is_not_installed_is_named(refused, ckpt, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    line = refused(export_onnx, *MODEL, '--resume', ckpt, '--output', tmp_path / 'm.onnx')
    assert 'onnxruntime' in line and 'pip install paddle2onnx==2.1.0 onnx onnxruntime' in line


@pytest.mark.cross_version
@pytest.mark.skipif(PADDLE_3, reason='what Paddle 2 says')
def test_paddle_2_is_refused(refused, ckpt, tmp_path):
    assert 'ONNX export needs Paddle 3' in refused(export_onnx, *MODEL, '--resume', ckpt, '--output', tmp_path / 'm')


@pytest.fixture
def libraries():
    for name in ('paddle2onnx', 'onnx', 'onnxruntime'):
        if os.environ.get('CI') == 'true':  # tests/requirements.txt names them: there they must be
            importlib.import_module(name)
        pytest.importorskip(name)


@pytest.mark.parametrize('opset', [13, 17])
@pytest.mark.parametrize('softmax', [False, True])
def test_the_onnx_file_is_the_model_for_batches_of_any_size(libraries, run, ckpt, tmp_path, opset, softmax):
    import onnx
    import onnxruntime

    path = tmp_path / 'new' / 'm.onnx'
    flags = ['--fuse_softmax'] if softmax else []
    result = run(export_onnx, *MODEL, '--resume', ckpt, '--output', path, '--opset', opset, *flags)
    assert result.code == 0 and f'{path}: opset {opset}, differs from the model by at most' in result.out
    assert os.listdir(path.parent) == ['m.onnx']
    graph = onnx.load(str(path)).graph
    for value, name in ((graph.input[0], 'image'), (graph.output[0], 'scores' if softmax else 'logits')):
        assert value.name == name and value.type.tensor_type.shape.dim[0].dim_param == 'batch'
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    model = random_model()
    for batch in (1, 4):
        images = random_images(batch)
        expected = model(paddle.to_tensor(images))
        expected = (paddle.nn.functional.softmax(expected) if softmax else expected).numpy()
        (got,) = session.run(None, {'image': images})
        assert np.abs(got - expected).max() <= 5e-5 * np.abs(expected).max()


def test_what_differs_from_the_model_is_not_written(libraries, refused, ckpt, tmp_path, monkeypatch):
    outputs = export.random_outputs
    monkeypatch.setattr(export, 'random_outputs', lambda model: [(x, y * 1.001) for x, y in outputs(model)])
    line = refused(export_onnx, *MODEL, '--resume', ckpt, '--output', tmp_path / 'out' / 'm.onnx')
    assert 'differs from the model by' in line and os.listdir(tmp_path / 'out') == []


def test_operator_sets_that_crash_are_refused(refused, ckpt, tmp_path):
    assert '--opset' in refused(export_onnx, *MODEL, '--resume', ckpt, '--output', tmp_path / 'm.onnx', '--opset', 99)


def test_the_benchmark_of_engines_runs(libraries, tmp_path):
    flags = '--model lvvit_nano --input_size 32 --batch_size 2 --threads 1 --rounds 1 --repeat 2 --engines onednn'
    command = [sys.executable, ROOT / 'benchmarks' / 'inference.py', *flags.split(), '--json', tmp_path / 'r.json']
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0 and (tmp_path / 'r.json').exists(), done.stdout
    assert '| 1 | 2 | onnxruntime |' in done.stdout
    assert 'Fastest without loss of accuracy, 1 thread(s), batch 2: --engine onednn' in done.stdout
