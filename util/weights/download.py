"""Downloads published weights with paddle.utils.download and keeps them in Paddle's cache."""

import os

from paddle.utils import download

from util import files
from util.errors import UserError, one_line
from util.logger import log
from util.weights.load import read

BY_HAND = 'try again, or fetch the file by hand and give it with --resume'


def fetch(url):
    """Download the file at `url` unless Paddle's cache (download.WEIGHTS_HOME) has it; returns its path there.

    Of several processes on a machine the first downloads it and the others wait. A download that is not a readable file
    of weights (cut short, a web page) is deleted. Raises UserError that names the URL.
    """
    folder = download.WEIGHTS_HOME
    path = os.path.join(folder, url.rpartition('/')[2])
    if os.path.exists(path):
        log(f'{path}: fetched before, from {url}')
        return path
    files.check_folder(folder, f'{folder}, the folder for fetched weights')
    try:
        download.get_path_from_url(url, folder, decompress=False)  # Paddle would unpack a .pth, which is a zip archive
    except Exception as error:  # no network, no such file there, no space left
        raise UserError(f'{url}: could not be fetched ({one_line(error)}); {BY_HAND}')
    try:
        read(path)
    except UserError as error:
        if os.path.exists(path):  # another process may have deleted it
            os.unlink(path)
        raise UserError(f'{url}: not a file of weights ({error}); it was deleted; {BY_HAND}')
    log(f'{url}: fetched, kept as {path}')
    return path
