"""tools/convert_weight.py: PyTorch's weights to Paddle's and back, bit for bit; what is left out is said."""

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
from util.weights import checkpoint, layout

sys.path.insert(0, str(ROOT / 'tools'))
import convert_weight

pytestmark = [pytest.mark.cross_version, pytest.mark.usefixtures('tiny')]


def ours(name='lvvit_s', dtype='float32', **kwargs):
    """Weights of a model in Paddle's layout; no two values are alike."""
    state = models.build_model(name, **{**dict(img_size=32, num_classes=5), **kwargs}).state_dict()
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=value.shape).astype(dtype) for key, value in state.items()}


def theirs(name='lvvit_s', counter=0, **kwargs):
    """The same weights as a state dict of the original's model."""
    weights = layout.to_torch(ours(name, **kwargs))
    return {
        key: np.array(counter) if key.endswith('num_batches_tracked') else np.ascontiguousarray(value)
        for key, value in weights.items()
    }


def assert_same(a, b):
    assert sorted(a) == sorted(b)
    for key, value in b.items():
        assert same(a[key], value), key


@pytest.fixture
def convert(run, tmp_path, monkeypatch):
    """convert(in, out, *flags) -> what was said, without time stamps; files are in the working folder."""

    def call(*words):
        result = run(convert_weight, *words)
        assert result.code == 0, result.err
        return [line.split('] ', 1)[1] for line in result.out.splitlines()]

    monkeypatch.chdir(tmp_path)
    return call


# ---- there and back

COUNTERS = 'num_batches_tracked of patch_embed.bn1, patch_embed.bn2, patch_embed.bn3'
load_safetensors = safetensors.numpy.load_file


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_l', 'vit', 'lvvit'])
def test_a_state_dict_of_pytorch_becomes_pdparams_that_paddle_loads(convert, name):
    torch_files.save(theirs(name, counter=7), 'in.pth.tar')
    convert('in.pth.tar', 'out.pdparams')
    weights = ours(name)
    assert_same(checkpoint.load('out.pdparams'), weights)
    loaded = paddle.load('out.pdparams')
    model = models.build_model(name, img_size=32, num_classes=5)
    assert model.set_state_dict(loaded) == ([], [])
    assert_same({key: value.numpy() for key, value in model.state_dict().items()}, weights)


def test_pdparams_become_a_state_dict_that_pytorch_loads_strictly(convert):
    paddle.save({key: paddle.to_tensor(value) for key, value in ours().items()}, 'in.pdparams')
    assert f'added, for PyTorch has such a counter: {COUNTERS} = 0' in convert('in.pdparams', 'out.safetensors')
    assert_same(load_safetensors('out.safetensors'), theirs())
    with safetensors.safe_open('out.safetensors', framework='numpy') as f:
        assert f.metadata() == {'format': 'pt'}


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'float64'])
def test_there_and_back_no_bit_changes(convert, dtype):
    torch_files.save(theirs(dtype=dtype), 'a.pth')
    checkpoint.save(ours(dtype=dtype), 'a.pdparams')
    for way in (['a.pth', 'b.pdparams', 'b.safetensors'], ['a.pth', 'c.safetensors', 'c.pdparams', 'd.safetensors']):
        for source, target in zip(way, way[1:]):
            convert(source, target)
    for name in ('b', 'c', 'd'):
        assert_same(load_safetensors(f'{name}.safetensors'), theirs(dtype=dtype))
    for name in ('b', 'c'):
        assert_same(checkpoint.load(f'{name}.pdparams'), ours(dtype=dtype))


def test_counters_survive_where_the_layout_stays(convert):
    torch_files.save(theirs(counter=7), 'in.pth')
    lines = convert('in.pth', 'out.safetensors')
    assert load_safetensors('out.safetensors')['patch_embed.bn1.num_batches_tracked'] == 7
    assert not any('counter' in line for line in lines)


# ---- what is said


def test_the_lines_of_a_conversion(convert, monkeypatch):
    monkeypatch.setattr(models, 'FAMILY', {'lvvit_s': models.FAMILY['lvvit_s']})  # here all have the same shapes
    torch_files.save(theirs(), 'in.pth', torch_files.write_legacy)
    count = layout.count_parameters(ours()) / 1e6
    lines = convert('in.pth', 'out.pdparams')
    assert lines == [
        'plain weights of in.pth',
        f'left out, for Paddle has no such counter: {COUNTERS}',
        f'out.pdparams: {len(ours())} tensors, {count:.2f} M parameters, float32, '
        f'{os.path.getsize("out.pdparams") / 1e6:.1f} MB',
        'they fit --model lvvit_s --input_size 32 --nb_classes 5',
    ]


def test_of_a_checkpoint_what_is_taken_and_what_is_not(convert):
    averaged = {key: np.asarray(value + 1) for key, value in theirs().items()}
    wrapped = {f'module.{key}': value for key, value in theirs().items()}
    others = {'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]}, 'arch': 'lvvit_s', 'metric': 83.3}
    torch_files.save({'epoch': 3, 'state_dict': wrapped, **others, 'state_dict_ema': averaged}, 'in.pth.tar')
    lines = convert('in.pth.tar', 'out.pdparams')
    assert lines[:3] == [
        'in.pth.tar: of a PyTorch checkpoint only the weights are used, not epoch, optimizer, arch, metric',
        'trained weights (state_dict) of in.pth.tar; it also holds averaged weights, which --ema selects',
        'left out: state_dict_ema',
    ]
    assert_same(checkpoint.load('out.pdparams'), ours())
    lines = convert('in.pth.tar', 'ema.pdparams', '--ema')
    assert 'averaged weights (state_dict_ema) of in.pth.tar' in lines and 'left out: state_dict' in lines
    assert_same(checkpoint.load('ema.pdparams'), layout.to_paddle(averaged))


def test_of_our_checkpoint_what_is_taken_and_what_is_not(convert):
    averaged = {key: value + 1 for key, value in ours().items()}
    checkpoint.save({'model': ours(), 'model_ema': averaged, 'epoch': 3, 'args': {}}, 'in.pd')
    assert 'left out: model_ema, epoch, args' in convert('in.pd', 'out.safetensors')
    assert_same(load_safetensors('out.safetensors'), theirs())
    convert('in.pd', 'out.safetensors', '--ema')
    assert_same(layout.to_paddle(load_safetensors('out.safetensors')), averaged)


@pytest.mark.parametrize('name', ['lvvit_s', 'lvvit', 'vit', 'lvvit_l'])
def test_the_model_is_recognised_by_names_and_shapes(convert, name, monkeypatch):
    family = {other: models.FAMILY[other] for other in ('lvvit_l', 'lvvit_s', 'lvvit', 'vit')}
    monkeypatch.setattr(models, 'FAMILY', family)  # those that differ when all are of one width and depth
    torch_files.save(theirs(name, img_size=48), 'in.pth')
    assert convert('in.pth', 'out.safetensors')[-1] == f'they fit --model {name} --input_size 48 --nb_classes 5'


def test_keys_that_do_not_fit_the_nearest_model_are_named_and_kept(convert):
    weights = {**theirs(), 'extra.scale': np.ones(3, 'float32')}
    del weights['norm.bias']
    torch_files.save(weights, 'in.pth')
    lines = convert('in.pth', 'out.pdparams')
    assert lines[-3].startswith('they do not fit') and lines[-2:] == ['  missing norm.bias', '  unexpected extra.scale']
    assert 'extra.scale' in checkpoint.load('out.pdparams')


def test_weights_of_other_networks_are_converted_too(convert):
    state = checkpoint.to_numpy(paddle.vision.models.resnet18(num_classes=5).state_dict())
    torch_files.save({'net': layout.to_torch(state), 'epoch': 3}, 'in.pth')
    lines = convert('in.pth', 'out.pdparams')
    assert 'trained weights (net) of in.pth' in lines and lines[-1] == 'they are not those of an LV-ViT'
    assert_same(checkpoint.load('out.pdparams'), state)


# ---- failure


def test_a_failure_leaves_the_old_file_and_nothing_else(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch_files.save(theirs(), 'in.pth')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    for name in ('out.pdparams', 'out.safetensors'):
        open(name, 'w').write('before')
        assert f'{name}: could not be written (No space left' in refused(convert_weight, 'in.pth', name)
        assert open(name).read() == 'before'
    assert sorted(os.listdir()) == ['in.pth', 'out.pdparams', 'out.safetensors']


@pytest.mark.parametrize(
    'content, flags, says',
    [
        ({'epoch': 3, 'w': np.ones(2)}, [], 'no arrays of numbers: epoch'),
        ({}, [], 'it is empty'),
        (np.ones(2), [], 'no state dict (holds a ndarray)'),
        ({'w': np.ones(2)}, ['--ema'], 'holds no averaged weights'),
        ({'state_dict_ema': {'w': np.ones(2)}}, [], 'add --ema'),
        ({'net': {'w': np.ones(2)}, 'critic': {'w': np.ones(2)}}, [], 'several sets of weights (net, critic)'),
    ],
)
def test_what_is_no_state_dict_is_one_line_and_no_file(refused, tmp_path, content, flags, says):
    torch_files.save(content, str(tmp_path / 'in.pth'))
    assert says in refused(convert_weight, tmp_path / 'in.pth', tmp_path / 'out.pdparams', *flags)
    assert os.listdir(tmp_path) == ['in.pth']


@pytest.mark.parametrize('out', ['out', 'out.onnx', 'out.tar', 'out.pd'])
def test_an_unknown_suffix_is_refused_before_anything_is_read(refused, tmp_path, out):
    assert 'must end in .pdparams or .safetensors' in refused(convert_weight, '/nowhere', tmp_path / out)


@pytest.mark.parametrize('out', ['out.pth', 'out.pt', 'out.pth.tar'])
def test_pytorchs_own_format_is_not_written_and_the_way_into_pytorch_is_said(refused, tmp_path, out):
    line = refused(convert_weight, '/nowhere', tmp_path / out)
    assert out in line and '.safetensors' in line and 'safetensors.torch.load_file' in line


def test_a_missing_file_is_named(refused, tmp_path):
    assert 'missing.pth: cannot be read' in refused(convert_weight, tmp_path / 'missing.pth', tmp_path / 'out.pdparams')
