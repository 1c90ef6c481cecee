"""infer.py --enable_benchmark: a table of times."""

import re

import pytest
from inference_helpers import as_exported, records

import infer
from util.data.transforms import EvalTransform
from util.deploy import benchmark
from util.deploy.network import Network

pytest_plugins = 'inference_fixtures'


def field(out, name):
    (value,) = re.findall(rf'(?:^|[\] ]){re.escape(name)}: ([^,\n]*)', out, re.M)
    return value


@pytest.fixture
def timed(run, images, exported):
    """timed(flag, …): infer.py --enable_benchmark on five images, in batches of 2."""
    argv = [*as_exported(exported), '--input_file', images, '-b', 2, '--engine', 'onednn', '--cpu_threads', 1]
    return lambda *flags: run(infer, *argv, '--enable_benchmark', 'True', *flags)


def test_the_report_follows_the_records(timed):
    result = timed()
    assert len(records(result)) == 5 and result.out.index("'class_ids'") < result.out.index('Inference benchmark')
    expected = dict(model_name='lvvit_nano', model_precision='fp32', batch_size='2', data_num='5', engine='onednn')
    expected.update(cpu_threads='1', data_shape='3')
    assert {name: field(result.out, name) for name in expected} == expected and 'data_shape: 3,32,32' in result.out
    for name in ('cpu_rss(MB)', 'total time spent(s)', *(f'{stage}(ms)' for stage in benchmark.STAGES)):
        assert float(field(result.out, name)) > 0


def test_times_are_means_over_the_batches_of_each_stage(monkeypatch, capsys):
    clock = iter([0.0, 0.010, 0.060, 0.061, 5.0, 5.030, 5.100, 5.103])  # two batches: start, two stamps, end
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: next(clock))
    timer = benchmark.Timer({})
    for _ in range(2):
        timer.start()
        timer.stamp()
        timer.stamp()
        timer.end()
    timer.report()
    out = capsys.readouterr().out
    stages = [float(field(out, f'{name}(ms)')) for name in benchmark.STAGES]
    assert stages == pytest.approx([20, 60, 2]) and float(field(out, 'total time spent(s)')) == pytest.approx(0.164)
    benchmark.Timer({}).report()
    assert float(field(capsys.readouterr().out, 'inference_time(ms)')) == 0, 'no batch at all'


def test_the_warm_up_is_not_timed_and_each_stage_is_stamped_at_its_end(timed, monkeypatch):
    events = []

    def note(event, owner, name):
        function = getattr(owner, name)

        def noted(*args, **kwargs):
            events.append(event if event != 'run' else f'run {len(args[1])}')
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    note('run', Network, '__call__')
    note('record', benchmark, 'best_classes')
    note('decode', EvalTransform, 'load')
    for name in ('start', 'stamp', 'end', 'report'):
        note(name, benchmark.Timer, name)
    assert timed().code == 0
    assert sorted(events[:7]) == ['run 1'] * 4 + ['run 2'] * 3, 'one that checks the model, three of each batch size'
    whole = ['start', 'decode', 'decode', 'stamp', 'run 2', 'stamp', 'record', 'end', 'stamp']
    rest = ['start', 'decode', 'stamp', 'run 1', 'stamp', 'record', 'end', 'stamp']
    assert events[7:] == [*whole, *whole, *rest, 'report']
