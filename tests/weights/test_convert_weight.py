"""tools/convert_weight.py: PyTorch's weights to Paddle's and back, bit for bit; what is left out is said."""

import os
import sys
import tracemalloc

import numpy as np
import paddle
import pytest

import models
from conftest import ROOT
from test_torch_file import write_legacy
from util.weights import checkpoint, layout, safetensors_file, torch_file

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
    weights, _ = layout.to_torch(ours(name, **kwargs), 'x')
    return {
        key: np.array(counter) if key.endswith('num_batches_tracked') else np.ascontiguousarray(value)
        for key, value in weights.items()
    }


def assert_same(a, b):
    assert list(a) == list(b)
    for key, value in b.items():
        assert a[key].dtype == value.dtype and a[key].shape == value.shape, key
        assert np.ascontiguousarray(a[key]).tobytes() == np.ascontiguousarray(value).tobytes(), key


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


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_l', 'vit', 'lvvit'])
def test_a_state_dict_of_pytorch_becomes_pdparams_that_paddle_loads(convert, name):
    torch_file.save(theirs(name, counter=7), 'in.pth.tar')
    convert('in.pth.tar', 'out.pdparams')
    weights = ours(name)
    assert_same(checkpoint.load('out.pdparams'), weights)
    loaded = paddle.load('out.pdparams')
    model = models.build_model(name, img_size=32, num_classes=5)
    assert model.set_state_dict(loaded) == ([], [])
    assert_same({key: value.numpy() for key, value in model.state_dict().items()}, weights)


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.pth.tar', '.safetensors'])
def test_pdparams_become_a_state_dict_that_pytorch_loads_strictly(convert, suffix):
    paddle.save({key: paddle.to_tensor(value) for key, value in ours().items()}, 'in.pdparams')
    convert('in.pdparams', f'out{suffix}')
    if suffix == '.safetensors':
        found = safetensors_file.load(f'out{suffix}')
        assert_same({key: found[key] for key in theirs()}, theirs())
    else:
        assert_same(torch_file.load(f'out{suffix}'), theirs())


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'float64'])
@pytest.mark.parametrize(
    'way',
    [
        ('a.pth', 'b.pdparams', 'c.pth'),
        ('a.pth', 'b.safetensors', 'c.pth'),
        ('a.safetensors', 'b.pdparams', 'c.safetensors'),
        ('a.pdparams', 'b.pth', 'c.pdparams'),
        ('a.pdparams', 'b.safetensors', 'c.pdparams'),
    ],
)
def test_there_and_back_no_bit_changes(convert, way, dtype):
    write = {'a.pth': torch_file.save, 'a.safetensors': safetensors_file.save, 'a.pdparams': checkpoint.save}[way[0]]
    state = ours(dtype=dtype) if way[0] == 'a.pdparams' else theirs(dtype=dtype)
    write(state, way[0])
    convert(*way[:2])
    convert(*way[1:])
    first, last = (convert_weight.pretrained.read(path) for path in (way[0], way[2]))
    assert_same(last, first)
    assert_same({key: last[key] for key in state}, state)


def test_counters_survive_where_the_layout_stays(convert):
    torch_file.save(theirs(counter=7), 'in.pth')
    lines = convert('in.pth', 'out.safetensors')
    assert safetensors_file.load('out.safetensors')['patch_embed.bn1.num_batches_tracked'] == 7
    assert not any('counter' in line for line in lines)


def test_a_file_of_an_old_pytorch(convert):
    write_legacy('in.pth', b'}(' + b'X\x01\x00\x00\x00w' + TENSOR + b'u')
    convert('in.pth', 'out.pdparams')
    assert_same(checkpoint.load('out.pdparams'), {'w': np.arange(6, dtype='float32').reshape(2, 3)})


TENSOR = (
    b'ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000'
    b'X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR'
)


# ---- what is said


def test_the_lines_of_a_conversion(convert, monkeypatch):
    monkeypatch.setattr(models, 'FAMILY', {'lvvit_s': models.FAMILY['lvvit_s']})  # here all have the same shapes
    torch_file.save(theirs(), 'in.pth')
    count = layout.count_parameters(ours()) / 1e6
    assert convert('in.pth', 'out.pdparams') == [
        'plain weights of in.pth',
        f'left out, for Paddle has no such counter: {COUNTERS}',
        f'out.pdparams: {len(ours())} tensors, {count:.2f} M parameters, float32, '
        f'{os.path.getsize("out.pdparams") / 1e6:.1f} MB',
        'they fit --model lvvit_s --input_size 32 --nb_classes 5',
    ]


def test_of_a_checkpoint_what_is_taken_and_what_is_not(convert):
    averaged = {key: np.asarray(value + 1) for key, value in theirs().items()}
    torch_file.save(
        {
            'epoch': 3,
            'state_dict': {f'module.{key}': value for key, value in theirs().items()},
            'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
            'arch': 'lvvit_s',
            'state_dict_ema': averaged,
            'metric': 83.3,
        },
        'in.pth.tar',
    )
    lines = convert('in.pth.tar', 'out.pdparams')
    assert lines[:3] == [
        'in.pth.tar: of a PyTorch checkpoint only the weights are used, not epoch, optimizer, arch, metric',
        'trained weights (state_dict) of in.pth.tar; it also holds averaged weights, which --ema selects',
        'left out: state_dict_ema',
    ]
    assert_same(checkpoint.load('out.pdparams'), ours())
    lines = convert('in.pth.tar', 'ema.pdparams', '--ema')
    assert 'averaged weights (state_dict_ema) of in.pth.tar' in lines and 'left out: state_dict' in lines
    assert_same(checkpoint.load('ema.pdparams'), layout.to_paddle(averaged, 'x')[0])


def test_of_our_checkpoint_what_is_taken_and_what_is_not(convert):
    averaged = {key: value + 1 for key, value in ours().items()}
    checkpoint.save({'model': ours(), 'model_ema': averaged, 'epoch': 3, 'args': {}}, 'in.pd')
    lines = convert('in.pd', 'out.pth')
    assert 'left out: model_ema, epoch, args' in lines
    assert f'added, for PyTorch has such a counter: {COUNTERS} = 0' in lines
    assert_same(torch_file.load('out.pth'), theirs())
    convert('in.pd', 'out.pth', '--ema')
    assert_same(layout.to_paddle(torch_file.load('out.pth'), 'x')[0], averaged)


@pytest.mark.parametrize('name', ['lvvit_s', 'lvvit', 'vit', 'lvvit_l'])
def test_the_model_is_recognised_by_names_and_shapes(convert, name, monkeypatch):
    family = {other: models.FAMILY[other] for other in ('lvvit_l', 'lvvit_s', 'lvvit', 'vit')}
    monkeypatch.setattr(models, 'FAMILY', family)  # those that differ when all are of one width and depth
    torch_file.save(theirs(name, img_size=48), 'in.pth')
    assert convert('in.pth', 'out.pdparams')[-1] == f'they fit --model {name} --input_size 48 --nb_classes 5'


def test_keys_that_do_not_fit_the_nearest_model_are_named_and_kept(convert):
    weights = {**theirs(), 'extra.scale': np.ones(3, 'float32')}
    del weights['norm.bias']
    torch_file.save(weights, 'in.pth')
    lines = convert('in.pth', 'out.pdparams')
    assert lines[-3].startswith('they do not fit') and lines[-2:] == ['  missing norm.bias', '  unexpected extra.scale']
    assert 'extra.scale' in checkpoint.load('out.pdparams')


def test_weights_of_other_networks_are_converted_too(convert):
    model = paddle.vision.models.resnet18(num_classes=5)
    torch_file.save(layout.to_torch(checkpoint.to_numpy(model.state_dict()), 'x')[0], 'in.pth')
    assert convert('in.pth', 'out.pdparams')[-1] == 'they are not those of an LV-ViT'
    assert_same(checkpoint.load('out.pdparams'), checkpoint.to_numpy(model.state_dict()))


# ---- failure


def test_a_failure_leaves_the_old_file_and_nothing_else(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch_file.save(theirs(), 'in.pth')
    for name in ('out.pdparams', 'out.pth', 'out.safetensors'):
        open(name, 'w').write('before')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    for name in ('out.pdparams', 'out.pth', 'out.safetensors'):
        result = run(convert_weight, 'in.pth', name)
        assert result.code == 1 and f'{name}: could not be written (No space left' in result.err
        assert open(name).read() == 'before'
    assert sorted(os.listdir()) == ['in.pth', 'out.pdparams', 'out.pth', 'out.safetensors']


@pytest.mark.parametrize(
    'content, flags, says',
    [
        ({'epoch': 3, 'w': np.ones(2)}, [], 'no arrays of numbers: epoch'),
        ({}, [], 'it is empty'),
        (np.ones(2), [], 'no state dict (holds a ndarray)'),
        ({'w': np.ones(2)}, ['--ema'], 'holds no averaged weights'),
        ({'state_dict_ema': {'w': np.ones(2)}}, [], 'add --ema'),
        ({'net': {'w': np.ones(2)}, 'critic': {'w': np.ones(2)}}, [], 'several sets of weights (net, critic)'),
        ({'fc.weight': np.ones((2, 2)), 'fc.bias': np.ones(2)}, [], 'nothing tells whether fc.weight'),
    ],
)
def test_what_is_no_state_dict_is_one_line_and_no_file(refused, tmp_path, content, flags, says):
    torch_file.save(content, str(tmp_path / 'in.pth'))
    assert says in refused(convert_weight, tmp_path / 'in.pth', tmp_path / 'out.pdparams', *flags)
    assert os.listdir(tmp_path) == ['in.pth']


def test_one_set_of_weights_under_another_name_is_found(convert):
    torch_file.save({'net': theirs(), 'epoch': 3}, 'in.pth')
    assert 'trained weights (net) of in.pth' in convert('in.pth', 'out.pdparams')
    assert_same(checkpoint.load('out.pdparams'), ours())


@pytest.mark.parametrize('out', ['out', 'out.onnx', 'out.tar', 'out.pd'])
def test_an_unknown_suffix_is_refused_before_anything_is_read(refused, tmp_path, out):
    assert '.pdparams, .safetensors, .pth' in refused(convert_weight, '/nowhere', tmp_path / out)


def test_a_missing_file_is_named(refused, tmp_path):
    assert 'missing.pth: cannot be read' in refused(convert_weight, tmp_path / 'missing.pth', tmp_path / 'out.pdparams')


# ---- memory


@pytest.mark.parametrize('way', ['in.pth out.pdparams', 'in.pth out.safetensors', 'in.pdparams out.pth'])
def test_a_conversion_takes_less_than_three_times_the_file(convert, way):
    big = {f'blocks.{i}.mlp.fc1.weight': np.random.default_rng(i).random((1000, 1500), 'float32') for i in range(5)}
    big.update({f'blocks.{i}.mlp.fc1.bias': np.zeros(1000 if 'in.pth' in way else 1500, 'float32') for i in range(5)})
    (torch_file.save if 'in.pth' in way else checkpoint.save)(big, way.split()[0])
    del big
    tracemalloc.start()
    convert(*way.split())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * os.path.getsize(way.split()[0])
