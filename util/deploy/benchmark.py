"""The timing report of --enable_benchmark: by AutoLog (github.com/LDOUBLEV/AutoLog) where it is installed, else our own
with the same lines, so that what reads the one reads the other.

    timer.start()  per batch; then timer.stamp() after each stage but the last, timer.end() after the last
    timer.report()

The stages are timed one after another (no decoding ahead), and runs that warm up come before the first start().
"""

import os
import platform
import resource
import sys
import time

import numpy as np
import paddle

from util.logger import log

STAGES = ('preprocess_time', 'inference_time', 'postprocess_time')


def create(model, precision, batch_size, shape, data_num, config):
    """A timer for an inference run. shape: text of the input's shape; data_num: images; config: inference.Config."""
    facts = dict(model_name=model, model_precision=precision, batch_size=batch_size, data_shape=shape)
    try:
        import auto_log
    except ImportError as error:
        if getattr(error, 'name', None) != 'auto_log':  # it is there, but something that it needs is not
            log(f'auto_log cannot be imported ({error}): the report is the built-in one')
        return Timer(**facts, data_num=data_num, config=config)
    return AutoLogTimer(auto_log, **facts, config=config)


class AutoLogTimer:
    """The same calls for auto_log.AutoLogger, which starts a process of its own that watches the memory."""

    def __init__(self, auto_log, config, **facts):
        gpu = config.gpu_device_id() if config.use_gpu() else None
        self.logger = auto_log.AutoLogger(
            **facts,
            save_path=None,
            inference_config=config,
            pids=os.getpid(),
            process_name=None,
            gpu_ids=gpu,
            time_keys=list(STAGES),
            warmup=0,
        )
        self.start, self.stamp = self.logger.times.start, self.logger.times.stamp

    def end(self):
        self.logger.times.end(stamp=True)

    def report(self):
        try:
            self.logger.report()
        except SystemExit:  # some versions end the program here, with exit code 0 whatever happened before
            pass
        sys.stdout.flush()


class Timer:
    """AutoLog's times and lines without AutoLog. Its data_num counts batches, ours images."""

    def __init__(self, model_name, model_precision, batch_size, data_shape, data_num, config):
        self.model_name, self.precision, self.batch_size = model_name, model_precision, batch_size
        self.shape, self.data_num, self.config = data_shape, data_num, config
        self.batches = []

    def start(self):
        self._stamps = [time.perf_counter()]

    def stamp(self):
        self._stamps.append(time.perf_counter())

    def end(self):
        self.stamp()
        self.batches.append(np.diff(self._stamps))

    def report(self):
        for line in self.lines():
            log(line)

    def lines(self):
        """The report: AutoLog's headings and fields, times of the stages in ms per batch."""
        config, seconds = self.config, np.array(self.batches).reshape(-1, len(STAGES))
        means = seconds.mean(axis=0) * 1000 if len(seconds) else np.zeros(len(STAGES))
        gpu_rss, gpu_util = gpu_memory(config.gpu_device_id()) if config.use_gpu() else (None, None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != 'darwin' else 2**20)
        sections = {
            'Env info': {
                'OS_version': platform.platform(),
                'CUDA_version': paddle.version.cuda(),
                'CUDNN_version': paddle.version.cudnn(),
            },
            'Paddle info': {'paddle_version': paddle.__version__, 'paddle_commit': paddle.version.commit},
            'Conf info': {
                'runtime_device': 'gpu' if config.use_gpu() else 'cpu',
                'ir_optim': config.ir_optim(),
                'enable_memory_optim': True,
                'enable_tensorrt': config.tensorrt_engine_enabled(),
                'enable_mkldnn': config.mkldnn_enabled(),
                'cpu_math_library_num_threads': config.cpu_math_library_num_threads(),
            },
            'Model info': {'model_name': self.model_name, 'precision': self.precision},
            'Data info': {'batch_size': self.batch_size, 'input_shape': self.shape, 'data_num': self.data_num},
            'Perf info': {},
        }
        yield 'Inference benchmark (built in)'
        for heading, fields in sections.items():
            yield f' {heading} '.center(55, '-')
            yield from (f'{key}: {value}' for key, value in fields.items())
        yield f'cpu_rss(MB): {peak:.4f}, gpu_rss(MB): {gpu_rss}, gpu_util: {gpu_util}%'
        yield f'total time spent(s): {seconds.sum():.4f}'
        yield ', '.join(f'{name}(ms): {mean:.4f}' for name, mean in zip(STAGES, means))


def gpu_memory(device):
    """(MB in use, None) of a GPU by this process, as Paddle counts it."""
    return round(paddle.device.cuda.max_memory_reserved(device) / 2**20, 4), None
