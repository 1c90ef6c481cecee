"""Prepares the process for Paddle, when this module is imported, and runs a script's main.

    from util import runtime        before `import paddle`, which reads the environment that this sets

`runtime.CPU` is a text for the log: the number of threads, and on AMD processors MKL's code path. Environment variables
that the user has set are not changed.
"""

import contextlib
import io
import os
import signal
import sys
import traceback

from util import paddle_fixes
from util.errors import UserError, one_line


def cpu_fields():
    """{field: text} of a processor in /proc/cpuinfo; {} if there is no such file."""
    try:
        with open('/proc/cpuinfo') as f:
            text = f.read()
    except OSError:
        return {}
    return dict(map(str.strip, line.split(':', 1)) for line in text.splitlines() if ':' in line)


def local_processes():
    """Processes of the run on this machine, or in all, if the launcher does not tell (some versions of Paddle)."""
    return int(os.environ.get('PADDLE_LOCAL_SIZE') or os.environ.get('PADDLE_TRAINERS_NUM') or 1)


def worker_count(requested):
    """Number of loader processes to start: as requested, but at most one for each core of this machine."""
    return min(requested, os.cpu_count() or 1)


paddle_fixes.import_numpy()
CPU = f'CPU: {paddle_fixes.set_threads(local_processes())}{paddle_fixes.set_mkl_path(cpu_fields())}'
paddle_fixes.copy_transposes(paddle_fixes.import_paddle())


def check_launcher():
    """Raise UserError if variables of Paddle's launcher are set, but it has not started this process."""
    rank, processes = os.environ.get('PADDLE_TRAINER_ID'), int(os.environ.get('PADDLE_TRAINERS_NUM') or 1)
    if rank is None and processes > 1:
        raise UserError(
            f'PADDLE_TRAINERS_NUM={processes} is set, but not PADDLE_TRAINER_ID: run `unset PADDLE_TRAINERS_NUM`, or '
            'start several processes with python -m paddle.distributed.launch'
        )
    if int(rank or 0) >= processes:
        raise UserError(f'PADDLE_TRAINER_ID={rank} is set for {processes} process(es): run `unset PADDLE_TRAINER_ID`')


def explanation(error):
    """The line that explains an exception to the user, or None if it is unexpected."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f'not enough memory ({one_line(error)}); lower --batch_size'
    how = paddle_fixes.death_of_worker() if isinstance(error, (SystemError, RuntimeError)) else None
    if how is None:
        return None
    return (
        f'a loader process has died ({how}); if memory ran out, lower --num_workers. '
        '--resume auto continues a training run'
    )


def run(main, parser, argv=None):
    """Run main(args). A UserError is shown as one line, with exit code 1. All loader processes are ended.

    The file of logger.log_to receives the error too, or the traceback of an unexpected one.
    """
    pid = os.getpid()

    def stop(_number, _frame):
        if os.getpid() != pid:  # a forked loader process, which inherits this handler
            os._exit(143)
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # a terminal in ASCII shows names of files too
    try:
        check_launcher()
        main(parser.parse_args(argv))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from util import logger  # which imports paddle

        found = explanation(error)
        message = f'{parser.prog}: error: {found}' if found else traceback.format_exc().rstrip()
        with contextlib.suppress(UserError):  # the error may be that the disk is full
            logger.copy(message)
        if found is None:
            raise
        sys.stdout.flush()
        sys.exit(message)
    finally:
        # Launchers and people send a signal more than once. A late one must not change the exit code.
        for number in paddle_fixes.STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        paddle_fixes.kill_workers()
