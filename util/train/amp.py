"""Automatic mixed precision. On a CPU Paddle's AMP changes nothing, so it is switched off there."""

import contextlib

import paddle

from util.logger import log


def on_gpu():
    """Whether Paddle computes on a GPU."""
    return paddle.device.get_device().startswith('gpu')


class Amp:
    """autocast() for the forward pass and `scaler` (GradScaler) for the backward pass. If disabled, both do nothing.

    dtype: float16 or bfloat16; level: O1 or O2.
    """

    def __init__(self, enabled=False, dtype='float16', level='O1'):
        if enabled and not on_gpu():
            log('--use_amp has no effect on a CPU: continuing in float32')
            enabled = False
        self.enabled, self.dtype, self.level = enabled, dtype, level
        # bfloat16 has float32's range and needs no scaling
        self.scaler = paddle.amp.GradScaler(enable=enabled and dtype == 'float16')

    def decorate(self, model, optimizer):
        """With level O2: convert the weights to `dtype`, and let the optimizer keep float32 master weights."""
        if self.enabled and self.level == 'O2':
            paddle.amp.decorate(models=model, optimizers=optimizer, level='O2', dtype=self.dtype)

    def autocast(self):
        """Context manager for the forward pass."""
        if not self.enabled:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)
