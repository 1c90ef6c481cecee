"""tools/model_info.py: parameters as published, MACs as counted in a forward pass."""

import math
import sys

import paddle
import pytest

import lv_vit
import models
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'tools'))
import model_info

pytestmark = pytest.mark.cross_version

ALL = list(model_info.PUBLISHED) + model_info.BASELINES


@pytest.mark.parametrize('name', ['vit', 'lvvit', 'lvvit_t', 'lvvit_l'])
def test_macs_are_those_of_the_layers_that_a_forward_pass_runs(name, tiny):
    model, counted = models.build_model(name, img_size=48, num_classes=7), {'linear': 0, 'conv': 0, 'attention': 0}

    def count(layer, _, out):
        if isinstance(layer, paddle.nn.Linear):
            counted['linear'] += math.prod(out.shape) * layer.weight.shape[0]
        elif isinstance(layer, paddle.nn.Conv2D):
            counted['conv'] += math.prod(out.shape) * math.prod(layer.weight.shape[1:])
        elif isinstance(layer, lv_vit.Attention):  # scores [heads, T, T], sums over head_dim, and values, sums over T
            batch, num_tokens, dim = out.shape
            counted['attention'] += batch * 2 * num_tokens * num_tokens * dim

    for layer in model.sublayers():
        layer.register_forward_post_hook(count)
    model.eval()
    model(paddle.zeros([1, 3, 48, 48]))
    macs = model_info.count_macs(model)
    linear = macs['linear layers'] + macs['heads']
    assert counted == dict(linear=linear, conv=macs['stem'], attention=macs['attention'])


PUBLISHED = [
    ('lvvit_t', 224, '8.53', '2.9'),
    ('lvvit_s', 224, '26.15', '6.6'),
    ('lvvit_s', 384, '26.30', None),  # its GMACs are not at hand
    ('lvvit_m', 224, '55.83', '12.7'),
    ('lvvit_m', 384, '56.03', None),
    ('lvvit_l', 448, '150.47', '157'),
]


@pytest.mark.parametrize('name, size, parameters, macs', PUBLISHED)
def test_parameters_and_macs_by_the_originals_count_are_as_published(name, size, parameters, macs):
    model = model_info.build(name, size)
    assert f'{models.count_parameters(model) / 1e6:.2f}' == parameters
    if macs:
        digits = len(macs.partition('.')[2])
        assert f'{model_info.original_count(model) / 1e9:.{digits}f}' == macs
    assert not any(p._is_initialized() for p in model.parameters()), 'counted without memory for its weights'


def rows(result):
    assert result.code == 0
    return [line.split() for line in result.out.splitlines()[1:]]


def test_the_table_shows_every_published_pair_and_the_baselines(run):
    table = rows(run(model_info))
    assert [(name, int(size)) for name, size, *_ in table] == ALL
    assert table[ALL.index(('lvvit_s', 384))] == ['lvvit_s', '384', '26.30', '21.90', '22.17', '26.30', '84.4']
    assert table[ALL.index(('lvvit_t', 224))][2:4] == ['8.53', '2.87']
    assert 'lvvit_l at 448: ' in run(model_info, '--model', 'lvvit_l', '--input_size', 448, '--parts').out


CHOICES = [
    ('--model lvvit_s', 'lvvit_s 224, lvvit_s 384'),
    ('--model lvvit_s --input_size 512', 'lvvit_s 512'),
    ('--input_size 448 --nb_classes 10', 'lvvit_m 448, lvvit_l 448'),
    ('--model lvvit_nano_patch8', 'lvvit_nano_patch8 224'),
]


@pytest.mark.parametrize('flags, expected', CHOICES)
def test_a_model_and_a_size_choose_the_rows(run, flags, expected):
    assert ', '.join(' '.join(row[:2]) for row in rows(run(model_info, *flags.split()))) == expected


def test_what_cannot_be_built_is_one_line(refused):
    assert '--model resnet50: unknown' in refused(model_info, '--model', 'resnet50')
    assert 'img_size 100' in refused(model_info, '--model', 'lvvit_t', '--input_size', 100)
