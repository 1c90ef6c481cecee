"""Writes a set of label maps, one .npy file per image. The same call continues a set whose writing was interrupted.

A map's file appears when it is complete. OUT/meta.json describes the set and says whether it is complete.
"""

import json
import os
from typing import NamedTuple

import numpy as np

from util import dist, files
from util.data import annotator
from util.data.datasets import UNDECODABLE, EvalDataset
from util.data.label_maps import META
from util.data.loader import Loader
from util.data.map_names import check_distinct, map_names
from util.data.map_sets import npy_size
from util.errors import UserError
from util.logger import progress

RESULTS = ('complete', 'maps', 'undecodable')  # keys of meta.json beside the settings


class Counts(NamedTuple):
    """Numbers of images of one run, over all processes."""

    written: int  # maps
    undecodable: int
    labelled: int  # maps of images whose class is one of the annotator's
    correct: int  # maps in which the image's class has the highest mean score


class LabelWriter:
    """The label maps of `samples`, listing.Samples, in the folder `out`.

    settings: what meta.json says of all maps, including 'shape' and 'dtype'. Raises UserError if the folder holds
    something else, or a set begun with other settings, and if two images would have one map.
    """

    def __init__(self, out, samples, settings):
        self.out, self.samples, self.settings = out, samples, settings
        self.names = map_names(samples)  # an array, which loader processes share
        check_distinct(self.names, samples.paths, 'rename one of the two')
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
        """Write the missing maps, each process its share; returns Counts. annotate: see util/data/annotator.py."""
        dist.barrier()  # no process writes before all have looked for missing maps
        self._write_meta(complete=False)
        dist.barrier()  # no process writes a map before meta.json exists
        dataset = EvalDataset(self.samples, transform, skip_bad=True)
        loader = Loader(dataset, self._batches(batch_size), batch_size, num_workers)
        own = self._label(annotate, loader)
        counts = Counts(*map(int, dist.all_sum(own)))
        self._write_meta(complete=True, maps=count_maps(self.out), undecodable=counts.undecodable)
        return counts

    def _batches(self, batch_size):
        """This process's share of the batches in which a map is missing, as ranges of sample numbers.

        The division into batches does not depend on which maps are missing or on the number of processes, and a batch
        is computed in full. So neither changes one bit of a map (with the same number of threads).
        """
        count = len(self.samples)
        starts = range(0, count, batch_size)[dist.rank() :: dist.world_size()]
        batches = [range(start, min(start + batch_size, count)) for start in starts]
        return [batch for batch in batches if self.missing[batch.start : batch.stop].any()]

    def _label(self, annotate, loader):
        """Write the maps of a loader's images; returns this process's Counts. Raises UserError for infinite scores."""
        topk, dtype = self.settings['shape'][1], self.settings['dtype']
        relative = self.settings.get('scores') == 'relative'
        written = undecodable = labelled = correct = 0
        for batch in progress(loader, 'batches'):
            scores = annotate(batch['image'])
            maps = annotator.top_maps(scores, topk, dtype, relative=relative)
            guesses = scores.mean(axis=1).argmax(axis=-1).numpy()
            for number, label, guess, array in zip(batch['index'].tolist(), batch['label'].tolist(), guesses, maps):
                if not self.missing[number]:
                    continue
                if label == UNDECODABLE:
                    undecodable += 1
                    continue
                if not np.isfinite(array).all():
                    raise UserError(
                        f'{self.samples.paths[number]}: the scores of its label map are not finite in {dtype} (NaN or '
                        "infinite); check the annotator's weights"
                    )
                with files.replacing(self.path(number), sync=False) as f:
                    np.save(f, array)
                written += 1
                labelled += 0 <= label < annotate.num_classes
                correct += label == guess
        return Counts(written, undecodable, labelled, correct)

    def _write_meta(self, **results):
        """Write OUT/meta.json, on the first process: the settings and RESULTS."""
        if dist.is_main():
            text = json.dumps({**self.settings, **results}, indent=1) + '\n'
            files.write(os.path.join(self.out, META), text.encode())


def map_path(out, name):
    """The file of a map. name: an element of map_names."""
    return os.path.join(out, *os.fsdecode(name).split('/')) + '.npy'


def check_begun(out, settings):
    """Raise UserError unless `out` is new, empty, or a set of label maps begun with the same settings."""
    if not os.path.isdir(out) or all(name.startswith('.') for name in os.listdir(out)):
        return
    meta_path = os.path.join(out, META)
    if not os.path.exists(meta_path):
        raise UserError(f'{out}: not empty and without the meta.json of a set of label maps; choose another folder')
    begun = files.read_json(meta_path)
    if not isinstance(begun, dict):
        raise UserError(f'{meta_path}: does not describe a set of label maps; choose another folder')
    for key in [*settings, *begun]:
        if key not in RESULTS and settings.get(key) != begun.get(key):
            raise UserError(
                f"{meta_path}: this set was begun with '{key}' {json.dumps(begun.get(key))}, not "
                f'{json.dumps(settings.get(key))}; choose another folder'
            )


def count_maps(out):
    """Number of .npy files in a folder and all folders below it."""
    return sum(name.endswith('.npy') and not name.startswith('.') for _, _, names in os.walk(out) for name in names)
