"""Runs the scripts of this project one after the other, for tools/self_label.py."""

import os
import shlex
import subprocess
import sys

from util.errors import UserError
from util.logger import log

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STOPPED = (130, 137, 143)  # exit codes after SIGINT, SIGKILL and SIGTERM


def maps_remedy(out):
    """The remedy when a command does not fit the maps in OUT."""
    return f'delete {os.path.join(out, "maps")} and {os.path.join(out, "student")}, or give another OUT'


class Steps:
    """Runs the project's scripts in turn. Raises UserError when one fails."""

    def __init__(self, out, launch):
        self.log_path, self.launcher = os.path.join(out, 'self_label.log'), []
        self.maps_remedy = maps_remedy(out)
        if launch:
            self.launcher = ['-m', 'paddle.distributed.launch', '--log_dir', os.path.join(out, 'launch')]
            self.launcher += shlex.split(launch)

    def run(self, title, words, launched=True):
        """Run a script; its output goes to the console and to the log. launched: by --launch, if it is given."""
        log(f'== {title}: {shlex.join(words)}')
        start = [sys.executable, '-u', *(self.launcher if launched else [])]
        with open(self.log_path, 'a', buffering=1, encoding='utf-8', errors='backslashreplace') as copy:  # by lines
            pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
            with subprocess.Popen([*start, os.path.join(ROOT, words[0]), *words[1:]], **pipe) as process:
                try:
                    show(process.stdout, copy)
                except SystemExit:  # SIGTERM; Ctrl-C reaches the script too
                    process.terminate()
                    show(process.stdout, copy)  # a training saves first
                    raise
        if process.returncode:
            remedy = 'remove the cause; the command then goes on with this step'
            if process.returncode < 0 or process.returncode in STOPPED:
                remedy = 'the same command resumes this step'
            elif title == 'maps':
                remedy = f'if these maps were begun with other flags or labels, {self.maps_remedy}'
            raise UserError(
                f'{title}: stopped with exit code {process.returncode}, see above and {self.log_path}; {remedy}'
            )


def show(lines, copy):
    """Print lines, and write them to the file `copy`."""
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()
        copy.write(line)
