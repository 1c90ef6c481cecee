"""infer.py: the records of predict.py, the engine that the flags ask for, and what it refuses."""

import ast
import json
import os
import re

import numpy as np
import paddle
import pytest
import yaml
from inference_helpers import AS_EXPORTED, FORMATS, MODEL, PADDLE_3, WORDS, as_exported, assert_agree, records

import infer
import predict
from util import files
from util.deploy import calibration, predictor

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version

ON_CPU = not predictor.gpu_is_there()


def engine_used(result):
    assert result.code == 0, result.err
    return re.search(r'Paddle Inference \S+, (\w+) \((.*)\), (\w+), (\d+) CPU thread', result.out).groups()


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('batch_size', [1, 3, 16])
def test_predict_and_infer_agree(run, ckpt, images, exported, label_list, kind, batch_size):
    expected = records(
        run(
            predict,
            *MODEL,
            *AS_EXPORTED,
            '--resume',
            ckpt,
            '--infer_imgs',
            images,
            '--topk',
            10,
            '--label_list',
            label_list,
        )
    )
    assert_agree(
        records(
            run(infer, *as_exported(exported, kind), '--input_file', images, '--topk', 10, '--batch_size', batch_size)
        ),
        expected,
    )


def test_settings_travel_with_the_model_and_flags_override_them(run, ckpt, images, exported, tmp_path):
    def inferred(*flags):
        return records(run(infer, *as_exported(exported), '--input_file', images, '--topk', 10, *flags))

    def predicted(*flags):
        return records(run(predict, *MODEL, '--resume', ckpt, '--infer_imgs', images, '--topk', 10, *flags))

    assert {tuple(sorted(r['label_names'])) for r in inferred()} == {tuple(sorted(WORDS))}
    flags = ['--crop_pct', 1, '--interpolation', 'nearest']
    other = tmp_path / 'names.txt'
    other.write_text(''.join(f'{i} class {i}\n' for i in range(10)))
    flags += ['--label_list', other]
    assert_agree(inferred(*flags), predicted(*flags))
    assert inferred(*flags)[0]['scores'] != inferred()[0]['scores']
    settings = yaml.safe_load((exported / 'inference.yml').read_text())
    (tmp_path / 'other.yml').write_text(yaml.safe_dump({**settings, 'crop_pct': 1.0, 'interpolation': 'nearest'}))
    moved = inferred('--config', tmp_path / 'other.yml')
    assert_agree([{**r, 'label_names': ''} for r in moved], [{**r, 'label_names': ''} for r in inferred(*flags)])


# ---- engines


@pytest.mark.parametrize(
    'flags, engine',
    [
        (['--enable_mkldnn', 'True'], 'onednn'),
        (['--enable_mkldnn', 'False'], 'paddle'),
        (['--ir_optim', 'False'], 'onednn'),
        (['--engine', 'paddle'], 'paddle'),
        (['--engine', 'onednn', '--enable_mkldnn', 'False'], 'onednn'),
    ],
)
def test_a_given_engine_is_the_one_that_runs(run, images, exported, flags, engine):
    usual = run(infer, *as_exported(exported), '--input_file', images)
    result = run(infer, *as_exported(exported), '--input_file', images, '--cpu_threads', 1, *flags)
    assert engine_used(result)[0] == engine and engine_used(result)[2:] == ('fp32', '1')
    assert_agree(records(result), records(usual))


@pytest.mark.skipif(not hasattr(paddle.inference.Config, 'enable_openvino_engine'), reason='a Paddle without OpenVINO')
def test_openvino(run, infer_with, refused, images, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual = run(infer, *as_exported(exported), '--input_file', images, '--engine', 'paddle')
    for flags in (['--use_openvino', 'True'], ['--engine', 'openvino'], ['--use_openvino', 'True', '-b', 4]):
        result = run(infer, *as_exported(exported), '--input_file', images, *flags)
        assert engine_used(result)[0] == 'openvino'
        assert_agree(records(result), records(usual))
    assert os.listdir(tmp_path) == [], 'OpenVINO leaves no compiled model behind'
    assert '--ir_optim False: OpenVINO needs' in infer_with('--use_openvino', 'True', '--ir_optim', 'False')
    line = refused(infer, *as_exported(exported, 'json'), '--input_file', images, '--use_openvino', 'True')
    assert 'OpenVINO takes .pdmodel only' in line and '--format pdmodel' in line


@pytest.mark.skipif(hasattr(paddle.inference.Config, 'enable_openvino_engine'), reason='a Paddle with OpenVINO')
def test_openvino_is_refused_where_it_is_not(infer_with):
    assert '--engine openvino: not in this build' in infer_with('--use_openvino', 'True')


@pytest.mark.parametrize('kind', FORMATS)
def test_bfloat16_where_the_processor_has_it(run, infer_with, images, exported, kind, monkeypatch):
    flags = [*as_exported(exported, kind), '--input_file', images, '--precision', 'bf16']
    if predictor.bf16_is_there():
        exact = records(run(infer, *flags[:-2]))
        for engine in predictor.cpu_engines(str(exported / f'model.{kind}'), 'bf16'):
            result = run(infer, *flags, '--engine', engine)
            assert 'bf16: outputs differ' in result.out
            for a, b in zip(records(result), exact):
                assert a['class_ids'][0] == b['class_ids'][0]
                assert max(a['scores']) == pytest.approx(max(b['scores']), abs=0.02)
    assert 'not with --precision bf16' in infer_with('--precision', 'bf16', '--engine', 'paddle')
    monkeypatch.setattr(predictor, 'bf16_is_there', lambda: False)
    assert 'no avx512_bf16' in infer_with('--precision', 'bf16')


def test_auto_measures_once_and_remembers_beside_the_model(run, images, exported, tmp_path, monkeypatch):
    flags = as_exported(_copy(exported, tmp_path))
    first = run(infer, *flags, '--input_file', images)
    engine, why, *_ = engine_used(first)
    assert 'measured now, remembered' in why and engine in why
    memory = json.loads((tmp_path / calibration.MEMORY).read_text())
    ((key, times),) = memory['model.pdmodel']['ms'].items()
    assert min(times, key=times.get) == engine and 'paddle' in times and 'onednn' in times
    assert 'batch 1' in key and paddle.__version__ in key

    monkeypatch.setattr(calibration, 'measure', None)  # must not be needed again
    again = run(infer, *flags, '--input_file', images)
    assert engine_used(again)[0] == engine and 'as measured before' in engine_used(again)[1]
    assert_agree(records(again), records(first))


def test_auto_believes_the_memory_only_for_the_same_files_batch_and_threads(run, images, exported, tmp_path):
    flags = [*as_exported(_copy(exported, tmp_path)), '--input_file', images, '--cpu_threads', 1]

    def remembered():
        return json.loads((tmp_path / calibration.MEMORY).read_text())['model.pdmodel']['ms']

    run(infer, *flags, '-b', 2)
    run(infer, *flags, '-b', 3)
    run(infer, *flags, '-b', 3, '--cpu_threads', 2)
    assert len(remembered()) == 3
    memory = json.loads((tmp_path / calibration.MEMORY).read_text())
    for times in memory['model.pdmodel']['ms'].values():
        times['paddle'] = 0.001
    (tmp_path / calibration.MEMORY).write_text(json.dumps(memory))
    assert engine_used(run(infer, *flags, '-b', 2))[0] == 'paddle', 'what is remembered decides'
    content = (tmp_path / 'model.pdmodel').read_bytes()
    (tmp_path / 'model.pdmodel').unlink()
    (tmp_path / 'model.pdmodel').write_bytes(content)
    assert 'measured now' in engine_used(run(infer, *flags, '-b', 2))[1]
    assert len(remembered()) == 1, 'what was known of other files is dropped'


@pytest.mark.skipif(not PADDLE_3, reason='the format of Paddle 3')
def test_both_formats_in_one_folder_are_remembered(run, images, exported, tmp_path):
    (tmp_path / 'model.json').write_bytes((exported / 'model.json').read_bytes())
    _copy(exported, tmp_path)
    for when in ('measured now', 'as measured before'):
        for kind in FORMATS:
            result = run(infer, *as_exported(tmp_path, kind), '--input_file', images / 'a.jpg')
            assert when in engine_used(result)[1]


@pytest.mark.parametrize('text', ['', '{', '[]', '{"model.pdmodel": 1}', 'null', '{"model.pdmodel": {"files": 1}}'])
def test_a_damaged_memory_is_measured_anew(run, images, exported, tmp_path, text):
    flags = as_exported(_copy(exported, tmp_path))
    (tmp_path / calibration.MEMORY).write_text(text)
    assert 'measured now' in engine_used(run(infer, *flags, '--input_file', images / 'a.jpg'))[1]


def test_a_folder_that_cannot_be_written_to_costs_the_memory_only(run, images, exported, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(files.tempfile, 'mkstemp', refuse)
    result = run(infer, *as_exported(_copy(exported, tmp_path)), '--input_file', images / 'a.jpg')
    assert engine_used(result)[1].endswith('measured now') and not (tmp_path / calibration.MEMORY).exists()


def test_an_engine_that_is_fast_but_wrong_or_fails_is_not_picked():
    from util.errors import UserError

    def make(engine):
        if engine == 'fails':
            raise UserError('does not load')
        return lambda images: images + (1.0 if engine == 'wrong' else 0.0)

    times, refused = calibration.measure(make, ['fails', 'right', 'wrong'], np.ones((1, 4), 'float32'), 1e-3)
    assert list(times) == ['right'] and set(refused) == {'fails', 'wrong'}
    assert refused['fails'] == 'does not load' and 'differs by' in refused['wrong']


def _copy(exported, folder):
    for name in ('model.pdmodel', 'model.pdiparams', 'inference.yml'):
        (folder / name).write_bytes((exported / name).read_bytes())
    return folder


# ---- what cannot be


@pytest.mark.skipif(not ON_CPU, reason='a GPU')
def test_a_gpu_that_is_not_there_is_said_once(run, images, exported):
    result = run(infer, *as_exported(exported)[:-2], '--input_file', images)
    assert result.code == 0 and result.out.count('running on the CPU') == 1
    assert 'running on the CPU' not in run(infer, *as_exported(exported), '--input_file', images).out


@pytest.mark.skipif(not ON_CPU, reason='a GPU')
def test_what_this_machine_cannot_do_is_refused(infer_with, exported):
    assert f'--precision int8: {exported / "model.pdmodel"} is not calibrated' in infer_with('--precision', 'int8')
    assert '--precision fp16 needs a GPU' in infer_with('--precision', 'fp16')
    assert '--use_tensorrt needs a GPU' in infer_with('--use_tensorrt', 'True')


def test_a_gpu_build_without_tensorrt_says_so(infer_with, monkeypatch):
    monkeypatch.setattr(predictor, 'gpu_is_there', lambda: True)
    monkeypatch.setattr(predictor.inference, 'get_trt_compile_version', lambda: (0, 0, 0))
    assert 'was built without TensorRT' in infer_with('--use_tensorrt', 'True')


@pytest.mark.parametrize(
    'text', ['', 'just text', '- 1\n- 2\n', 'input_size: 32\n', '{', 'model: !!python/object/apply:os.system [true]\n']
)
def test_settings_that_export_did_not_write_are_named(infer_with, tmp_path, text):
    (tmp_path / 'inference.yml').write_text(text)
    line = infer_with('--config', tmp_path / 'inference.yml')
    assert f'{tmp_path / "inference.yml"}: not ' in line and 'export_model.py writes' in line


def test_settings_that_do_not_fit_the_model_are_named(infer_with, exported, tmp_path):
    settings = yaml.safe_load((exported / 'inference.yml').read_text())

    def line(**changes):
        (tmp_path / 'inference.yml').write_text(yaml.safe_dump({**settings, **changes}))
        return infer_with('--config', tmp_path / 'inference.yml')

    assert '10 label_names for 12 classes' in line(nb_classes=12)
    assert 'gives 10 classes, inference.yml says 3' in line(nb_classes=3, label_names={})
    assert 'takes images [3, 32, 32], not [3, 48, 48]' in line(input_size=48)
    assert 'exported with --precision fp16' in line(precision='fp16') or not ON_CPU
    assert '--input_size 64: the model was exported for 32' in infer_with('--input_size', 64)


@pytest.mark.skipif(PADDLE_3, reason='the format of Paddle 3')
def test_paddle_2_refuses_json(refused, exported, images):
    (exported / 'model.json').write_text('{}')
    line = refused(infer, *as_exported(exported, 'json'), '--input_file', images)
    assert 'reads .pdmodel only' in line and '--format pdmodel' in line


def test_results_are_one_line_of_python(run, images, exported):
    lines = run(infer, *as_exported(exported), '--input_file', images / 'a.jpg').out.splitlines()
    (record,) = ast.literal_eval(lines[-1])
    assert set(record) == {'class_ids', 'scores', 'file_name', 'label_names'}
