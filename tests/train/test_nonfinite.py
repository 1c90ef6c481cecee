"""A loss or gradient that is not finite (util/train/nonfinite.py), and a loader that fails in the middle of a run."""

import os
import re
import shutil
import signal

import numpy as np
import paddle
import pytest

import main
from util.data.datasets import TrainDataset
from util.train.loss import TokenLabelLoss
from util.weights import checkpoint

FLAGS = [
    '--model',
    'lvvit_nano',
    '--input_size',
    32,
    '--nb_classes',
    10,
    '--batch_size',
    8,
    '--epochs',
    1,
    '--warmup_epochs',
    0,
    '--cooldown_epochs',
    0,
    '--num_workers',
    0,
]  # 40 images: 5 steps an epoch

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture
def train(run, scenes, tmp_path):
    def call(*flags):
        return run(main, *FLAGS, '--data_path', scenes, '--output_dir', tmp_path / 'run', *flags)

    call.folder = tmp_path / 'run'
    call.state = lambda: checkpoint.load(str(call.folder / 'checkpoint-latest.pd'))
    return call


@pytest.fixture
def spoil(monkeypatch):
    """spoil(kind, *steps): makes the loss of these calls NaN ('loss'), or its gradient alone ('gradient')."""
    real = TokenLabelLoss.forward

    def call(kind, *steps):
        count = iter(range(1000))

        def forward(self, outputs, targets):
            loss = real(self, outputs, targets)
            if next(count) not in steps:
                return loss
            if kind == 'loss':
                return loss * float('nan')
            zero = (outputs[0] * 0).sum()
            return loss + zero.sqrt()  # 0, of infinite slope

        monkeypatch.setattr(TokenLabelLoss, 'forward', forward)

    return call


def one_line(result):
    assert result.code == 1 and result.err.count('\n') == 1, result.err
    return result.err


def test_the_message_names_epoch_step_rank_and_files_of_the_batch_that_did_it(train, spoil, monkeypatch):
    seen = []
    real = TrainDataset.__getitem__

    def noted(self, index):
        seen.append(self.samples[index][0])
        return real(self, index)

    monkeypatch.setattr(TrainDataset, '__getitem__', noted)
    spoil('loss', 3)
    line = one_line(train())
    assert 'epoch 0, step 3, rank 0: loss is nan' in line and '--skip_nonfinite' in line
    assert all(path in line for path in seen[24:28]) and seen[28] not in line and 'and 4 more' in line
    assert (train.folder / 'nonfinite-rank0.txt').read_text().split() == seen[24:32]
    assert not (train.folder / 'checkpoint-latest.pd').exists()


def test_nothing_is_saved_over_a_good_checkpoint(train, spoil):
    spoil('loss', 3)
    one_line(train('--save_freq_steps', 1))
    assert train.state()['step'] == 3
    assert all(np.isfinite(v).all() for v in train.state()['model'].values())


@pytest.mark.parametrize('kind', ['loss', 'gradient'])
@pytest.mark.parametrize('flags', [[], ['--model_ema', '--accum_iter', 2, '--batch_size', 4]])
def test_tolerated_steps_are_left_out_as_if_they_had_not_been(train, spoil, kind, flags):
    spoil(kind, 3)
    result = train('--skip_nonfinite', 1, '--lr', 0.01, *flags)
    assert result.code == 0
    reason = 'loss is nan' if kind == 'loss' else 'a gradient is not finite'
    assert re.search(rf'warning: epoch 0, step 3, rank 0: {reason}; files: .*; step left out, 1 of 1', result.err)
    assert all(np.isfinite(v).all() for v in train.state()['model'].values())
    powers = {v.item() for k, v in train.state()['optimizer'].items() if 'beta1_pow' in k}
    assert len(powers) == 1 and np.isclose(powers.pop(), 0.9**5), 'beta1 to the steps taken + 1: 4 of 5'


def test_one_more_than_tolerated_ends_the_run(train, spoil):
    spoil('loss', 1, 3)
    result = train('--skip_nonfinite', 1)
    warning, error = result.err.splitlines()
    assert result.code == 1 and 'step 1' in warning and 'step 3' in error and '--lr' in error


def test_a_step_left_out_changes_neither_weights_nor_statistics(train, spoil):
    spoil('loss', 0, 1, 2, 3, 4)
    start = train('--skip_nonfinite', 5)
    assert start.code == 0
    skipped = train.state()['model']
    shutil.rmtree(train.folder)
    paddle.seed(0)
    fresh = {k: v.numpy() for k, v in main.build_model('lvvit_nano', img_size=32, num_classes=10).state_dict().items()}
    for name, value in skipped.items():
        if not name.startswith('aux_head'):  # zero without token labels
            np.testing.assert_array_equal(value, fresh[name], err_msg=name)


# ---- the loader


def test_a_data_folder_that_disappears_is_one_line_and_not_a_hundred_bad_images(train, scenes, tmp_path, monkeypatch):
    data = tmp_path / 'data'
    shutil.copytree(scenes, data)
    real = TrainDataset.__getitem__

    def gone(self, index):
        if self.epoch == 1 and (data / 'train').exists():
            os.rename(data / 'train', data / 'elsewhere')
        return real(self, index)

    monkeypatch.setattr(TrainDataset, '__getitem__', gone)
    line = one_line(train('--data_path', data, '--epochs', 3))
    assert 'No such file' in line and str(data / 'train') in line
    assert train.state()['epoch'] == 0


def test_a_loader_process_that_dies_is_one_line(train, monkeypatch):
    real = TrainDataset.__getitem__
    parent = os.getpid()

    def dies(self, index):
        if self.epoch == 1 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, index)

    monkeypatch.setattr(TrainDataset, '__getitem__', dies)
    result = train('--num_workers', 1, '--epochs', 3)
    assert result.code == 1 and 'Traceback' not in result.err
    assert 'a loader process has died' in result.err.splitlines()[-1] and '--resume auto' in result.err
    assert train.state()['epoch'] == 0


def test_signals_to_the_whole_group_leave_the_loader_processes_alone_until_the_end(train, monkeypatch):
    real = TrainDataset.__getitem__
    parent = os.getpid()

    def hit(self, index):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, index)

    monkeypatch.setattr(TrainDataset, '__getitem__', hit)
    result = train('--num_workers', 2)
    assert result.code == 0 and result.err == ''
