"""Writes a set of label maps, a .npy file per image, so that a run that stops goes on where it was.

OUT/meta.json describes the set from the beginning and says whether it is complete; finished maps are kept, unfinished
ones never exist.
"""

import json
import os
from typing import NamedTuple

import numpy as np

from util import dist, files
from util.data import annotator
from util.data.datasets import EvalDataset
from util.data.label_maps import map_names
from util.data.label_sets import META, npy_size
from util.data.loader import Loader
from util.errors import UserError
from util.logger import progress

RESULTS = ('complete', 'maps', 'undecodable')  # what meta.json says beside the settings


class Counts(NamedTuple):
    """Of the images labelled by a run, on all processes."""

    written: int
    undecodable: int
    judged: int  # whose class is one of the annotator's
    correct: int  # whose class has the highest mean score over all cells


class LabelWriter:
    """The set of label maps of `samples`, listing.Samples, in the folder `out`.

    settings: what meta.json says of all maps, including 'shape' and 'dtype'. Raises UserError for a folder that holds
    something else, or a set begun with other settings, and if two images would share a map.
    """

    def __init__(self, out, samples, settings):
        self.out, self.samples, self.settings = out, samples, settings
        self.names = map_names(samples.paths)  # arrays, which loader processes share
        check_distinct(self.names, samples.paths, out)
        check_begun(out, settings)
        whole = npy_size(settings['shape'], settings['dtype'])
        self.missing = np.ones(len(samples), bool)
        for number in range(len(samples)):
            path = self.path(number)
            self.missing[number] = not (os.path.isfile(path) and os.path.getsize(path) == whole)

    def path(self, number):
        """The file of a sample's map."""
        return map_path(self.out, self.names[number])

    def write(self, annotate, transform, batch_size, num_workers):
        """Write the missing maps, every process its share; returns Counts. annotate: see util/data/annotator.py."""
        dist.barrier()  # no process writes before all have looked for missing maps
        self._write_meta(complete=False)
        dist.barrier()  # no map is written before meta.json
        dataset = EvalDataset(self.samples, transform, skip_bad=True)
        loader = Loader(dataset, self._batches(batch_size), batch_size, num_workers)
        own = self._label(annotate, loader)
        counts = Counts(*map(int, dist.all_sum(own)))
        self._write_meta(complete=True, maps=count_maps(self.out), undecodable=counts.undecodable)
        return counts

    def _batches(self, batch_size):
        """Ranges of sample numbers: this process's share of the batches in which a map is missing.

        The batches of the whole set are dealt out, and one with a map missing is computed as a whole: so a map depends
        neither on interruptions nor on who computes it, not even in the last bit (with as many threads).
        """
        count = len(self.samples)
        starts = range(0, count, batch_size)[dist.rank() :: dist.world_size()]
        batches = [range(start, min(start + batch_size, count)) for start in starts]
        return [batch for batch in batches if self.missing[batch.start : batch.stop].any()]

    def _label(self, annotate, loader):
        """Counts of this process. Raises UserError for scores that are not finite."""
        topk, dtype = self.settings['shape'][1], self.settings['dtype']
        relative = self.settings.get('scores') == 'relative'
        written = undecodable = judged = correct = 0
        for batch in progress(loader, 'batches'):
            scores = annotate(batch['image'])
            maps = annotator.top_maps(scores, topk, dtype, relative=relative)
            guesses = scores.mean(axis=1).argmax(axis=-1).numpy()
            for number, label, guess, array in zip(batch['index'].tolist(), batch['label'].tolist(), guesses, maps):
                if not self.missing[number]:
                    continue
                if label == -1:
                    undecodable += 1
                    continue
                if not np.isfinite(array).all():
                    raise UserError(
                        f"{self.path(number)}: scores that are not finite in {dtype}; are the annotator's weights good?"
                    )
                with files.replacing(self.path(number), sync=False) as f:
                    np.save(f, array)
                written += 1
                judged += label < annotate.num_classes
                correct += label == guess
        return Counts(written, undecodable, judged, correct)

    def _write_meta(self, **results):
        """OUT/meta.json, on the first process: the settings that all maps share, and RESULTS."""
        if dist.is_main():
            text = json.dumps({**self.settings, **results}, indent=1) + '\n'
            files.write(os.path.join(self.out, META), text.encode())


def map_path(out, name):
    """The file of a map. name: one of map_names."""
    return os.path.join(out, *os.fsdecode(name).split('/')) + '.npy'


def check_distinct(names, images, out):
    """Raise UserError if two images would share a map. names: map_names of the images' paths."""
    order = np.argsort(names, kind='stable')  # equal names stay in their order, side by side
    again = order[1:][names[order[1:]] == names[order[:-1]]]
    if again.size:
        second = int(again.min())
        first = int(np.argmax(names == names[second]))
        raise UserError(
            f'{images[second]}: its label map would be that of {images[first]} ({map_path(out, names[second])}); '
            'rename one of them'
        )


def check_begun(out, settings):
    """Raise UserError unless `out` is new, empty, or a set of label maps begun with the same settings."""
    if not os.path.isdir(out) or all(name.startswith('.') for name in os.listdir(out)):
        return
    meta_path = os.path.join(out, META)
    if not os.path.exists(meta_path):
        raise UserError(
            f'{out}: not empty, and no set of label maps begun here (it has no meta.json); choose another folder'
        )
    begun = files.read_json(meta_path)
    if not isinstance(begun, dict):
        raise UserError(f'{meta_path}: not the readable description of a set of label maps')
    for key in [*settings, *begun]:
        if key not in RESULTS and settings.get(key) != begun.get(key):
            raise UserError(
                f"{meta_path}: this set was begun with '{key}' {json.dumps(begun.get(key))}, not "
                f'{json.dumps(settings.get(key))}; a set is of one kind, choose another folder'
            )


def count_maps(out):
    return sum(name.endswith('.npy') and not name.startswith('.') for _, _, names in os.walk(out) for name in names)
