"""util/train/lr_sched.py: warm-up, cosine, cool-down."""

import math

import pytest

from util.train.lr_sched import lr_at

RECIPE = dict(lr=1.6e-3, min_lr=1e-5, warmup_lr=1e-6, epochs=300, warmup_epochs=5)


@pytest.mark.parametrize(
    't, expected',
    [
        (0, 1e-6),  # warm-up: linear from warmup_lr to lr
        (2.5, (1e-6 + 1.6e-3) / 2),
        (4, 1e-6 + (1.6e-3 - 1e-6) * 0.8),
        (5, 1.6e-3),  # half a cosine over the remaining epochs
        (5 + 295 / 4, 1e-5 + 1.59e-3 * (1 + math.sqrt(0.5)) / 2),
        (152.5, (1.6e-3 + 1e-5) / 2),
        (5 + 295 * 3 / 4, 1e-5 + 1.59e-3 * (1 - math.sqrt(0.5)) / 2),
        *((t, 1e-5) for t in (300, 300.5, 309.99)),  # cool-down: min_lr
    ],
)
def test_each_part_follows_its_formula(t, expected):
    assert lr_at(t, **RECIPE) == pytest.approx(expected, rel=1e-12)


def test_in_epochs_holds_the_rate_of_the_beginning_of_each_epoch():
    for t in (2.9, 279.5, 299.99):
        assert lr_at(t, **RECIPE, in_epochs=True) == lr_at(int(t), **RECIPE) != lr_at(t, **RECIPE)
