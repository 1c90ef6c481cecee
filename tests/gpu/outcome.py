"""What a check can end in, the table of all of them, and the comparisons they share."""

from typing import NamedTuple

# A rounding of one number is off by at most this share of it.
ROUNDOFF = {'float32': 2.0**-24, 'float16': 2.0**-11, 'bfloat16': 2.0**-8}
PASSED, FAILED, NOT_RUN = 'passed', 'FAILED', 'not run'


class NotRun(Exception):
    """The machine lacks what a check needs; the text says what."""


class Wrong(Exception):
    """A check ran and did not find what it should."""


class Row(NamedTuple):
    """A line of the table. found: what was measured, or why not."""

    check: str
    result: str
    found: str


def demand(condition, message):
    if not condition:
        raise Wrong(message)


def table(rows, rehearsal):
    """Markdown. rehearsal: a pass on a CPU is called `rehearsed`, since it accepts nothing."""
    lines = ['| check | result | found |', '|---|---|---|']
    for row in rows:
        result = 'rehearsed' if rehearsal and row.result == PASSED else row.result
        lines.append(f'| {row.check} | {result} | {row.found.replace("|", "/")} |')
    return '\n'.join(lines)


def exit_code(rows):
    """0 only if something ran and all that ran passed."""
    results = [row.result for row in rows]
    return 0 if PASSED in results and FAILED not in results else 1


def apart(losses, reference, steps):
    """Largest relative difference of the first `steps` losses. Raises Wrong if there are not as many, or one is NaN."""
    demand(min(len(losses), len(reference)) >= steps, f'{len(losses)} and {len(reference)} losses, {steps} wanted')
    worst = max(abs(a - b) / abs(b) for a, b in zip(losses[:steps], reference[:steps]))
    demand(all(a == a and b == b for a, b in zip(losses[:steps], reference[:steps])), 'a loss is not a number')
    return worst


def fall(losses):
    """(mean of the first quarter, mean of the last) of the losses; raises Wrong unless it fell by a tenth."""
    quarter = max(len(losses) // 4, 1)
    first, last = (sum(part) / quarter for part in (losses[:quarter], losses[-quarter:]))
    demand(last < 0.9 * first, f'the loss does not fall: {first:.4f}, then {last:.4f}')
    return first, last


def images_a_second(flushes, batch, warm_up):
    """Training speed between two moments at which the host had waited for the device.

    flushes: [(seconds, steps done)]; batch: images of a step; warm_up: steps that do not count.
    """
    late = [(seconds, steps) for seconds, steps in flushes if steps > warm_up]
    demand(len(late) >= 2, f'only {len(late)} moments after {warm_up} steps: nothing to measure speed by')
    (begin, first), (end, last) = late[0], late[-1]
    return batch * (last - first) / (end - begin)
