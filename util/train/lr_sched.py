"""Learning rate as a function of time: linear warm-up, cosine, constant cool-down."""

import math


def lr_at(t, lr, min_lr, warmup_lr, epochs, warmup_epochs, in_epochs=False, over_warmup=False):
    """Learning rate at time `t`, a number of epochs with a fraction; in_epochs: ignore the fraction.

    Linear warm-up from warmup_lr to lr over warmup_epochs; then the cosine min_lr + (lr − min_lr)·½·(1 + cos(π·
    (t − warmup_epochs) / (epochs − warmup_epochs))); from `epochs` on min_lr, the cool-down. over_warmup: the cosine
    begins at epoch 0, cos(π·t / epochs), as in timm's scheduler and the original.
    """
    if in_epochs:
        t = math.floor(t)
    if t < warmup_epochs:
        return warmup_lr + (lr - warmup_lr) * t / warmup_epochs
    if t >= epochs:
        return min_lr
    begin = 0 if over_warmup else warmup_epochs
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * (t - begin) / (epochs - begin)))
