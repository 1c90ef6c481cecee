"""tools/model_info.py: parameters as published, MACs as counted in a forward pass."""

import math
import sys

import paddle
import pytest

import models
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'tools'))
import model_info

pytestmark = pytest.mark.cross_version

ALL = list(model_info.PUBLISHED) + model_info.BASELINES


@pytest.mark.parametrize('name, size', model_info.PUBLISHED)
def test_parameters_are_as_published(name, size):
    published, _ = model_info.PUBLISHED[name, size]
    assert round(models.count_parameters(model_info.build(name, size)) / 1e6, 2) == published


@pytest.mark.parametrize('name', ['vit', 'lvvit', 'lvvit_t', 'lvvit_l'])
@pytest.mark.parametrize('size', [32, 48])
def test_macs_are_those_of_the_layers_that_a_forward_pass_runs(name, size, tiny):
    model, counted = models.build_model(name, img_size=size, num_classes=7), {'linear': 0, 'conv': 0, 'attention': 0}

    def linear(layer, _, out):
        counted['linear'] += math.prod(out.shape) * layer.weight.shape[0]

    def conv(layer, _, out):
        counted['conv'] += math.prod(out.shape) * math.prod(layer.weight.shape[1:])

    def attention(layer, _, out):  # scores [heads, T, T] from sums over head_dim, their values from sums over T
        batch, tokens, dim = out.shape
        counted['attention'] += batch * 2 * layer.num_heads * tokens * tokens * (dim // layer.num_heads)

    for layer in model.sublayers():
        hook = {paddle.nn.Linear: linear, paddle.nn.Conv2D: conv, models.Attention: attention}.get(type(layer))
        if hook:
            layer.register_forward_post_hook(hook)
    model.eval()
    model(paddle.zeros([1, 3, size, size]))
    macs = model_info.count_macs(model)
    layers = dict(linear=macs['linear layers'] + macs['heads'], conv=macs['stem'], attention=macs['attention'])
    assert counted == layers


@pytest.mark.parametrize(
    'name, size, published',
    [('lvvit_t', 224, 2.9), ('lvvit_s', 224, 6.6), ('lvvit_m', 224, 12.7), ('lvvit_l', 448, 157)],
)
def test_published_macs_are_by_the_originals_count(name, size, published):
    digits = 0 if isinstance(published, int) else 1
    assert round(model_info.original_count(model_info.build(name, size)) / 1e9, digits) == published


def test_a_model_is_counted_without_memory_for_its_weights():
    assert not any(p._is_initialized() for p in model_info.build('lvvit_l', 512).parameters())


def test_the_table_shows_every_published_pair_and_the_baselines(run):
    result = run(model_info)
    lines = result.out.splitlines()
    assert result.code == 0 and len(lines) == 1 + len(ALL)
    assert lines[0].split()[:4] == ['model', 'size', 'params', '(M)']
    row = lines[1 + ALL.index(('lvvit_s', 384))]
    assert row.split() == ['lvvit_s', '384', '26.30', '21.90', '22.17', '26.30', '84.4']


@pytest.mark.parametrize(
    'flags, rows',
    [
        ('--model lvvit_s', [('lvvit_s', '224'), ('lvvit_s', '384')]),
        ('--model lvvit_s --input_size 512', [('lvvit_s', '512')]),
        ('--model lvvit_nano --input_size 48 --nb_classes 10', [('lvvit_nano', '48')]),
        ('--input_size 448', [('lvvit_m', '448'), ('lvvit_l', '448')]),
        ('--input_size 32', [(name, '32') for name in models.FAMILY]),
    ],
)
def test_a_model_and_a_size_choose_the_rows(run, flags, rows):
    assert [tuple(line.split()[:2]) for line in run(model_info, *flags.split()).out.splitlines()[1:]] == rows


def test_fewer_classes_have_fewer_parameters_and_no_published_figures(run):
    cells = run(model_info, '--model', 'lvvit_t', '--input_size', 224, '--nb_classes', 10).out.splitlines()[1].split()
    assert len(cells) == 5 and float(cells[2]) < 8.53 - 0.4


def test_markdown_is_a_table(run):
    head, rule, *rows = run(model_info, '--markdown').out.splitlines()
    assert len(rows) == len(ALL) and {line.count('|') for line in (head, rule, *rows)} == {len(model_info.HEADER) + 1}
    assert rows[0].startswith('| lvvit_t | 224 | 8.53 | 2.87 |')


def test_parts_add_up_to_the_whole(run):
    table, parts = run(model_info, '--model', 'lvvit_l', '--input_size', 448, '--parts').out.splitlines()[1:]
    assert parts.startswith('lvvit_l at 448: ') and parts.endswith(' GMACs')
    shares = [float(part.split()[-1]) for part in parts[: -len(' GMACs')].split(',')]
    assert len(shares) == 4 and abs(sum(shares) - float(table.split()[3])) <= 0.02


@pytest.mark.parametrize(
    'flags, says',
    [('--model resnet50', '--model resnet50: unknown'), ('--model lvvit_t --input_size 100', 'img_size 100')],
)
def test_what_cannot_be_built_is_one_line(refused, flags, says):
    assert says in refused(model_info, *flags.split())
