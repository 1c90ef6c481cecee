"""The fault suite in short: a few kills, the commonest mishaps, 500 steps of the soak. In full: run.py and soak.py."""

import os
import sys

import numpy as np
import pytest

pytest.importorskip('sklearn')  # the data
if not os.path.isdir('/proc/self'):
    pytest.skip('processes are watched through /proc', allow_module_level=True)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import bench as undisturbed
import kills
import mishaps
import soak
import tiny


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    bench = undisturbed.Bench(tmp_path_factory.mktemp('faults'))
    bench.run_undisturbed()
    return bench


def test_a_run_that_is_ended_again_and_again_ends_as_one_that_was_left_alone(bench):
    once = [kills.ANY, 'SIGKILL during evaluation', 'SIGTERM, any instant of training', 'SIGKILL of a loader process']
    plan = {**dict.fromkeys(once, 1), 'SIGKILL during a save': 2}
    chains = kills.Chains(bench, plan, np.random.default_rng(0))
    rows = chains.run()
    assert not chains.failures
    for name, wanted in plan.items():
        assert rows[name].tried >= wanted and rows[name].survived == rows[name].tried, name
    assert max(rows['SIGTERM, any instant of training'].lost) == 0, 'it saves before it ends'
    assert max(max(row.lost) for row in rows.values()) <= tiny.SAVE_EVERY


@pytest.mark.parametrize('mishap', [mishaps.file_size_limit, mishaps.data_disappears])
def test_a_mishap_ends_the_run_in_one_line_and_it_goes_on_from_its_checkpoint(bench, mishap):
    mishap(bench)


def test_memory_open_files_and_shared_memory_do_not_grow(tmp_path):
    # 100 kB kept in each step would be 100. Until step 200 loader processes still grow on a busy machine.
    soak.soak(tmp_path, steps=500, first=200, limit=50, slack=100)


@pytest.mark.parametrize('leak', [0.0, 100.0])  # MB per 1,000 steps
def test_a_leak_shows_in_the_slope(leak):
    steps = np.arange(25, 1000, 50)
    noise = np.random.default_rng(0).normal(0, 3, len(steps))
    samples = [soak.Sample(step, 300 + leak / 1000 * step + n, 0, 0, 0) for step, n in zip(steps, noise)]
    rise, error = soak.slope(samples, 'own', 100)
    assert abs(rise - leak) < 3 * error < 30


def test_the_comparison_sees_a_single_bit():
    a = {'model': {'w': np.zeros(3, 'float32')}, 'epoch': 1}
    b = {'model': {'w': np.array([0, -0.0, 0], 'float32')}, 'epoch': 1}
    assert undisturbed.differences(a, a) == [] and undisturbed.differences(a, b) == ['/model/w']
    assert undisturbed.differences(a, {**a, 'epoch': True}) == ['/epoch'] and undisturbed.differences(a, {}) == ['']
