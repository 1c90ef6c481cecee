"""util/deploy/benchmark.py and --enable_benchmark: AutoLog's report, or a table of our own."""

import re
import sys
import types

import numpy as np
import pytest
from inference_helpers import as_exported, records

import infer
from util.deploy import benchmark, predictor, records as records_module

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version


@pytest.fixture
def no_auto_log(monkeypatch):
    monkeypatch.setitem(sys.modules, 'auto_log', None)


@pytest.fixture
def auto_log(monkeypatch):
    """A stand-in with AutoLog's interface, whose report ends the program; it notes what it is given."""

    class Times:
        def __init__(self):
            self.calls = []

        def start(self):
            self.calls.append('start')

        def stamp(self):
            self.calls.append('stamp')

        def end(self, stamp=False):
            self.calls.append(f'end {stamp}')

    class AutoLogger:
        made = []

        def __init__(self, model_name, model_precision, batch_size, data_shape, save_path, **others):
            named = {'inference_config', 'pids', 'process_name', 'gpu_ids', 'time_keys', 'warmup'}
            assert set(others) == named and others['inference_config'].cpu_math_library_num_threads() > 0
            self.given = (model_name, model_precision, batch_size, data_shape, others['gpu_ids'], others['warmup'])
            self.keys, self.times = others['time_keys'], Times()
            AutoLogger.made.append(self)

        def report(self):
            print('AUTOLOG REPORT')
            sys.exit(0)

    module = types.ModuleType('auto_log')
    module.AutoLogger = AutoLogger
    monkeypatch.setitem(sys.modules, 'auto_log', module)
    return AutoLogger


def field(out, name):
    (value,) = re.findall(rf'(?:^|[\] ]){re.escape(name)}: ([^,\n]*)', out, re.M)
    return value


def test_own_report(run, images, exported, no_auto_log):
    argv = [*as_exported(exported), '--input_file', images, '-b', 2, '--engine', 'onednn', '--cpu_threads', 1]
    result = run(infer, *argv, '--enable_benchmark', 'True')
    assert len(records(result)) == 5 and result.out.index("'class_ids'") < result.out.index('Inference benchmark')
    expected = dict(model_name='lvvit_nano', model_precision='fp32', batch_size='2', data_num='5', engine='onednn')
    assert {name: field(result.out, name) for name in expected} == expected
    assert 'data_shape: 3,32,32' in result.out and field(result.out, 'cpu_threads') == '1'
    for name in ('cpu_rss(MB)', 'total time spent(s)', *(f'{stage}(ms)' for stage in benchmark.STAGES)):
        assert float(field(result.out, name)) > 0
    stages = ', '.join(rf'{name}\(ms\): [\d.]+' for name in benchmark.STAGES)
    assert re.search(rf'\] {stages}$', result.out.splitlines()[-1])
    assert 'Inference benchmark' not in run(infer, *argv).out


def test_times_are_means_over_the_batches_of_each_stage(monkeypatch, capsys):
    clock = iter([0.0, 0.010, 0.060, 0.061, 5.0, 5.030, 5.100, 5.103])  # two batches: start, two stamps, end
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: next(clock))
    timer = benchmark.Timer()
    for _ in range(2):
        timer.start()
        timer.stamp()
        timer.stamp()
        timer.end()
    timer.report()
    out = capsys.readouterr().out
    stages = [float(field(out, f'{name}(ms)')) for name in benchmark.STAGES]
    assert stages == pytest.approx([20, 60, 2]) and float(field(out, 'total time spent(s)')) == pytest.approx(0.164)


def test_warm_up_comes_first_and_then_one_stage_after_another(run, images, exported, no_auto_log, monkeypatch):
    events = []
    call, best, convert = predictor.Predictor.__call__, records_module.best_classes, infer.EvalTransform.__call__

    def noted(event, function):
        def wrapped(*args, **kwargs):
            events.append(event if event != 'run' else f'run {len(args[1])}')
            return function(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(predictor.Predictor, '__call__', noted('run', call))
    monkeypatch.setattr(records_module, 'best_classes', noted('record', best))
    monkeypatch.setattr(infer.EvalTransform, '__call__', noted('decode', convert))
    argv = [*as_exported(exported), '--input_file', images, '-b', 2, '--engine', 'onednn']
    assert run(infer, *argv, '--enable_benchmark', 'True').code == 0
    assert sorted(events[:6]) == ['run 1'] * 3 + ['run 2'] * 3
    whole = ['decode', 'decode', 'run 2', 'record']
    assert events[6:] == [*whole, *whole, 'decode', 'run 1', 'record']


def test_with_autolog_its_report_comes_after_the_results(run, images, exported, auto_log, tmp_path):
    argv = [*as_exported(exported), '--input_file', images, '-b', 2, '--save_json', tmp_path / 'r.json']
    result = run(infer, *argv, '--enable_benchmark', 'True')
    assert len(records(result)) == 5 and (tmp_path / 'r.json').exists()
    assert result.out.index("'class_ids'") < result.out.index('AUTOLOG REPORT')
    assert 'Inference benchmark' not in result.out
    (logger,) = auto_log.made
    assert logger.given == ('lvvit_nano', 'fp32', 2, '3,32,32', None, 0) and logger.keys == list(benchmark.STAGES)
    assert logger.times.calls == ['start', 'stamp', 'stamp', 'end True'] * 3


def test_autologs_exit_code_0_does_not_hide_bad_images(run, images, exported, auto_log, tmp_path):
    (tmp_path / 'bad.jpg').write_text('no image')
    argv = [*as_exported(exported), '--input_file', images, tmp_path / 'bad.jpg']
    result = run(infer, *argv, '--enable_benchmark', 'True')
    assert 'AUTOLOG REPORT' in result.out and result.code == 1 and '1 of 6 images could not be decoded' in result.err
    assert run(infer, *argv).code == 1 and len(auto_log.made) == 1, 'without the flag AutoLog is not asked'


def test_an_autolog_that_cannot_be_imported_is_said(run, images, exported, monkeypatch, tmp_path):
    (tmp_path / 'auto_log.py').write_text('import distutils_that_is_gone')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'auto_log', raising=False)
    result = run(infer, *as_exported(exported), '--input_file', images / 'a.jpg', '--enable_benchmark', 'True')
    assert "auto_log cannot be imported (No module named 'distutils_that_is_gone')" in result.out
    assert 'Inference benchmark' in result.out


def test_a_report_without_a_single_batch(capsys):
    benchmark.Timer().report()
    assert np.isfinite(float(field(capsys.readouterr().out, 'inference_time(ms)')))
