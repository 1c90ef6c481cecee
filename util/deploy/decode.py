"""Image files to batches: decoded in a process of their own, one batch ahead of whoever takes them.

A process and not a thread: Paddle 3.3 keeps Python's lock while a predictor runs.
"""

import contextlib
import multiprocessing
import signal

import numpy as np

from util.data.images import BadImage, open_rgb
from util.errors import UserError, one_line


def load_batch(files, transform):
    """(files that decode, float32 [B, 3, S, S] or None if none does, [(file, reason)] of the others)."""
    good, arrays, bad = [], [], []
    for path in files:
        try:
            arrays.append(transform(open_rgb(path)))
            good.append(path)
        except BadImage as error:
            bad.append((path, one_line(error)))
    return good, np.stack(arrays) if arrays else None, bad


class Batches:
    """Iterate over load_batch of `batch_size` files at a time, in their order; use as a context manager.

    ahead: decode the next batch meanwhile; without it a batch is decoded when it is asked for. What goes wrong in the
    other process is raised here, as UserError.
    """

    def __init__(self, files, transform, batch_size, ahead=True):
        self.parts = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
        self.transform, self._process = transform, None
        if ahead and len(self.parts) > 1:
            methods = multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context('fork' if 'fork' in methods else None)
            self._receiver, sender = context.Pipe(duplex=False)
            self._process = context.Process(
                target=_work, args=(self.parts, transform, self._receiver, sender), daemon=True
            )
            self._process.start()
            sender.close()

    def __len__(self):
        return len(self.parts)

    def __iter__(self):
        for part in self.parts:
            if self._process is None:
                yield load_batch(part, self.transform)
                continue
            try:
                batch = self._receiver.recv()
            except EOFError:
                raise UserError(f'{part[0]}: the process that decodes images died (out of memory?)')
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._receiver.close()


def _work(parts, transform, receiver, sender):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers Ctrl-C, and ends this one
    receiver.close()
    with contextlib.suppress(BrokenPipeError):
        for part in parts:
            try:
                batch = load_batch(part, transform)
            except Exception as error:  # not of a damaged image: those are in the batch
                batch = f'{part[0]}: decoding failed ({type(error).__name__}: {error})'
            sender.send(batch)
