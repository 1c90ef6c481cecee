"""Nothing that a file asks for is executed, in any format and by any script; what takes the place of weights, maps or
settings is refused by the name of the file.

More about pickles: tests/weights/test_unpickle.py and test_torch_file.py."""

import io
import json
import os
import pickle
import struct
import sys

import numpy as np
import paddle
import pytest
import safetensors.numpy
from PIL import Image

import torch_files
from conftest import ROOT
from torch_files import op
from util import files
from util.data import images, label_maps
from util.errors import UserError
from util.weights import load

sys.path.insert(0, str(ROOT / 'tools'))


CANARY = 'canary'  # the file that an attack would make in the working folder
COMMAND = f'touch {CANARY}'
SYSTEM = b'cos\nsystem\n' + op((COMMAND,)) + b'R'  # the instructions of a pickle that calls os.system


class Call:
    """Pickles as a call of os.system."""

    def __reduce__(self):
        return os.system, (COMMAND,)


def saved(write, *arguments):
    """The bytes that write(path, …) writes."""
    write('saved', *arguments)
    with open('saved', 'rb') as f:
        return f.read()


def npy(value):
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def npy_header(header):
    """A .npy file with this header and enough data for any of them."""
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header.encode() + bytes(5000)


def read_map(path):
    return label_maps.LabelMaps('maps', 10).read('n01/x')


def load_weights(path):
    load.load(paddle.nn.Conv2D(2, 3, 1), path)


def pickles():
    things = [{'model': Call()}, [Call()], {'model': {'w': np.array([Call()], object)}}]
    return [pickle.dumps(thing, protocol) for thing in things for protocol in (0, 2, 4)]


def arrays():
    code = f'open({CANARY!r}, "w")'
    header = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}"
    return [
        npy(np.array([Call()], object)),
        pickle.dumps(Call()),
        npy_header(code),
        npy_header(header.format("'<f2'", f'({code},)')),
        npy_header(header.format(code, '(2, 3, 6, 6)')),
        npy_header(header.format("'|O'", '(2, 3, 6, 6)')),
    ]


def yaml_tags():
    call = f"['{COMMAND}']"
    texts = [f'model: !!python/object/apply:os.system {call}', f'!!python/object/new:os.system {call}']
    return [text.encode() for text in [*texts, 'model: !!python/name:os.system', 'model: !own 1']]


def safetensors_of_objects():
    header = json.dumps({'w': {'dtype': 'O', 'shape': [1], 'data_offsets': [0, 8]}}).encode()
    return [struct.pack('<Q', len(header)) + header + bytes(8)]


def postscript():  # Pillow gives it to Ghostscript, whatever the file is called
    code = f'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({CANARY}) (w) file closefile\nshowpage\n%%EOF\n'
    return [code.encode()]


STATE = {'weight': np.ones((3, 2, 1, 1), 'f4'), 'bias': np.zeros(3, 'f4')}
MAP = np.stack([np.random.default_rng(1).normal(size=(3, 6, 6)), np.ones((3, 6, 6))]).astype('f2')

# {kind: (path, what reads it, a good file, files that would execute something)}
READERS = {
    'checkpoint': ('x.pd', load_weights, lambda: pickle.dumps({'model': STATE}), pickles),
    '.pth': (
        *('x.pth', load_weights, lambda: saved(lambda path: torch_files.save(STATE, path))),
        lambda: [saved(torch_files.write_zip, SYSTEM)],
    ),
    'old .pth': (
        *('x.pth', load_weights, lambda: saved(lambda path: torch_files.save(STATE, path, torch_files.write_legacy))),
        lambda: [saved(torch_files.write_legacy, SYSTEM)],
    ),
    'safetensors': ('x.safetensors', load_weights, lambda: safetensors.numpy.save(STATE), safetensors_of_objects),
    'map .npy': ('maps/n01/x.npy', read_map, lambda: npy(MAP), arrays),
    'map .pt': (
        *('maps/n01/x.pt', read_map, lambda: saved(lambda path: torch_files.save(MAP, path))),
        lambda: [saved(torch_files.write_zip, SYSTEM)],
    ),
    'packed maps': ('maps/label_maps.npy', read_map, lambda: npy(MAP[None]), arrays),
    'inference.yml': ('x.yml', files.read_yaml, lambda: b'model: lvvit_t\ncrop_pct: 0.9\n', yaml_tags),
    'image': ('x.png', images.open_rgb, lambda: (ROOT / 'demo' / 'chelsea.png').read_bytes(), postscript),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working folder: a data set of one image in each split, and an empty set of label maps."""
    for split in ('train', 'val'):
        (tmp_path / split / 'n01').mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), 'u1')).save(tmp_path / split / 'n01' / 'x.png')
    (tmp_path / 'maps' / 'n01').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, content):
    with open(path, 'wb') as f:
        f.write(content)
    if path == 'maps/label_maps.npy':
        (open('maps/names.txt', 'w')).write('n01/x\n')


@pytest.mark.parametrize('kind', READERS)
def test_a_good_file_is_read_and_calls_are_refused_by_the_name_of_the_file(kind):
    path, read, good, attacks = READERS[kind]
    write(path, good())
    read(path)
    for content in attacks():
        write(path, content)
        with pytest.raises((UserError, images.BadImage)) as error:
            read(path)
        assert os.path.basename(path) in str(error.value) and '\n' not in str(error.value)
        assert not os.path.exists(CANARY), content


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_weights_beside_a_call_are_loaded_and_the_log_names_what_was_not_called(protocol, capfd):
    write('x.pd', pickle.dumps({'model': STATE, 'note': Call(), 'array': np.array([Call()], object)}, protocol))
    load_weights('x.pd')
    (line,) = [line for line in capfd.readouterr().out.splitlines() if 'not read' in line]
    assert 'x.pd' in line and f'{os.system.__module__}.system' in line and not os.path.exists(CANARY)


# ---- the scripts
