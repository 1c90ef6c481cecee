"""The parser of all scripts, the flags that several of them share, and -c FILE. training_args.py has the others.

`family` is models.FAMILY, from which the help texts take sizes, crops and patches.
"""

import argparse
import os
import re
import shlex
import sys

import yaml

from util import files
from util.errors import UserError, visible
from util.ranges import count, natural, positive, probability, share
from util.weights.settings import DEFAULTS, IMAGENET_MEAN, IMAGENET_STD

KNOWN = """A checkpoint of main.py says model, input size, classes, crop, interpolation,
mean and std: the defaults of those flags. --model and --nb_classes must not
contradict it."""
LABEL_LIST_HELP = "names of the classes, lines 'id name' (default: those that the weights have, or ImageNet's)"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and whose help shows the description with its line breaks.

    It takes no abbreviated flags. With `add_config` it reads flags from a YAML file too.
    """

    reads_config, error_source = False, ''

    def __init__(self, prog, description=None):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, formatter_class=raw, allow_abbrev=False)
        # argparse before Python 3.14 takes -1e-3 and -inf for flags, and then says that a value is missing
        self._negative_number_matcher = re.compile(r'-(\d|\.\d|inf|nan)')

    def error(self, message):
        self.exit(2, f'{self.prog}: error: {visible(self.error_source + message)} (see {self.prog} --help)\n')

    def add_config(self):
        self.reads_config = True
        help = 'YAML file of flags (main.py: also the args.yaml of a run); flags on the command line win'
        self.add_argument('-c', '--config', metavar='FILE', help=help)

    def parse_args(self, args=None, namespace=None):
        """As argparse. Raises UserError for a file of -c that is not a YAML file of flags, or is for another model."""
        args = sys.argv[1:] if args is None else list(args)
        parsed = super().parse_args(args, namespace)
        if self.reads_config and parsed.config:
            content = read_config(self, parsed.config)
            self.error_source = f'-c {parsed.config}: '  # the command line alone has no error
            parsed = super().parse_args(as_words(self, content) + args, namespace)
            self.error_source = ''
            model = content.get('model')
            if model and parsed.model != model:
                raise UserError(f'-c {parsed.config}: is for {model}, but --model is {parsed.model}; leave --model out')
        return parsed


# -- -c FILE and args.yaml ---------------------------------------------------------------------------------------------


def read_config(parser, path):
    """{flag name: value} of a YAML file. `_base_` in it names another one beside it, whose values it overrides.

    Raises UserError for a key that is not a flag of `parser`.
    """
    content = files.read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f'-c {path}: must hold lines such as "batch_size: 64"')
    base = content.pop('_base_', None)
    content = {str(key).replace('-', '_'): value for key, value in content.items()}
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for name in content:
        if f'--{name}' not in flags or name in ('help', 'config'):
            raise UserError(f'-c {path}: {name} is not a flag of {parser.prog} (see {parser.prog} --help)')
    if base:
        return {**read_config(parser, os.path.join(os.path.dirname(path), str(base))), **content}
    return content


def as_words(parser, content):
    """Flags, {name: value}, as words of a command line.

    true gives a flag without a value; false its --no_ form, or nothing if it has none; a list gives several values;
    null leaves the default.
    """
    flags = {flag for action in parser._actions for flag in action.option_strings}
    words = []
    for name, value in content.items():
        if value is True:
            words.append(f'--{name}')
        elif value is False:
            words += [f'--no_{name}'] if f'--no_{name}' in flags else []
        elif isinstance(value, list):
            words += [f'--{name}', *map(str, value)]
        elif value is not None:
            words.append(f'--{name}={value}')
    return words


def changed_flags(parser, flags):
    """The flags of a run, {name: value}, that differ from their defaults, as a command line has them."""
    defaults = vars(parser.parse_args([]))
    return shlex.join(as_words(parser, {name: flags[name] for name in flags if flags[name] != defaults[name]}))


def write_config(folder, flags):
    """Write the flags of a run, {name: value}, to <folder>/args.yaml, from which -c repeats it. Raises UserError."""
    content = {name: value for name, value in flags.items() if name != 'config'}
    files.write(os.path.join(folder, 'args.yaml'), yaml.safe_dump(content, allow_unicode=True).encode())


# -- types of values ---------------------------------------------------------------------------------------------------


def boolean(word):
    """True/False given as a word, as Paddle's inference scripts take it."""
    if word.lower() in ('true', 't', '1', 'yes'):
        return True
    if word.lower() in ('false', 'f', '0', 'no'):
        return False
    raise argparse.ArgumentTypeError(f'must be True or False, not {word}')


def switch(add, name, help):
    """`--name` and `--no_name`, off by default. add: the add_argument of a group."""
    add(f'--{name}', action='store_true', help=help)
    add(f'--no_{name}', action='store_false', dest=name, help=f'turn --{name} off (default)')


def by_model(family, value):
    """Text such as '448 for lvvit_l, else 224' for help. value: function from an entry of FAMILY to what is shown."""
    models = {}
    for name, entry in family.items():
        models.setdefault(value(entry), []).append(name)
    common = max(models, key=lambda shown: len(models[shown]))
    special = [f'{shown} for {", ".join(names)}' for shown, names in models.items() if shown != common]
    return ', '.join([*special, f'else {common}'])


# -- flags that several scripts share ----------------------------------------------------------------------------------
#
# Those of a model and of its evaluation transform are None if the command leaves them out: settings.complete sets them.


def add_model(parser, family):
    add = parser.add_argument_group('model').add_argument
    help = f'one of {", ".join(family)} (default: {DEFAULTS["model"]})'
    add('--model', choices=list(family), metavar='NAME', help=help)
    sizes = by_model(family, lambda entry: entry.input_size)
    add('--input_size', type=count, metavar='PX', help=f'side of the input in pixels (default: {sizes})')
    add('--nb_classes', type=count, metavar='C', help=f'number of classes (default: {DEFAULTS["nb_classes"]})')


def add_weights(parser, more_help='', description=KNOWN):
    """more_help: text to add to the help of --resume. Returns the group, for further flags."""
    group = parser.add_argument_group('weights', description)
    add = group.add_argument
    help = 'checkpoint or state dict to load: .pd, .pdparams, .pth, .safetensors' + more_help
    add('--resume', default='', metavar='FILE', help=help)
    add('--pretrained', action='store_true', help='use the published weights, downloaded once, instead of --resume')
    add('--ema', action='store_true', help="use the checkpoint's averaged weights")
    return group


def add_eval_transform(parser, family, *interpolation_aliases):
    add = parser.add_argument_group('evaluation transform').add_argument
    crops = by_model(family, lambda entry: entry.crop_pct)
    help = f"side of the centre crop divided by the resized image's short side (default: {crops})"
    add('--crop_pct', type=share, metavar='SHARE', help=help)
    help = 'bicubic (default), bilinear, nearest, lanczos'
    add('--interpolation', *interpolation_aliases, metavar='NAME', help=help)


def add_normalisation(parser):
    add = parser.add_argument_group('normalisation').add_argument
    for name, kind, default in ('mean', probability, IMAGENET_MEAN), ('std', positive, IMAGENET_STD):
        help = f"{name} of red, green and blue in 0-1 (default: ImageNet's, {' '.join(map(str, default))})"
        add(f'--{name}', type=kind, nargs=3, metavar=('R', 'G', 'B'), help=help)


def add_data(parser, train=False):
    """train: add the flags of the training set too."""
    add = parser.add_argument_group('data').add_argument
    help = 'folder with train/ and val/ (default: %(default)s)'
    add('--data_path', default='/datasets/imagenet/', metavar='DIR', help=help)
    if train:
        help = "list of training images, lines 'path class_id', -1: no label (default: the folders of train/)"
        add('--cls_label_path_train', metavar='FILE', help=help)
        help = "names of the classes of --cls_label_path_train, lines 'id name'; the checkpoints keep them"
        add('--label_list', metavar='FILE', help=help)
    help = "list of validation images, lines 'path class_id' (default: the folders of val/)"
    add('--cls_label_path_val', metavar='FILE', help=help)
    help = 'loader processes, at most one for each core; 0: this process makes the batches (default: 10)'
    add('--num_workers', default=10, type=natural, metavar='N', help=help)
    help = 'batches that each loader process prepares in advance (default: 2)'
    add('--prefetch_factor', default=2, type=count, metavar='N', help=help)
    if train:
        switch(add, 'persistent_workers', 'keep the loader processes of the training set from epoch to epoch')
    help = (
        'library that decodes and transforms images. pil (default): the pixels of the published recipe; cv2: nearly '
        'the same pixels, faster, needs opencv-python-headless and simplejpeg'
    )
    if train:
        help += '. Validation always uses pil, so that accuracies compare with published ones'
    add('--image_backend', default='pil', choices=('pil', 'cv2'), help=help)


def add_amp(parser):
    add = parser.add_argument_group('mixed precision').add_argument
    switch(add, 'use_amp', 'use automatic mixed precision (GPU only)')
    add('--amp_dtype', default='float16', choices=('float16', 'bfloat16'), help='float16 (default) or bfloat16')
    help = 'O1 (default): float16 where it is safe; O2: float16 nearly everywhere, weights too'
    add('--amp_level', default='O1', choices=('O1', 'O2'), help=help)


def add_records(parser):
    """Flags for what predict.py and infer.py print and save."""
    add = parser.add_argument_group('output').add_argument
    add('--topk', default=5, type=count, metavar='K', help='classes for each image (default: 5)')
    add('--label_list', metavar='FILE', help=LABEL_LIST_HELP)
    add('--save_json', default='', metavar='FILE', help='write the records to a JSON file too')
    help = 'write a table too, one row for each image: file_name, and class_id, label_name and score of each rank'
    add('--save_csv', default='', metavar='FILE', help=help)
    help = 'list images that cannot be read or decoded, but do not fail'
    add('--skip_bad', action='store_true', help=help)


def add_protocols(parser):
    """Flags for what eval.py counts and writes besides top-1 and top-5 (util/metrics.py)."""
    add = parser.add_argument_group('protocols').add_argument
    add('--topk', type=count, nargs='+', metavar='K', help='accuracies to report (default: 1 5)')
    add('--results_file', default='', metavar='CSV', help='write the accuracies, one row for each checkpoint')
    help = 'report accuracy by ReaL labels too: real.json, or {file name: [class ids]} for other sets'
    add('--real_labels', default='', metavar='FILE', help=help)
    add('--per_class', default='', metavar='CSV', help='write the accuracy of each class')
    help = 'write how often images of each class (row) were predicted as each class (column)'
    add('--confusion', default='', metavar='CSV', help=help)
    add('--save_predictions', default='', metavar='CSV', help='write the best classes of each image')
    help = "names of the classes for --per_class, lines 'id name' (default: the checkpoint's, or ImageNet's)"
    add('--label_list', metavar='FILE', help=help)
    help = (
        'evaluate a set that has some of the classes: their names, one a line, as the class folders of val/ have them; '
        'class ids or WordNet ids of ImageNet if the weights have no names. Logits of other classes are left out'
    )
    add('--class_list', default='', metavar='FILE', help=help)


def add_label_maps(parser):
    """Returns the group, for further flags."""
    group = parser.add_argument_group('token labels')
    add = group.add_argument
    add('--token_label_data', default='', metavar='DIR', help='folder of the label maps')
    help = (
        "part of the image that a map covers, if the set's meta.json does not say. center (default): the centre "
        'square; full: the whole image'
    )
    add('--token_label_coverage', default='center', choices=('center', 'full'), help=help)
    help = (
        'exact (default): the labels of a token follow its pixels; reference: the geometry of the original, with which '
        'the published models were trained'
    )
    add('--token_label_geometry', default='exact', choices=('exact', 'reference'), help=help)
    return group
