"""The kinds of files that enter: a good file of each, and the function of the project that reads it."""

import json
import os
import pickle
import shutil
import signal
import struct
import tempfile
import time
import warnings

import numpy as np
import paddle
import yaml
from PIL import Image

from util import files
from util.data import datasets, label_maps
from util.deploy import records
from util.errors import UserError
from util.weights import checkpoint, pretrained, safetensors_file, torch_file

NAMES = {
    'map.npy': 'n01/x.npy',
    'map.pt': 'n01/x.pt',
    'packed': 'label_maps.npy',
    'names': 'names.txt',
    'meta': 'meta.json',
}  # of the file in its set; others are called file.<kind>
IMAGES = ('jpg', 'png', 'webp', 'bmp')


# -- reading ----------------------------------------------------------------------------------------------------------


def _weights(path):
    return pretrained.load_weights(path)[0]


def _map(path):
    folder = os.path.dirname(os.path.dirname(path))
    return label_maps.LabelMaps(folder, 10).read('n01/x.JPEG')


def _set(path):
    maps = label_maps.LabelMaps(os.path.dirname(path), 10)
    return maps.meta, maps.read('n01/x.JPEG')


def _list(path):
    return datasets.read_list(os.path.dirname(path), path, 10)


def _image(path):
    sample = datasets.EvalDataset([(path, 0)], np.asarray)[0]
    if 'error' in sample:
        raise UserError(sample['error'])
    return sample


LOADERS = {
    'pd': checkpoint.load,
    'sealed.pd': checkpoint.load,
    'pdparams': _weights,
    'pth': _weights,
    'legacy.pth': _weights,
    'safetensors': _weights,
    'map.npy': _map,
    'map.pt': _map,
    'packed': _set,
    'names': _set,
    'meta': _set,
    'yml': files.read_yaml,
    'list': _list,
    'label_list': lambda path: records.label_names(path, 10),
    **dict.fromkeys(IMAGES, _image),
}


# -- writing ----------------------------------------------------------------------------------------------------------


def _state():
    rng = np.random.default_rng(0)
    names = [f'blocks.{i}.{part}' for i in range(6) for part in ('attn.qkv.weight', 'mlp.fc1.bias', 'norm1.weight')]
    return {
        **{name: rng.normal(size=(8, 12) if 'qkv' in name else 12).astype('f4') for name in names},
        'head.weight': rng.normal(size=(12, 10)).astype('f4'),
        'head.bias': np.zeros(10, 'f4'),
    }


def _checkpoint():
    return {
        'model': _state(),
        'optimizer': {'head.weight/moment1': np.zeros((12, 10), 'f4'), 'LR_Scheduler': {'t': 3}},
        'epoch': 3,
        'best_acc1': 81.25,
        'rng': {'numpy': [1, 2**40]},
        'args': {'model': 'lvvit_t', 'lr': 0.1},
    }


def _array():
    rng = np.random.default_rng(1)
    return np.stack([rng.normal(size=(3, 6, 6)), rng.integers(0, 10, (3, 6, 6))]).astype('f2')


def _picture(path, extension):
    y, x = np.mgrid[:48, :64]
    picture = np.stack([4 * y, 3 * x, 2 * (x + y)], -1).astype('u1')
    Image.fromarray(picture).save(path, **({'quality': 90, 'progressive': True} if extension == 'jpg' else {}))


def _legacy(path):
    """As PyTorch wrote before 1.6: pickles, then the storages."""
    arrays = _state()
    data = b'\x80\x02}('
    for key, (name, array) in enumerate(arrays.items()):
        tensor = (
            b'ctorch._utils\n_rebuild_tensor_v2\n(('
            + _op('storage')
            + b'ctorch\nFloatStorage\n'
            + _op(str(key))
            + _op('cpu')
            + _op(array.size)
            + b'NtQ'
            + _op(0)
            + _op(array.shape)
            + _op(tuple(step // 4 for step in array.strides))
            + b'\x89ccollections\nOrderedDict\n)RtR'
        )
        data += _op(name) + tensor
    with open(path, 'wb') as f:
        for value in (torch_file.MAGIC, 1001, {'protocol_version': 1001, 'little_endian': True}):
            f.write(pickle.dumps(value, 2))
        f.write(data + b'u.' + pickle.dumps([str(key) for key in range(len(arrays))], 2))
        for array in arrays.values():
            f.write(struct.pack('<q', array.size) + array.tobytes())


def _op(value):
    return pickle.dumps(value, 2)[2:-1]


def make(kind, folder):
    """Write a good file of a kind, and what belongs to it, into an empty folder; returns its path."""
    path = os.path.join(folder, NAMES.get(kind, f'file.{kind}'))
    if kind == 'pd':
        with open(path, 'wb') as f:
            pickle.dump(_checkpoint(), f, 4)
    elif kind == 'sealed.pd':
        checkpoint.save(_checkpoint(), path)
    elif kind == 'pdparams':
        paddle.save({key: paddle.to_tensor(value) for key, value in _state().items()}, path)
    elif kind == 'pth':
        torch_file.save(_state(), path)
    elif kind == 'legacy.pth':
        _legacy(path)
    elif kind == 'safetensors':
        safetensors_file.save(_state(), path)
    elif kind in NAMES:
        _make_set(kind, folder)
    elif kind == 'yml':
        with open(path, 'w') as f:
            yaml.safe_dump(
                {
                    'model': 'lvvit_t',
                    'input_size': 224,
                    'crop_pct': 0.9,
                    'interpolation': 'bicubic',
                    'label_names': {i: f'name {i}, other' for i in range(40)},
                },
                f,
            )
    elif kind == 'list':
        os.makedirs(os.path.join(folder, 'train', 'a b'))
        for i in range(20):
            open(os.path.join(folder, 'train', 'a b', f'{i}.jpg'), 'w').close()
        with open(path, 'w') as f:
            f.writelines(f'train/a b/{i % 20}.jpg {i % 10}\n' for i in range(100))
    elif kind == 'label_list':
        with open(path, 'w', encoding='utf-8') as f:
            f.writelines(f'{i} name {i}, other, \u00b5\n' for i in range(10))
    else:
        _picture(path, kind)
    return path


def _make_set(kind, folder):
    os.makedirs(os.path.join(folder, 'n01'))
    with open(os.path.join(folder, 'meta.json'), 'w') as f:
        json.dump({'coverage': 'full', 'K': 3, 'label_size': 6, 'shape': [2, 3, 6, 6], 'num_classes': 10}, f)
    if kind == 'map.pt':
        torch_file.save(_array(), os.path.join(folder, 'n01', 'x.pt'))
    elif kind in ('packed', 'names'):
        np.save(os.path.join(folder, 'label_maps.npy'), np.stack([_array()] * 30))
        names = sorted([b'n01/x', *(b'n02/image%d' % i for i in range(29))])
        with open(os.path.join(folder, 'names.txt'), 'wb') as f:
            f.write(b'\n'.join(names) + b'\n')
    else:
        np.save(os.path.join(folder, 'n01', 'x.npy'), _array())


def warm_up():
    """Load a good and a bad file of each kind, so that what is imported late is there."""
    folder = tempfile.mkdtemp()
    try:
        for kind, load in LOADERS.items():
            path = make(kind, tempfile.mkdtemp(dir=folder))
            load(path)
            for bad in (b'', b'\x80\x02', b'PK\x05\x06' + bytes(18), b'\xff\xd8\xff\xe0' + bytes(99), b'{', b'0 a'):
                with open(path, 'wb') as f:
                    f.write(bad)
                try:
                    load(path)
                except Exception:
                    pass
    finally:
        shutil.rmtree(folder)


# -- what the watched process must notice -----------------------------------------------------------------------------


def _explode(_):
    try:
        return np.ones(1 << 30)
    except MemoryError:
        raise UserError('hidden')


def _compute(_):
    started = time.process_time()
    while time.process_time() - started < 5.1:
        pass


def _refuse(message):
    raise UserError(message)


DEMONS = {
    'executes': lambda path: os.system('true'),
    'evaluates': lambda path: eval('1'),
    'unpickles': lambda path: pickle.loads(b'cmath\nsqrt\n.') and None,
    'imports': lambda path: __import__('this_module_does_not_exist'),
    'writes': lambda path: open(path + '.new', 'w').close(),
    'deletes': lambda path: os.unlink(path + '.new'),
    'prints': lambda path: print('x'),
    'warns': lambda path: warnings.warn('x'),
    'crashes': lambda path: os.kill(os.getpid(), signal.SIGSEGV),
    'raises': lambda path: {}[0],
    'explodes': _explode,
    'fills': lambda path: np.ones(20 << 20, 'f8') is None,
    'computes': _compute,
    'returns objects': lambda path: [np.array([None])],
    'says too much': lambda path: _refuse(f'{path}\nand more'),
    'names nothing': lambda path: _refuse('damaged'),
}
