"""tools/convert_weight.py: PyTorch's weights to Paddle's and back, bit for bit; the log says what is left out."""

import os
import sys

import numpy as np
import paddle
import pytest
import safetensors.numpy

import models
import torch_files
from conftest import ROOT
from states import same
from util.weights import checkpoint, torch_file

sys.path.insert(0, str(ROOT / 'tools'))
import convert_weight

pytestmark = [pytest.mark.cross_version, pytest.mark.usefixtures('tiny')]
load_safetensors = safetensors.numpy.load_file


def ours(name='lvvit_s', dtype='float32', **kwargs):
    """Weights of a model in Paddle's layout; no two values are alike."""
    state = models.build_model(name, **{**dict(img_size=32, num_classes=5), **kwargs}).state_dict()
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=value.shape).astype(dtype) for key, value in state.items()}


def theirs(name='lvvit_s', counter=0, **kwargs):
    """The same weights as a state dict of the original's model."""
    return {
        key: np.array(counter) if key.endswith('num_batches_tracked') else np.ascontiguousarray(value)
        for key, value in torch_file.to_torch(ours(name, **kwargs)).items()
    }


def assert_same(a, b):
    assert sorted(a) == sorted(b)
    for key, value in b.items():
        assert same(a[key], value), key


@pytest.fixture
def convert(run, tmp_path, monkeypatch):
    """convert(in, out, *flags) -> the lines of the log without time stamps; files are in the working folder."""

    def call(*words):
        result = run(convert_weight, *words)
        assert result.code == 0, result.err
        return [line.split('] ', 1)[1] for line in result.out.splitlines()]

    monkeypatch.chdir(tmp_path)
    return call


def test_pdparams_become_a_state_dict_that_pytorch_loads_strictly(convert):
    paddle.save({key: paddle.to_tensor(value) for key, value in ours().items()}, 'in.pdparams')
    convert('in.pdparams', 'out.safetensors')
    assert_same(load_safetensors('out.safetensors'), theirs())
    with safetensors.safe_open('out.safetensors', framework='numpy') as f:
        assert f.metadata() == {'format': 'pt'}


def test_there_and_back_no_bit_changes(convert):
    torch_files.save(theirs(dtype='float16', counter=7), 'a.pth')
    for way in ('a.pth b.pdparams', 'b.pdparams b.safetensors', 'a.pth c.safetensors', 'c.safetensors c.pdparams'):
        convert(*way.split())
    assert_same(load_safetensors('b.safetensors'), theirs(dtype='float16'))
    assert_same(
        load_safetensors('c.safetensors'), theirs(dtype='float16', counter=7)
    )  # the layout stays: so do counters
    for name in ('b', 'c'):
        assert_same(checkpoint.load(f'{name}.pdparams'), ours(dtype='float16'))


def test_the_lines_of_a_conversion(convert, monkeypatch):
    monkeypatch.setattr(models, 'FAMILY', {'lvvit_s': models.FAMILY['lvvit_s']})  # here all have the same shapes
    torch_files.save(theirs(), 'in.pth', torch_files.write_legacy)
    assert convert('in.pth', 'out.pdparams') == [
        'plain weights of in.pth',
        'left out, because Paddle has no such tensor: 3 num_batches_tracked',
        f'out.pdparams: {len(ours())} tensors, {torch_file.count_parameters(ours()) / 1e6:.2f} M parameters, float32, '
        f'{os.path.getsize("out.pdparams") / 1e6:.1f} MB',
        'these weights fit --model lvvit_s --input_size 32 --nb_classes 5',
    ]


def test_the_parts_of_a_checkpoint_that_are_left_out_are_named(convert):
    averaged = {key: value + 1 for key, value in ours().items()}
    checkpoint.save({'model': ours(), 'model_ema': averaged, 'epoch': 3, 'args': {}}, 'in.pd')
    lines = convert('in.pd', 'out.safetensors')
    assert 'left out: model_ema, epoch, args' in lines
    assert 'added, because PyTorch requires them: 3 num_batches_tracked = 0' in lines
    assert_same(load_safetensors('out.safetensors'), theirs())
    assert 'left out: model, epoch, args' in convert('in.pd', 'out.pdparams', '--ema')
    assert_same(checkpoint.load('out.pdparams'), averaged)


@pytest.mark.parametrize('name', ['lvvit_s', 'lvvit', 'lvvit_nano_patch8'])
def test_the_model_is_recognised_by_names_and_shapes(convert, name, monkeypatch):
    family = {other: models.FAMILY[other] for other in ('lvvit_l', 'lvvit_s', 'lvvit', 'vit', 'lvvit_nano_patch8')}
    monkeypatch.setattr(models, 'FAMILY', family)  # those that differ when all are of one width and depth
    torch_files.save(theirs(name, img_size=48), 'in.pth')
    assert f'fit --model {name} --input_size 48 --nb_classes 5' in convert('in.pth', 'out.safetensors')[-1]


def test_weights_that_do_not_fit_are_converted_and_what_differs_is_named(convert):
    weights = {**theirs(), 'extra.scale': np.ones(3, 'float32')}
    del weights['norm.bias']
    torch_files.save(weights, 'in.pth')
    lines = convert('in.pth', 'out.pdparams')
    assert 'do not fit' in lines[-3] and lines[-2:] == ['  missing norm.bias', '  unexpected extra.scale']
    assert 'extra.scale' in checkpoint.load('out.pdparams')
    torch_files.save({'net': {'conv.weight': np.ones((2, 3), 'f4')}, 'epoch': 3}, 'in.pth')
    assert convert('in.pth', 'out.pdparams')[-1] == 'these are not weights of an LV-ViT'
    assert checkpoint.load('out.pdparams')['conv.weight'].shape == (3, 2)


def test_prefixes_of_an_lv_vit_and_wrappers_of_any_network_are_taken_off(convert):
    torch_files.save({f'model.backbone.{key}': value for key, value in theirs().items()}, 'in.pth')
    assert "in.pth: the prefix 'model.backbone.' of all names is taken off" in convert('in.pth', 'out.safetensors')
    assert_same(load_safetensors('out.safetensors'), theirs())
    torch_files.save({f'module._orig_mod.model.{i}.weight': np.ones(2, 'f4') for i in (0, 1)}, 'in.pth')
    convert('in.pth', 'out.safetensors')
    assert list(load_safetensors('out.safetensors')) == ['model.0.weight', 'model.1.weight']


# ---- failure


@pytest.mark.parametrize(
    'content, says', [({'epoch': 3, 'w': np.ones(2)}, 'not arrays of numbers'), ({}, 'it is empty')]
)
def test_a_file_without_weights_is_refused_and_nothing_written(refused, tmp_path, content, says):
    torch_files.save(content, str(tmp_path / 'in.pth'))
    assert says in refused(convert_weight, tmp_path / 'in.pth', tmp_path / 'out.pdparams')
    assert os.listdir(tmp_path) == ['in.pth']


def test_the_name_of_the_new_file_must_say_a_format_that_is_written(refused, tmp_path):
    assert '.pdparams or .safetensors' in refused(convert_weight, '/nowhere', tmp_path / 'out.onnx')
    assert 'safetensors.torch.load_file' in refused(convert_weight, '/nowhere', tmp_path / 'out.pth.tar')
