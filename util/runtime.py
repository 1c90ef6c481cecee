"""Sets the process up for Paddle when it is imported, and runs a script's main.

    from util import runtime        before `import paddle`, which reads the environment that this sets

Unless the user has set them already: OMP_NUM_THREADS; on AMD processors MKL_DEBUG_CPU_TYPE=5, with which the old MKL
inside Paddle's wheels uses AVX2 (about 3 times the speed of a matrix product); where Paddle has no GPUs
FLAGS_use_stride_kernel=0. `runtime.CPU` is a line that says what was chosen of the first two.
"""

import argparse
import contextlib
import importlib
import io
import os
import platform
import signal
import sys
import warnings

from util import config
from util.errors import UserError
from util.processes import death_of_worker, kill_workers, local_processes


def cpu_fields():
    """{field: text} of a processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        with open('/proc/cpuinfo') as f:
            text = f.read()
    except OSError:
        return {}
    return dict(map(str.strip, line.split(':', 1)) for line in text.splitlines() if ':' in line)


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


def _set_environment():
    """Choose CPU threads and MKL's code path; returns one line that says what was chosen."""
    threads = _threads_set_by_user()
    if threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        threads = str(max(1, cores // local_processes()))
        os.environ['OMP_NUM_THREADS'] = threads
        chosen = f'CPU: {threads} thread(s) per process'
    else:
        chosen = f'CPU: {threads} thread(s) per process (OMP_NUM_THREADS as set)'
    cpu = cpu_fields()
    has_avx2 = 'avx2' in cpu.get('flags', '').split()
    if 'MKL_DEBUG_CPU_TYPE' in os.environ:
        chosen += f', MKL_DEBUG_CPU_TYPE={os.environ["MKL_DEBUG_CPU_TYPE"]} as set'
    elif platform.machine() == 'x86_64' and cpu.get('vendor_id') == 'AuthenticAMD' and has_avx2:
        os.environ['MKL_DEBUG_CPU_TYPE'] = '5'
        chosen += ', MKL on AVX2 (AMD)'
    return chosen


def _import_numpy():
    """Load numpy with one thread: it works on one sample at a time, often in several loader processes.

    The variable is taken back because Paddle's BLAS on other processors than x86 reads it too. And numpy must come
    before Paddle 2.6, which carries a zlib of its own: whatever needs the system's must be loaded first.
    """
    set_by_user = 'OPENBLAS_NUM_THREADS' in os.environ
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    importlib.import_module('numpy.random')  # numpy 2 loads it lazily
    if not set_by_user:
        del os.environ['OPENBLAS_NUM_THREADS']


def _import_paddle():
    """Load paddle without its notes on ccache, on the threads just chosen and on batch norm; others are shown."""
    warnings.filterwarnings('ignore', message='No ccache found')
    warnings.filterwarnings('ignore', message='When training, we now always track global mean and variance')
    captured = io.StringIO()
    with contextlib.redirect_stderr(captured):
        paddle = importlib.import_module('paddle')
    for line in captured.getvalue().splitlines():
        if 'OMP_NUM_THREADS' not in line:
            print(line, file=sys.stderr)
    return paddle


def _prefer_copies(paddle):
    """On a CPU let transposes and slices copy at once, not be views: what uses a view makes it contiguous first, by a
    kernel that is slower than that of the transpose (a seventh of a training step; the values are the same)."""
    if not paddle.is_compiled_with_cuda() and 'FLAGS_use_stride_kernel' not in os.environ:
        paddle.set_flags({'FLAGS_use_stride_kernel': False})


_import_numpy()
CPU = _set_environment()
_prefer_copies(_import_paddle())


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line (no usage block), exit code 2; with `add_config` it reads flags from a
    file too."""

    config_action = None  # of -c, for scripts that have it
    reading = ''  # what goes in front of an error: the file whose flags are being parsed

    def error(self, message):
        self.exit(2, f'{self.prog}: error: {self.reading}{message} (see {self.prog} --help)\n')

    def add_config(self):
        """`-c FILE`. For scripts without required flags."""
        help = 'YAML of flags, such as the args.yaml of a run; flags of the command line win'
        self.config_action = self.add_argument('-c', '--config', metavar='FILE', help=help)

    def parse_known_args(self, args=None, namespace=None):
        words = list(sys.argv[1:] if args is None else args)
        if self.config_action is None:
            return super().parse_known_args(words, namespace)
        path = super().parse_known_args(words)[0].config
        if path:
            try:
                from_file = config.words(self, path)
            except UserError as error:
                self.exit(1, f'{self.prog}: error: {error}\n')
            self.reading = f'-c {path}: '
            super().parse_known_args(from_file)  # what is wrong there is said with the name of the file
            self.reading, words = '', from_file + words
        return super().parse_known_args(words, namespace)


def run(main, parser, argv=None):
    """Run a script: `main(args)`, user errors as one line with exit code 1, no loader process left behind."""
    args = parser.parse_args(argv)
    pid = os.getpid()

    def stop(_number, _frame):
        if os.getpid() != pid:  # a forked loader process, which inherits this handler and has nothing to clean up
            os._exit(143)
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
    try:
        main(args)
    except UserError as error:
        sys.stdout.flush()
        message = ' '.join(line.strip() for line in str(error).splitlines())  # a library's part of it may have several
        sys.exit(f'{parser.prog}: error: {message}')
    except KeyboardInterrupt:
        sys.exit(130)
    except (SystemError, RuntimeError):
        how = death_of_worker()
        if how is None:
            raise
        sys.exit(
            f'{parser.prog}: error: a loader process has died ({how}); if memory ran out, fewer --num_workers '
            'need less. A training run goes on with --resume auto'
        )
    finally:
        # Launchers send SIGTERM more than once: a late one must not turn a run that has ended well into exit code 143.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        kill_workers()
