"""Colours that are told apart: as many as a picture may need."""

import functools

import numpy as np


def distance(one, other):
    """How different RGB colours look, [..., 3] each: https://www.compuphase.com/cmetric.htm, without the root."""
    red = (one[..., 0] + other[..., 0]) / 2
    weights = np.stack([2 + red / 256, np.full_like(red, 4), 2 + (255 - red) / 256], axis=-1)
    return (weights * (one - other) ** 2).sum(axis=-1)


@functools.lru_cache(maxsize=None)
def distinct_colours():
    """1,000 RGB tuples. Each is the one of a grid of colours that differs most from all before it, and from red, the
    colour of heat maps.
    """
    levels = np.linspace(0, 255, 14).astype(int)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), axis=-1).reshape(-1, 3)
    grid = grid[np.ptp(grid, axis=1) > 100].astype(float)  # photos are grey enough
    chosen, nearest = [], distance(grid, np.array([255.0, 0, 0]))
    for _ in range(1000):
        colour = grid[nearest.argmax()]
        chosen.append(tuple(int(value) for value in colour))
        nearest = np.minimum(nearest, distance(grid, colour))
    return chosen
