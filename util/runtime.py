"""Process set-up that must come before `import paddle`, and the frame in which every script runs.

    from util import runtime
    CPU = runtime.prepare()
    import paddle
"""
import argparse
import contextlib
import glob
import io
import multiprocessing
import os
import platform
import re
import signal
import sys
import warnings

# numpy works on one sample at a time, often in several loader processes: threads of its BLAS would fight each other.
# The variable is taken back because Paddle's BLAS on other processors than x86 reads it too.
_numpy_threads_free = 'OPENBLAS_NUM_THREADS' not in os.environ
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# Paddle 2.6 carries a zlib of its own; whatever needs the system's must be loaded before it (numpy 2 loads lazily).
import numpy.random  # noqa: E402,F401
if _numpy_threads_free:
    del os.environ['OPENBLAS_NUM_THREADS']


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback. The message names the file or flag."""


def cpu_fields():
    """{field: text} of a processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        with open('/proc/cpuinfo') as f:
            text = f.read()
    except OSError:
        return {}
    return dict(map(str.strip, line.split(':', 1)) for line in text.splitlines() if ':' in line)


def _cpu_flags():
    fields = cpu_fields()
    return fields.get('vendor_id', ''), fields.get('flags', '').split()


def _threads_set_by_user():
    """OMP_NUM_THREADS as the user set it, else None.

    Paddle's launcher imports paddle, which sets OMP_NUM_THREADS=1 for its children: only the launcher's own initial
    environment tells whether that value was the user's.
    """
    value = os.environ.get('OMP_NUM_THREADS')
    if value == '1' and 'PADDLE_TRAINER_ID' in os.environ:
        try:
            with open(f'/proc/{os.getppid()}/environ', 'rb') as f:
                if b'OMP_NUM_THREADS=' not in f.read():
                    return None
        except OSError:
            pass
    return value


def prepare():
    """Choose CPU threads and MKL's code path, then import paddle; returns one line that says what was chosen.

    Must run before paddle is imported elsewhere; what the user set in the environment stays. MKL_DEBUG_CPU_TYPE=5
    lets the old MKL inside Paddle's wheels use AVX2 on AMD processors (about 3 times the speed of a matrix product).
    """
    chosen = []
    local_processes = int(os.environ.get('PADDLE_LOCAL_SIZE') or os.environ.get('PADDLE_TRAINERS_NUM') or 1)
    threads = _threads_set_by_user()
    if threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        threads = str(max(1, cores // local_processes))
        os.environ['OMP_NUM_THREADS'] = threads
        chosen.append(f'{threads} thread(s) per process')
    else:
        chosen.append(f'{threads} thread(s) per process (OMP_NUM_THREADS as set)')
    vendor, flags = _cpu_flags()
    if 'MKL_DEBUG_CPU_TYPE' in os.environ:
        chosen.append(f"MKL_DEBUG_CPU_TYPE={os.environ['MKL_DEBUG_CPU_TYPE']} as set")
    elif platform.machine() == 'x86_64' and vendor == 'AuthenticAMD' and 'avx2' in flags:
        os.environ['MKL_DEBUG_CPU_TYPE'] = '5'
        chosen.append('MKL on AVX2 (AMD)')
    _import_quietly()
    return 'CPU: ' + ', '.join(chosen)


def _import_quietly():
    """Import paddle without its notes on ccache, on the threads just chosen and on batch norm; others are shown."""
    warnings.filterwarnings('ignore', message='No ccache found')
    warnings.filterwarnings('ignore', message='When training, we now always track global mean and variance')
    captured = io.StringIO()
    with contextlib.redirect_stderr(captured):
        import paddle  # noqa: F401
    for line in captured.getvalue().splitlines():
        if 'OMP_NUM_THREADS' not in line:
            print(line, file=sys.stderr)


def worker_count(requested):
    """Loader processes to start: as many as requested, never more than the cores of this machine."""
    return max(0, min(requested, os.cpu_count() or 1))


def kill_workers():
    """End the loader processes that are still there, without the alarm that Paddle raises when one ends, and remove the
    batches that they had ready, which would stay in shared memory.
    """
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()
            for path in glob.glob(f'/dev/shm/paddle_{child.pid}_*'):
                with contextlib.suppress(OSError):
                    os.unlink(path)
    signal.signal(signal.SIGCHLD, handler)


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line (no usage block), exit code 2."""

    def error(self, message):
        self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n')


def run(main, parser, argv=None):
    """Run a script: `main(args)`, user errors as one line with exit code 1, no loader process left behind."""
    args = parser.parse_args(argv)
    pid = os.getpid()  # forked loader processes inherit the handler; they just go
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143) if os.getpid() == pid else os._exit(143))
    try:
        main(args)
    except UserError as error:
        sys.stdout.flush()
        message = ' '.join(line.strip() for line in str(error).splitlines())  # a library's part of it may have several
        sys.exit(f'{parser.prog}: error: {message}')
    except KeyboardInterrupt:
        sys.exit(130)
    except (SystemError, RuntimeError) as error:
        if 'DataLoader' not in str(error) and 'Blocking queue is killed' not in str(error):
            raise
        how = re.search(r'killed by signal: (\w+)', str(error))
        sys.exit(f"{parser.prog}: error: a loader process has died{f' ({how[1]})' if how else ''}; if memory ran out, "
                 'fewer --num_workers need less. A training run goes on with --resume auto')
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers repeat it; what has ended well must not end with 143
        kill_workers()
