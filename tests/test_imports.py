"""Who may import whom (imports go down only), and a few rules that hold for every file of the repository."""

import ast
import subprocess
from graphlib import TopologicalSorter

from conftest import ROOT

PACKAGES = ('data', 'train', 'weights', 'deploy')  # of util; its other files are 'shared'

# The layers that each layer may import, besides itself.
ALLOWED = {
    'shared': [],
    'weights': ['shared'],
    'data': ['weights', 'shared'],  # label maps may be .pt files; an annotator has weights
    'args': ['weights', 'shared'],  # defaults and help of flags: ImageNet's mean and deviation
    'train': ['data', 'weights', 'shared'],
    'deploy': ['data', 'weights', 'shared'],
    'lv_vit': ['train'],
    'models': ['lv_vit', 'weights', 'shared'],
    'engine': ['train', 'data', 'weights', 'shared'],
    'scripts': ['engine', 'models', 'lv_vit', 'train', 'data', 'weights', 'deploy', 'args', 'shared'],
}
ONLY = {('lv_vit', 'train'): {'util.train.mixtoken'}}  # all that lv_vit.py may import of util.train
BESIDE = ('tools', 'demo', 'seg', 'benchmarks', 'test_tipc')  # may import the layers; no layer imports them
SCRIPT_FOLDERS = [ROOT, *(ROOT / name for name in BESIDE)]


def module_name(path):
    """'util.data.loader' of util/data/loader.py; 'util.data' of util/data/__init__.py."""
    parts = list(path.relative_to(ROOT).with_suffix('').parts)
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for pattern in ('*.py', 'util/**/*.py') for path in sorted(ROOT.glob(pattern))}
OUTSIDE = {path.stem for folder in (*BESIDE, 'tests') for path in (ROOT / folder).glob('**/*.py')} | {*BESIDE, 'tests'}


def layer(module):
    """The layer of ALLOWED that a module belongs to."""
    parts = module.split('.')
    if module in ('util.args', 'util.training_args'):
        return 'args'
    if parts[0] == 'util':
        return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else 'shared'
    return module if module in ('lv_vit', 'models', 'engine') else 'scripts'


def imports(path):
    """[(imported name, line)] of a file, those inside functions too. `from a import b` counts as a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: write the whole path of the import'
            found += [(f'{node.module}.{alias.name}', node.lineno) for alias in node.names]
    return sorted(found, key=lambda item: item[1])


def own_module(name):
    """The module of MODULES that an imported name is or belongs to, else None."""
    while name and name not in MODULES:
        name = name.rpartition('.')[0]
    return name or None


def may_import(module, target):
    here, there = layer(module), layer(target)
    if (here, there) in ONLY:
        return target in ONLY[here, there]
    return there == here or there in ALLOWED[here]


def tracked(*patterns):
    """Paths of the files in the repository that match."""
    names = subprocess.check_output(['git', 'ls-files', '--', *patterns], cwd=ROOT, text=True).splitlines()
    return [ROOT / name for name in names if (ROOT / name).exists()]


def test_every_import_goes_down():
    wrong = []
    for module, path in MODULES.items():
        for name, line in imports(path):
            target = own_module(name)
            if target and not may_import(module, target):
                wrong.append(f'{path}:{line}: {layer(module)} imports {target} ({layer(target)})')
            if target is None and name.split('.')[0] in OUTSIDE:
                wrong.append(f'{path}:{line}: imports {name}, which is outside of the layers')
    assert not wrong, '\n'.join(wrong)


def test_no_cycle():
    graph = {}
    for module, path in MODULES.items():
        targets = {own_module(name) for name, _ in imports(path)} - {None}
        # `from util import dist` executes the package's docstring and nothing else
        graph[module] = {target for target in targets if MODULES[target].name != '__init__.py'}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle
    assert order.index('util.errors') < order.index('util.weights.checkpoint') < order.index('main')


def test_scripts_set_the_environment_before_paddle_is_imported():
    for path in tracked('*.py'):
        names = [name for name, _ in imports(path)]
        is_script = path.parent in SCRIPT_FOLDERS and 'util.runtime' in names
        if is_script or path == ROOT / 'util' / 'deploy' / 'predictor.py':  # the import of other people's programs
            first = [name for name in names if name == 'paddle' or own_module(name)][0]
            assert first == 'util.runtime', f'{path}: imports {first} first'


def test_no_file_names_a_path_of_a_machine():
    homes = tuple(f'/{folder}/' for folder in ('home', 'root', 'Users', 'work'))
    found = []
    for path in tracked('*.py', '*.sh', '*.md', '*.txt', '*.yml', '*.yaml', '*.toml'):
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            if any(f'{before}{home}' in f' {line}' for home in homes for before in ' "\'(='):
                found.append(f'{path}:{number}: {line}')
    assert not found, '\n'.join(found)
