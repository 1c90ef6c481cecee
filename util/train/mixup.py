"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), in timm's modes, for images, classes and token targets.

Both are one operation: share · image + (1 − share) · image of the reversed batch, with a share for each pixel (Mixup:
lam everywhere; CutMix: 0 inside a box, 1 outside). The share of a token's target is the mean over the token's pixels,
that of the class target the mean over the image.
"""

import numpy as np
import paddle

from util.errors import UserError
from util.train.loss import Targets
from util.train.mixtoken import rand_box


class Mixup:
    """Mixes a batch with itself reversed.

    mixup_alpha, cutmix_alpha: a of Beta(a, a), 0 = off. cutmix_minmax: (min, max) side of the box as a share of the
    image's, instead of drawing it from Beta. prob: probability of mixing; switch_prob: probability of CutMix if both
    are on. mode: draw one mix for the `batch`, for each `pair` of images, or for each image (`elem`). Raises UserError.
    """

    def __init__(self, mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_minmax=None, prob=1.0, switch_prob=0.5, mode='batch'):
        if mode not in ('batch', 'pair', 'elem'):
            raise UserError(f'--mixup_mode {mode}: use batch, pair or elem')
        if cutmix_minmax is not None and cutmix_minmax[0] > cutmix_minmax[1]:
            raise UserError(
                f'--cutmix_minmax {cutmix_minmax[0]} {cutmix_minmax[1]}: the smaller number must come first'
            )
        self.mixup_alpha, self.cutmix_minmax = mixup_alpha, cutmix_minmax
        self.cutmix_alpha = cutmix_alpha if cutmix_minmax is None else 1.0
        self.prob, self.switch_prob, self.mode = prob, switch_prob, mode

    def _cutmix_box(self, height, width, rng):
        """(top, left, bottom, right) of a CutMix box in pixels, inside the image."""
        if self.cutmix_minmax is None:
            return rand_box(height, width, rng, self.cutmix_alpha)
        low, high = self.cutmix_minmax
        h = int(rng.integers(int(height * low), int(height * high) + 1))
        w = int(rng.integers(int(width * low), int(width * high) + 1))
        y = int(rng.integers(0, height - h + 1))
        x = int(rng.integers(0, width - w + 1))
        return y, x, y + h, x + w

    def draw(self, batch, height, width, rng):
        """Shares float32 [B or 1, 1, H, W] of one step. batch: B; rng: numpy Generator."""
        draws = {'batch': 1, 'pair': (batch + 1) // 2, 'elem': batch}[self.mode]
        shares = np.ones((draws, 1, height, width), 'float32')
        for share in shares:
            if rng.random() >= self.prob:
                continue
            if self.cutmix_alpha > 0 and (self.mixup_alpha <= 0 or rng.random() < self.switch_prob):
                top, left, bottom, right = self._cutmix_box(height, width, rng)
                share[:, top:bottom, left:right] = 0.0
            elif self.mixup_alpha > 0:
                share[:] = rng.beta(self.mixup_alpha, self.mixup_alpha)
        if self.mode == 'pair':  # image B-1-i has the share of image i
            shares = np.concatenate([shares, shares[: batch // 2][::-1]])
        return shares

    def __call__(self, image, targets, rng):
        """image: float32 [B, 3, H, W]; targets: Targets; returns both mixed."""
        batch, _, height, width = image.shape
        shares = self.draw(batch, height, width, rng)
        token_targets = targets.token_targets
        if token_targets is not None:
            grid = round(token_targets.shape[1] ** 0.5)
            token_targets = _mix(token_targets, _mean_shares(shares, grid).reshape([len(shares), grid * grid, 1]))
        cls = _mix(targets.cls, _mean_shares(shares, 1).reshape([len(shares), 1]))
        return _mix(image, paddle.to_tensor(shares)), Targets(cls, token_targets)


def _mean_shares(shares, grid):
    """Means of shares [draws, 1, H, W] over the squares of a grid, as a float32 tensor [draws, grid, grid].

    Summed in float64: Paddle's float32 sum over the 50,176 pixels of an image is off by up to 3.5e-4.
    """
    draws, _, height, width = shares.shape
    squares = shares.reshape(draws, grid, height // grid, grid, width // grid)
    return paddle.to_tensor(squares.mean(axis=(2, 4), dtype='float64').astype('float32'))


def _mix(x, share):
    """Mix x [B, …] with the reversed batch; share: how much of x is kept, of a shape that broadcasts to x."""
    return x * share + x.flip(0) * (1.0 - share)
