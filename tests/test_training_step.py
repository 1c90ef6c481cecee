"""benchmarks/training_step.py says where the time of a training step goes."""

import re

import paddle
import pytest
from conftest import TINY_RUN, words

import engine
from benchmarks import training_step


@pytest.fixture
def flags(scenes, tiny, monkeypatch):
    for owner, name in ((paddle.Tensor, 'backward'), (engine, 'batch_targets')):  # which it replaces
        monkeypatch.setattr(owner, name, getattr(owner, name))
    return words(
        TINY_RUN, '--mixup 0 --cutmix 0 --model_ema --data_path', scenes, '--token_label_data', scenes / 'label_maps'
    )


def test_the_parts_of_a_step_are_all_of_it(flags, run, tmp_path):
    result = run(training_step, *flags, '--token_label', '--steps', 2, '--output_dir', tmp_path / 'none')
    assert result.code == 0, result.err
    assert not (tmp_path / 'none').exists(), 'nothing is saved'
    rows = {name: float(ms) for name, ms in re.findall(r'^\| (.+?) \| ([\d.]+) \|', result.out, re.M)}
    assert set(rows) == {*training_step.STAGES, 'the rest', 'all'}
    assert abs(rows.pop('all') - sum(rows.values())) < 0.5
    assert all(rows[part] > 0 for part in ('targets', 'forward', 'loss', 'backward', 'optimizer', 'moving average'))


def test_more_steps_than_an_epoch_has_are_refused(flags, refused):
    assert '--steps 3: an epoch has 5 steps' in refused(training_step, *flags, '--token_label', '--steps', 3)
