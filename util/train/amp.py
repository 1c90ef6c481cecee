"""Automatic mixed precision. On a CPU Paddle's AMP changes nothing: there it is switched off, which the log says."""

import contextlib

import paddle

from util.logger import log


def on_gpu():
    return paddle.device.get_device().startswith('gpu')


class Amp:
    """autocast() for the forward pass, scaler for the backward pass; both do nothing when disabled."""

    def __init__(self, enabled=False, dtype='float16', level='O1'):
        if enabled and not on_gpu():
            log('--use_amp has no effect on a CPU: going on in float32')
            enabled = False
        self.enabled, self.dtype, self.level = enabled, dtype, level
        # bfloat16 has float32's range and needs no scaling
        self.scaler = paddle.amp.GradScaler(enable=enabled and dtype == 'float16')

    def decorate(self, model, optimizer):
        """With O2, turn both in place: the weights themselves to half precision, with float32 masters to update."""
        if self.enabled and self.level == 'O2':
            paddle.amp.decorate(models=model, optimizers=optimizer, level='O2', dtype=self.dtype)

    def autocast(self):
        if not self.enabled:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)
