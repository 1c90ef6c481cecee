"""inference.yml, which export_model.py writes beside a model: what the network expects, and checksums of its files."""

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
OUTPUTS = ('logits', 'scores')  # what the network's last layer gives: scores with --fuse_softmax
FLAGS = ('input_size', 'crop_pct', 'interpolation', 'mean', 'std')  # of infer.py, each a setting too
FIRST_BYTES = {'json': b'{', 'pdmodel': b'\n', 'pdiparams': bytes(4)}  # of every file that Paddle writes


def is_json(path):
    return path.endswith('.json')


# -- settings ----------------------------------------------------------------------------------------------------------


def checksum(path):
    """{'bytes': size, 'sha256': hex digest} of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        for chunk in iter(lambda: f.read(1 << 20), b''):
            digest.update(chunk)
    return {'bytes': os.path.getsize(path), 'sha256': digest.hexdigest()}


def write_settings(folder, settings, files):
    """Write inference.yml: the settings, the Paddle that exported the model, and a checksum of each file.

    files: names in `folder`, such as model.pdmodel; each is known by its ending.
    """
    checksums = {name.rpartition('.')[2]: checksum(os.path.join(folder, name)) for name in files}
    content = {**settings, 'paddle': paddle.__version__, 'files': checksums}
    with open(os.path.join(folder, 'inference.yml'), 'w', encoding='utf-8') as f:
        yaml.safe_dump(content, f, sort_keys=False, allow_unicode=True)


def read_settings(path):
    """The content of inference.yml, checked, with defaults for what an older export did not write.

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


def find_settings(args):
    """The settings of the model that infer.py's flags name, with the flags laid over them: those of --config or of the
    inference.yml beside the model. Where there is none, those of the family; `complete` must then fill in the classes.
    """
    path = args.config or os.path.join(os.path.dirname(args.model_file), 'inference.yml')
    if args.config or os.path.exists(path):
        settings = read_settings(path)
        if args.input_size not in (None, settings['input_size']):
            raise UserError(f'--input_size {args.input_size}: the model was exported for {settings["input_size"]}')
        if args.label_list:
            settings['label_names'] = class_names(args.label_list, settings['nb_classes'])
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
    for flag in FLAGS:
        if getattr(args, flag) is not None:
            settings[flag] = getattr(args, flag)
    return settings


def complete(settings, outputs, label_list):
    """Fill in what no inference.yml says, and log all that is assumed.

    outputs: what the network gives for an image, [1, C]: logits, unless they are not negative and sum to 1.
    label_list: file of the names of the classes, or None.
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
    numbers = {flag: ' '.join(map(str, settings[flag])) for flag in ('mean', 'std')}
    log(
        f'no inference.yml beside the model; assumed: --input_size {settings["input_size"]} '
        f'--crop_pct {settings["crop_pct"]} --interpolation {settings["interpolation"]} --mean {numbers["mean"]} '
        f'--std {numbers["std"]}; its output: {settings["output"]} of {num_classes} classes, {named}'
    )


# -- the files ---------------------------------------------------------------------------------------------------------


def check_files(model_file, params_file, recorded):
    """Raise UserError that names the flag and the file that is missing, swapped, damaged, or of another export.

    recorded: {ending: checksum} of inference.yml. Without a checksum only the first bytes are looked at; what else is
    wrong is left to Paddle, which refuses some files, fills up others with zeros, and may crash.
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
        if kind in recorded:
            check_recorded(flag, path, recorded[kind])


def check_recorded(flag, path, recorded):
    """Raise UserError if a file is not the one with the checksum `recorded`."""
    size = os.path.getsize(path)
    if size != recorded.get('bytes'):
        raise UserError(
            f'{flag} {path}: {size} bytes, but export_model.py wrote {recorded.get("bytes")}: '
            'cut off, or of another export'
        )
    if checksum(path) != recorded:
        raise UserError(
            f'{flag} {path}: not the file that export_model.py wrote (its SHA-256 differs): damaged, or of another '
            'export'
        )
