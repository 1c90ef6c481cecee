"""Types of numeric flags: `type=number(above=0, at_most=1)` beside a flag says which values it takes."""

import argparse
import math
import operator

COMPARISONS = {'at_least': operator.ge, 'above': operator.gt, 'at_most': operator.le, 'below': operator.lt}


class Range:
    """The `type` of a flag: turns its word into a finite number within bounds.

    kind: int or float. bounds: {a key of COMPARISONS: limit}. Raises ArgumentTypeError that says the range.
    """

    def __init__(self, kind, **bounds):
        self.kind, self.bounds = kind, bounds

    def __call__(self, word):
        try:
            value = self.kind(word)
            is_number = self.kind is int or math.isfinite(value)
        except ValueError:
            is_number = False
        if not is_number:
            raise argparse.ArgumentTypeError(
                f'must be a {"whole" if self.kind is int else "finite"} number, not {word}'
            )
        if not all(COMPARISONS[name](value, limit) for name, limit in self.bounds.items()):
            limits = ' and '.join(f'{name.replace("_", " ")} {limit}' for name, limit in self.bounds.items())
            raise argparse.ArgumentTypeError(f'must be {limits}, not {word}')
        return value


def number(**bounds):
    """The Range of a float. bounds: at_least or above, at_most or below."""
    return Range(float, **bounds)


def whole(**bounds):
    """The Range of a whole number. bounds: at_least or above, at_most or below."""
    return Range(int, **bounds)


count = whole(at_least=1)
natural = whole(at_least=0)
probability = number(at_least=0, at_most=1)
below_one = number(at_least=0, below=1)
share = number(above=0, at_most=1)
not_negative = number(at_least=0)
positive = number(above=0)
seed = whole(at_least=0, at_most=2**64 - 1)  # what paddle.seed takes
