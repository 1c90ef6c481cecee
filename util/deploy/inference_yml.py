"""The files of an exported model: inference.yml, and checks that they are whole and belong together.

Paddle crashes on some damaged files and runs silently on others (it fills up parameters that were cut off), so they
are looked at here before Paddle sees them.
"""

import hashlib
import math
import os
import struct

import paddle
import yaml

from util.errors import UserError, one_line
from util.files import read_json, read_yaml

PADDLE_3 = int(paddle.__version__.split('.')[0]) >= 3
MAX_PROGRAM = 64 << 20  # bytes of a model.json or model.pdmodel, which holds no parameters; lvvit_l has 1 MB
OUTPUTS = ('logits', 'scores')  # what the network's last layer gives: scores with --fuse_softmax
ITEM_BYTES = {0: 1, 1: 2, 2: 4, 3: 8, 4: 2, 5: 4, 6: 8, 19: 8, 20: 1, 21: 1, 22: 2, 23: 8, 24: 16}  # VarType.Type
SETTINGS = {
    'model': str,
    'input_size': int,
    'nb_classes': int,
    'crop_pct': float,
    'interpolation': str,
    'label_names': dict,
}


# -- inference.yml ----------------------------------------------------------------------------------------------------


def fingerprint(path):
    """{'bytes': size, 'sha256': hex digest} of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        for chunk in iter(lambda: f.read(1 << 20), b''):
            digest.update(chunk)
    return {'bytes': os.path.getsize(path), 'sha256': digest.hexdigest()}


def write_settings(folder, settings, files):
    """Write inference.yml: what the network expects, the Paddle it was exported with, and a fingerprint per file.

    files: names in `folder`, such as model.pdmodel; each is known by its ending.
    """
    record = {name.rpartition('.')[2]: fingerprint(os.path.join(folder, name)) for name in files}
    with open(os.path.join(folder, 'inference.yml'), 'w', encoding='utf-8') as f:
        yaml.safe_dump(
            {**settings, 'paddle': paddle.__version__, 'files': record}, f, sort_keys=False, allow_unicode=True
        )


def read_settings(path):
    """The content of inference.yml, checked, with defaults for what an older export did not write.

    Raises UserError that names the file.
    """
    try:
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        content = read_yaml(path, hint='; export_model.py writes it beside the model')
        settings = {key: kind(content[key]) for key, kind in SETTINGS.items()}
        settings.update(
            output=content.get('output', 'logits'),
            precision=content.get('precision', 'fp32'),
            paddle=str(content.get('paddle', 'unknown')),
            files=dict(content.get('files') or {}),
        )
        if settings['output'] not in OUTPUTS:
            raise ValueError(f'output: {settings["output"]}')
    except FileNotFoundError:
        raise UserError(f'{path}: no such file; export_model.py writes it beside the model')
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f'{path}: not the inference.yml that export_model.py writes ({one_line(error)})')
    return settings


# -- the files --------------------------------------------------------------------------------------------------------


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _tensor_desc(data):
    """(VarType.Type, dims) of the protobuf message TensorDesc: field 1 a varint, field 2 varints, packed or not."""
    kind, dims, at = None, [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag == 0x08:
            kind = value
        elif tag == 0x10:
            dims.append(value)
        elif tag == 0x12:
            end = at + value
            while at < end:
                value, at = _varint(data, at)
                dims.append(value)
        else:
            raise ValueError(f'tag {tag}')
    return kind, dims


def parameter_shapes(path):
    """Shapes of the tensors in a .pdiparams file, in its order. Raises ValueError for what is no such file, or a part
    of one: it must end where its last tensor ends. Reads the headers only.
    """
    size, shapes = os.path.getsize(path), []
    with open(path, 'rb') as f:

        def read(layout):
            return struct.unpack(layout, f.read(struct.calcsize(layout)))

        try:
            while f.tell() < size:
                version, levels = read('<IQ')
                if version != 0 or levels > 8:
                    raise ValueError('no Paddle tensor')
                for _ in range(levels):
                    f.seek(read('<Q')[0], os.SEEK_CUR)
                version, length = read('<Ii')
                if version != 0 or not 0 < length < 1024:
                    raise ValueError('no Paddle tensor')
                kind, dims = _tensor_desc(f.read(length))
                f.seek(ITEM_BYTES[kind] * math.prod(dims), os.SEEK_CUR)
                shapes.append(dims)
        except (struct.error, IndexError, KeyError) as error:
            raise ValueError(f'broken off or damaged at byte {f.tell()} ({type(error).__name__})')
        if f.tell() != size or not shapes:
            raise ValueError(f'{size} bytes, but its tensors need {f.tell()}')
    return shapes


def model_shapes(path):
    """(input shape, [parameter shapes]) of a model.pdmodel or model.json; -1 stands for any batch size.

    Raises ValueError for what is no such model.
    """
    if is_json(path):
        try:
            program = read_json(path)
            if program['base_code']['magic'] != 'pir':
                raise ValueError('not a program of Paddle 3')
            ops = program['program']['regions'][0]['blocks'][0]['ops']
            (image,) = [op for op in ops if op['#'] == '1.data']
            return image['O'][0]['TT']['D'][1], [op['O']['TT']['D'][1] for op in ops if op['#'] == 'p']
        except (UserError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f'not a program of Paddle 3 ({one_line(error)})')
    with open(path, 'rb') as f:
        data = f.read(MAX_PROGRAM)
    program = paddle.base.core.ProgramDesc(data)  # to be kept alive: its block only points into it
    if not program.num_blocks() or not program.block(0).op_size():
        raise ValueError('an empty program')
    block = program.block(0)
    feeds = [op for op in map(block.op, range(block.op_size())) if op.type() == 'feed']
    variables = {v.name(): v for v in block.all_vars()}
    (image,) = [variables[op.output('Out')[0]] for op in feeds]
    parameters = [v for name, v in variables.items() if v.persistable() and name not in ('feed', 'fetch')]
    return list(image.shape()), [v.shape() for v in parameters]


def is_json(path):
    return path.endswith('.json')


def is_quantised(model_file):
    """Whether a model carries quantisation operators, such as PaddleSlim's calibration leaves in it."""
    with open(model_file, 'rb') as f:
        data = f.read()
    return b'quantize_linear' in data or b'fake_quantize' in data


def _looks_like(check, path):
    try:
        return bool(check(path))
    except (ValueError, RuntimeError):
        return False


def check(model_file, params_file, settings):
    """Raises UserError that names the flag and file that is missing, damaged, swapped or of another export or Paddle.

    settings: of read_settings; a model without recorded fingerprints is checked by its structure alone.
    """
    files = {'--model_file': model_file, '--params_file': params_file}
    for flag, path in files.items():
        if not os.path.isfile(path):
            raise UserError(f'{flag} {path}: no such file')
    if is_json(model_file) and not PADDLE_3:
        raise UserError(
            f'--model_file {model_file}: Paddle {paddle.__version__} reads .pdmodel only; export with --format pdmodel'
        )
    if _looks_like(parameter_shapes, model_file):
        swapped = ' (are --model_file and --params_file swapped?)' if _looks_like(model_shapes, params_file) else ''
        raise UserError(f'--model_file {model_file}: holds parameters, not a model{swapped}')
    for (flag, path), kind in zip(files.items(), ('json' if is_json(model_file) else 'pdmodel', 'pdiparams')):
        recorded = settings['files'].get(kind)
        if recorded and os.path.getsize(path) != recorded.get('bytes'):
            raise UserError(
                f'{flag} {path}: {os.path.getsize(path)} bytes, but export_model.py wrote '
                f'{recorded.get("bytes")}: cut off, or of another export'
            )
    try:
        wanted = sorted(map(list, model_shapes(model_file)[1]))
    except (ValueError, RuntimeError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f'--model_file {model_file}: not a model that Paddle {paddle.__version__} reads ({first_line})')
    try:
        present = sorted(map(list, parameter_shapes(params_file)))
    except ValueError as error:
        raise UserError(f'--params_file {params_file}: not a whole file of Paddle parameters ({error})')
    if wanted != present:
        raise UserError(
            f'--params_file {params_file}: its {len(present)} tensors are not the {len(wanted)} that '
            f'{model_file} asks for; it belongs to another model'
        )
    for (flag, path), kind in zip(files.items(), ('json' if is_json(model_file) else 'pdmodel', 'pdiparams')):
        recorded = settings['files'].get(kind)
        if recorded and fingerprint(path) != recorded:
            raise UserError(
                f'{flag} {path}: not the file that export_model.py wrote (its SHA-256 differs): damaged, '
                'or of another export'
            )
