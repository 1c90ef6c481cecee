"""tools/export_onnx.py: the ONNX file computes what the model does, for batches of any size."""

import importlib.util
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from conftest import ROOT, execute
from inference_helpers import AS_EXPORTED, MODEL, PADDLE_3, assert_agree, random_images, random_model, records

import export_model
import infer
import predict
from benchmarks import inference
from tools import export_onnx
from util.deploy import export

sys.path.insert(0, str(ROOT / 'test_tipc'))
import seed_weights

pytest_plugins = 'inference_fixtures'


@pytest.fixture
def libraries():
    for name in ('paddle2onnx', 'onnx', 'onnxruntime'):
        if os.environ.get('CI') == 'true':  # tests/requirements.txt names them
            importlib.import_module(name)
        pytest.importorskip(name)


@pytest.mark.skipif(not PADDLE_3, reason='needs Paddle 3')
def test_a_missing_library_and_an_unknown_operator_set_are_named(refused, ckpt, tmp_path, monkeypatch):
    flags = [*MODEL, '--resume', ckpt, '--output', tmp_path / 'm.onnx']
    assert '--opset' in refused(export_onnx, *flags, '--opset', 99)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert export_onnx.INSTALL in refused(export_onnx, *flags)


@pytest.mark.skipif(not PADDLE_3, reason='needs Paddle 3')
def test_an_output_that_infer_would_not_take_for_onnx_is_refused(libraries, refused, ckpt, tmp_path):
    assert 'must end in .onnx' in refused(export_onnx, *MODEL, '--resume', ckpt, '--output', tmp_path / 'model')


@pytest.mark.cross_version
@pytest.mark.skipif(PADDLE_3, reason='what Paddle 2 says')
def test_paddle_2_is_refused(refused, ckpt, tmp_path):
    assert 'needs Paddle 3' in refused(export_onnx, *MODEL, '--resume', ckpt, '--output', tmp_path / 'm')


def test_the_onnx_file_is_the_model_for_batches_of_any_size(libraries, run, ckpt, images, tmp_path):
    """Here with a softmax; the benchmark below compares the logits. infer.py prints the records of predict.py."""
    import onnx
    import onnxruntime

    path = tmp_path / 'new' / 'm.onnx'
    result = run(export_onnx, *MODEL, '--resume', ckpt, '--output', path, '--fuse_softmax', '--opset', 13)
    assert result.code == 0 and sorted(os.listdir(path.parent)) == ['inference.yml', 'm.onnx']
    model = onnx.load(str(path))
    assert model.opset_import[0].version == 13 and export_onnx.parser().get_default('opset') == 17
    for value, name in ((model.graph.input[0], 'image'), (model.graph.output[0], 'scores')):
        assert value.name == name and value.type.tensor_type.shape.dim[0].dim_param == 'batch'
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for batch in (1, 4):
        inputs = random_images(batch)
        expected = paddle.nn.functional.softmax(random_model()(paddle.to_tensor(inputs))).numpy()
        (got,) = session.run(None, {'image': inputs})
        assert np.abs(got - expected).max() <= 5e-5 * np.abs(expected).max()
    flags = ['--input_size', 32, *AS_EXPORTED]
    predicted = records(run(predict, *MODEL, *AS_EXPORTED, '--resume', ckpt, '--infer_imgs', images))
    for engine in ('onnxruntime', 'openvino'):
        if importlib.util.find_spec(engine):
            argv = ['--model_file', path, '--input_file', images, '-b', 3, '--engine', engine, *flags]
            assert_agree(records(run(infer, *argv)), predicted)


def test_what_differs_from_the_model_is_not_written(libraries, refused, ckpt, tmp_path, monkeypatch):
    outputs = export.random_outputs
    monkeypatch.setattr(export, 'random_outputs', lambda model: [(x, y * 1.001) for x, y in outputs(model)])
    line = refused(export_onnx, *MODEL, '--resume', ckpt, '--output', tmp_path / 'out' / 'm.onnx')
    assert 'm.onnx: differs from the model' in line and os.listdir(tmp_path / 'out') == []


def test_the_benchmark_of_engines_runs(libraries, monkeypatch, capsys, tmp_path):
    """Without int8: tests/test_quantize.py makes such models."""
    scripts = {'test_tipc/seed_weights.py': seed_weights, 'export_model.py': export_model}
    scripts['tools/export_onnx.py'] = export_onnx

    def in_this_process(command, **_):
        script = scripts.get(command[1])
        if script is None:
            return SimpleNamespace(returncode=1, stdout='tools/quantize.py: not in this test')
        return SimpleNamespace(returncode=execute(script, *command[2:]))

    wanted = ['onnxruntime fp32', 'onednn fp32'] + ['openvino fp32'] * (
        importlib.util.find_spec('openvino') is not None
    )
    flags = '--model lvvit_nano --input_size 32 --batch_size 2 --threads 1 --rounds 2 --repeat 3'.split()
    flags += ['--json', str(tmp_path / 'rows.json'), '--engines', 'openvino int8, bf16', *wanted]
    has_matplotlib = importlib.util.find_spec('matplotlib') is not None
    flags += ['--png', str(tmp_path / 'rows.png')] * has_matplotlib
    monkeypatch.setattr(inference.subprocess, 'run', in_this_process)
    inference.main(inference.parser().parse_args(flags))
    out, err = capsys.readouterr()
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert [row['engine'] for row in rows] == wanted and 'openvino int8, bf16: left out' in err
    for row in rows:
        assert f'| 2 | {row["engine"]} | {row["p50"]:.1f} |' in out
        assert 0 < row['p50'] <= row['p95'] and row['memory'] > 0 and row['n'] == 6
        assert row['difference'] < 1e-4, 'the same outputs'
    assert rows[0]['ratio'] == 1 and (tmp_path / 'rows.png').exists() == has_matplotlib
