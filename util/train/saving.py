"""Saving a training run: its checkpoints and log.txt, in --output_dir."""

import json
import os

import numpy as np

from util import class_names, dist, files
from util.errors import UserError
from util.logger import log
from util.train import optim
from util.weights import checkpoint


def save(state, tags=()):
    """Write checkpoint-latest.pd, and the same content to checkpoint-<tag>.pd for each tag. state: TrainState.

    The old checkpoint-latest.pd becomes checkpoint-previous.pd. All processes must call this; the first one writes.
    Raises UserError if weights are not finite or the file cannot be written.
    """
    _share_bad_images(state.loader.dataset)
    folder = state.args.output_dir
    if not folder:
        return
    totals = state.meters.totals()
    sums = []
    if totals:
        sums = np.reshape(dist.gather(np.ravel(list(totals.values()))), [-1, len(totals), 2])
    if not dist.is_main():
        return
    latest = os.path.join(folder, checkpoint.LATEST)
    others = [os.path.join(folder, f'checkpoint-{tag}.pd') for tag in tags]
    content = _content(state, list(totals), sums)
    checkpoint.save(content, latest, *others, previous=os.path.join(folder, checkpoint.PREVIOUS))
    if state.args.keep_checkpoints:
        checkpoint.tidy(folder, state.args.keep_checkpoints)


def append_to_log(folder, stats):
    """Append the statistics of an epoch to log.txt as one JSON object, on the first process. Raises UserError."""
    if not folder or not dist.is_main():
        return
    path = os.path.join(folder, 'log.txt')
    try:
        with open(path, 'a', encoding='utf-8') as f:
            f.write(json.dumps(stats) + '\n')
    except OSError as error:
        raise UserError(f'{path}: cannot be written to ({error.strerror or error})')


def trim_log(folder, epoch):
    """Remove from log.txt the records of `epoch` and later ones, which are trained again, and an incomplete last one.

    Lines that are no records stay where they are, and the log says how many there are. Raises UserError.
    """
    path = os.path.join(folder, 'log.txt')
    if not os.path.exists(path):
        return
    try:
        with open(path, 'rb') as f:
            before = f.read()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})')
    kept, foreign = [], 0
    for line in before.splitlines(keepends=True):
        record = files.epoch_record(line)
        is_torn = record is None and line.startswith(b'{') and not line.endswith(b'\n')
        if is_torn or (record and record['epoch'] >= epoch):
            continue
        kept.append(line)
        foreign += record is None and bool(line.strip())
    after = b''.join(kept)
    if after and not after.endswith(b'\n'):
        after += b'\n'
    if foreign:
        log(f'{path}: {foreign} line(s) are no records of an epoch; they stay')
    if after != before:
        files.write(path, after)


def _share_bad_images(dataset):
    """Tell every process which training files any of them could not decode."""
    if dist.all_sum([dataset.bad_images()])[0] > 0:
        dataset.bad[:] = np.asarray(dist.all_sum(dataset.bad)) > 0


def _content(state, meters, sums):
    """The content of a checkpoint. meters: names; sums: float64 [processes, meters, 2], the (sum, count) of each.

    Raises UserError if weights are not finite.
    """
    weights = checkpoint.to_numpy(state.model.state_dict())
    broken = [name for name, value in weights.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(
            f'epoch {state.epoch}, step {state.steps_done}: {len(broken)} of the weights are not finite, among them '
            f'{broken[0]}; not saved, the checkpoints are untouched'
        )
    content = {
        'model': weights,
        'optimizer': optim.state_by_name(state.optimizer, state.model),
        'scaler': state.amp.scaler.state_dict(),
        'epoch': state.epoch - 1,  # the last finished one
        'step': state.step,
        'rng': {'seed': state.args.seed},
        **state.best,
        'args': vars(state.args),
        'progress': {
            'done': state.steps_done,
            'updates': state.steps_per_epoch,
            'total_batch': state.total_batch,
            'seconds': state.meters.seconds,
            'meters': meters,
            'sums': sums,
            'wandb_run': state.wandb_run,
            'images': len(state.loader.dataset),
            'bad_images': np.flatnonzero(state.loader.dataset.bad),
        },
    }
    if state.class_names:
        content[class_names.KEY] = state.class_names
    if state.ema:
        content['model_ema'] = state.ema.module.state_dict()
    return content
