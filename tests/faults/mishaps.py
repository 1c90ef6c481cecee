"""Faults that are not kills: disks, data, damaged checkpoints, numbers. Each function does one to a run in progress and
raises Failure unless the run says so in a line, loses nothing, and can be continued to the end of the undisturbed run.
"""

import contextlib
import hashlib
import os
import resource
import shutil
import subprocess

from bench import log_records
from processes import check
from tiny import UPDATES

LATEST, PREVIOUS, DAMAGED = 'checkpoint-latest.pd', 'checkpoint-previous.pd', 'checkpoint-damaged.pd'


def sums(folder):
    """{name: SHA-256} of the checkpoints of a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob('checkpoint-*.pd'))}


def going(bench, out, steps=2, **start):
    """A run continued from halfway that has done some more steps."""
    run = bench.start(out, workers=start.pop('workers', 1), **start)
    check(
        run.until(lambda: run.begin() is not None and run.reached() - run.begin() >= steps),
        f'{run.err}: ended by itself: {run.error()}',
    )
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
    run.refused(LATEST, 'could not be written', 'File too large')
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


def no_output_folder(bench):
    """An output folder that cannot be made is refused before anything is trained."""
    (bench.folder / 'file').touch()
    run = bench.start(bench.folder / 'file' / 'out')
    run.refused('--output_dir', 'file/out')


# -- data and processes -----------------------------------------------------------------------------------------------


def other_data(bench, name):
    """A copy of the data folder for a fault of its own."""
    data = bench.folder / name
    shutil.copytree(bench.data, data)
    return data


def data_disappears(bench):
    """The data folder goes away in the middle of a run, and comes back later."""
    data, out = other_data(bench, 'data-away'), bench.from_halfway('data')
    before = sums(out)
    run = going(bench, out, data=data)
    data.rename(bench.folder / 'elsewhere')
    run.refused('data-away', 'No such file or directory|no label map')
    check(sums(out).keys() >= before.keys(), f'{out}: {sums(out)}')
    bench.start(out, data=data).refused('data-away')  # as long as it is away
    bench.same_end(out)


def corrupt_image(bench):
    """Images turn to garbage in the middle of a run: named, skipped and counted, and the run goes on.

    With images that are bad from the beginning, a stopped and continued run ends as an unbroken one.
    """
    data, out = other_data(bench, 'rotten'), bench.folder / 'rotten-run'
    run = going(bench, out, data=data)
    victims = sorted((data / 'train').rglob('*.JPEG'))[:3]
    for path in victims:
        path.write_bytes(b'garbage')
    code = run.end()
    said = [line for line in run.error().splitlines() if 'cannot be decoded' in line and line.endswith('skipped')]
    named = sorted(line.split(': ')[1] for line in said)
    check(code == 0 and named == [str(path) for path in victims], f'{run.err}: exit code {code}: {run.error()}')
    check(log_records(out)[-1]['bad_images'] == 3, f'{out}: not counted')

    whole, broken = bench.folder / 'rotten-whole', bench.folder / 'rotten-broken'
    check(bench.start(whole, data=data).end() == 0, 'fails')
    run = going(bench, broken, UPDATES + 3, data=data, workers=2)
    run.process.kill()
    run.end()
    check(bench.start(broken, data=data, workers=0).end() == 0, 'fails')
    bench.compare(broken, to=whole)
    return 'goes on; 3 of 3 images named and counted'


def loader_dies(bench):
    """The kernel ends a loader process (out of memory, say)."""
    out = bench.from_halfway('loader')
    run = going(bench, out)
    check(run.until(run.loaders), 'has ended')
    for pid in run.loaders():
        os.kill(pid, 9)
    run.refused('a loader process has died', 'SIGKILL|Killed', '--resume auto')
    bench.same_end(out)


# -- damaged checkpoints ----------------------------------------------------------------------------------------------


def flip_a_bit(path):
    with open(path, 'r+b') as f:
        f.seek(path.stat().st_size // 2)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 0x10]))


def cut_in_half(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def replaced_by_text(path):
    path.write_text('<html>404 Not Found</html>\n')


def delete(path):
    path.unlink()


DAMAGES = {'a bit flipped': flip_a_bit, 'cut in half': cut_in_half, 'empty': empty}
DAMAGES.update({'other content': replaced_by_text, 'deleted': delete})


def damaged_latest(bench, damages=DAMAGES):
    """checkpoint-latest.pd is damaged: said aloud, the one before is taken, the damaged one is kept aside."""
    for name, damage in damages.items():
        out = bench.from_halfway(f'latest-{name.replace(" ", "-")}')
        damage(out / LATEST)
        said = [] if damage is delete else [DAMAGED]
        run = bench.same_end(out, but=said)
        lines = [line for line in run.lines() if line.startswith('warning: ')]
        named = all(LATEST in line and 'going back' in line for line in lines)
        check(len(lines) == len(said) and named, f'{run.log}: {lines}')
        check(any(line.startswith('resuming from ') and PREVIOUS in line for line in run.lines()), f'{run.log}')
        check((out / DAMAGED).exists() == bool(said), f'{out}')
        bench.forget(out.name)
    return f'{len(damages)} kinds of damage'


def damaged_latest_and_previous(bench):
    """Both are damaged and a numbered checkpoint is left: the run goes back to that."""
    out = bench.folder / 'both'
    run = bench.start(out)
    check(run.until(lambda: run.begin() is not None and run.reached() >= UPDATES + 1), run.error())
    run.process.kill()
    run.end()
    shutil.copy(out / 'checkpoint-best.pd', out / 'checkpoint-0.pd')  # as if it were time for one
    for name in (LATEST, PREVIOUS):
        os.replace(shutil.copy(out / name, out / 'copy'), out / name)  # not the numbered one as well
        cut_in_half(out / name)
    run = bench.same_end(out, but=[DAMAGED, 'checkpoint-0.pd'])
    said = [line for line in run.lines() if line.startswith('warning: ')]
    check(len(said) == 2 and LATEST in said[0] and PREVIOUS in said[1], f'{run.log}: {said}')


def all_damaged(bench):
    """Every checkpoint is damaged: the run refuses to start anew over them."""
    out = bench.from_halfway('all')
    for path in out.glob('checkpoint-*.pd'):
        os.replace(shutil.copy(path, out / 'copy'), path)
        cut_in_half(path)
    before = sums(out)
    bench.start(out).refused('every checkpoint in .* is damaged')
    check(sums(out) == before, f'{out} has changed')
    return 'refused, all as it was'


# -- numbers ----------------------------------------------------------------------------------------------------------


def not_finite(bench):
    """A learning rate of 1e30: the first loss that is not finite ends the run, and the checkpoint stays."""
    out = bench.from_halfway('nan')
    before = sums(out)
    run = bench.start(out, '--lr', '1e30', '--save_freq_steps', 0)
    line = run.refused(r'epoch 1, step \d+, rank 0: loss is (nan|inf)', r'\.JPEG', '--lr', 'checkpoints are untouched')
    check(line.count('.JPEG') == 4 and (out / 'nonfinite-rank0.txt').exists(), line)
    check(sums(out) == before, f'{out}: a checkpoint has changed')
    bench.same_end(out, but=['nonfinite-rank0.txt'])


MISHAPS = {
    'disk full during a save': disk_full,
    'writes fail beyond a size': file_size_limit,
    'output turns read-only': read_only_disk,
    'output folder cannot be made': no_output_folder,
    'data folder disappears': data_disappears,
    'images turn to garbage': corrupt_image,
    'loader processes die': loader_dies,
    'latest checkpoint damaged': damaged_latest,
    'latest and previous damaged': damaged_latest_and_previous,
    'all checkpoints damaged': all_damaged,
    'loss not finite': not_finite,
}
