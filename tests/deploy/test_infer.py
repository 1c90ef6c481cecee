"""infer.py: the records of predict.py, the engine that the flags ask for, and exports without inference.yml."""

import os
import re
import shutil

import numpy as np
import paddle
import pytest
import yaml
from inference_helpers import AS_EXPORTED, FORMATS, MODEL, WORDS, as_exported, assert_agree, records

import infer
import predict
from util.deploy import engines, export, paddle_engine

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version

ON_CPU = not paddle_engine.has_gpu()
OPENVINO = paddle_engine.has_openvino()


def engine_used(result):
    assert result.code == 0, result.err
    return re.search(r'Paddle Inference \S+, (\w+) \((.*)\), (\w+), (\d+) CPU thread', result.out).groups()


@pytest.fixture
def inferred(run, images, exported):
    """inferred(flag, …) -> records of the images."""
    return lambda *flags: records(run(infer, *as_exported(exported), '--input_file', images, '--topk', 10, *flags))


@pytest.fixture
def predicted(run, images, ckpt):
    """predicted(flag, …) -> records of the images."""
    given = [*MODEL, '--resume', ckpt, '--infer_imgs', images, '--topk', 10]
    return lambda *flags: records(run(predict, *given, *flags))


# ---- records and settings


@pytest.mark.parametrize('kind', FORMATS)
def test_predict_and_infer_agree_at_every_batch_size(run, predicted, images, exported, label_list, kind):
    expected = predicted(*AS_EXPORTED, '--label_list', label_list)
    for batch_size in (1, 3, 16):
        argv = [*as_exported(exported, kind), '--input_file', images, '--topk', 10, '-b', batch_size]
        assert_agree(records(run(infer, *argv)), expected)
    assert_agree(predicted(*AS_EXPORTED, '--label_list', label_list, '-b', 3), expected)


@pytest.mark.parametrize('benchmark', [False, True])
def test_outputs_that_are_not_finite_are_an_error_that_names_the_image(refused, images, exported, tmp_path, benchmark):
    shutil.copytree(exported, tmp_path / 'x', ignore=shutil.ignore_patterns('*.yml'))
    with open(tmp_path / 'x' / 'model.pdiparams', 'r+b') as f:
        f.seek(-4, os.SEEK_END)  # a weight
        f.write(np.float32(np.nan).tobytes())
    flags = ['--input_file', images / 'sub' / 'b.PNG', '--input_size', 32, '--save_json', tmp_path / 'records.json']
    line = refused(infer, *as_exported(tmp_path / 'x'), *flags, '--enable_benchmark', benchmark)
    assert 'b.PNG' in line and 'not finite' in line and not (tmp_path / 'records.json').exists()


def test_settings_travel_with_the_model_and_flags_override_them(inferred, predicted, exported, tmp_path):
    assert {tuple(sorted(r['label_names'])) for r in inferred()} == {tuple(sorted(WORDS))}
    other = tmp_path / 'names.txt'
    other.write_text(''.join(f'{i} class {i}\n' for i in range(10)))
    flags = ['--crop_pct', 1, '--interpolation', 'nearest', '--label_list', other]
    assert_agree(inferred(*flags), predicted(*flags))
    assert inferred(*flags)[0]['scores'] != inferred()[0]['scores']
    settings = yaml.safe_load((exported / 'inference.yml').read_text())
    settings.update(crop_pct=1.0, interpolation='nearest', mean=[0, 0, 0], std=[1, 2, 3])
    (tmp_path / 'other.yml').write_text(yaml.safe_dump(settings))
    flags = ['--crop_pct', 1, '--interpolation', 'nearest', '--mean', 0, 0, 0, '--std', 1, 2, 3]
    assert inferred('-c', tmp_path / 'other.yml') == inferred(*flags) != inferred(*flags[:4])
    random, bicubic = inferred('--train_interpolation', 'random'), inferred('--interpolation', 'bicubic')
    assert random == bicubic != inferred('--train_interpolation', 'nearest')


def test_an_export_without_inference_yml(run, inferred, refused, images, exported, label_list, tmp_path):
    for name in ('model.pdmodel', 'model.pdiparams'):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    argv = [*as_exported(tmp_path), '--input_file', images, '--topk', 10]
    assert '3, 224, 224]' in refused(infer, *argv)
    result = run(infer, *argv, '--input_size', 32, *AS_EXPORTED, '--label_list', label_list)
    assert_agree(records(result), inferred())
    (line,) = [line for line in result.out.splitlines() if 'assumed' in line]
    assert '--input_size 32 --crop_pct 0.8 --interpolation bilinear --mean 0.485 0.456 0.406 --std 0.229' in line
    assert 'logits of 10 classes' in line
    changed = run(infer, *argv, '--input_size', 32, '--mean', 0.5, 0.5, 0.5, '--std', 0.5, 0.5, 0.5)
    assert '--crop_pct 0.9 --interpolation bicubic --mean 0.5 0.5 0.5' in changed.out
    assert records(changed)[0]['label_names'] == [str(i) for i in records(changed)[0]['class_ids']]


class Foreign(paddle.nn.Layer):
    """A network unlike LV-ViT: with `unbind`, which OpenVINO cannot read, 1000 classes and a softmax."""

    def __init__(self):
        super().__init__()
        paddle.seed(0)
        self.layer, self.img_size = paddle.nn.Linear(3, 2000), 224

    def forward(self, x):
        first, second = self.layer(x.mean([2, 3])).reshape([-1, 1000, 2]).unbind(axis=2)
        return paddle.nn.functional.softmax(first - second, axis=-1)


def test_a_foreign_export_runs_with_all_defaults(run, images, tmp_path):
    export.save_graph(Foreign(), str(tmp_path / 'model'), as_json=False)
    result = run(infer, *as_exported(tmp_path), '--input_file', images / 'a.jpg', '--topk', 1000)
    (record,) = records(result)
    assert engine_used(result)[0] == 'onednn' and ('going on with onednn' in result.out) == OPENVINO
    assert 'scores of 1000 classes' in result.out and 'tench, Tinca tinca' in record['label_names']
    assert sum(record['scores']) == pytest.approx(1, abs=5e-3)


# ---- engines


@pytest.mark.parametrize(
    'flags, engine, why',
    [
        ('', 'paddle_openvino' if OPENVINO else 'onednn', '--engine auto'),
        ('--enable_mkldnn False', 'paddle', '--enable_mkldnn False'),
        ('--ir_optim False', 'onednn', '--engine auto'),
        ('--engine paddle', 'paddle', '--engine paddle'),
        ('--engine onednn --enable_mkldnn False', 'onednn', '--engine onednn'),
    ],
)
def test_the_engine_that_runs_and_why(run, images, exported, inferred, flags, engine, why):
    before = set(os.listdir(exported))
    argv = [*as_exported(exported), '--input_file', images, '--topk', 10, '--cpu_threads', 1, *flags.split()]
    result = run(infer, *argv)
    assert engine_used(result) == (engine, why, 'fp32', '1')
    assert_agree(records(result), inferred('--engine', 'paddle'))
    assert records(run(infer, *argv)) == records(result) and set(os.listdir(exported)) == before


@pytest.mark.skipif(not OPENVINO, reason='a Paddle without OpenVINO')
def test_paddle_openvino(run, infer_with, refused, images, exported, inferred, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [*as_exported(exported), '--input_file', images, '--topk', 10, '-b', 4]
    result = run(infer, *argv, '--engine', 'paddle_openvino')
    assert engine_used(result)[0] == 'paddle_openvino'
    assert_agree(records(result), inferred('--engine', 'paddle'))
    assert os.listdir(tmp_path) == [], 'OpenVINO leaves no compiled model behind'
    old = run(infer, *argv, '--engine', 'openvino')
    assert records(old) == records(result) and 'now called paddle_openvino' in old.out
    assert '--ir_optim False' in infer_with('--engine', 'paddle_openvino', '--ir_optim', 'False')
    as_json = [*as_exported(exported, 'json'), '--input_file', images]
    assert engine_used(run(infer, *as_json))[0] == 'onednn'
    assert '--format pdmodel' in refused(infer, *as_json, '--engine', 'paddle_openvino')


@pytest.mark.skipif(OPENVINO, reason='a Paddle with OpenVINO')
def test_paddle_openvino_is_refused_where_it_is_missing(infer_with):
    assert '--engine paddle_openvino' in infer_with('--engine', 'paddle_openvino')


@pytest.mark.parametrize('kind', FORMATS)
def test_bfloat16_where_the_processor_has_it(run, infer_with, images, exported, kind, monkeypatch):
    argv = [*as_exported(exported, kind), '--input_file', images]
    if engines.has_bf16():
        exact = records(run(infer, *argv))
        for engine in paddle_engine.cpu_engines(str(exported / f'model.{kind}'), 'bf16'):
            result = run(infer, *argv, '--precision', 'bf16', '--engine', engine)
            assert 'bf16: outputs differ' in result.out
            for a, b in zip(records(result), exact):
                assert a['class_ids'][0] == b['class_ids'][0]
                np.testing.assert_allclose(max(a['scores']), max(b['scores']), atol=0.02)
    monkeypatch.setattr(engines, 'has_bf16', lambda: True)
    assert '--engine paddle' in infer_with('--precision', 'bf16', '--engine', 'paddle')
    monkeypatch.setattr(engines, 'has_bf16', lambda: False)
    assert 'no avx512_bf16' in infer_with('--precision', 'bf16')


# ---- refusals


@pytest.mark.skipif(not ON_CPU, reason='a GPU')
def test_a_machine_without_a_gpu_says_so(run, infer_with, images, exported):
    result = run(infer, *as_exported(exported)[:-2], '--input_file', images)
    assert result.code == 0 and result.out.count('running on the CPU') == 1
    assert 'running on the CPU' not in run(infer, *as_exported(exported), '--input_file', images).out
    assert '--precision fp16' in infer_with('--precision', 'fp16')
    assert '--use_tensorrt' in infer_with('--use_tensorrt', 'True')


def test_a_model_that_is_not_calibrated_and_another_input_size_are_refused(infer_with, exported):
    assert f'--precision int8: {exported / "model.pdmodel"}' in infer_with('--precision', 'int8')
    assert '--input_size 64: the model was exported for 32' in infer_with('--input_size', 64)


def test_with_a_gpu(infer_with, monkeypatch):
    monkeypatch.setattr(paddle_engine, 'has_gpu', lambda: True)
    monkeypatch.setattr(paddle_engine.inference, 'get_trt_compile_version', lambda: (0, 0, 0))
    assert 'built without TensorRT' in infer_with('--use_tensorrt', 'True')
    assert '--precision bf16 is for CPUs' in infer_with('--use_gpu', 'True', '--precision', 'bf16')
