"""Every flag of every parser is named by a test."""

import ast
import re

import eval as eval_script
import export_model
import generate_label
import infer
import main
import predict
from conftest import ROOT
from test_imports import tracked
from tools import convert_weight, export_onnx, model_info, pack_token_label, self_label, visualize

PARSERS = [eval_script, export_model, generate_label, infer, main, predict]
PARSERS += [convert_weight, export_onnx, model_info, pack_token_label, self_label, visualize]
# Measurements that are run by hand; their other flags are the scripts'. tests/run.sh runs none of them.
BY_HAND = {'benchmarks'}


def strings_of(call):
    """The string arguments of a call in the sources."""
    return [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]


def flags_of(path):
    """Flags that a file defines: names with two dashes in calls of add and add_argument, and options.switch."""
    flags = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
            if name in ('add', 'add_argument'):
                flags.update(word for word in strings_of(node) if word.startswith('--'))
            elif name == 'switch':
                flags.update(f'--{word}' for word in strings_of(node)[:1])
    return flags


def test_every_flag_is_named_by_a_test():
    defined = {}
    for path in tracked('*.py'):
        folder = path.relative_to(ROOT).parts[0]
        if folder != 'tests' and folder not in BY_HAND:
            defined.update({flag: path.name for flag in flags_of(path)})
    for module in PARSERS:  # the sources must not hide any
        for action in module.parser()._actions:
            for flag in action.option_strings:
                if flag.startswith('--') and not flag.startswith('--no_') and flag != '--help':
                    defined.setdefault(flag, module.__name__)
    tests = '\n'.join(
        path.read_text(encoding='utf-8') for path in tracked('tests/*.py') if path.name != 'test_all_flags.py'
    )
    unnamed = {flag: where for flag, where in defined.items() if not re.search(rf'{flag}(?![\w-])', tests)}
    assert len(defined) > 120 and unnamed == {}
