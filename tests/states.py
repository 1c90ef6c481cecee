"""Comparing checkpoints, and log.txt, bit for bit."""

import re

import numpy as np


def differences(a, b, name=''):
    """Names of the parts in which two nested states differ, such as '/model/head.weight'; [] if they are the same.

    Arrays must have the same dtype, shape and bits (0.0 is not -0.0, NaN equals itself), other values the same type.
    """
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f'{name}/{key}')]
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return [found for i in range(len(a)) for found in differences(a[i], b[i], f'{name}/{i}')]
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        equal = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    else:
        equal = type(a) is type(b) and repr(a) == repr(b)  # == does not tell 0.0 from -0.0
    return [] if equal else [name or '/']


def same(a, b):
    """Whether two nested states are the same bit for bit."""
    return not differences(a, b)


def untimed(log):
    """The bytes of log.txt without the times of the epochs, in which two runs of the same command differ."""
    return re.sub(rb', "(seconds|images_per_second)": [\d.]+', b'', log)
