"""infer.py --enable_benchmark: the time of each stage."""

import resource
import sys
import time

import numpy as np

from util.deploy.records import best_classes, decoded
from util.logger import log

STAGES = ('preprocess_time', 'inference_time', 'postprocess_time')
WARM_UP = 3  # runs of each batch size before the first timed one


class Timer:
    """Times the stages of each batch and logs their means. facts: {name: value} to report as well."""

    def __init__(self, facts):
        self.facts, self.batches, self.stamps = facts, [], []

    def start(self):
        self.stamps = [time.perf_counter()]

    def stamp(self):
        self.stamps.append(time.perf_counter())

    def end(self):
        self.stamp()
        self.batches.append(np.diff(self.stamps))

    def report(self):
        """Log a table; its last line is the mean time of each stage in ms per batch."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
        rows = {**self.facts, 'cpu_rss(MB)': f'{peak:.1f}', 'total time spent(s)': f'{np.sum(self.batches):.4f}'}
        log('Inference benchmark')
        for name, value in rows.items():
            log(f'    {name}: {value}')
        milliseconds = 1000 * np.mean(self.batches or np.zeros([1, len(STAGES)]), axis=0)
        log(', '.join(f'{name}(ms): {mean:.4f}' for name, mean in zip(STAGES, milliseconds)))


def create(predictor, precision, batch_size, num_images):
    """A timer for a Predictor, after its warm-up."""
    network, size = predictor.network, predictor.settings['input_size']
    for batch in {min(batch_size, num_images), num_images % batch_size} - {0}:
        for _ in range(WARM_UP):
            network(np.zeros([batch, 3, size, size], 'float32'))
    facts = {
        'model_name': predictor.settings['model'],
        'model_precision': precision,
        'batch_size': batch_size,
        'data_shape': f'3,{size},{size}',
        'data_num': num_images,
        'engine': network.engine,
        'cpu_threads': network.threads,
        'library': f'{network.library} {network.version}',
    }
    return Timer(facts)


def classify(files, loader, network, names, topk, timer, are_scores=False):
    """records.classify with a timer of its three stages: decoding, running and ranking."""
    records, batches = [], iter(loader)
    for _ in range(len(loader)):
        timer.start()
        paths, images = decoded(files, next(batches))
        if paths:
            timer.stamp()
            outputs = network(images)
            timer.stamp()
            records += best_classes(paths, outputs, names, topk, are_scores)
            timer.end()
    return records
