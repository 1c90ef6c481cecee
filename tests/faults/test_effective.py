"""effective.py: its arithmetic, and a training that is killed."""

import os
import sys

import pytest

pytest.importorskip('sklearn')  # the data
if not os.path.isdir('/proc/self'):
    pytest.skip('processes are watched through /proc', allow_module_level=True)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import effective
from effective import Life, Result


def test_a_kill_loses_the_steps_that_the_next_start_to_train_does_again():
    lives = [
        Life(0, 27),  # killed after step 27; the checkpoint was of step 20
        Life(None, None),  # killed while it started
        Life(20, 45),  # killed at once after the save of step 45
        Life(45, 59),  # killed after step 60, before its line was printed
        Life(60, 60),
    ]
    lost = effective.steps_lost(lives)
    assert lost == [7, 0, 0, 0]
    row = Result(every=10, undisturbed=60.0, seconds=80.0, lost=lost, steps=700)
    assert effective.table([row]).splitlines()[-1] == '| 10 s | 4 | 75.0 % | 1.8 | 7 | 1.0 % |'


def test_a_training_that_is_killed_ends_identical(tmp_path):
    course = effective.Course(tmp_path, epochs=3, steps_per_epoch=12, save_every=5)
    row = course.disturbed(5, iter([0.4 * course.undisturbed]))
    assert len(row.lost) == 1 and row.lost[0] <= 5 and row.steps == 36 and row.seconds > 0.4 * course.undisturbed
