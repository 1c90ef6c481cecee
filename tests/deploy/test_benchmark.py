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
    """A stand-in with AutoLog's interface, whose report ends the program: the list of the loggers made of it."""
    made = []

    class AutoLogger:
        def __init__(self, **given):
            self.given, self.calls, self.times = given, [], self
            made.append(self)

        def start(self):
            self.calls.append('start')

        def stamp(self):
            self.calls.append('stamp')

        def end(self, stamp=False):
            self.calls.append(f'end {stamp}')

        def report(self):
            print('AUTOLOG REPORT')
            sys.exit(0)

    monkeypatch.setitem(sys.modules, 'auto_log', types.SimpleNamespace(AutoLogger=AutoLogger))
    return made


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


def test_warm_up_comes_first_untimed_and_then_each_stage_is_stamped_when_it_is_over(
    run, images, exported, no_auto_log, monkeypatch
):
    events = []

    def note(event, owner, name):
        function = getattr(owner, name)

        def noted(*args, **kwargs):
            events.append(event if event != 'run' else f'run {len(args[1])}')
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    note('run', predictor.Predictor, '__call__')
    note('record', records_module, 'best_classes')
    note('decode', infer.EvalTransform, 'load')
    for name in ('start', 'stamp', 'end', 'report'):
        note(name, benchmark.Timer, name)
    argv = [*as_exported(exported), '--input_file', images, '-b', 2, '--engine', 'onednn']
    assert run(infer, *argv, '--enable_benchmark', 'True').code == 0
    assert sorted(events[:6]) == ['run 1'] * 3 + ['run 2'] * 3, 'three of each batch size, and no clock runs'
    whole = ['start', 'decode', 'decode', 'stamp', 'run 2', 'stamp', 'record', 'end', 'stamp']
    rest = ['start', 'decode', 'stamp', 'run 1', 'stamp', 'record', 'end', 'stamp']
    assert events[6:] == [*whole, *whole, *rest, 'report']


def test_with_autolog_its_report_comes_after_the_results_and_does_not_hide_bad_images(
    run, images, exported, auto_log, tmp_path
):
    (tmp_path / 'bad.jpg').write_text('no image')
    argv = [*as_exported(exported), '--input_file', images, tmp_path / 'bad.jpg', '-b', 2]
    assert run(infer, *argv).code == 1 and not auto_log, 'without the flag AutoLog is not asked'
    result = run(infer, *argv, '--enable_benchmark', 'True')
    assert result.code == 1 and '1 of 6 images could not be decoded' in result.err
    assert result.out.index("'class_ids'") < result.out.index('AUTOLOG REPORT')
    assert 'Inference benchmark' not in result.out
    (logger,) = auto_log
    expected = dict(model_name='lvvit_nano', model_precision='fp32', batch_size=2, data_shape='3,32,32')
    expected.update(gpu_ids=None, warmup=0, time_keys=list(benchmark.STAGES))
    assert {name: logger.given[name] for name in expected} == expected
    assert logger.given['inference_config'].cpu_math_library_num_threads() > 0
    assert set(logger.given) - set(expected) == {'save_path', 'inference_config', 'pids', 'process_name'}
    assert logger.calls == ['start', 'stamp', 'stamp', 'end True'] * 3


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
