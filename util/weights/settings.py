"""What a file of weights says of its model: name, input size, number of classes, and the evaluation transform.

A checkpoint of main.py has this among the flags of its run, in the entry `args`, and tools/convert_weight.py keeps it.
Published weights and those of PyTorch say nothing.
"""

import argparse

from util.errors import UserError, one_line
from util.logger import log
from util.ranges import count, positive, probability, share

KEY = 'args'  # of a checkpoint
KINDS = {
    **{'model': str, 'input_size': count, 'nb_classes': count},
    **{'crop_pct': share, 'interpolation': str, 'mean': probability, 'std': positive},
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in 0-1
IMAGENET_STD = (0.229, 0.224, 0.225)
# Without a flag, and for weights that say nothing. Input size and crop are then those of the model (models.FAMILY).
DEFAULTS = {'model': 'lvvit_t', 'nb_classes': 1000, 'interpolation': 'bicubic'}
DEFAULTS.update(mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD))


def of_file(state, path, family):
    """{name: value} of the KINDS that a file says; {} if it says nothing, or has a model that is not in `family`.

    state: what load.read returned for the file `path`. family: models.FAMILY. Raises UserError for an impossible value.
    """
    flags = state.get(KEY)
    if not isinstance(flags, dict) or str(flags.get('model')) not in family:
        return {}
    found = {name: flags[name] for name in KINDS if flags.get(name) is not None}
    for name, value in found.items():
        kind = KINDS[name]
        try:
            found[name] = [kind(str(part)) for part in value] if name in ('mean', 'std') else kind(str(value))
        except (TypeError, argparse.ArgumentTypeError) as error:
            raise UserError(f"{path}: its entry '{KEY}' has the {name} {one_line(value)} ({one_line(error)})")
    return found


def complete(args, family, found=None, path=''):
    """Set the flags of KINDS that are None, or that `args` does not have, to what a file says or else to defaults.

    found: what `of_file` returned for the file `path`; the log says what is taken from it. family: models.FAMILY.
    Raises UserError for --model and --nb_classes that contradict the file.
    """
    found, given = found or {}, {name: value for name, value in vars(args).items() if value is not None}
    check(given, found, path)
    taken = {name: value for name, value in found.items() if name not in given}
    if taken:
        log(f'{path}: {describe(taken)}')
    entry = family[{**DEFAULTS, **found, **given}['model']]
    own = {'input_size': entry.input_size, 'crop_pct': entry.crop_pct}
    vars(args).update({**DEFAULTS, **own, **found, **given})


def check(given, found, path):
    """Raise UserError for flags, {name: value}, with another model or number of classes than the file `path` says."""
    wrong = [name for name in ('model', 'nb_classes') if name in found and given.get(name) not in (None, found[name])]
    if wrong:
        flags = ' '.join(f'--{name} {given[name]}' for name in wrong)
        leave_out = ' and '.join(f'--{name}' for name in wrong)
        raise UserError(f'{flags}: {path} fits {as_flags(found)}; leave {leave_out} out')


def as_flags(found):
    """Such as '--model lvvit_nano --input_size 48 --nb_classes 10'."""
    return ' '.join(f'--{name} {found[name]}' for name in ('model', 'input_size', 'nb_classes') if name in found)


def describe(found):
    """Such as 'lvvit_nano, 48 px, 10 classes, crop_pct 1, bicubic'. ImageNet's mean and std are left out."""
    texts = dict(model='{}', input_size='{} px', nb_classes='{} classes', crop_pct='crop_pct {:g}', interpolation='{}')
    parts = [text.format(found[name]) for name, text in texts.items() if name in found]
    for name in ('mean', 'std'):
        if found.get(name, DEFAULTS[name]) != DEFAULTS[name]:
            parts.append(f'{name} {" ".join(f"{value:g}" for value in found[name])}')
    return ', '.join(parts)
