"""The timing report of --enable_benchmark: AutoLog's (github.com/LDOUBLEV/AutoLog) if it is installed, else our own.

timer.start()  per batch; then timer.stamp() after each stage but the last, timer.end() after the last
timer.report()
"""

import os
import resource
import sys
import time

import numpy as np
import paddle

from util.logger import log

STAGES = ('preprocess_time', 'inference_time', 'postprocess_time')
WARM_UP = 3  # runs of each batch size that come before and do not count


class Timer:
    """Takes the time of the stages of each batch. facts: {name: value} to report along with them."""

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
        """Log a table, and in its last line the mean time of each stage in ms per batch."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
        rows = {**self.facts, 'cpu_rss(MB)': f'{peak:.1f}', 'total time spent(s)': f'{np.sum(self.batches):.4f}'}
        log('Inference benchmark')
        for name, value in rows.items():
            log(f'    {name}: {value}')
        milliseconds = 1000 * np.mean(self.batches or np.zeros([1, len(STAGES)]), axis=0)
        log(', '.join(f'{name}(ms): {mean:.4f}' for name, mean in zip(STAGES, milliseconds)))


class AutoLogTimer:
    """The same calls for an auto_log.AutoLogger, which also watches the memory by a process of its own."""

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
        except SystemExit:  # some versions end the program here, with exit code 0 whatever happened before
            pass
        sys.stdout.flush()


def create(args, settings, network, num_images):
    """A timer for infer.py's flags and a Predictor, after runs that do not count."""
    size = settings['input_size']
    for batch_size in {min(args.batch_size, num_images), num_images % args.batch_size} - {0}:
        for _ in range(WARM_UP):
            network(np.zeros([batch_size, 3, size, size], 'float32'))
    config = network.config
    facts = {
        'model_name': settings['model'],
        'model_precision': args.precision,
        'batch_size': args.batch_size,
        'data_shape': f'3,{size},{size}',
    }
    try:
        import auto_log
    except ImportError as error:
        if error.name != 'auto_log':  # installed, but something that it imports is missing
            log(f'auto_log cannot be imported ({error}): the report is the built-in one')
        return Timer(
            {
                **facts,
                'data_num': num_images,
                'engine': network.engine,
                'cpu_threads': config.cpu_math_library_num_threads(),
                'paddle_version': paddle.__version__,
            }
        )
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
