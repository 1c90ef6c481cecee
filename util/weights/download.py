"""Published weights: fetched through paddle.utils.download, checked, and kept where Paddle keeps its own."""

import os
import threading
import time

from paddle.utils import download

from util import files
from util.errors import UserError
from util.logger import log
from util.weights import pretrained

PATIENCE = 60  # seconds without a further byte after which a download is given up


def fetch(url):
    """The file at `url` as a path in Paddle's cache (download.WEIGHTS_HOME), where it stays for the next time.

    Of several processes on a machine the first one fetches and the others wait for it. The file is read as weights
    each time: what was cut on its way or is a web page is deleted, never used. Raises UserError that names the URL.
    """
    folder = download.WEIGHTS_HOME
    path = os.path.join(folder, url.rpartition('/')[2])
    if os.path.exists(path):
        log(f'{path}: fetched before, from {url}')
    else:
        files.check_folder(folder, f'{folder}, the folder for fetched weights')
        _download(url, folder, path)
        log(f'{url}: fetched, kept as {path}')
    try:
        pretrained.read(path)
    except UserError as error:
        if os.path.exists(path):  # another process may have been faster
            os.unlink(path)
        raise UserError(f'{url}: what came from there is no file of weights ({error}). It was deleted; {_by_hand()}')
    return path


def _by_hand():
    return 'try again, or fetch the file by hand and give it with --resume'


def _download(url, folder, path):
    """Let Paddle fetch `url` into `folder`; it leaves no file at `path` unless all of it came.

    In a thread, because Paddle waits without end for a server that is silent. Raises UserError.
    """
    failures = []

    def work():
        try:
            download.get_path_from_url(url, folder, decompress=False)  # a .pth is a zip archive, to be left as it is
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    arrived, since = 0, time.monotonic()
    while thread.is_alive():
        thread.join(0.5)
        so_far = _size(path + '_tmp')  # where Paddle puts what has arrived
        if so_far != arrived:
            arrived, since = so_far, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise UserError(f'{url}: could not be fetched, nothing came for {PATIENCE} seconds; {_by_hand()}')
    if failures:
        raise UserError(f'{url}: could not be fetched ({failures[0]}); {_by_hand()}')


def _size(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
