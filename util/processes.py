"""Loader processes: none outlives its parent, and none leaves batches behind in shared memory."""

import contextlib
import ctypes
import gc
import glob
import multiprocessing
import os
import shutil
import signal
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # how a run is asked to stop
SHARED_MEMORY = '/dev/shm'

_watched = []  # the loader processes that run, or that have died


def worker_count(requested):
    """Loader processes to start: as many as requested, never more than the cores of this machine."""
    return max(0, min(requested, os.cpu_count() or 1))


def local_processes():
    """Processes of the run on this machine; the launchers of some versions of Paddle only say how many there are."""
    return int(os.environ.get('PADDLE_LOCAL_SIZE') or os.environ.get('PADDLE_TRAINERS_NUM') or 1)


@contextlib.contextmanager
def garbage_stays_here():
    """Loader processes that are forked inside never collect what is garbage in this process.

    An epoch of Paddle's loader that failed may be among it, kept until now by its exception's traceback. To free it is
    to wait for the threads that wait for its batches, and these are not in the new process: it would hang there.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def begin_worker(parent, _worker_id):
    """What a loader process does first. parent: pid of the main process.

    Ctrl-C, launchers and schedulers signal every process of a run, but the main process decides when the run stops, and
    needs batches until then. The worker ends with it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    follow_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already, before the kernel knew whom to tell
        os._exit(1)


def follow_parent(number):
    """Have the kernel send this process a signal when the process that started it ends (Linux; elsewhere nothing)."""
    try:
        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass


def watch_workers():
    """Remember the loader processes that run now, for `death_of_worker`."""
    _watched[:] = [child for child in multiprocessing.active_children() if child.daemon]


def forget_workers():
    """The opposite: what is remembered of a process keeps its pipes open."""
    _watched.clear()


def death_of_worker():
    """What killed a loader process ('SIGKILL', or 'exit code 1'), None if all are well or ended by themselves.

    Paddle raises errors of several kinds when one dies, anywhere in the main process; this says whether that is why.
    """
    for worker in _watched:
        code = worker.exitcode
        if code:
            return signal.Signals(-code).name if code < 0 else f'exit code {code}'
    return None


def kill_workers():
    """End the loader processes that are still there, and remove the batches that they had ready.

    Paddle raises an alarm when a loader process ends, so SIGCHLD is ignored meanwhile.
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


def free_shared_memory(folder=SHARED_MEMORY):
    """Bytes free where Paddle's loader processes put their batches (64 MB in all in a container of Docker's)."""
    return shutil.disk_usage(folder).free if os.path.isdir(folder) else 0


def sweep_shared_memory(folder=SHARED_MEMORY, age=3600):
    """Remove the batches that killed loader processes left in shared memory, where they would stay until the machine
    is restarted: files paddle_<pid>_… of this user, of no running process, untouched for `age` seconds.

    The age is for processes of another container, which cannot be seen from here.
    """
    for path in glob.glob(os.path.join(folder, 'paddle_*_*')):
        try:
            pid, stat = int(os.path.basename(path).split('_')[1]), os.stat(path)
            if stat.st_uid == os.getuid() and time.time() - stat.st_mtime > age and not os.path.exists(f'/proc/{pid}'):
                os.unlink(path)
        except (OSError, ValueError):  # another user's, another program's, or gone meanwhile
            pass
