"""-c FILE: flags from a YAML file, and args.yaml, the file of its own that a run writes."""

import os

import yaml

from util import files
from util.errors import UserError

NAME = 'args.yaml'


def words(parser, path):
    """The command line that a YAML file {name of a flag: value} stands for. Raises UserError that names the file.

    Names are those of the flags without dashes in front; true and false switch a flag on and off, a list has several
    values, null is a flag that is not given.
    """
    content = files.read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f'-c {path}: not YAML of flags, lines such as "batch_size: 64"')
    line = []
    for key, value in content.items():
        name = str(key).lstrip('-').replace('-', '_')
        actions = [action for action in parser._actions if name == action.dest or f'--{name}' in action.option_strings]
        if not actions or name in ('help', 'config'):
            raise UserError(f'-c {path}: {key} is no flag of {parser.prog} (see {parser.prog} --help)')
        line += _words_of(path, name, actions, value)
    return line


def _words_of(path, name, actions, value):
    """The words that set a flag. actions: argparse's for it, several where there is a --no_ form."""
    if value is None or _plain(value) == _plain(actions[0].default):
        return _switch_to(actions, value) if isinstance(value, bool) else []
    if isinstance(value, bool):
        found = _switch_to(actions, value)
        if not found and value and actions[0].nargs == '?':
            found = actions[0].option_strings[:1]
        if not found:
            raise UserError(f'-c {path}: {name} cannot be {str(value).lower()}')
        return found
    if not isinstance(value, (str, int, float, list)):
        raise UserError(f'-c {path}: {name} is neither a value nor a list of values')
    flag, values = actions[0].option_strings[-1], value if isinstance(value, list) else [value]
    if len(values) == 1:
        return [f'{flag}={values[0]}']  # so that a value may begin with a dash, or be empty
    return [flag, *map(str, values)]


def _switch_to(actions, value):
    """The word that sets a flag to True or False, if there is one."""
    return [action.option_strings[-1] for action in actions if action.nargs == 0 and action.const is value][:1]


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def write(folder, flags):
    """Write the flags of a run, {name: value}, into <folder>/args.yaml, from which -c repeats it. Raises UserError."""
    content = {name: _plain(value) for name, value in flags.items() if name != 'config'}
    files.write(os.path.join(folder, NAME), yaml.safe_dump(content, allow_unicode=True).encode())
