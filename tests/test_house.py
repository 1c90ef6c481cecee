"""The house stands as its plan says: who may import whom, no circle, rooms without a front door of their own."""

import ast
import re
import subprocess
from graphlib import TopologicalSorter

import pytest

from conftest import ROOT

ROOMS = ('data', 'train', 'weights', 'deploy')

# Who may import whom: each floor lists the floors below it.
ALLOWED = {
    'ground': [],  # the files of util/ itself
    'weights': ['ground'],
    'data': ['weights', 'ground'],  # label maps may be .pt files; an annotator has weights
    'flags': ['data', 'weights', 'ground'],  # their defaults and help: ImageNet's mean and deviation
    'train': ['data', 'weights', 'flags', 'ground'],
    'deploy': ['data', 'weights', 'ground'],
    'models': ['train', 'weights', 'ground'],
    'engine': ['train', 'data', 'weights', 'ground'],
    'scripts': ['engine', 'models', 'train', 'data', 'weights', 'deploy', 'flags', 'ground'],
}
# The exceptions inside an arrow: of the train room, models.py knows MixToken alone.
ONLY = {('models', 'train'): {'util.train.mixtoken'}}
SCRIPT_FOLDERS = [ROOT, ROOT / 'tools', ROOT / 'benchmarks', ROOT / 'test_tipc']
BESIDE = ('tools', 'demo', 'benchmarks', 'test_tipc')  # may import anything; nothing in ALLOWED imports them


def module_name(path):
    """'util.data.loader' of util/data/loader.py; 'util.data' of util/data/__init__.py."""
    parts = list(path.relative_to(ROOT).with_suffix('').parts)
    if parts[-1] == '__init__':
        parts.pop()
    return '.'.join(parts)


MODULES = {module_name(path): path for pattern in ('*.py', 'util/**/*.py') for path in sorted(ROOT.glob(pattern))}
OUTSIDE = {path.stem for folder in (*BESIDE, 'tests') for path in (ROOT / folder).glob('**/*.py')} | {*BESIDE, 'tests'}


def floor(module):
    """The floor of ALLOWED on which a module stands."""
    parts = module.split('.')
    if module in ('util.args', 'util.options'):
        return 'flags'
    if parts[0] == 'util':
        return parts[1] if len(parts) > 1 and parts[1] in ROOMS else 'ground'
    return module if module in ('models', 'engine') else 'scripts'


def imports(path):
    """[(imported name, line)] of a file, those inside functions too. `from a import b` counts as a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: imports of this project name the whole path'
            found += [(f'{node.module}.{alias.name}', node.lineno) for alias in node.names]
    return sorted(found, key=lambda item: item[1])


def own_module(name):
    """The module of this project that an imported name is or lies in, else None."""
    while name and name not in MODULES:
        name = name.rpartition('.')[0]
    return name or None


def may_import(module, target):
    here, there = floor(module), floor(target)
    if (here, there) in ONLY:
        return target in ONLY[here, there]
    return there == here or there in ALLOWED[here]


def tracked(*patterns):
    """Text files of the repository that match."""
    names = subprocess.check_output(['git', 'ls-files', '--', *patterns], cwd=ROOT, text=True).splitlines()
    return [ROOT / name for name in names if (ROOT / name).exists()]


def test_every_import_goes_down():
    wrong = []
    for module, path in MODULES.items():
        for name, line in imports(path):
            target = own_module(name)
            if target and not may_import(module, target):
                wrong.append(f'{path}:{line}: {floor(module)} imports {target} ({floor(target)})')
            if target is None and name.split('.')[0] in OUTSIDE:
                wrong.append(f'{path}:{line}: {name} stands outside')
    assert not wrong, '\n'.join(wrong)


def test_no_circle():
    graph = {}
    for module, path in MODULES.items():
        targets = {own_module(name) for name, _ in imports(path)} - {None}
        # `from util import dist` needs the package's docstring and no more
        graph[module] = {target for target in targets if MODULES[target].name != '__init__.py'}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert order.index('util.errors') < order.index('util.weights.checkpoint') < order.index('main')


@pytest.mark.parametrize('folder', ['', *ROOMS])
def test_a_room_says_what_it_is_for_and_nothing_else(folder):
    (docstring,) = ast.parse((ROOT / 'util' / folder / '__init__.py').read_text(encoding='utf-8')).body
    assert isinstance(docstring.value.value, str)


def test_scripts_set_the_environment_before_paddle_is_imported():
    for path in tracked('*.py'):
        names = [name for name, _ in imports(path)]
        if path.parent in SCRIPT_FOLDERS and 'util.runtime' in names:
            first = [name for name in names if name == 'paddle' or own_module(name)][0]
            assert first == 'util.runtime', f'{path}: imports {first} first'


def test_nobody_silences_the_linter():
    word = 'no' + 'qa'
    assert [str(path) for path in tracked('*.py') if word in path.read_text(encoding='utf-8')] == []


def test_no_path_of_a_machine():
    homes = tuple(f'/{folder}/' for folder in ('home', 'root', 'Users', 'work'))
    found = []
    for path in tracked('*.py', '*.sh', '*.md', '*.txt', '*.yml', '*.yaml', '*.toml'):
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            if any(f'{before}{home}' in f' {line}' for home in homes for before in ' "\'(='):
                found.append(f'{path}:{number}: {line}')
    assert not found, '\n'.join(found)


def test_one_version_of_ruff():
    pages = [
        (ROOT / name).read_text(encoding='utf-8') for name in ('tests/requirements.txt', '.pre-commit-config.yaml')
    ]
    assert len(set(re.findall(r'ruff==([\d.]+)', ''.join(pages)))) == 1
