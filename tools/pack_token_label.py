"""Pack a set of label maps, a file per image, into one array (a million small files are slow to copy and to read), or
unpack it again. Training reads either kind: --token_label_data OUT.

    python tools/pack_token_label.py label_top5_train_nfnet/ label_top5_packed/
    python tools/pack_token_label.py label_top5_packed/ label_top5_train_nfnet/ --unpack

Whatever was written is read back and compared at the end. An interrupted run continues where it was.
"""

import argparse
import io
import json
import os
import shutil
import struct
import sys
import zlib

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np

from util.data import label_maps
from util.data.label_maps import ARRAY, META, NAMES, PARTIAL
from util.errors import UserError
from util.logger import log, progress

PROGRESS = 'label_maps.npy.progress'  # a line that says what is packed, then 4 bytes per finished map: its checksum
STRETCH = 256  # maps from one note of progress to the next


def parser():
    parser = runtime.Parser(
        'tools/pack_token_label.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', metavar='DIR', help='a set of label maps')
    parser.add_argument('out', metavar='OUT', help='folder for the set of the other kind')
    parser.add_argument('--unpack', action='store_true', help='from the packed set DIR to a file per image')
    parser.add_argument('--verify', action='store_true', help='only compare DIR and OUT, of either kind; write nothing')
    return parser


def open_maps(folder, kind=object, advice=''):
    """(set, names) in a folder. Raises UserError if it is not of this kind, has no maps, or has names of no use."""
    if not os.path.isdir(folder):
        raise UserError(f'{folder}: no such folder')
    maps = label_maps.open_set(folder)
    if not isinstance(maps, kind):
        raise UserError(f'{folder}: {advice}')
    names = maps.names()
    if not names:
        raise UserError(f'{folder}: has no label maps (looked for <class folder>/<image stem>.npy and .pt)')
    for name in names:  # they become lines of a file in one direction, paths in the other
        if name.count('/') != 1 or {'', '.', '..'} & set(name.split('/')) or {'\n', '\0'} & set(name):
            raise UserError(f'{folder}: {name!r} is no name for a label map')
    return maps, names


def checksum(array):
    return struct.pack('<I', zlib.crc32(np.ascontiguousarray(array)))


def copy_meta(data, out):
    if os.path.exists(os.path.join(data, META)):
        shutil.copyfile(os.path.join(data, META), os.path.join(out, META))


def npy_header(shape, dtype):
    """What precedes the data in a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False, 'shape': shape}
    )
    return buffer.getvalue()


def noted(record, task):
    """The checksums (4 bytes each) that an earlier run of the same task has noted; empty without one."""
    try:
        with open(record, 'rb') as f:
            return bytearray(f.read() if f.readline() == task else b'')
    except FileNotFoundError:
        return bytearray()


def pack(data, out):
    """Write OUT/names.txt, meta.json and label_maps.npy, which gets this name when all of it has been compared."""
    final, partial, record = (os.path.join(out, name) for name in (ARRAY, PARTIAL, PROGRESS))
    if os.path.exists(final):
        log(f'{final}: was packed before')
        return verify(data, out)
    maps, names = open_maps(data, label_maps.FolderSet, 'is packed already; --unpack makes files of it')
    first, first_path = maps.read(names[0])
    label_maps.check_shape(first.shape, first.dtype, first_path)
    label_maps.check_meta(label_maps.read_meta(data), first.shape, os.path.join(data, META), first_path)
    listing = b''.join(os.fsencode(name) + b'\n' for name in names)
    header = npy_header((len(names), *first.shape), first.dtype)
    task = json.dumps({'maps': len(names), 'crc32': zlib.crc32(header + listing)}).encode() + b'\n'

    os.makedirs(out, exist_ok=True)
    sums = noted(record, task)
    whole = (os.path.getsize(partial) - len(header)) // first.nbytes if os.path.exists(partial) else 0
    done = max(0, min(len(sums) // 4, whole, len(names)))
    del sums[4 * done :]
    if done:
        log(f'{done} of {len(names)} maps were packed before')
    with open(partial, 'r+b' if done else 'wb') as array, open(record, 'r+b' if done else 'wb') as notes:
        for file, start, size in ((array, header, first.nbytes), (notes, task, 4)):
            file.write(start)
            file.truncate(len(start) + done * size)
            file.seek(0, os.SEEK_END)
        for number in progress(range(done, len(names)), 'pack'):
            one, path = maps.read(names[number])
            if (one.shape, one.dtype) != (first.shape, first.dtype):
                raise UserError(
                    f'{path}: is {one.dtype} {list(one.shape)}, but {first_path} is {first.dtype} '
                    f'{list(first.shape)}; a packed set holds maps of one kind'
                )
            array.write(np.ascontiguousarray(one))
            sums += checksum(one)
            if (number + 1) % STRETCH == 0 or number + 1 == len(names):
                array.flush()  # first the maps, then the note that they are there
                notes.write(sums[4 * done :])
                notes.flush()
                done = number + 1
        os.fsync(array.fileno())

    read_back(partial, record, names, sums)
    with open(os.path.join(out, NAMES), 'wb') as f:
        f.write(listing)
    copy_meta(data, out)
    os.replace(partial, final)
    os.unlink(record)
    log(f'{len(names)} maps, {first.dtype} {list(first.shape)}, packed into {final} and compared')


def read_back(partial, record, names, sums):
    """Raises UserError for a map that does not come back from the disk as it was; the next run then starts anew."""
    packed = np.load(partial, mmap_mode='r')
    for number in progress(range(len(names)), 'verify'):
        if checksum(packed[number]) != sums[4 * number : 4 * number + 4]:
            os.unlink(record)
            raise UserError(
                f'{partial}: {names[number]} was not read back as it was written; the disk may be failing. '
                'Run this again to start anew'
            )


def unpack(data, out):
    """Write OUT/<class folder>/<stem>.npy, each whole or not at all, and meta.json; then compare them all."""
    maps, names = open_maps(data, label_maps.PackedSet, 'is no packed set; without --unpack it will be packed')
    if os.path.exists(os.path.join(out, ARRAY)):
        raise UserError(f'{out}: holds a packed set; choose another folder')
    size = len(npy_header(maps.shape, maps.dtype)) + maps.dtype.itemsize * int(np.prod(maps.shape))
    for name in progress(names, 'unpack'):
        path = os.path.join(out, *name.split('/')) + '.npy'
        if os.path.exists(path) and os.path.getsize(path) == size:
            continue  # of an earlier run
        folder, base = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f'.{base}.tmp')
        with open(temporary, 'wb') as f:
            np.save(f, maps.read(name)[0])
        os.replace(temporary, path)
    copy_meta(data, out)
    verify(data, out)


def verify(data, out):
    """Raises UserError unless two sets, of either kind, hold the same maps under the same names."""
    (one, names), (other, others) = open_maps(data), open_maps(out)
    for folder, only in ((data, set(names) - set(others)), (out, set(others) - set(names))):
        if only:
            raise UserError(f'{data} and {out} differ: {len(only)} maps are in {folder} only, the first is {min(only)}')
    for name in progress(names, 'verify'):
        (a, path), (b, other_path) = one.read(name), other.read(name)
        if (a.shape, a.dtype) != (b.shape, b.dtype) or a.tobytes() != b.tobytes():
            raise UserError(f'{other_path}: not the same map as {path}')
    log(f'{len(names)} maps are the same in {data} and {out}')


def main(args):
    if os.path.realpath(args.data) == os.path.realpath(args.out):
        raise UserError(f'{args.out}: is both DIR and OUT')
    try:
        (verify if args.verify else unpack if args.unpack else pack)(args.data, args.out)
    except OSError as error:
        raise UserError(
            f'{error.filename or args.out}: {error.strerror or error}; what was finished is kept, '
            'the same command continues'
        )


if __name__ == '__main__':
    runtime.run(main, parser())
