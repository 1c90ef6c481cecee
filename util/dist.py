"""Several processes: a thin layer over paddle.distributed that is a no-op on one process.

Start them with `python -m paddle.distributed.launch --gpus "0,1" main.py …` on GPUs or with
`--nproc_per_node N --backend gloo` on CPUs.
"""

import contextlib
import os
import signal
import socket
import time
import zlib

import numpy as np
import paddle
import paddle.distributed as pd

from util.errors import UserError
from util.processes import follow_parent

_processes = []  # of each rank: (number of its host, pid)


def init():
    """Join the process group if the launcher started more than one process; returns (rank, world size)."""
    if world_size() > 1 and not pd.is_initialized():
        follow_parent(signal.SIGTERM)  # a launcher that is killed leaves its processes running otherwise
        pd.init_parallel_env()
        _processes[:] = gather([zlib.crc32(socket.gethostname().encode()), os.getpid()])
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
    """Give every process the first one's batch-norm statistics, which each keeps for itself in training.

    Paddle holds them as parameters without gradient, not as buffers.
    """
    if world_size() > 1:
        for tensor in model.state_dict().values():
            if tensor.stop_gradient:
                pd.broadcast(tensor, src=0)


def barrier():
    if world_size() > 1:
        pd.barrier()


@contextlib.contextmanager
def peers_named():
    """Turn the error of a collective into a UserError that names the process whose end made it fail.

    Only processes of this machine can be looked at.
    """
    try:
        yield
    except (RuntimeError, OSError, SystemError) as error:
        if world_size() == 1 or not any(sign in str(error) for sign in ('gloo', 'NCCL', 'TCP', 'onnection')):
            raise
        here = _processes[rank()][0] if _processes else None
        for _ in range(20):  # the peer may be about to end; no longer than needed, the launcher is about to end us
            ended = [r for r, (host, pid) in enumerate(_processes) if host == here and _has_ended(int(pid))]
            if ended:
                break
            time.sleep(0.05)
        who = ', '.join(f'rank {r} (pid {_processes[r][1]:.0f})' for r in ended) or 'a process on another machine'
        raise UserError(f'rank {rank()} lost {who}, which has ended; its own message or its workerlog says why')


def _has_ended(pid):
    try:
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rpartition(')')[2].split()[0] in 'ZX'  # ended, but its parent has not looked yet
    except OSError:
        return True
