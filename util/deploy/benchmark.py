"""infer.py --enable_benchmark: the time of each stage, by AutoLog (github.com/LDOUBLEV/AutoLog) if it is installed."""

import os
import resource
import sys
import time

import numpy as np
import paddle

from util.deploy.records import best_classes, decoded
from util.logger import log

STAGES = ('preprocess_time', 'inference_time', 'postprocess_time')
WARM_UP = 3  # runs of each batch size before the first timed one


class Timer:
    """Times the stages of each batch and logs their means. facts: {name: value} to report as well."""

    def __init__(self, facts=None):
        self.facts, self.batches, self.stamps = facts or {}, [], []

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


class AutoLogTimer:
    """A Timer that reports through an auto_log.AutoLogger, which also records memory."""

    def __init__(self, logger):
        self.logger = logger

    def start(self):
        self.logger.times.start()

    def stamp(self):
        self.logger.times.stamp()

    def end(self):
        self.logger.times.end(stamp=True)

    def report(self):
        try:
            self.logger.report()
        except SystemExit:  # some versions end the program here, with exit code 0 even after an error
            pass
        sys.stdout.flush()


def create(network, settings, precision, batch_size, num_images):
    """A timer for a Predictor, after its warm-up. settings: of inference_yml.find_settings."""
    size = settings['input_size']
    for batch in {min(batch_size, num_images), num_images % batch_size} - {0}:
        for _ in range(WARM_UP):
            network(np.zeros([batch, 3, size, size], 'float32'))
    config = network.config
    facts = {
        'model_name': settings['model'],
        'model_precision': precision,
        'batch_size': batch_size,
        'data_shape': f'3,{size},{size}',
    }
    try:
        import auto_log
    except ImportError as error:
        if error.name != 'auto_log':  # it is installed, but a package that it imports is not
            log(f'auto_log cannot be imported ({error}): the report is the built-in one')
        facts['data_num'] = num_images
        facts['engine'] = network.engine
        facts['cpu_threads'] = config.cpu_math_library_num_threads()
        facts['paddle_version'] = paddle.__version__
        return Timer(facts)
    logger = auto_log.AutoLogger(
        **facts,
        save_path=None,
        inference_config=config,
        pids=os.getpid(),
        process_name=None,
        gpu_ids=config.gpu_device_id() if config.use_gpu() else None,
        time_keys=list(STAGES),
        warmup=0,
    )
    return AutoLogTimer(logger)


def classify(files, loader, network, names, topk, timer, are_scores=False):
    """records.classify with a timer: decoding, running and ranking of each batch are its three stages."""
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
