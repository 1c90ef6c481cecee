"""Timing of an inference run, for --enable_benchmark."""
import resource
import time

import numpy as np

STAGES = ('preprocess_time', 'inference_time', 'postprocess_time')


class Benchmark:
    """Stamps of the three stages of every batch; the first `warmup` batches do not count."""

    def __init__(self, warmup=1):
        self.warmup, self.batches, self.images = warmup, [], 0

    def start(self):
        self._stamps = [time.perf_counter()]

    def stamp(self):
        self._stamps.append(time.perf_counter())

    def end(self, images):
        self.stamp()
        self.batches.append(np.diff(self._stamps))
        self.images += images

    def report(self, **config):
        """Lines of text: what ran, and the mean time of each stage in ms per batch."""
        counted = np.array(self.batches[self.warmup:] or self.batches)
        mean = counted.mean(axis=0) * 1000
        lines = ['---------------------- Inference benchmark ----------------------']
        lines += [f'{key}: {value}' for key, value in config.items()]
        lines += [f'cpu_rss(MB): {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f} (peak)',
                  f'data_num: {self.images}',
                  f'total_time(s): {counted.sum():.4f} over {len(counted)} batches',
                  ', '.join(f'{name}(ms): {value:.2f}' for name, value in zip(STAGES, mean))]
        return '\n'.join(lines)
