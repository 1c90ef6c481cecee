"""Several processes, with paddle.distributed. With one process there is no communication.

Start them with `python -m paddle.distributed.launch --gpus "0,1" main.py …` on GPUs or with
`--nproc_per_node N --backend gloo` on CPUs.
"""

import os
import signal

import numpy as np
import paddle
import paddle.distributed as pd

from util.paddle_fixes import end_with_parent


def init():
    """Join the process group if the launcher started more than one process; returns (rank, world size)."""
    if world_size() > 1 and not pd.is_initialized():
        end_with_parent(signal.SIGTERM)
        pd.init_parallel_env()
    return rank(), world_size()


def rank():
    """Number of this process, 0 for the first."""
    return int(os.environ.get('PADDLE_TRAINER_ID', 0))


def world_size():
    """Number of processes of the run."""
    return int(os.environ.get('PADDLE_TRAINERS_NUM', 1))


def is_main():
    """Whether this is the first process, which logs and writes files."""
    return rank() == 0


def all_sum(values):
    """The sum of an array over all processes, computed in float64, as nested lists. One collective operation."""
    tensor = paddle.to_tensor(np.asarray(values, 'float64'))
    if world_size() > 1:  # gloo's all_reduce raises on one process
        pd.all_reduce(tensor)
    return tensor.tolist()


def gather(values):
    """[world size] lists with the numbers of each process, all of the same length. One collective operation."""
    rows = np.zeros([world_size(), len(values)])
    rows[rank()] = values
    return all_sum(rows)


def share_statistics(model):
    """Copy the batch-norm statistics of the first process to all others, which have their own while training."""
    if world_size() > 1:
        for name, tensor in model.state_dict().items():
            if name.endswith(('._mean', '._variance')):
                pd.broadcast(tensor, src=0)


def barrier():
    """Wait for all processes."""
    if world_size() > 1:
        pd.barrier()
