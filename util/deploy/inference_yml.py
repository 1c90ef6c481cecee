"""inference.yml, which export_model.py writes beside a model: the network's settings, and what identifies its files."""

import hashlib
import os

import paddle
import yaml

from util import class_names
from util.errors import UserError, one_line
from util.files import other_kind, read_yaml
from util.logger import log
from util.weights.settings import IMAGENET_MEAN, IMAGENET_STD, KINDS, check

PADDLE_3 = int(paddle.__version__.split('.')[0]) >= 3
OUTPUTS = ('logits', 'scores')  # of the network's last layer: scores with --fuse_softmax
CHECKPOINTS = ('.pd', '.pdparams', '.pth', '.pth.tar', '.pt', '.safetensors')
FIRST_BYTES = {'json': b'{', 'pdmodel': b'\n', 'pdiparams': bytes(4), 'xml': b'<?xml'}  # of every file of its kind
WEIGHTS = {'pdmodel': 'pdiparams', 'json': 'pdiparams', 'xml': 'bin'}  # the file of weights beside the model's


def kind_of(model_file):
    """json, onnx or xml by the extension; else pdmodel."""
    kind = model_file.rpartition('.')[2]
    return kind if kind in ('json', 'onnx', 'xml') else 'pdmodel'


# -- settings ----------------------------------------------------------------------------------------------------------


def from_flags(args, names, output='logits', precision='fp32'):
    """The settings of a model that an export describes by its flags. names: {class id: name}. output: of OUTPUTS."""
    flags = {name: getattr(args, name) for name in KINDS}
    return {**flags, 'output': output, 'precision': precision, 'label_names': names}


def of_other_files(named, folder, settings, kinds):
    """{kind: identity} of the files of other kinds that the inference.yml of `folder` records, to keep them there.

    named: the flag and its value, for the error. Raises UserError if they have other settings.
    """
    path = os.path.join(folder, 'inference.yml')
    if not os.path.exists(path):
        return {}
    old = read_settings(path)
    others = {kind: recorded for kind, recorded in old['files'].items() if kind not in kinds}
    different = [name for name, value in settings.items() if old[name] != value]
    if others and different:
        raise UserError(
            f'{named}: {path} belongs to other files there, with another {", ".join(different)}; use another folder'
        )
    return others


def write_settings(folder, settings, files, others=None):
    """Write inference.yml: the settings, the version of Paddle, and the identity of each file.

    files: names in `folder`, such as model.pdmodel. Each is recorded under its extension. others: of of_other_files.
    """
    identities = {name.rpartition('.')[2]: identity(os.path.join(folder, name)) for name in files}
    identities.update(others or {})
    content = {**settings, 'paddle': paddle.__version__, 'files': identities}
    with open(os.path.join(folder, 'inference.yml'), 'w', encoding='utf-8') as f:
        yaml.safe_dump(content, f, sort_keys=False, allow_unicode=True)


def read_settings(path):
    """The checked content of inference.yml. Raises UserError that names the file."""
    content = read_yaml(path, hint='; the export writes it beside the model')
    try:
        settings = {
            'model': str(content['model']),
            'input_size': int(content['input_size']),
            'nb_classes': int(content['nb_classes']),
            'crop_pct': float(content['crop_pct']),
            'interpolation': str(content['interpolation']),
            'mean': [float(number) for number in content['mean']],
            'std': [float(number) for number in content['std']],
            'output': content['output'],
            'precision': content['precision'],
            'label_names': dict(content['label_names']),
            'files': {kind: dict(recorded) for kind, recorded in (content.get('files') or {}).items()},
        }
        if settings['output'] not in OUTPUTS:
            raise ValueError(f'output: {settings["output"]}')
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f'{path}: not the inference.yml that export_model.py writes ({one_line(error)})')
    for class_id in settings['label_names']:  # some classes may have no name
        if class_id not in range(settings['nb_classes']):
            raise UserError(f'{path}: label_names has class {class_id}, but there are {settings["nb_classes"]} classes')
    return settings


def find_settings(model_file, config=None, label_list=None, model=None, nb_classes=None, **flags):
    """The settings of an exported model from `config`, or from the inference.yml beside it; flags override them.

    model, nb_classes: must be those of the export. flags: input_size, crop_pct, interpolation, mean, std. All are None
    if the command did not give them.
    Without an inference.yml the settings are LV-ViT's, and 'nb_classes' is None until `assume_classes` sets it.
    """
    path = config or os.path.join(os.path.dirname(model_file), 'inference.yml')
    if config or os.path.exists(path):
        settings = read_settings(path)
        check({'model': model, 'nb_classes': nb_classes}, settings, path)
        if flags['input_size'] not in (None, settings['input_size']):
            raise UserError(f'--input_size {flags["input_size"]}: the model was exported for {settings["input_size"]}')
        if label_list:
            settings['label_names'] = class_names.to_show(label_list, None, settings['nb_classes'])
    else:
        settings = {
            'model': 'unknown',
            'input_size': 224,
            'nb_classes': None,
            'crop_pct': 0.9,
            'interpolation': 'bicubic',
            'mean': list(IMAGENET_MEAN),
            'std': list(IMAGENET_STD),
            'precision': 'fp32',
            'files': {},
        }
    settings.update({name: value for name, value in flags.items() if value is not None})
    return settings


def assume_classes(settings, outputs, label_list):
    """For an export without inference.yml: set its classes and output, and log every assumption.

    outputs: what the network gives for an image, [1, C]: scores if they are not negative and sum to 1, else logits.
    label_list: file of the class names, or None.
    """
    num_classes = outputs.shape[1]
    sums_to_one = outputs.min() >= 0 and abs(outputs.sum() - 1) < 1e-3
    settings['output'] = 'scores' if sums_to_one else 'logits'
    settings['nb_classes'] = num_classes
    settings['label_names'] = class_names.to_show(label_list, None, num_classes)
    if label_list:
        named = 'named by --label_list'
    elif settings['label_names']:
        named = "ImageNet's"
    else:
        named = 'without names'
    mean, std = (' '.join(map(str, settings[name])) for name in ('mean', 'std'))
    log(
        f'no inference.yml beside the model; assumed: --input_size {settings["input_size"]} '
        f'--crop_pct {settings["crop_pct"]} --interpolation {settings["interpolation"]} --mean {mean} --std {std}; '
        f'its output: {settings["output"]} of {num_classes} classes, {named}'
    )


# -- the files ---------------------------------------------------------------------------------------------------------


def identity(path):
    """{'bytes': size, 'sha256_of_first_mb': hex digest} of a file. Hashing all of a large file would be slow."""
    with open(path, 'rb') as f:
        digest = hashlib.sha256(f.read(1 << 20)).hexdigest()
    return {'bytes': os.path.getsize(path), 'sha256_of_first_mb': digest}


def find_weights(model_file, params_file=None):
    """The file of a model's weights: `params_file`, or the one beside it; None for .onnx, which has them inside.

    Raises UserError for a params_file with a model that is not Paddle's.
    """
    kind = kind_of(model_file)
    if kind in ('onnx', 'xml') and params_file:
        raise UserError(f'--params_file {params_file}: is for .pdmodel and .json files; leave it out for {model_file}')
    if kind == 'onnx':
        return None
    return params_file or f'{os.path.splitext(model_file)[0]}.{WEIGHTS[kind]}'


def check_files(model_file, weights_file, recorded):
    """Raise UserError that names the flag and the file that is missing, swapped, cut off, or of another export.

    weights_file: of find_weights. recorded: {extension: identity} of inference.yml. A model that it does not record is
    logged.
    """
    kind = kind_of(model_file)
    if os.path.isfile(model_file) and model_file.lower().endswith(CHECKPOINTS):
        raise UserError(
            f'--model_file {model_file}: weights without a network; export them with export_model.py, or use predict.py'
        )
    if kind == 'json' and not PADDLE_3:
        raise UserError(
            f'--model_file {model_file}: Paddle {paddle.__version__} reads .pdmodel only; export with --format pdmodel'
        )
    check_file(f'--model_file {model_file}', model_file, kind, recorded)
    if kind == 'xml':
        check_file(f'--model_file {model_file}: its weights {weights_file}', weights_file, 'bin', recorded)
    elif weights_file:
        check_file(f'--params_file {weights_file}', weights_file, 'pdiparams', recorded)
    if recorded and kind not in recorded:
        log(f'{model_file}: inference.yml was written for other files; assumed: its settings are those of this one too')


def check_file(named, path, kind, recorded):
    """Check one file of check_files. named: the flag and the path, with which an error begins."""
    if os.path.isdir(path):
        raise UserError(f'{named}: a folder; name the model file in it')
    if not os.path.isfile(path):
        raise UserError(f'{named}: no such file')
    begin = FIRST_BYTES.get(kind, b'')
    try:
        with open(path, 'rb') as f:
            first = f.read(8)
        found = identity(path)
    except OSError as error:
        raise UserError(f'{named}: cannot be read ({error.strerror or error})')
    if not first.startswith(begin) or not first:
        other = '' if kind == 'json' else other_kind(path)
        why = f', but {other}' if other else ' of Paddle (are --model_file and --params_file swapped?)'
        raise UserError(f'{named}: not a .{kind} file{why}')
    expected = recorded.get(kind, {})
    if any(expected.get(key, value) != value for key, value in found.items()):
        raise UserError(
            f'{named}: not the file that inference.yml was written for: cut off, damaged, or of another export'
        )
