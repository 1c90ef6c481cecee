"""MixToken: CutMix on the token grid, after the patch embedding (Token Labeling, arXiv 2104.10858, section 3.2).

A box is `(top, left, bottom, right)` in tokens, half open; `EMPTY_BOX` mixes nothing. The batch is mixed with
itself reversed, so image i gives its tokens inside the box to image B-1-i.
"""

import paddle

EMPTY_BOX = (0, 0, 0, 0)


def rand_box(height, width, rng, beta=1.0):
    """Draw a box as CutMix does: area share 1 - lam with lam ~ Beta(beta, beta), centre uniform, clipped to the grid.

    rng: numpy.random.Generator. Returns four ints.
    """
    cut = (1.0 - rng.beta(beta, beta)) ** 0.5
    half_h, half_w = int(height * cut) // 2, int(width * cut) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return max(y - half_h, 0), max(x - half_w, 0), min(y + half_h, height), min(x + half_w, width)


def kept_share(box, num_tokens):
    """lam: the share of an image's tokens that are still its own."""
    top, left, bottom, right = box
    return 1.0 - (bottom - top) * (right - left) / num_tokens


def mask(box, grid):
    """bool [grid, grid] that is True inside `box`; None for a box that holds nothing."""
    top, left, bottom, right = box
    if bottom <= top or right <= left:
        return None
    inside = paddle.zeros([grid, grid], dtype='bool')
    inside[top:bottom, left:right] = True
    return inside


def swap(x, inside):
    """Exchange the tokens where `inside` holds between image i and image B-1-i; doing it twice restores the input.

    x: [B, C, H, W]; inside: bool [H, W], or None for nowhere; returns the shape of x.
    """
    return x if inside is None else paddle.where(inside.expand(x.shape), x.flip(0), x)
