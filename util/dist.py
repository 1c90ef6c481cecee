"""Several processes: a thin layer over paddle.distributed that is a no-op on one process.

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
    return int(os.environ.get('PADDLE_TRAINER_ID', 0))


def world_size():
    return int(os.environ.get('PADDLE_TRAINERS_NUM', 1))


def is_main():
    return rank() == 0


def all_sum(values):
    """Sum each of an array of numbers over all processes; returns nested lists of floats. One collective."""
    tensor = paddle.to_tensor(np.asarray(values, 'float64'))
    if world_size() > 1:  # gloo's all_reduce raises on one process
        pd.all_reduce(tensor)
    return tensor.tolist()


def gather(values):
    """The numbers of every process, as many from each: a list by rank of lists of floats. One collective."""
    rows = np.zeros([world_size(), len(values)])
    rows[rank()] = values
    return all_sum(rows)


def share_statistics(model):
    """Give every process the first one's batch-norm statistics, which each keeps for itself in training."""
    if world_size() > 1:
        for name, tensor in model.state_dict().items():
            if name.endswith(('._mean', '._variance')):
                pd.broadcast(tensor, src=0)


def barrier():
    if world_size() > 1:
        pd.barrier()
