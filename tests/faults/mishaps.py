"""Faults that are not kills: disks and data. Each function does one to a run in progress and raises
Failure unless the run says so in a line, loses nothing, and can be continued to the end of the undisturbed run.
"""

import contextlib
import hashlib
import resource
import shutil
import subprocess

from processes import check


def sums(folder):
    """{name: SHA-256} of the checkpoints of a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob('checkpoint-*.pd'))}


def going(bench, out, **start):
    """A run continued from halfway that has done two more steps."""
    run = bench.start(out, **start)
    going_on = run.until(lambda: run.begin() is not None and run.reached() - run.begin() >= 2)
    check(going_on, f'{run.err}: ended by itself: {run.error()}')
    return run


# -- disks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A file system of its own at `folder`, where mounting is allowed. Yields whether there is one."""
    folder.mkdir()
    command, made = ['mount', '-t', 'tmpfs', '-o', f'size={megabytes}m', 'none', folder], False
    if shutil.which('mount'):
        made = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield made
    finally:
        if made:
            subprocess.run(['umount', '-l', folder], check=True)


def disk_full(bench):
    """The disk fills up in the middle of a run: the next save finds no space."""
    with small_disk(bench.folder / 'disk', 200) as made:
        if not made:
            return file_size_limit(bench)
        out = bench.from_halfway('disk/full')
        run = going(bench, out)
        with open(bench.folder / 'disk' / 'ballast', 'wb') as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(b'0' * (1 << 20))
        before = sums(out)
        run.refused('could not be written', 'No space left on device')
        check(sums(out).items() >= before.items() and not run.saving(), f'{out}: {run.saving()}')
        (bench.folder / 'disk' / 'ballast').unlink()
        bench.same_end(out)
    return 'tmpfs filled to the last byte'


def file_size_limit(bench):
    """Writes beyond 8 MB of a file fail, a third of a checkpoint (EFBIG; a disk that is full gives ENOSPC)."""
    out = bench.from_halfway('limit')
    before = sums(out)
    run = bench.start(out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20)))
    run.refused('checkpoint-latest.pd', 'could not be written', 'File too large')
    check(sums(out) == before and not run.saving(), f'{out} has changed')
    bench.same_end(out)
    return 'RLIMIT_FSIZE'


def read_only_disk(bench):
    """The file system of the output folder turns read-only in the middle of a run, as Linux does after disk errors."""
    with small_disk(bench.folder / 'errors', 200) as made:
        out = bench.from_halfway('errors/out') if made else bench.from_halfway('read-only')
        run, away = going(bench, out), out.with_name('away')
        before = sums(out)
        if made:  # refused while a file is open for writing
            while subprocess.run(['mount', '-o', 'remount,ro', out.parent], capture_output=True).returncode:
                pass
        else:
            out.rename(away)
            out.touch()
        run.refused('could not be written|cannot be written', 'Read-only file system' if made else 'director')
        bench.start(out).refused('--output_dir', 'cannot be written to|could not be written')
        if made:
            subprocess.run(['mount', '-o', 'remount,rw', out.parent], check=True)
        else:
            out.unlink()
            away.rename(out)
        check(sums(out).keys() >= before.keys(), f'{out}: {sums(out)}')
        bench.same_end(out)
    return 'remounted read-only' if made else 'folder replaced by a file'


# -- data -------------------------------------------------------------------------------------------------------------


def data_disappears(bench):
    """The data folder goes away in the middle of a run, and comes back later."""
    data, out = bench.folder / 'data-away', bench.from_halfway('data')
    shutil.copytree(bench.data, data)
    before = sums(out)
    run = going(bench, out, data=data)
    data.rename(bench.folder / 'elsewhere')
    run.refused('data-away', 'No such file or directory|no label map')
    check(sums(out).keys() >= before.keys(), f'{out}: {sums(out)}')
    bench.start(out, data=data).refused('data-away')  # as long as it is away
    bench.same_end(out)


MISHAPS = {
    'disk full during a save': disk_full,
    'writes fail beyond a size': file_size_limit,
    'output turns read-only': read_only_disk,
    'data folder disappears': data_disappears,
}
