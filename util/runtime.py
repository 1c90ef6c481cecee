"""Sets the process up for Paddle when it is imported, and runs a script's main.

    from util import runtime        before `import paddle`, which reads the environment that this sets

`runtime.CPU` is a line that says what was chosen: threads, and on AMD processors MKL's code path. Variables that the
user has set stay as they are.
"""

import argparse
import os
import signal
import sys

from util import config, paddle_fixes
from util.errors import UserError


def cpu_fields():
    """{field: text} of a processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        with open('/proc/cpuinfo') as f:
            text = f.read()
    except OSError:
        return {}
    return dict(map(str.strip, line.split(':', 1)) for line in text.splitlines() if ':' in line)


def local_processes():
    """Processes of the run on this machine. The launchers of some versions of Paddle give only the total."""
    return int(os.environ.get('PADDLE_LOCAL_SIZE') or os.environ.get('PADDLE_TRAINERS_NUM') or 1)


def worker_count(requested):
    """Loader processes to start: as many as requested, at most one for each core of this machine."""
    return max(0, min(requested, os.cpu_count() or 1))


paddle_fixes.import_numpy()
CPU = f'CPU: {paddle_fixes.set_threads(local_processes())}{paddle_fixes.set_mkl_path(cpu_fields())}'
paddle_fixes.copy_transposes(paddle_fixes.import_paddle())


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
        how = paddle_fixes.death_of_worker()
        if how is None:
            raise
        sys.exit(
            f'{parser.prog}: error: a loader process has died ({how}); if memory ran out, fewer --num_workers '
            'need less. A training run goes on with --resume auto'
        )
    finally:
        # Launchers send SIGTERM more than once: a late one must not turn a run that has ended well into exit code 143.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        paddle_fixes.kill_workers()
