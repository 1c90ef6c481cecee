"""A training checkpoint of the port, whose optimizer state goes by Paddle's automatic names, is continued."""

import argparse

import numpy as np
import paddle
import pytest

import models
from states import same

pytestmark = [pytest.mark.usefixtures('tiny'), pytest.mark.cross_version]

FLAGS = '--epochs 2 --lr 0.01 --model_ema'
SAYS = 'a checkpoint of the port; its optimizer is resumed, the best accuracy is counted anew'


@pytest.fixture
def port(train, tmp_path):
    """port(opt, change) -> path of a file as the port wrote it after epoch 0: paddle.save of state dicts of tensors,
    the optimizer's as Paddle gives it, and a Namespace. change(content) may alter it.

    The content is that of `run`, our checkpoint after the same epoch, so that both must continue alike.
    """

    def write(opt='adamw', change=None):
        train(*train.token, FLAGS, f'--opt {opt} --epochs 1')
        ours = train.state()
        for _ in range(2):  # other models take the first automatic names
            models.build_model('lvvit_nano', img_size=32, num_classes=10)
        model = models.build_model('lvvit_nano', img_size=32, num_classes=10)
        model.set_state_dict(ours['model'])
        names = {name: p.name for name, p in model.named_parameters()}
        state = {}
        for key, value in ours['optimizer'].items():
            name, _, slot = key.partition('/')
            state[f'{names[name]}_{slot}' if slot else key] = value
        tensors = {key: paddle.to_tensor(value) for key, value in state.items() if isinstance(value, np.ndarray)}
        content = {
            'model': model.state_dict(),
            'model_ema': {key: paddle.to_tensor(value) for key, value in ours['model_ema'].items()},
            'optimizer': tensors,
            'epoch': 0,
            'args': argparse.Namespace(model='lvvit_t', lr=0.01, betas=None),
        }
        if change:
            change(content)
        path = tmp_path / 'checkpoint-latest.pd'
        paddle.save(content, str(path))
        return path

    return write


@pytest.mark.parametrize('opt', ['adamw', 'momentum'])
def test_it_goes_on_as_a_checkpoint_of_ours_does(train, port, opt):
    path = port(opt)
    flags = [*train.token, FLAGS, f'--opt {opt}']
    ours = train(*flags, '--resume', train.path(), out='ours')
    theirs = train(*flags, '--resume', path, out='theirs')
    assert theirs.code == ours.code == 0 and theirs.out.count(SAYS) == 1 and SAYS not in ours.out
    a, b = train.state('ours'), train.state('theirs')
    for part in ('model', 'model_ema', 'optimizer', 'epoch', 'step'):
        assert same(a[part], b[part]), part
    assert [record['epoch'] for record in train.log('theirs')] == [1]


def test_the_optimizer_starts_afresh_where_the_names_are_lost(train, port):
    """Arrays instead of tensors: paddle.save keeps names of tensors alone."""

    def forget(content):
        content['model'] = {name: value.numpy() for name, value in content['model'].items()}

    path = port(change=forget)
    result = train(*train.token, FLAGS, '--resume', path, out='afresh')
    (line,) = [line for line in result.out.splitlines() if 'the optimizer starts anew' in line]
    assert result.code == 0 and str(path) in line and SAYS not in result.out
    assert train.log('afresh')[0]['epoch'] == 1
    steps = np.log(np.ravel(train.state('afresh')['optimizer']['head.weight/beta1_pow_acc_0'])[0]) / np.log(0.9)
    assert round(steps) == 6, 'those of one epoch alone, and the one that Paddle begins with'
