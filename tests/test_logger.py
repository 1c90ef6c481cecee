"""util/logger.py: console lines, statistics that wait for nobody, and optional writers."""

import argparse
import re
import sys
import types

import numpy as np
import paddle
import pytest
from tqdm import tqdm

from util import logger
from util.errors import UserError


def test_a_smoothed_value_shows_the_median_of_the_window_and_the_mean_of_all():
    value = logger.SmoothedValue(window=3)
    for x in (100, 1, 2, 3):
        value.update(x)
    assert str(value) == '2.0000 (26.5000)' and value.mean == 26.5


def test_tensors_are_read_together_when_flushed_and_one_that_is_not_finite_is_named(monkeypatch):
    reads, stack = [], paddle.stack
    monkeypatch.setattr(paddle, 'stack', lambda tensors: reads.append(len(tensors)) or stack(tensors))
    meters = logger.MetricLogger()
    for value in (1.0, 2.0, 6.0):
        meters.update(loss=paddle.to_tensor(value))
    assert reads == [] and meters.means() == {'loss': 3.0} and reads == [3]
    for bad in ('nan', 'inf'):
        meters.update(loss=paddle.to_tensor(1.0))
        meters.update(loss=paddle.to_tensor(float(bad)))
        with pytest.raises(FloatingPointError, match=f'loss is {bad}'):
            meters.flush()


def test_progress_is_silent_for_what_is_quickly_done_and_has_an_eta_otherwise(capsys, monkeypatch):
    assert list(logger.progress([1, 2, 3], 'predict')) == [1, 2, 3]
    assert capsys.readouterr() == ('', '')
    monkeypatch.setattr(logger, 'tqdm', lambda items, **kwargs: tqdm(items, **{**kwargs, 'delay': 0, 'mininterval': 0}))
    assert list(logger.progress([1, 2, 3], 'predict')) == [1, 2, 3]
    assert re.search(r'predict: 2/3  eta: [\d:]+\n', capsys.readouterr().err)


def arguments(**flags):
    defaults = dict(log_visualdl='', log_wandb=False, wandb_entity=None, wandb_project=None)
    return argparse.Namespace(**{**defaults, **flags})


@pytest.mark.parametrize('module, flags', [('visualdl', {'log_visualdl': 'somewhere'}), ('wandb', {'log_wandb': True})])
def test_a_writer_that_is_not_installed_says_what_to_install(monkeypatch, module, flags):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f'pip install {module}'):
        logger.Writers(arguments(**flags))


def test_writers_pass_scalars_on_with_their_step_and_are_closed(monkeypatch):
    """Against stand-ins of the two libraries' interfaces."""
    seen = []

    visualdl = types.SimpleNamespace(
        add_scalar=lambda tag, value, step: seen.append(('visualdl', tag, value, step)),
        close=lambda: seen.append('visualdl closed'),
    )
    wandb = types.SimpleNamespace(
        init=lambda **kwargs: seen.append(('project', kwargs['project'])) or types.SimpleNamespace(id='run1'),
        log=lambda scalars, step: seen.append(('wandb', scalars, step)),
        finish=lambda: seen.append('wandb closed'),
    )
    monkeypatch.setitem(sys.modules, 'visualdl', types.SimpleNamespace(LogWriter=lambda logdir: visualdl))
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    writers = logger.Writers(arguments(log_visualdl='runs', log_wandb=True, wandb_project='digits'))
    assert writers.run_id == 'run1', 'what a checkpoint keeps so that the run can be continued'
    writers.write({'test_acc1': 97.5}, 80)
    writers.close()
    assert seen[0] == ('project', 'digits')
    assert seen[1:3] == [('visualdl', 'test_acc1', 97.5, 80), ('wandb', {'test_acc1': 97.5}, 80)]
    assert seen[3:] == ['visualdl closed', 'wandb closed']


def test_wandb_gets_the_scalars_of_a_step_by_the_ports_names_too(monkeypatch):
    seen = []
    wandb = types.SimpleNamespace(init=lambda **kwargs: None, log=lambda scalars, step: seen.append((scalars, step)))
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    writers = logger.Writers(arguments(log_wandb=True))
    writers.write({'train/loss': 2.0, 'train/norm': 0.5, 'epoch': 3}, 7)
    assert seen == [({'train/loss': 2.0, 'train/norm': 0.5, 'epoch': 3.0, 'loss': 2.0, 'norm': 0.5}, 7)]


def test_without_flags_nothing_is_written_or_imported(monkeypatch):
    for module in ('visualdl', 'wandb'):
        monkeypatch.setitem(sys.modules, module, None)
    logger.Writers(arguments()).write({'a': np.float32(1)}, 1)


def test_a_log_file_that_cannot_be_is_named(tmp_path):
    with pytest.raises(UserError, match='--log_file'):
        logger.log_to(str(tmp_path / 'nowhere' / 'run.log'))
