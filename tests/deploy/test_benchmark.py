"""util/deploy/benchmark.py and --enable_benchmark: AutoLog's report, or ours with the same lines."""

import re
import sys
import time
import types

import pytest
from inference_helpers import as_exported, records

import infer
from util.deploy import benchmark, predictor

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version


class Config:
    """What a report asks of an inference.Config."""

    def __init__(self, gpu=False):
        self.gpu = gpu

    def use_gpu(self):
        return self.gpu

    def ir_optim(self):
        return True

    def tensorrt_engine_enabled(self):
        return False

    def mkldnn_enabled(self):
        return True

    def cpu_math_library_num_threads(self):
        return 3


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

        def __init__(
            self,
            model_name,
            model_precision,
            batch_size,
            data_shape,
            save_path,
            inference_config=None,
            pids=None,
            process_name=None,
            gpu_ids=None,
            time_keys=None,
            warmup=0,
            logger=None,
            **kwargs,
        ):
            assert not kwargs
            self.given = dict(
                model_name=model_name,
                model_precision=model_precision,
                batch_size=batch_size,
                warmup=warmup,
                gpu_ids=gpu_ids,
                time_keys=time_keys,
                config=inference_config,
            )
            self.times = Times()
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


def test_own_report_has_the_lines_of_autolog(run, images, exported, no_auto_log):
    result = run(
        infer,
        *as_exported(exported),
        '--input_file',
        images,
        '--enable_benchmark',
        'True',
        '-b',
        2,
        '--engine',
        'onednn',
        '--cpu_threads',
        1,
    )
    assert len(records(result)) == 5 and result.out.index("'class_ids'") < result.out.index('Inference benchmark')
    for heading in ('Env info', 'Paddle info', 'Conf info', 'Model info', 'Data info', 'Perf info'):
        assert re.search(rf'---- {heading} ----', result.out)
    expected = {
        'runtime_device': 'cpu',
        'ir_optim': 'True',
        'enable_memory_optim': 'True',
        'enable_tensorrt': 'False',
        'enable_mkldnn': 'True',
        'cpu_math_library_num_threads': '1',
        'model_name': 'lvvit_nano',
        'precision': 'fp32',
        'batch_size': '2',
        'data_num': '5',
        'gpu_rss(MB)': 'None',
        'gpu_util': 'None%',
    }
    assert {name: field(result.out, name) for name in expected} == expected
    assert 'input_shape: 3,32,32' in result.out
    for name in (
        'cpu_rss(MB)',
        'total time spent(s)',
        'preprocess_time(ms)',
        'inference_time(ms)',
        'postprocess_time(ms)',
    ):
        assert float(field(result.out, name)) > 0
    stages = ', '.join(rf'{name}\(ms\): [\d.]+' for name in benchmark.STAGES)
    assert re.search(rf'\] {stages}$', result.out.splitlines()[-1])


def test_times_are_means_over_the_batches_of_each_stage(monkeypatch):
    clock = iter([0.0, 0.010, 0.060, 0.061, 5.0, 5.030, 5.100, 5.103])  # two batches: start, two stamps, end
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: next(clock))
    timer = benchmark.Timer('m', 'fp32', 1, '3,32,32', 2, Config())
    for _ in range(2):
        timer.start()
        timer.stamp()
        timer.stamp()
        timer.end()
    text = '\n'.join(timer.lines())
    stages = [float(field(text, f'{name}(ms)')) for name in benchmark.STAGES]
    assert stages == pytest.approx([20, 60, 2]) and float(field(text, 'total time spent(s)')) == pytest.approx(0.164)


def test_warm_up_runs_come_first_and_do_not_count(run, images, exported, no_auto_log, monkeypatch):
    sizes = []
    call = predictor.Predictor.__call__

    def slow_at_first(self, batch):
        sizes.append(len(batch))
        if len(sizes) <= 6:
            time.sleep(0.3)
        return call(self, batch)

    monkeypatch.setattr(predictor.Predictor, '__call__', slow_at_first)
    result = run(
        infer,
        *as_exported(exported),
        '--input_file',
        images,
        '--enable_benchmark',
        'True',
        '-b',
        2,
        '--engine',
        'onednn',
    )
    assert sorted(sizes[:6]) == [1, 1, 1, 2, 2, 2] and sizes[6:] == [2, 2, 1]
    assert float(field(result.out, 'inference_time(ms)')) < 300


def test_with_autolog_its_report_comes_after_the_results(run, images, exported, auto_log, tmp_path):
    result = run(
        infer,
        *as_exported(exported),
        '--input_file',
        images,
        '--enable_benchmark',
        'True',
        '-b',
        2,
        '--save_json',
        tmp_path / 'r.json',
    )
    assert len(records(result)) == 5 and (tmp_path / 'r.json').exists()
    assert result.out.index("'class_ids'") < result.out.index('AUTOLOG REPORT')
    assert 'Inference benchmark' not in result.out
    (logger,) = auto_log.made
    assert logger.given.pop('config').cpu_math_library_num_threads() > 0
    assert logger.given == dict(
        model_name='lvvit_nano',
        model_precision='fp32',
        batch_size=2,
        warmup=0,
        gpu_ids=None,
        time_keys=['preprocess_time', 'inference_time', 'postprocess_time'],
    )
    assert logger.times.calls == ['start', 'stamp', 'stamp', 'end True'] * 3


def test_autologs_exit_code_0_does_not_hide_bad_images(run, images, exported, auto_log, tmp_path):
    (tmp_path / 'bad.jpg').write_text('no image')
    result = run(
        infer, *as_exported(exported), '--input_file', images, tmp_path / 'bad.jpg', '--enable_benchmark', 'True'
    )
    assert 'AUTOLOG REPORT' in result.out and result.code == 1 and 'cannot be decoded' in result.err


def test_an_autolog_that_cannot_be_imported_is_said(monkeypatch, tmp_path, capsys):
    (tmp_path / 'auto_log.py').write_text('import distutils_that_is_gone')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'auto_log', raising=False)
    assert isinstance(benchmark.create('m', 'fp32', 1, '3,32,32', 1, Config()), benchmark.Timer)
    assert "auto_log cannot be imported (No module named 'distutils_that_is_gone')" in capsys.readouterr().out


def test_without_the_flag_nothing_is_reported(run, images, exported, auto_log):
    result = run(infer, *as_exported(exported), '--input_file', images)
    assert 'inference_time' not in result.out and not auto_log.made
