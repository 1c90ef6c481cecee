"""MixToken: CutMix on the token grid, after the patch embedding (Token Labeling, arXiv 2104.10858, section 3.2).

A box is `(top, left, bottom, right)` in tokens, without row `bottom` and column `right`; `EMPTY_BOX` mixes nothing.
The batch is mixed with its reverse: images i and B-1-i swap their tokens inside the box.
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
    """bool [grid, grid] that is True inside `box`; None for an empty box."""
    top, left, bottom, right = box
    if bottom <= top or right <= left:
        return None
    inside = paddle.zeros([grid, grid], dtype='bool')
    inside[top:bottom, left:right] = True
    return inside


def swap(x, inside):
    """Swap the tokens of images i and B-1-i where `inside` is True. A second swap restores the input.

    x: [B, C, H, W]; inside: bool [H, W], or None to swap nothing. Returns [B, C, H, W].
    """
    return x if inside is None else paddle.where(inside.expand(x.shape), x.flip(0), x)
