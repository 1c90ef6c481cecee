"""inference.yml, which export_model.py writes beside a model: what the network expects, and what its files are."""

import hashlib
import os

import paddle
import yaml

from util.deploy.records import class_names
from util.errors import UserError, one_line
from util.files import read_yaml
from util.logger import log
from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD

PADDLE_3 = int(paddle.__version__.split('.')[0]) >= 3
OUTPUTS = ('logits', 'scores')  # of the network's last layer: scores with --fuse_softmax
FIRST_BYTES = {'json': b'{', 'pdmodel': b'\n', 'pdiparams': bytes(4)}  # of every file that Paddle writes
MEGABYTE = 1 << 20


def is_json(path):
    return path.endswith('.json')


# -- settings ----------------------------------------------------------------------------------------------------------


def write_settings(folder, settings, files):
    """Write inference.yml: the settings, the version of Paddle, and the identity of each file.

    files: names in `folder`, such as model.pdmodel. Each is recorded under its extension.
    """
    identities = {name.rpartition('.')[2]: identity(os.path.join(folder, name)) for name in files}
    content = {**settings, 'paddle': paddle.__version__, 'files': identities}
    with open(os.path.join(folder, 'inference.yml'), 'w', encoding='utf-8') as f:
        yaml.safe_dump(content, f, sort_keys=False, allow_unicode=True)


def read_settings(path):
    """The checked content of inference.yml, with defaults for keys that older exports lack.

    Raises UserError that names the file.
    """
    content = read_yaml(path, hint='; export_model.py writes it beside the model')
    try:
        settings = {
            'model': str(content['model']),
            'input_size': int(content['input_size']),
            'nb_classes': int(content['nb_classes']),
            'crop_pct': float(content['crop_pct']),
            'interpolation': str(content['interpolation']),
            'mean': [float(number) for number in content.get('mean', IMAGENET_MEAN)],
            'std': [float(number) for number in content.get('std', IMAGENET_STD)],
            'output': content.get('output', 'logits'),
            'precision': content.get('precision', 'fp32'),
            'label_names': dict(content['label_names']),
            'files': {kind: dict(recorded) for kind, recorded in (content.get('files') or {}).items()},
        }
        if settings['output'] not in OUTPUTS:
            raise ValueError(f'output: {settings["output"]}')
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f'{path}: not the inference.yml that export_model.py writes ({one_line(error)})')
    names, classes = settings['label_names'], settings['nb_classes']
    if names and len(names) != classes:
        raise UserError(f'{path}: {len(names)} label_names for {classes} classes')
    return settings


def find_settings(model_file, config=None, label_list=None, **flags):
    """The settings of an exported model: of `config` or the inference.yml beside the model, then of the flags.

    flags: input_size, crop_pct, interpolation, mean, std; None where the command did not give one.
    Without an inference.yml the settings are LV-ViT's, and 'nb_classes' is None: call `assume_classes` then.
    """
    path = config or os.path.join(os.path.dirname(model_file), 'inference.yml')
    if config or os.path.exists(path):
        settings = read_settings(path)
        if flags['input_size'] not in (None, settings['input_size']):
            raise UserError(f'--input_size {flags["input_size"]}: the model was exported for {settings["input_size"]}')
        if label_list:
            settings['label_names'] = class_names(label_list, settings['nb_classes'])
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
    settings['label_names'] = class_names(label_list, num_classes)
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
    """{'bytes': size, 'sha256_of_first_mb': hex digest}: tells the files of one export from those of another.

    Reading the first megabyte takes milliseconds for a model of any size.
    """
    with open(path, 'rb') as f:
        digest = hashlib.sha256(f.read(MEGABYTE)).hexdigest()
    return {'bytes': os.path.getsize(path), 'sha256_of_first_mb': digest}


def check_files(model_file, params_file, recorded):
    """Raise UserError that names the flag and the file that is missing, swapped, cut off, or of another export.

    recorded: {extension: identity} of inference.yml. Exports of earlier versions recorded 'bytes' alone.
    """
    kind = 'json' if is_json(model_file) else 'pdmodel'
    files = [('--model_file', model_file, kind), ('--params_file', params_file, 'pdiparams')]
    for flag, path, _ in files:
        if not os.path.isfile(path):
            raise UserError(f'{flag} {path}: no such file')
    if is_json(model_file) and not PADDLE_3:
        raise UserError(
            f'--model_file {model_file}: Paddle {paddle.__version__} reads .pdmodel only; export with --format pdmodel'
        )
    for flag, path, kind in files:
        begin = FIRST_BYTES[kind]
        with open(path, 'rb') as f:
            if f.read(len(begin)) != begin:
                raise UserError(
                    f'{flag} {path}: not a .{kind} file of Paddle (are --model_file and --params_file swapped?)'
                )
    for flag, path, kind in files:
        expected, found = recorded.get(kind, {}), identity(path)
        if expected.get('bytes', found['bytes']) != found['bytes']:
            raise UserError(
                f'{flag} {path}: {found["bytes"]} bytes, but export_model.py wrote {expected["bytes"]}: '
                'cut off, or of another export'
            )
        if expected.get('sha256_of_first_mb', found['sha256_of_first_mb']) != found['sha256_of_first_mb']:
            raise UserError(f'{flag} {path}: not the file that export_model.py wrote: damaged, or of another export')
