"""run.py --effective: its arithmetic, and a training that is killed twice."""

import os
import sys

import numpy as np
import pytest

pytest.importorskip('sklearn')  # the data
if not os.path.isdir('/proc/self'):
    pytest.skip('processes are watched through /proc', allow_module_level=True)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import effective
from effective import Life, Result
from processes import Failure


def test_a_kill_loses_the_steps_that_the_next_start_to_train_does_again():
    lives = [
        Life(0, 27),  # killed after step 27; the checkpoint was of step 20
        Life(None, None),  # killed while it started
        Life(20, 45),  # killed at once after the save of step 45
        Life(45, 45),  # killed before its first step
        Life(45, 60),
    ]
    assert effective.steps_lost(lives) == [7, 0, 0, 0]
    assert effective.steps_lost([Life(0, 60)]) == []


def test_a_step_whose_line_was_not_printed_any_more_is_no_negative_loss():
    assert effective.steps_lost([Life(0, 19), Life(20, 60)]) == [0]


def test_the_share_is_the_undisturbed_time_over_the_disturbed_time():
    row = Result(every=10, undisturbed=60.0, seconds=80.0, lost=[3, 0, 6], steps=900)
    assert row.share == 0.75
    assert effective.table([row]).splitlines()[-1] == '| 10 s | 3 | 3 | 75.0 % | 3.0 | 6 | 1.0 % | bit-identical |'
    quiet = Result(every=40, undisturbed=60.0, seconds=60.0, lost=[], steps=900)
    assert effective.table([quiet]).splitlines()[-1] == '| 40 s | 0 | 0 | 100.0 % |  |  | 0.0 % | bit-identical |'


def test_kills_come_every_t_seconds_on_average_and_at_any_distance():
    waits = effective.intervals(20, np.random.default_rng(0))
    drawn = np.array([next(waits) for _ in range(10_000)])
    assert abs(drawn.mean() - 20) < 1 and abs(drawn.std() - 20) < 1.5 and drawn.min() < 0.1


@pytest.fixture(scope='module')
def course(tmp_path_factory):
    course = effective.Course(tmp_path_factory.mktemp('effective'), epochs=3, epoch=12, save_every=5)
    course.run_undisturbed()
    return course


def test_a_training_that_is_killed_twice_ends_with_the_same_bits(course, monkeypatch):
    compared, compare = [], course.compare
    monkeypatch.setattr(course, 'compare', lambda out: compared.append(out) or compare(out))
    waits = iter([0.6 * course.undisturbed, 0.6 * course.undisturbed])
    row = effective.disturbed(course, 5, waits)
    assert compared == ['every-5'], 'bit by bit, or Failure: test_faults.py'
    assert 1 <= len(row.lost) <= 2, 'a machine that is faster meanwhile may be through before the second'
    assert max(row.lost) <= 5 and row.steps == 36
    assert row.undisturbed == course.undisturbed and row.seconds > 0.6 * course.undisturbed


def test_a_training_that_does_not_get_on_is_given_up(course, monkeypatch):
    monkeypatch.setattr(effective, 'PATIENCE', 0.3)
    with pytest.raises(Failure, match='every-1: at step'):
        effective.disturbed(course, 1, iter([0.35 * course.undisturbed]))
