"""Loads files in a process of its own and watches it: what came of a file, and at what cost.

As a script this is the watched process: it reads tasks `kind <tab> path <tab> honest size` from stdin and answers each
with a line of JSON. `Probe` is the other end, which also notices a crash and a hang.
"""

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HANG = 5.0  # seconds of processor time
PATIENCE = 30.0  # seconds by the clock, on a machine that others use too
SPARE = 200 << 20  # bytes beyond twice the honest size of a file
IMAGE_SPARE = 500 << 20  # what an image of util.image_file.MAX_PIXELS may take
DANGEROUS = (
    'os.',
    'subprocess.',
    'shutil.',
    'socket.',
    'ctypes.',
    'pickle.',
    'marshal.',
    'tempfile.',
    'webbrowser.',
    'exec',
    'compile',
    'import',
    'code.',
    'builtins.',
    'sys.',
    'urllib.',
    'winreg.',
    'mmap.resize',
)
HARMLESS = ('os.listdir', 'os.scandir', 'sys._getframe', 'os.walk')


@dataclass
class Outcome:
    result: str  # refused or loaded
    message: str = ''  # of the refusal
    seconds: float = 0.0
    memory: int = 0  # bytes that the peak of the process rose by
    faults: list = field(default_factory=list)  # what must not be


class Probe:
    """with Probe() as probe: probe.load(kind, path, size) -> Outcome"""

    def __enter__(self):
        self.process = None
        return self

    def __exit__(self, *_):
        self._end()

    def _end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def _start(self):
        environment = {**os.environ, 'PYTHONPATH': os.path.dirname(os.path.abspath(__file__))}
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )
        assert self._answer(120) == {'ready': True}

    def _answer(self, patience):
        ready, _, _ = select.select([self.process.stdout], [], [], patience)
        line = self.process.stdout.readline() if ready else None
        return json.loads(line) if line else line

    def load(self, kind, path, size):
        if not self.process:
            self._start()
        started = time.monotonic()
        self.process.stdin.write(f'{kind}\t{path}\t{size}\n')
        answer = self._answer(PATIENCE)
        if answer:
            return Outcome(**answer)
        seconds, code = time.monotonic() - started, None
        if answer == '':
            code = self.process.wait()
        self._end()
        return Outcome('lost', seconds=seconds, faults=['hangs' if code is None else f'crashes, exit code {code}'])


# -- the watched process ----------------------------------------------------------------------------------------------


def _memory(name):
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith(name + ':'))


def _plain(value, kinds):
    """Whether a value is made of plain things only."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, (list, tuple)):
            todo += value
        elif isinstance(value, dict):
            todo += [*value, *value.values()]
        elif not isinstance(value, kinds) or getattr(getattr(value, 'dtype', None), 'kind', '') == 'O':
            return False
    return True


def _attempt(load, path, user_error):
    """(result, message, faults) of one load."""
    import datetime
    import numpy as np

    plain = (
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        bytearray,
        np.ndarray,
        np.generic,
        np.dtype,
        datetime.date,
    )
    try:
        value = load(path)
    except user_error as error:
        message, faults, cause = str(error), [], error
        if '\n' in message or not message.isprintable() or len(message) > 1500:
            faults.append('message is not one readable line')
        if path not in message and os.path.dirname(path) not in message:
            faults.append('message does not name the file')
        while cause:
            if isinstance(cause, MemoryError):
                faults.append('asked for more memory than it may have')
            cause = cause.__context__
        return 'refused', message, faults
    except BaseException as error:
        return 'lost', '', [f'raises {type(error).__name__}: {str(error)[:200]}']
    return 'loaded', '', [] if _plain(value, plain) else ['returns what is not plain']


def _serve():
    import gc
    import resource

    sys.path.insert(0, ROOT)
    from util import runtime
    from util.errors import UserError

    runtime.prepare()
    import kinds

    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    printed = os.memfd_create('printed')
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    kinds.warm_up()
    gc.collect()
    gc.freeze()  # what is imported need not be looked at again after every file
    watching, events = False, []

    def hook(event, arguments):
        if watching and (
            event.startswith(DANGEROUS) and event not in HARMLESS or event == 'open' and _writes(arguments)
        ):
            events.append(f'{event} {arguments!r}'[:200])

    sys.addaudithook(hook)
    print(json.dumps({'ready': True}), file=answers)
    for line in sys.stdin:
        kind, path, size = line.rstrip('\n').split('\t')
        load, spare = {**kinds.LOADERS, **kinds.DEMONS}[kind], IMAGE_SPARE if kind in kinds.IMAGES else SPARE
        allowed = 2 * int(size) + spare
        gc.collect()
        with open('/proc/self/clear_refs', 'w') as f:
            f.write('5')  # the peak starts anew
        before = _memory('VmRSS')
        resource.setrlimit(resource.RLIMIT_AS, (_memory('VmSize') + allowed, resource.RLIM_INFINITY))
        os.ftruncate(printed, 0)
        del events[:]
        started, watching = time.process_time(), True
        result, message, faults = _attempt(load, path, UserError)
        watching, seconds = False, time.process_time() - started
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        memory = max(0, _memory('VmHWM') - before)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fstat(printed).st_size:
            faults.append('prints ' + repr(os.pread(printed, 300, 0)))
        if memory > allowed:
            faults.append(f'takes {memory >> 20} MB')
        if seconds > HANG:
            faults.append(f'takes {seconds:.1f} s')
        faults += [f'does {event}' for event in events]
        print(
            json.dumps(
                {'result': result, 'message': message[:1000], 'seconds': seconds, 'memory': memory, 'faults': faults}
            ),
            file=answers,
        )


def _writes(arguments):
    path, mode, flags = arguments
    return (
        flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else mode and set(mode) & set('wax+')
    )


if __name__ == '__main__':
    _serve()
