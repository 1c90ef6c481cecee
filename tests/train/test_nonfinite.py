"""A loss that is not finite ends a run (util/train/nonfinite.py). Loaders that fail: tests/faults."""

import os
import signal

import numpy as np
import pytest

from util.data.datasets import TrainDataset
from util.train.loss import TokenLabelLoss

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture
def in_every_sample(monkeypatch):
    """in_every_sample(act): act(dataset, index) is called before each training sample is read."""
    real = TrainDataset.__getitem__

    def call(act):
        def getitem(self, index):
            act(self, index)
            return real(self, index)

        monkeypatch.setattr(TrainDataset, '__getitem__', getitem)

    return call


def test_the_message_names_epoch_step_rank_and_files_and_nothing_is_saved(train, in_every_sample, monkeypatch):
    seen, calls, real = [], [], TokenLabelLoss.forward
    in_every_sample(lambda dataset, index: seen.append(dataset.samples[index][0]))

    def forward(self, outputs, targets):
        calls.append(1)
        return real(self, outputs, targets) * (float('nan') if len(calls) == 4 else 1.0)

    monkeypatch.setattr(TokenLabelLoss, 'forward', forward)
    line = train.refused('--save_freq_steps 1')
    assert 'epoch 0, step 3, rank 0: loss is nan' in line and '--lr' in line and 'checkpoints are untouched' in line
    assert all(path in line for path in seen[24:28]) and seen[28] not in line and 'and 4 more' in line
    assert (train.folder / 'run' / 'nonfinite-rank0.txt').read_text().split() == seen[24:32]
    assert train.state()['step'] == 3 and all(np.isfinite(v).all() for v in train.state()['model'].values())


def test_signals_to_the_whole_group_leave_the_loader_processes_alone_until_the_end(train, in_every_sample):
    parent = os.getpid()

    def hit(*_):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    in_every_sample(hit)
    result = train('--num_workers 2')
    assert result.code == 0 and result.err == ''
