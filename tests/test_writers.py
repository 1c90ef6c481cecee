"""util/writers.py: what a training gives to VisualDL (the real one) and to wandb (a stand-in)."""

import sys
import types

import numpy as np
import paddle
import pytest

import engine
import main
from util.writers import Writers


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that keeps the arguments of init in .begun and those of log in .logged."""
    module = types.SimpleNamespace(begun=[], logged=[], finish=lambda: module.logged.append('finished'))
    module.init = lambda **kwargs: module.begun.append(kwargs) or types.SimpleNamespace(id='abc')
    module.log = lambda scalars, step: module.logged.append((step, scalars))
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return module


def test_visualdl_can_read_the_scalars_of_a_training(train, tiny):
    import visualdl  # tests/requirements.txt

    folder = train.folder / 'scalars'
    train('--epochs 2 --print_freq 2 --log_visualdl', folder)
    (path,) = folder.iterdir()
    reader = visualdl.LogReader(file_path=str(path))
    read = {tag: {r.id: r.value for r in reader.get_data('scalar', tag)} for tag in reader.get_tags()['scalar']}
    names = 'train/loss train/lr train/norm train/images_per_second test/loss test/acc1 test/acc5 test/best_acc1'
    assert set(read) == set(names.split()), 'one name for each quantity; no chart of what never changes'
    assert list(read['train/loss']) == list(read['train/norm']) == [2, 4, 5, 7, 9, 10], 'the last step of an epoch too'
    for epoch, record in enumerate(train.log()):
        logged = {'test/acc1': 'test_acc1', 'test/loss': 'test_loss', 'test/best_acc1': 'best_acc1'}
        for name, key in {**logged, 'train/images_per_second': 'images_per_second', 'train/lr': 'train_lr'}.items():
            assert read[name][5 * (epoch + 1)] == pytest.approx(record[key], rel=1e-5), name


def test_wandb_receives_the_same_scalars_by_the_same_names(train, tiny, wandb):
    train('--epochs 2 --print_freq 5 --log_wandb --wandb_entity me --wandb_project digits --model_ema --model_ema_eval')
    (begun,) = wandb.begun
    assert (begun['entity'], begun['project'], begun['config']['model']) == ('me', 'digits', 'lvvit_nano')
    assert wandb.logged.pop() == 'finished'
    steps, epochs = wandb.logged[::2], wandb.logged[1::2]
    assert [step for step, _ in steps] == [step for step, _ in epochs] == [5, 10]
    assert all(set(scalars) == {'train/loss', 'train/lr', 'train/norm'} for _, scalars in steps)
    assert [scalars['test/acc1_ema'] for _, scalars in epochs] == [record['test_acc1_ema'] for record in train.log()]
    assert {'test/best_acc1', 'test/best_acc1_ema', 'train/images_per_second'} <= set(epochs[0][1])


def test_wandb_continues_the_same_run(train, tiny, wandb):
    train('--epochs 1 --log_wandb')
    train('--epochs 2 --log_wandb --resume auto')
    assert [begun['id'] for begun in wandb.begun] == [None, 'abc'] and wandb.begun[1]['resume'] == 'allow'


def test_a_wandb_run_that_does_not_start_is_one_line(train, tiny, wandb):
    def fail(**_):
        raise ConnectionError('run abc was deleted\nuse another id')

    train('--epochs 1 --log_wandb')
    wandb.init = fail
    line = train.refused('--epochs 2 --log_wandb --resume auto')
    assert '--log_wandb' in line and 'run abc was deleted use another id' in line and 'WANDB_MODE=offline' in line


@pytest.mark.parametrize('module, flag', [('visualdl', '--log_visualdl somewhere'), ('wandb', '--log_wandb')])
def test_a_writer_that_is_not_installed_is_an_error_before_data_and_model(train, monkeypatch, module, flag):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(main, 'new_train_loader', None)
    line = train.refused(flag)
    assert f'--log_{module}' in line and f'pip install {module}' in line and not (train.folder / 'run').exists()
    Writers().write({'a': 1.0}, 1)  # by default neither is imported


def test_without_writers_no_scalars_are_computed(train, tiny, monkeypatch):
    monkeypatch.setattr(engine, 'step_scalars', None)
    assert train('--print_freq 1').code == 0


class Scaler:
    """A stand-in for paddle.amp.GradScaler with a loss scale of 8."""

    def is_enable(self):
        return True

    def state_dict(self):
        return {'scale': np.array([8.0], 'float32')}

    def unscale_(self, optimizer):
        for p in optimizer:
            p.grad.set_value(p.grad / 8)


def test_the_norm_is_that_of_the_gradient_over_all_parameters_without_the_scale():
    model = paddle.nn.Linear(2, 2)
    (model(paddle.ones([1, 2])).sum() * 8).backward()  # gradients of 1, times the scale
    scalars = engine.step_scalars(paddle.ones([]), 0.1, model, model.parameters(), Scaler())
    assert float(scalars['train/norm']) == pytest.approx(6**0.5), 'four weights and two biases'
    assert (scalars['train/scale'], scalars['train/lr']) == (8.0, 0.1)
