"""Pack a set of label maps, one file per image, into one array, or unpack it. Training reads both kinds.

    python tools/pack_token_label.py label_top5_train_nfnet/ label_top5_packed/
    python tools/pack_token_label.py label_top5_packed/ label_top5_train_nfnet/ --unpack

Packing helps because a million small files are slow to copy and to read. At the end all maps are read back and
compared. The same command continues an interrupted run.
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np

from util import files
from util.args import Parser
from util.data import label_maps
from util.data.label_maps import META
from util.data.map_sets import ARRAY, NAMES, PARTIAL, FolderSet, PackedSet, npy_size, open_set
from util.errors import UserError
from util.logger import log, progress


def parser():
    parser = Parser('tools/pack_token_label.py', description=__doc__)
    parser.add_argument('data', metavar='DIR', help='a set of label maps')
    parser.add_argument('out', metavar='OUT', help='folder for the set of the other kind')
    parser.add_argument('--unpack', action='store_true', help='from the packed set DIR to one file per image')
    parser.add_argument('--verify', action='store_true', help='only compare DIR and OUT, of either kind; write nothing')
    return parser


def open_maps(folder):
    """(set, names) of a folder. Raises UserError if it has no maps, or names that lead out of the folder."""
    if not os.path.isdir(folder):
        raise UserError(f'{folder}: no such folder')
    maps = open_set(folder)
    names = maps.names()
    if not names:
        raise UserError(f'{folder}: has no label maps (looked for .npy and .pt files)')
    for name in names:  # unpacking writes to OUT/name, which must be inside of OUT
        if {'', '.', '..'} & set(name.split('/')):
            raise UserError(f'{folder}: {name!r} is not the name of a file in a folder; pack the set again')
    return maps, names


def copy_meta(data, out):
    if os.path.exists(os.path.join(data, META)):
        shutil.copyfile(os.path.join(data, META), os.path.join(out, META))


def pack(data, out):
    """Write OUT/names.txt, OUT/meta.json and OUT/label_maps.npy.

    The array has the name PARTIAL until all maps are compared. Until then names.txt lists the maps that are packed so
    far, so that an interrupted run can continue.
    """
    final, partial, index = (os.path.join(out, name) for name in (ARRAY, PARTIAL, NAMES))
    if os.path.exists(final):
        log(f'{final}: was packed before')
        verify(data, out)
        return
    maps, names = open_maps(data)
    if not isinstance(maps, FolderSet):
        raise UserError(f'{data}: is a packed set; add --unpack')
    first, first_path = maps.read(names[0])
    label_maps.check_shape(first.shape, first.dtype, first_path)
    meta_path = os.path.join(data, META)
    label_maps.check_meta(label_maps.read_meta(meta_path), first.shape, meta_path, first_path)

    os.makedirs(out, exist_ok=True)
    lines = [os.fsencode(name) + b'\n' for name in names]
    packed, done = open_array(partial, index, lines, first)
    if done:
        log(f'{done} of {len(names)} maps were packed before')
    with open(index, 'wb') as listing:
        listing.writelines(lines[:done])
        for number in progress(range(done, len(names)), 'pack'):
            one, path = maps.read(names[number])
            if (one.shape, one.dtype) != (first.shape, first.dtype):
                raise UserError(
                    f'{path}: is {one.dtype} {list(one.shape)}, but {first_path} is {first.dtype} '
                    f'{list(first.shape)}; a packed set needs maps of one shape and dtype'
                )
            packed[number] = one
            listing.write(lines[number])
    packed.flush()

    try:
        compare(maps, PackedSet(out, PARTIAL), names)
    except UserError:
        os.unlink(index)  # so that the next run packs all maps again
        raise
    copy_meta(data, out)
    os.replace(partial, final)
    log(f'{len(names)} maps, {first.dtype} {list(first.shape)}, packed into {final} and compared')


def open_array(partial, index, lines, first):
    """(memory-mapped array for all maps, number of maps that an earlier run has packed).

    lines: of the complete names.txt; first: a map, all have its shape and dtype. Raises UserError if the disk is full.
    """
    shape = (len(lines), *first.shape)
    try:
        packed = np.lib.format.open_memmap(partial, mode='r+')
        with open(index, 'rb') as f:
            packed_before = f.readlines()
    except (FileNotFoundError, ValueError):  # no earlier run, or its file was cut short by a crash
        packed = None
    if packed is None or (packed.shape, packed.dtype) != (shape, first.dtype):
        needed, free = len(lines) * first.nbytes, shutil.disk_usage(os.path.dirname(partial)).free
        if needed > free:  # writing to the mapped array would crash later
            raise UserError(f'{partial}: needs {needed / 1e9:.3g} GB, but this disk has only {free / 1e9:.3g} GB free')
        return np.lib.format.open_memmap(partial, mode='w+', dtype=first.dtype, shape=shape), 0
    done = 0
    for line, before in zip(lines, packed_before):
        if line != before:  # cut short by a crash, or the set has changed
            break
        done += 1
    return packed, done


def unpack(data, out):
    """Write OUT/<name>.npy and OUT/meta.json; then compare all maps. No file is ever half written."""
    maps, names = open_maps(data)
    if not isinstance(maps, PackedSet):
        raise UserError(f'{data}: is not a packed set; leave --unpack out to pack it')
    if os.path.exists(os.path.join(out, ARRAY)):
        raise UserError(f'{out}: holds a packed set; choose another folder')
    size = npy_size(maps.shape, maps.dtype)
    for name in progress(names, 'unpack'):
        path = os.path.join(out, *name.split('/')) + '.npy'
        if os.path.exists(path) and os.path.getsize(path) == size:
            continue  # an earlier run has written it
        with files.replacing(path, sync=False) as f:
            np.save(f, maps.read(name)[0])
    copy_meta(data, out)
    verify(data, out)


def verify(data, out):
    """Raise UserError unless two sets, of either kind, hold the same maps under the same names."""
    maps, names = open_maps(data)
    others, other_names = open_maps(out)
    for folder, only in ((data, set(names) - set(other_names)), (out, set(other_names) - set(names))):
        if only:
            raise UserError(f'{data} and {out} differ: {len(only)} maps are in {folder} only, the first is {min(only)}')
    compare(maps, others, names)
    log(f'{len(names)} maps are the same in {data} and {out}')


def compare(maps, others, names):
    """Raise UserError for the first map that differs between two sets in shape, dtype or any bit."""
    for name in progress(names, 'verify'):
        (one, path), (other, other_path) = maps.read(name), others.read(name)
        if (one.shape, one.dtype) != (other.shape, other.dtype) or one.tobytes() != other.tobytes():
            raise UserError(f'{other_path}: not the same map as {path}')


def main(args):
    if os.path.realpath(args.data) == os.path.realpath(args.out):
        raise UserError(f'{args.out}: is both DIR and OUT; choose another OUT')
    try:
        if args.verify:
            verify(args.data, args.out)
        elif args.unpack:
            unpack(args.data, args.out)
        else:
            pack(args.data, args.out)
    except OSError as error:
        raise UserError(
            f'{error.filename or args.out}: {error.strerror or error}; run the same command again to continue'
        )


if __name__ == '__main__':
    runtime.run(main, parser())
