"""Hostile and damaged files of every kind that the project reads, each loaded in a process that is watched.

    python tests/hostile/run.py                      all of it: 20,000 mutations, all truncations, the corpus
    python tests/hostile/run.py --mutations 2000 --kinds pd pth

Of each file must come either a plain result or one UserError that names it, in a line; nothing is executed, imported,
written or printed; the peak of memory rises by less than 2 times the file's honest size + 200 MB (images: + 500 MB),
and no file takes more than 5 s of processor time. Prints a table, and each file that breaks this; exit code 1 if any
does. The same files every time.
"""

import argparse
import os
import sys
import tempfile
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util import runtime


import corpus
import fuzz
import kinds
from probe import Probe


class Tally:
    """What came of the files of a kind."""

    def __init__(self, kind):
        self.kind, self.files, self.refused, self.loaded = kind, 0, 0, 0
        self.seconds, self.memory = 0.0, 0  # the worst
        self.faults = []

    def add(self, name, outcome):
        self.files += 1
        self.refused += outcome.result == 'refused'
        self.loaded += outcome.result == 'loaded'
        self.seconds, self.memory = max(self.seconds, outcome.seconds), max(self.memory, outcome.memory)
        self.faults += [f'{self.kind}: {name}: {fault}' for fault in outcome.faults]

    def row(self):
        return (
            f'| {self.kind} | {self.files:,} | {self.refused:,} | {self.loaded:,} | {self.seconds:.2f} | '
            f'{self.memory / 2**20:.0f} | {len(self.faults)} |'
        )


HEADER = '| kind | files | refused | loaded | worst time (s) | worst memory (MB) | faults |\n' + '|---' * 7 + '|'


class Bench:
    """Good files of all kinds in a folder of its own, and a Probe; use as a context manager."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.paths, self.good = {}, {}
        for kind in kinds.LOADERS:
            folder = os.path.join(self.folder.name, kind)
            os.mkdir(folder)
            self.paths[kind] = kinds.make(kind, folder)
            with open(self.paths[kind], 'rb') as f:
                self.good[kind] = f.read()
        self.probe = Probe().__enter__()
        return self

    def __exit__(self, *_):
        self.probe.__exit__()
        self.folder.cleanup()

    def load(self, kind, data):
        """Outcome of a file of a kind with other content."""
        with open(self.paths[kind], 'wb') as f:
            f.write(data)
        return self.probe.load(kind, self.paths[kind], len(data))

    def mutate(self, kind, count, cut=True):
        """Tally of the truncations and of `count` mutations of the good file of a kind."""
        tally, good = Tally(kind), self.good[kind]
        files = list(fuzz.mutations(good, list(self.good.values()), count, zlib.crc32(kind.encode())))
        for name, data in [*(fuzz.truncations(good) if cut else ()), *files]:
            tally.add(name, self.load(kind, data))
        return tally

    def corpus(self, kind, skip=()):
        """Tally of the hand-made hostile files of a kind, without those of the names in `skip`."""
        tally, canary = Tally(f'{kind}, hand-made'), os.path.join(self.folder.name, 'canary')
        for name, make in corpus.files(kind, canary).items():
            if name in skip:
                continue
            outcome = self.load(kind, make())
            if outcome.result != 'refused' and name not in corpus.HARMLESS:
                outcome.faults.append('not refused')
            if os.path.exists(canary):
                outcome.faults.append('the canary is there')
                os.unlink(canary)
            tally.add(name, outcome)
        return tally


def main(args):
    chosen = args.kinds or list(kinds.LOADERS)
    faults, total = [], Tally('all')
    print(HEADER)
    with Bench() as bench:
        for kind in chosen:
            for tally in (bench.corpus(kind), bench.mutate(kind, -(-args.mutations // len(chosen)))):
                print(tally.row(), flush=True)
                for key in ('files', 'refused', 'loaded', 'faults'):
                    setattr(total, key, getattr(total, key) + getattr(tally, key))
                total.seconds, total.memory = max(total.seconds, tally.seconds), max(total.memory, tally.memory)
                faults += tally.faults
    print(total.row())
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


if __name__ == '__main__':
    parser = runtime.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--mutations', type=int, default=20000, help='in all, shared by the kinds')
    parser.add_argument('--kinds', nargs='+', choices=list(kinds.LOADERS))
    main(parser.parse_args())
