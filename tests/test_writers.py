"""What a training hands to VisualDL and wandb: the real VisualDL, a stand-in for wandb."""

import sys
import types

import numpy as np
import paddle
import pytest

import engine

pytestmark = pytest.mark.usefixtures('tiny')


def test_visualdl_can_read_the_scalars_of_a_training_back(train):
    import visualdl  # tests/requirements.txt

    folder = train.folder / 'scalars'
    out = train('--epochs 2 --print_freq 2 --log_visualdl', folder).out
    (path,) = folder.iterdir()
    reader = visualdl.LogReader(file_path=str(path))
    read = {tag: {r.id: r.value for r in reader.get_data('scalar', tag)} for tag in reader.get_tags()['scalar']}
    assert list(read['train/loss']) == list(read['train/norm']) == [2, 4, 7, 9], 'optimizer steps'
    for epoch, record in enumerate(train.log()):
        for name in ('train_loss', 'test_acc1', 'test_loss', 'best_acc1'):
            assert read[name][5 * (epoch + 1)] == pytest.approx(record[name], rel=1e-5), name
    assert len([line for line in out.splitlines() if 'Epoch: [0]  [' in line]) == 3


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that keeps what it was given: calls of init in .begun, of log in .logged."""
    module = types.SimpleNamespace(begun=[], logged=[], finish=lambda: None)
    module.init = lambda **kwargs: module.begun.append(kwargs) or types.SimpleNamespace(id='abc')
    module.log = lambda scalars, step: module.logged.append((step, scalars))
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return module


def test_wandb_receives_what_the_port_gave_it(train, wandb):
    """Of a step the loss, its learning rate and the norm of the gradient; of an epoch all that log.txt has."""
    train('--epochs 2 --print_freq 5 --log_wandb --wandb_entity me --wandb_project digits --model_ema --model_ema_eval')
    (begun,) = wandb.begun
    assert (begun['entity'], begun['project'], begun['config']['model']) == ('me', 'digits', 'lvvit_nano')
    steps = [(step, scalars) for step, scalars in wandb.logged if 'loss' in scalars]
    epochs = [(step, scalars) for step, scalars in wandb.logged if 'epoch' in scalars]
    assert [step for step, _ in steps] == [step for step, _ in epochs] == [5, 10]
    assert all(set(scalars) >= {'loss', 'lr', 'norm'} for _, scalars in steps)
    assert [scalars for _, scalars in epochs] == train.log()
    assert {'train_loss', 'train_lr', 'test_acc1', 'best_acc1', 'best_acc1_ema', 'n_parameters'} <= set(epochs[0][1])


def test_nothing_more_is_computed_for_writers_that_are_not_there(train, monkeypatch):
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


def test_looking_at_the_gradient_does_not_change_the_run(train, wandb):
    train('--clip_grad 0.1 --print_freq 1 --log_wandb', out='watched')
    train('--clip_grad 0.1 --print_freq 1', out='alone')
    a, b = (train.state(out)['model'] for out in ('watched', 'alone'))
    assert all(np.array_equal(a[name], b[name]) for name in a)
