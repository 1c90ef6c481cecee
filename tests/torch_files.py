"""PyTorch's files, put together by hand as PyTorch writes them: the ordinary tests run without it."""

import pickle
import struct
import zipfile

import numpy as np

from util.weights.torch_file import MAGIC, STORAGES

CLASSES = {code: f'ctorch\n{name}Storage\n'.encode() for name, code in STORAGES.items()}
HOOKS = b'\x89ccollections\nOrderedDict\n)R'  # requires_grad, backward_hooks


def op(value):
    """The instructions of a plain value, of protocol 2."""
    return pickle.dumps(value, 2)[2:-1]


def reference(storage=CLASSES['f4'], key='0', count=6):
    """The instructions of a storage; `storage`: those of its class."""
    return b'(' + op('storage') + storage + op(key) + op('cpu') + op(count) + b'NtQ'


def tensor(size=(2, 3), stride=(3, 1), offset=0, function='_rebuild_tensor_v2', extra=HOOKS, **storage):
    """The instructions of a tensor; storage: arguments of `reference`."""
    view = op(offset) + op(size) + op(stride)
    return f'ctorch._utils\n{function}\n('.encode() + reference(**storage) + view + extra + b'tR'


def instructions(value, storages):
    """The instructions of nested dicts and lists of arrays and plain values; adds {key: array} to `storages`."""
    if isinstance(value, dict):
        pairs = b''.join(op(key) + instructions(item, storages) for key, item in value.items())
        return b'}(' + pairs + b'u'
    if isinstance(value, list):
        return b'](' + b''.join(instructions(item, storages) for item in value) + b'e'
    if not isinstance(value, np.ndarray):
        return op(value)
    key, array = str(len(storages)), np.asarray(value, order='C')
    storages[key] = array
    stride = tuple(step // array.itemsize for step in array.strides)
    storage = CLASSES[array.dtype.str[1:]]
    return tensor(array.shape, stride, storage=storage, key=key, count=array.size)


def write_zip(path, program, storages=None, **members):
    """A file of PyTorch 1.6 or later: `program`, the instructions of the object, and its storages by their keys."""
    storages = {'0': np.arange(6, dtype='f4')} if storages is None else storages
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02' + program + b'.')
        for key, array in storages.items():
            archive.writestr(f'archive/data/{key}', array.tobytes())
        for name, data in members.items():
            archive.writestr(f'archive/{name}', data)


def write_legacy(path, program, storages=None):
    """The same, as older PyTorch wrote it."""
    storages = {'0': np.arange(6, dtype='f4')} if storages is None else storages
    with open(path, 'wb') as f:
        for value in (MAGIC, 1001, {'protocol_version': 1001, 'little_endian': True}):
            f.write(pickle.dumps(value, 2))
        f.write(b'\x80\x02' + program + b'.' + pickle.dumps(list(storages), 2))
        for array in storages.values():
            f.write(struct.pack('<q', array.size) + array.tobytes())


def save(value, path, write=write_zip):
    """What torch.save makes of nested dicts and lists of arrays and plain values."""
    storages = {}
    program = instructions(value, storages)
    write(path, program, storages)
