"""Features of photos by a backbone: their mean over the cells, and one cell drawn at random.

They are kept in a folder, so that an interrupted run continues and a second one is short.
"""

import hashlib
import json
import os

import numpy as np

from util import files
from util.data.datasets import UNDECODABLE, EvalDataset
from util.data.loader import Loader
from util.data.transforms import EvalTransform
from util.errors import UserError
from util.logger import log, progress

PART = 1024  # photos in a file of features


def transform(backbone):
    """The transform of generate_label.py, for the backbone's images: the whole centre square."""
    settings = backbone.settings
    return EvalTransform(settings['img_size'], 1.0, settings['interpolation'], settings['mean'], settings['std'])


def compute(backbone, samples, folder, batch_size, num_workers):
    """float32 [n, 2, C]: of each photo the mean over the cells, and one cell; NaN if the photo cannot be decoded.

    samples: listing.Samples with labels from 0 on. folder: holds one file for each PART photos, whose name depends on
    the backbone, its settings, and the photos' names, sizes and times.
    """
    parts = [range(start, min(start + PART, len(samples))) for start in range(0, len(samples), PART)]
    paths = [os.path.join(folder, f'{digest(backbone, samples, part)}.npy') for part in parts]
    missing = [i for i, path in enumerate(paths) if not os.path.isfile(path)]
    known = sum(len(part) for part, path in zip(parts, paths) if os.path.isfile(path))
    log(f'features of {len(samples)} photos, {known} of them computed before: {folder}')
    batches = [parts[i][start : start + batch_size] for i in missing for start in range(0, len(parts[i]), batch_size)]
    loader = Loader(EvalDataset(samples, transform(backbone), skip_bad=True), batches, batch_size, num_workers)
    rows, remaining = [], list(missing)
    for batch in progress(loader, 'batches of photos'):
        cells = backbone.cells(batch['image'].numpy())
        for number, label, own in zip(batch['index'].tolist(), batch['label'].tolist(), cells):
            one = own[np.random.default_rng(number).integers(len(own))]
            both = np.stack([own.mean(axis=0), one])
            if label == UNDECODABLE:
                both[:] = np.nan
            elif not np.isfinite(both).all():
                raise UserError(f'{backbone.named}: its features of {samples.paths[number]} are not finite')
            rows.append(both)
        if len(rows) == len(parts[remaining[0]]):
            with files.replacing(paths[remaining.pop(0)], sync=False) as f:
                np.save(f, np.stack(rows))
            rows = []
    return np.concatenate([np.load(path, allow_pickle=False) for path in paths])


def digest(backbone, samples, part):
    """16 hex digits that identify what the features of the photos `part`, a range of numbers, depend on."""
    state = hashlib.sha256()
    state.update(json.dumps([backbone.network.fingerprint(), backbone.settings, backbone.layout]).encode())
    for number in part:
        status = os.stat(samples.paths[number])
        state.update(samples.paths.names[number] + b'\0%d %d\0' % (status.st_size, status.st_mtime_ns))
    return state.hexdigest()[:16]
