"""onnx_annotator.py and generate_label.py --model FILE.onnx: maps of any dense network; refusals."""

import json
import sys

import numpy as np
import onnx_files
import paddle
import paddle.nn.functional as F
import pytest

import generate_label
from util import onnx_session
from util.data.images import open_rgb
from util.data.onnx_annotator import OnnxHead, OnnxNetwork, check_shape
from util.data.transforms import EvalTransform
from util.weights.settings import IMAGENET_MEAN, IMAGENET_STD
from util.errors import UserError

WEIGHT, BIAS = onnx_files.patches(classes=12, patch=16)
IMAGE = 'digit3/train_00013'


@pytest.fixture
def network(tmp_path):
    """network(**kwargs) -> the path of an ONNX file, see onnx_files.save."""
    return lambda **kwargs: onnx_files.save(tmp_path / 'patches.onnx', WEIGHT, BIAS, **kwargs)


@pytest.fixture
def generate(run, scenes, tmp_path):
    """generate(model, *flags) -> Result, with the maps in tmp_path/maps."""

    def call(model, *flags):
        return run(generate_label, scenes, tmp_path / 'maps', '--model', model, '--num_workers', 0, *flags)

    return call


@pytest.fixture
def refuse(refused, scenes, tmp_path):
    """refuse(model, *flags) -> the one line with which the same command is refused, before anything is written."""

    def call(model, *flags):
        line = refused(generate_label, scenes, tmp_path / 'maps', '--model', model, '--num_workers', 0, *flags)
        assert not (tmp_path / 'maps').exists()
        return line

    return call


def scores(images, patch=16):
    """The network's output [B, N, C] for images, by Paddle's convolution."""
    dense = F.conv2d(paddle.to_tensor(images), paddle.to_tensor(WEIGHT), paddle.to_tensor(BIAS), stride=patch)
    return dense.flatten(2).transpose([0, 2, 1]).numpy()


def expected_scores(scenes, size, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation='bicubic'):
    transform = EvalTransform(size, 1.0, interpolation, mean, std)
    return scores(transform(open_rgb(str(scenes / 'train' / f'{IMAGE}.JPEG')))[None])[0]


def assert_map_is(array, expected):
    """array [2, K, H, H] holds the best of expected [N, C], in float16."""
    k, side = array.shape[1:3]
    best = np.argsort(-expected, axis=-1)[:, :k]
    np.testing.assert_array_equal(array[1].reshape(k, side * side).T, best)
    values = np.take_along_axis(expected, best, axis=-1)
    np.testing.assert_allclose(array[0].reshape(k, side * side).T, values, rtol=1e-3, atol=1e-4)


# ---- what a map holds


@pytest.mark.cross_version
@pytest.mark.parametrize('output', ['BCHW', 'BNC', 'B1NC'])
@pytest.mark.parametrize('batch, size', [('batch', 'S'), (3, 48)])
def test_every_dense_layout_and_batch_gives_the_scores_of_the_cells_row_by_row(network, output, batch, size):
    images = np.random.default_rng(0).normal(size=(4, 3, 48, 48)).astype('float32')
    annotate = OnnxHead(OnnxNetwork(network(output=output, batch=batch, size=size)), 48)
    found = annotate(paddle.to_tensor(images))
    assert (annotate.side, annotate.num_classes) == (3, 12) and found.dtype == paddle.float32
    np.testing.assert_allclose(found.numpy(), scores(images), rtol=1e-5, atol=1e-5)


def test_a_network_in_half_precision_is_given_such_images(network):
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype('float32')
    annotate = OnnxHead(OnnxNetwork(network(dtype='float16')), 32)
    found = annotate(paddle.to_tensor(images))
    assert found.dtype == paddle.float32
    np.testing.assert_allclose(found.numpy(), scores(images), atol=2e-2)


def test_metadata_describes_the_input_and_flags_override_it(network, generate, scenes, tmp_path):
    says = {'img_size': '32', 'mean': '0.5, 0.5, 0.5', 'std': '[0.25 0.5 0.5]', 'interpolation': 'nearest'}
    path = network(metadata=says)
    assert generate(path).code == 0
    expected = expected_scores(scenes, 32, (0.5, 0.5, 0.5), (0.25, 0.5, 0.5), 'nearest')
    assert_map_is(np.load(tmp_path / 'maps' / f'{IMAGE}.npy'), expected)
    meta = json.loads((tmp_path / 'maps' / 'meta.json').read_text())
    assert (meta['size'], meta['interpolation']) == (32, 'nearest')
    assert (meta['mean'], meta['std']) == ([0.5, 0.5, 0.5], [0.25, 0.5, 0.5])
    (tmp_path / 'maps').rename(tmp_path / 'by_file')
    flags = ['--img_size', 48, '--mean', 0, 0, 0, '--std', 1, 1, 0.5, '--interpolation', 'bilinear']
    assert generate(path, *flags).code == 0
    expected = expected_scores(scenes, 48, (0, 0, 0), (1, 1, 0.5), 'bilinear')
    assert_map_is(np.load(tmp_path / 'maps' / f'{IMAGE}.npy'), expected)


def test_the_size_is_the_file_s_if_it_takes_one_only(network, generate, refuse, tmp_path):
    path = network(size=48, batch=1)
    assert 'takes images of 48 pixels' in refuse(path, '--img_size', 32)
    assert generate(path, '-b', 7).code == 0
    assert np.load(tmp_path / 'maps' / f'{IMAGE}.npy').shape == (2, 5, 3, 3)


def test_the_fingerprint_is_that_of_the_file_and_of_weights_beside_it(network, tmp_path):
    digests = {OnnxNetwork(network()).fingerprint(), OnnxNetwork(network(output='BNC')).fingerprint()}
    (tmp_path / 'patches.onnx.data').write_bytes(b'weights')
    digests.add(OnnxNetwork(network(output='BNC')).fingerprint())
    assert len(digests) == 3 and all(len(digest) == 16 for digest in digests)


# ---- which axis is which


@pytest.mark.parametrize(
    'shape, num_classes, expected',
    [
        ((2, 1000, 18, 18), None, ('[B, C, H, H]', 0, 18, 1000)),
        ((2, 196, 1000), None, ('[B, N, C]', 0, 14, 1000)),
        ((2, 197, 1000), None, ('[B, N, C]', 1, 14, 1000)),
        ((2, 1, 7), None, ('[B, N, C]', 0, 1, 7)),  # one cell, not none behind a class token
        ((2, 9, 10), 10, ('[B, N, C]', 0, 3, 10)),  # 10 classes could be 3x3 cells behind a class token
        ((2, 196, 100), 100, ('[B, N, C]', 0, 14, 100)),
    ],
)
def test_an_unambiguous_shape(shape, num_classes, expected):
    assert check_shape(shape, num_classes, 'm.onnx') == expected


@pytest.mark.parametrize(
    'shape, num_classes, words',
    [
        ((2, 1000), None, ['[B, 1000], the scores of whole images', 'must be dense', 'docs/token_labels.md']),
        ((2, 1000, 196), None, ['must be dense']),
        ((2, 196, 100), None, ['as [B, N, C] it has 100 classes, as [B, C, N] 196', '--nb_classes 100']),
        ((2, 100, 196), 100, ['has 196 classes, not --nb_classes 100', 'export it transposed']),
        ((2, 1000, 18, 18), 10, ['has 1000 classes, not --nb_classes 10']),
    ],
)
def test_a_shape_that_is_wrong_or_ambiguous_is_refused(shape, num_classes, words):
    with pytest.raises(UserError) as error:
        check_shape(shape, num_classes, 'm.onnx')
    assert str(error.value).startswith('m.onnx: ') and all(word in str(error.value) for word in words)


# ---- what is refused


@pytest.mark.parametrize(
    'file, flags, word',
    [
        (dict(output='softmax'), [], 'probabilities'),
        (dict(output='ids'), [], 'must be scores'),
        (dict(), ['--img_size', 40], 'do not tile'),
        (dict(), ['--img_size', 8], 'fails on images [2, 3, 8, 8]'),
        (dict(channels=1), [], 'must have one input of floats [B, 3, S, S], has image [batch, 1, S, S]'),
        (dict(), ['--resume', 'x'], '--resume'),
        (dict(), ['--ema'], '--ema'),
        (dict(metadata={'mean': '0.5'}), [], "'mean' is '0.5'"),
        (dict(metadata={'img_size': 'big'}), [], "'img_size' is 'big'"),
    ],
)
def test_another_network_or_flags_that_do_not_fit_are_refused_in_one_line(network, refuse, file, flags, word):
    size = [] if '--img_size' in flags or 'metadata' in file else ['--img_size', 48]
    assert word in refuse(network(**file), *size, *flags)


def test_a_file_that_is_not_onnx_is_refused_in_one_line(refuse, tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'\0\1')
    assert 'x.onnx: ONNX Runtime cannot open it' in refuse(tmp_path / 'x.onnx')
    (tmp_path / 'x.onnx').write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n')
    assert 'git lfs pull' in refuse(tmp_path / 'x.onnx')
    assert 'nowhere.onnx: no such file' in refuse('nowhere.onnx')


@pytest.mark.cross_version
def test_without_onnx_runtime_the_line_says_what_to_install(refuse, network, monkeypatch):
    path = network()
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert 'pip install onnxruntime' in refuse(path)


def test_a_gpu_is_used_where_onnx_runtime_has_it(monkeypatch):
    class Library:
        get_available_providers = staticmethod(lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider'])

    monkeypatch.setenv('FLAGS_selected_gpus', '3')  # as Paddle's launcher does
    assert onnx_session.providers_of(Library) == [('CUDAExecutionProvider', {'device_id': 3}), 'CPUExecutionProvider']
