"""The kinds of files that enter: how a good one is written, and what of the project reads it."""

import json
import os
import pickle

import numpy as np
import paddle
import safetensors.numpy
import yaml
from PIL import Image

import torch_files
from util import files
from util.data import images, label_maps, listing
from util.deploy import records
from util.weights import checkpoint, pretrained

NAMES = {'map.npy': 'n01/x.npy', 'map.pt': 'n01/x.pt', 'packed': 'label_maps.npy', 'names': 'names.txt'}
NAMES['meta'] = 'meta.json'  # of the file in its set; others are called file.<kind>


# -- reading ----------------------------------------------------------------------------------------------------------


def weights(path):
    return pretrained.read_weights(path)[0]


def label_map(path):
    folder = os.path.dirname(path)
    maps = label_maps.LabelMaps(os.path.dirname(folder) if folder.endswith('n01') else folder, 10)
    return maps.read('n01/x.JPEG')


def image_list(path):
    return listing.read_list(os.path.dirname(path), path, 10)


def image(path):
    return np.asarray(images.open_rgb(path))


READERS = {
    **dict.fromkeys(('pd', 'sealed.pd'), checkpoint.load),
    **dict.fromkeys(('pdparams', 'pth', 'legacy.pth', 'safetensors'), weights),
    **dict.fromkeys(NAMES, label_map),
    'yml': files.read_yaml,
    'list': image_list,
    'label_list': lambda path: records.class_names(path, 10),
    **dict.fromkeys(('jpg', 'png', 'webp', 'bmp'), image),
}
PICKLES = ('pd', 'sealed.pd', 'pdparams', 'legacy.pth', 'pth', 'map.pt')


# -- writing ----------------------------------------------------------------------------------------------------------


def _state():
    rng = np.random.default_rng(0)
    names = [f'blocks.{i}.{part}' for i in range(3) for part in ('attn.qkv.weight', 'mlp.fc1.bias', 'norm1.weight')]
    state = {name: rng.normal(size=(8, 12) if 'qkv' in name else 12).astype('f4') for name in names}
    return {**state, 'head.weight': rng.normal(size=(12, 10)).astype('f4'), 'head.bias': np.zeros(10, 'f4')}


def _checkpoint():
    optimizer = {'head.weight/moment1': np.zeros((12, 10), 'f4'), 'LR_Scheduler': {'t': 3}}
    return {'model': _state(), 'optimizer': optimizer, 'epoch': 3, 'rng': [1, 2**40], 'args': {'lr': 0.1}}


def _map():
    rng = np.random.default_rng(1)
    return np.stack([rng.normal(size=(3, 6, 6)), rng.integers(0, 10, (3, 6, 6))]).astype('f2')


def make(kind, folder):
    """Write a good file of a kind, and what belongs to it, into an empty folder; returns its path."""
    path = os.path.join(folder, NAMES.get(kind, f'file.{kind}'))
    if kind in NAMES:
        _make_set(kind, folder)
    elif kind == 'pd':
        with open(path, 'wb') as f:
            pickle.dump(_checkpoint(), f, 4)
    elif kind == 'sealed.pd':
        checkpoint.save(_checkpoint(), path)
    elif kind == 'pdparams':
        paddle.save({key: paddle.to_tensor(value) for key, value in _state().items()}, path)
    elif kind == 'pth':
        torch_files.save(_state(), path)
    elif kind == 'legacy.pth':
        torch_files.save(_state(), path, torch_files.write_legacy)
    elif kind == 'safetensors':
        safetensors.numpy.save_file(_state(), path)
    elif kind == 'yml':
        names = {i: f'name {i}, other' for i in range(40)}
        files.write(path, yaml.safe_dump({'model': 'lvvit_t', 'crop_pct': 0.9, 'label_names': names}).encode())
    elif kind == 'list':
        os.makedirs(os.path.join(folder, 'train', 'a b'))
        for i in range(20):
            files.write(os.path.join(folder, 'train', 'a b', f'{i}.jpg'), b'')
        files.write(path, ''.join(f'train/a b/{i % 20}.jpg {i % 10}\n' for i in range(100)).encode())
    elif kind == 'label_list':
        files.write(path, ''.join(f'{i} name {i}, other, \u00b5\n' for i in range(10)).encode())
    else:
        y, x = np.mgrid[:48, :64]
        Image.fromarray(np.stack([4 * y, 3 * x, 2 * (x + y)], -1).astype('u1')).save(path)
    return path


def _make_set(kind, folder):
    os.makedirs(os.path.join(folder, 'n01'))
    meta = {'coverage': 'full', 'K': 3, 'label_size': 6, 'shape': [2, 3, 6, 6], 'num_classes': 10}
    files.write(os.path.join(folder, 'meta.json'), json.dumps(meta).encode())
    if kind == 'map.pt':
        torch_files.save(_map(), os.path.join(folder, 'n01', 'x.pt'))
    elif kind in ('packed', 'names'):
        np.save(os.path.join(folder, 'label_maps.npy'), np.stack([_map()] * 30))
        names = sorted(['n01/x', *(f'n02/image{i}' for i in range(29))])
        files.write(os.path.join(folder, 'names.txt'), '\n'.join([*names, '']).encode())
    else:
        np.save(os.path.join(folder, 'n01', 'x.npy'), _map())
