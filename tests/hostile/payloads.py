"""Files that would execute something: {name: content} for each kind of file; `canary`: the file they would create."""

import io
import json
import os
import pickle
import struct
import tempfile

import numpy as np

import torch_files
from torch_files import op


class Attack:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(kind, canary):
    """{name: bytes} of the files that attack the reader of a kind."""
    if kind in ('pd', 'sealed.pd', 'pdparams'):
        return {**pickles(canary), **{name: b'\x80\x04' + code + b'.' for name, code in programs(canary).items()}}
    if kind in ('pth', 'map.pt', 'legacy.pth'):
        write = torch_files.write_legacy if kind == 'legacy.pth' else torch_files.write_zip
        return {name: _written(write, code) for name, code in {**programs(canary), **tensors()}.items()}
    if kind in ('map.npy', 'packed'):
        return arrays(canary, '(30, 2, 3, 6, 6)' if kind == 'packed' else '(2, 3, 6, 6)')
    if kind == 'yml':
        return {tag: text.encode() for tag, text in yaml_tags(canary).items()}
    if kind == 'meta':
        call = f"__import__('os').system('touch {canary}')"
        return {'a call': f'{{"coverage": {call}}}'.encode(), 'only a call': call.encode()}
    if kind == 'safetensors':
        header = json.dumps({'w': {'dtype': 'O', 'shape': [1], 'data_offsets': [0, 8]}}).encode()
        return {'objects': struct.pack('<Q', len(header)) + header + b'AAAAAAAA'}
    if kind in ('jpg', 'png', 'webp', 'bmp'):  # Pillow gives PostScript to Ghostscript, whatever the file is called
        code = f'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({canary}) (w) file closefile\nshowpage\n%%EOF\n'
        return {'PostScript': code.encode()}
    call, command = f"__import__('os').system('touch {canary}')\n", f'$(touch {canary})\n'  # lists of names
    return {'a call': call.encode(), 'a command': command.encode()}


def _written(write, program):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'file')
        write(path, program)
        with open(path, 'rb') as f:
            return f.read()


def pickles(canary):
    """Calls in every protocol, as a value, a key, a state, in an array of objects."""
    command, code = f'touch {canary}', f'open({canary!r}, "w")'
    things = {
        'os.system': {'model': Attack(os.system, command)},
        'eval': {'model': Attack(eval, code)},
        'exec': [Attack(exec, code)],
        'a key': {Attack(os.system, command): 1},
        'an array of objects': {'model': {'w': np.array([Attack(os.system, command)], object)}},
        'an array like a pointer': {'model': Attack(np.ndarray, (1,), 'O', b'A' * 8)},
    }
    return {f'{name}, protocol {n}': pickle.dumps(thing, n) for name, thing in things.items() for n in range(6)}


def programs(canary):
    """Instructions of pickles that Python's own pickler would not write."""
    command, code = f'touch {canary}', f'open({canary!r}, "w")'
    core = np.zeros(1).__reduce__()[0].__module__.encode()
    array = b'c' + core + b'\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
    system, run = b'cos\nsystem\n', op(command)
    calls = {
        'posix system': (command,),
        'subprocess Popen': (['touch', canary],),
        '__builtin__ eval': (code,),
        'builtins getattr': ('a', 'upper'),
        'builtins open': (canary, 'w'),
        'builtins __import__': ('this_module_does_not_exist',),
        'importlib import_module': ('this_module_does_not_exist',),
        'this_module_does_not_exist run': (),
        'runpy run_path': (canary,),
        'numpy load': (canary,),
        'numpy.core.multiarray fromfile': (canary,),
        'torch load': (canary,),
        'torch.storage _load_from_bytes': (b'cos\nsystem\n.',),
        'pickle loads': (b'cos\nsystem\n.',),
        'functools partial': (1,),
        'copyreg _reconstructor': (1, 2, 3),
        'os _exit': (0,),
        'ctypes string_at': (0,),
    }
    return {
        **{name: b'c' + name.replace(' ', '\n').encode() + b'\n' + op(args) + b'R' for name, args in calls.items()},
        'dotted name': b'\x8c\x05numpy\x8c\x11ndarray.__class__\x93',
        'name in the memo': b'\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93' + run + b'\x85R',
        'instance': b'(' + run + b'ios\nsystem\n',
        'object': b'(' + system + run + b'o',
        'new object': system + run + b'\x85\x81',
        'new object, extended': system + run + b'\x85}\x92',
        'extension': b'\x82\x01',
        'persistent id': system + run + b'\x85RQ',
        'state of a list': b']}\x8c\x09__class__Nsb',
        'state of a function': b'cbuiltins\ntuple\n}\x8c\x08function' + system + b'sb',
        'state of a class': b'cargparse\nNamespace\n}\x8c\x0c__setstate__' + system + b'sb',
        'slots of a class': b'cargparse\nNamespace\nN}\x8c\x0c__setstate__' + system + b's\x86b',
        'ndarray called': b'cnumpy\nndarray\nK\x01\x85R',
        'object dtype': b'cnumpy\ndtype\n\x8c\x01O\x85R',
        'record dtype': b'cnumpy\ndtype\n\x8c\x05f4,O8\x85R',
        'object array': array + b'(K\x01K\x01\x85cnumpy\ndtype\n\x8c\x02O8\x85R\x89C\x08AAAAAAAAtb',
        'array of text for a dtype': array + b'(K\x01K\x01\x85\x8c\x01O\x89C\x08AAAAAAAAtb',
    }


def tensors():
    """Tensors that would read memory beyond their storage, or make objects of its bytes."""
    lies = {
        'beyond': dict(size=(7,), stride=(1,)),
        'negative offset': dict(offset=-1),
        'negative stride': dict(stride=(-3, 1)),
        'overflow': dict(size=(2, 2), stride=(2**61 - 1, 1)),
        'count': dict(count=2**60),
        'key is a path': dict(key='../../etc/passwd'),
        'objects': dict(storage=op('O')),
    }
    return {f'tensor, {name}': torch_files.tensor(**lie) for name, lie in lies.items()}


def arrays(canary, shape):
    """.npy files with pickles in them or code in their headers."""
    code = f'open({canary!r}, "w")'
    objects = np.empty((1,), object)
    objects[0] = Attack(os.system, f'touch {canary}')
    saved, archive = io.BytesIO(), io.BytesIO()
    np.save(saved, objects)
    np.savez(archive, objects)
    header = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
    headers = {
        'code': code,
        'code in the shape': header % ('<f2', f'({code},)'),
        'code for a type': f"{{'descr': {code}, 'fortran_order': False, 'shape': {shape}, }}",
        'objects without a pickle': header % ('|O', shape),
        'huge': header % ('<f2', '(2, 5, 1000000, 1000000)'),
    }
    result = {name: _npy(text, bytes(2 * 216 * 30)) for name, text in headers.items()}
    bare = pickle.dumps(objects[0])
    return {**result, 'a pickle of objects': saved.getvalue(), 'an archive': archive.getvalue(), 'a bare pickle': bare}


def _npy(header, data):
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header.encode() + data


def yaml_tags(canary):
    call = f"['touch {canary}']"
    return {
        'apply': f'model: !!python/object/apply:os.system {call}',
        'new': f'!!python/object/new:os.system {call}',
        'eval': f'model: !!python/object/apply:builtins.eval [\'open("{canary}", "w")\']',
        'name': 'model: !!python/name:os.system',
        'module': 'model: !!python/module:this_module_does_not_exist',
        'tuple': 'model: !!python/tuple [1]',
        'own tag': 'model: !attack 1',
    }
