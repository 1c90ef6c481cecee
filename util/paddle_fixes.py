"""Workarounds for Paddle, each with its symptom and the versions that show it ("all": 2.6.2 and 3.3.1).

A number such as #24708 is an issue or pull request of github.com/PaddlePaddle/Paddle.

First come those that must run before Paddle is imported, which util/runtime.py calls; then those for loader processes
and for the launcher. This file does not import Paddle.
"""

import contextlib
import ctypes
import gc
import glob
import importlib
import io
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import time
import warnings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # how a run is asked to stop
SHARED_MEMORY = '/dev/shm'
SHUTDOWN_SECONDS = 5  # how long the processes of Paddle's loader may take to end


# -- before and during the import of Paddle ----------------------------------------------------------------------------


def import_numpy():
    """Load numpy before Paddle, with one BLAS thread.

    Symptom (2.6.2): Paddle contains a zlib; libraries loaded after Paddle get that one instead of the system's.
    One thread is enough, because several loader processes use numpy, each on one sample. The variable is removed again
    because Paddle's BLAS reads it on processors other than x86.
    """
    set_by_user = 'OPENBLAS_NUM_THREADS' in os.environ
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    importlib.import_module('numpy.random')  # numpy 2 loads it lazily
    if not set_by_user:
        del os.environ['OPENBLAS_NUM_THREADS']


def set_threads(processes):
    """Set OMP_NUM_THREADS to this process's share of the cores; returns a text that says so.

    Symptom (all, #7208): `import paddle` sets it to 1 if it is unset, so that a process uses one core. Paddle's
    launcher imports Paddle too, so that in the processes that it starts, a value of 1 may not be the user's.
    """
    threads = os.environ.get('OMP_NUM_THREADS')
    set_by_launcher = threads == '1' and 'PADDLE_TRAINER_ID' in os.environ
    if threads and not set_by_launcher:
        return f'{threads} thread(s) per process (OMP_NUM_THREADS as set)'
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    threads = max(1, cores // processes)
    os.environ['OMP_NUM_THREADS'] = str(threads)
    return f'{threads} thread(s) per process'


def set_mkl_path(cpu):
    """Let MKL use AVX2 on AMD processors; returns a text that says so. cpu: fields of /proc/cpuinfo.

    Symptom (all): the MKL in Paddle's wheels takes a slow path there, and a matrix product takes three times as long.
    """
    if 'MKL_DEBUG_CPU_TYPE' in os.environ:
        return f', MKL_DEBUG_CPU_TYPE={os.environ["MKL_DEBUG_CPU_TYPE"]} as set'
    has_avx2 = 'avx2' in cpu.get('flags', '').split()
    if platform.machine() == 'x86_64' and cpu.get('vendor_id') == 'AuthenticAMD' and has_avx2:
        os.environ['MKL_DEBUG_CPU_TYPE'] = '5'
        return ', MKL on AVX2 (AMD)'
    return ''


def import_paddle():
    """Load Paddle without three of its messages; others are shown.

    Symptom (all): each start prints notes on ccache and on OMP_NUM_THREADS, and training one on batch norm.
    """
    warnings.filterwarnings('ignore', message='No ccache found')
    warnings.filterwarnings('ignore', message='When training, we now always track global mean and variance')
    captured = io.StringIO()
    with contextlib.redirect_stderr(captured):
        paddle = importlib.import_module('paddle')
    for line in captured.getvalue().splitlines():
        if 'OMP_NUM_THREADS' not in line:
            print(line, file=sys.stderr)
    return paddle


def copy_transposes(paddle):
    """On a CPU, let transposes and slices be copies instead of views.

    Symptom (all): the kernel that uses a view first makes it contiguous, more slowly than the transpose would. Copies
    save a seventh of a training step; the values are the same.
    """
    if not paddle.is_compiled_with_cuda() and 'FLAGS_use_stride_kernel' not in os.environ:
        paddle.set_flags({'FLAGS_use_stride_kernel': False})


# -- loader processes --------------------------------------------------------------------------------------------------

_watched = []  # the loader processes that run, or that have died


@contextlib.contextmanager
def frozen_garbage():
    """Loader processes that are forked inside this block do not collect the garbage of this process.

    Symptom (all): the destructor of a loader whose epoch failed waits for its threads. In a forked process they do not
    exist, and the process hangs.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def begin_worker(parent, _worker_id):
    """Run first in a loader process: ignore the stop signals, and end with the main process. parent: its pid.

    Symptom (all): Ctrl-C and launchers signal every process of a run. The loader processes end at once, although the
    main process needs batches until it stops. And they go on running if the main process is killed.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # the main process ended before the line above
        os._exit(1)


def end_with_parent(number):
    """Ask the kernel to send this process the signal `number` when its parent ends (Linux only).

    Symptom (all): a launcher that is killed leaves its processes running, and so does a main process.
    """
    try:
        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass


def watch_workers():
    """Remember the loader processes that run now, for death_of_worker."""
    _watched[:] = [child for child in multiprocessing.active_children() if child.daemon]


def forget_workers():
    """Forget the loader processes, so that their pipes are closed."""
    _watched.clear()


def death_of_worker():
    """How a loader process died ('SIGKILL', or 'exit code 1'); None if none died or all ended well.

    Symptom (all): when a loader process dies, Paddle raises errors of several types anywhere in the main process; this
    tells whether a death is the cause.
    """
    for worker in _watched:
        code = worker.exitcode
        if code:
            return signal.Signals(-code).name if code < 0 else f'exit code {code}'
    return None


def kill_workers():
    """End the loader processes that still run, and remove the batches that they had ready from shared memory.

    Symptom (all): Paddle does not end them when the main process fails. Paddle's handler of SIGCHLD raises an error
    when one ends, so it is off meanwhile.
    """
    forget_workers()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()
            for path in glob.glob(f'{SHARED_MEMORY}/paddle_{child.pid}_*'):
                with contextlib.suppress(OSError):
                    os.unlink(path)
    signal.signal(signal.SIGCHLD, handler)


def wait_for_batch(batches):
    """Wait until an iterator of paddle.io.DataLoader with processes has a batch, or has ended.

    Symptom (all): `next` waits in C++, where Python does not handle signals: SIGTERM and Ctrl-C have no effect until a
    batch comes, and none comes from a process that waits for a disk. The iterator lists the structure of each batch
    that it has received.
    """
    while not batches._structure_infos and batches._batches_outstanding > 0 and batches._thread.is_alive():
        time.sleep(0.001)


def end_epoch_early(batches):
    """End the thread and the processes of an iterator of paddle.io.DataLoader.

    Symptom (all): Paddle leaves them running when an epoch ends early. Processes that do not end in SHUTDOWN_SECONDS
    are left to kill_workers.
    """
    batches._try_shutdown_all(SHUTDOWN_SECONDS / len(batches._workers))  # the limit of each, one after the other


def forget_shared_files(paddle):
    """Let Paddle forget which files in shared memory it has opened.

    Symptom (all): Paddle keeps their names, and memory grows by 0.8 kB a batch.
    """
    paddle.base.core._cleanup_mmap_fds()


def free_shared_memory(folder=SHARED_MEMORY):
    """Bytes free in the shared memory through which Paddle's loader processes pass batches.

    Symptom (all, #24708): if it is full, a loader process dies of SIGBUS. A Docker container has 64 MB by default.
    """
    return shutil.disk_usage(folder).free if os.path.isdir(folder) else 0


def sweep_shared_memory(folder=SHARED_MEMORY, age=3600):
    """Remove files paddle_<pid>_... of this user that no running process owns, untouched for `age` seconds.

    Symptom (all, #49632): batches of killed loader processes stay in shared memory until the machine restarts. The age
    protects the processes of other containers, which are not visible from here.
    """
    for path in glob.glob(os.path.join(folder, 'paddle_*_*')):
        try:
            pid, stat = int(os.path.basename(path).split('_')[1]), os.stat(path)
            if stat.st_uid == os.getuid() and time.time() - stat.st_mtime > age and not os.path.exists(f'/proc/{pid}'):
                os.unlink(path)
        except (OSError, ValueError):  # another user's, another program's, or gone meanwhile
            pass
