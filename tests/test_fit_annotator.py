"""tools/fit_annotator.py: what the annotator computes, what is kept of an interrupted run, what is refused."""

import json
import shutil
import sys

import numpy as np
import onnx_files
import paddle
import pytest
from inference_helpers import PADDLE_3
from PIL import Image

import generate_label
from tools import backbone, fit_annotator, linear_classifier, photo_features
from util.data.annotator import PooledHead
from util.data.images import open_rgb
from util.data.onnx_annotator import OnnxHead, OnnxNetwork
from util.data.transforms import EvalTransform
from util.weights.settings import IMAGENET_MEAN
from util.errors import UserError

linear_model = pytest.importorskip('sklearn.linear_model')

SAYS = {'img_size': '32', 'mean': '0.4 0.5 0.6', 'std': '0.2 0.25 0.3', 'interpolation': 'bilinear'}
WEIGHT, BIAS = onnx_files.patches(classes=24)  # 24 features of each of 2x2 cells of 16 pixels
NAMES = ['blue', 'green', 'red']


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of 32 pixels in each of three class folders: noise, brighter in one colour."""
    rng = np.random.default_rng(0)
    for channel, name in zip((2, 1, 0), NAMES):
        (tmp_path / 'photos' / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 200, (32, 32, 3), 'uint8')
            pixels[..., channel] += 12
            Image.fromarray(pixels).save(tmp_path / 'photos' / name / f'{i}.png')
    return tmp_path / 'photos'


@pytest.fixture
def network(tmp_path):
    """network(**kwargs) -> the path of a stand-in for a pretrained network, see onnx_files.save."""

    def save(name='backbone.onnx', metadata=SAYS, **kwargs):
        return onnx_files.save(tmp_path / name, WEIGHT, BIAS, metadata=metadata, **kwargs)

    return save


@pytest.fixture
def command(network, photos, tmp_path):
    """command(*flags, network=path) -> the words of a command whose OUT is tmp_path/annotator.onnx."""

    def words(*flags, network=network()):
        return [network, photos, tmp_path / 'annotator.onnx', '--num_workers', 0, *flags]

    return words


def images(photos):
    """float32 [36, 3, 32, 32], by class."""
    transform = EvalTransform(32, 1.0, 'bilinear', (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    return np.stack([transform(open_rgb(str(path))) for path in sorted(photos.rglob('*.png'))])


def features(photos):
    """float64 [36, 4, 24]: of the four cells, row by row, by the definition of the convolution."""
    patches = images(photos).astype('float64').reshape(-1, 3, 2, 16, 2, 16)
    return (np.einsum('bcyixj,kcij->byxk', patches, WEIGHT.astype('float64')) + BIAS).reshape(-1, 4, 24)


LABELS = np.repeat([0, 1, 2], 12)


@pytest.fixture
def annotator(tmp_path):
    """annotator() -> the OnnxNetwork of OUT."""
    return lambda: OnnxNetwork(str(tmp_path / 'annotator.onnx'))


# ---- what the annotator computes


@pytest.mark.cross_version
@pytest.mark.parametrize('output', ['BCHW', 'BHWC', 'BNC', 'B1NC'])
def test_its_scores_are_scikit_learn_s_decision_function_of_each_cell(run, command, network, photos, annotator, output):
    result = run(fit_annotator, *command(network=network(output=output)))
    assert result.code == 0, result.err
    about, of_cells = annotator().metadata, features(photos)
    strength = json.loads(about['cross_validation'])['C']
    scaler, regression = linear_classifier.fit_scaled(strength, of_cells.mean(axis=1), LABELS)
    expected = regression.decision_function(scaler.transform(of_cells.reshape(-1, 24))).reshape(-1, 4, 3)
    scores = OnnxHead(annotator(), 32)(paddle.to_tensor(images(photos))).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    whole = regression.decision_function(scaler.transform(of_cells.mean(axis=1)))
    np.testing.assert_allclose(scores.mean(axis=1), whole, atol=1e-3)
    assert json.loads(about['class_names']) == NAMES and about['mean'] == SAYS['mean']


def test_two_classes_have_scores_whose_softmax_is_scikit_learn_s_probability():
    points = np.random.default_rng(0).normal(size=(40, 3)) * [1, 10, 0.1] + [5, 0, 0]
    scaler, regression = linear_classifier.fit_scaled(1.0, points, np.arange(40) % 2)
    weight, bias = linear_classifier.without_scaling(scaler, regression)
    scores = np.exp(points @ weight.T + bias)
    expected = regression.predict_proba(scaler.transform(points))
    np.testing.assert_allclose(scores / scores.sum(axis=1, keepdims=True), expected, atol=1e-12)


def test_the_accuracy_is_that_of_photos_outside_of_the_fit_with_wilson_s_interval(run, command, photos, annotator):
    result = run(fit_annotator, *command())
    found = json.loads(annotator().metadata['cross_validation'])
    means = features(photos).mean(axis=1)
    _, guesses = linear_classifier.cross_validate(found['C'], means, features(photos)[:, 0], LABELS)
    right = guesses == LABELS
    assert found['photos'] == 36 and found['right'] == right.sum() and 12 < right.sum() < 36
    assert f'annotator: {linear_classifier.accuracy(right.sum(), 36)} of 36 photos right' in result.out
    assert linear_classifier.accuracy(8, 10) == '80.0 % (49.0 to 94.3)'  # (p + z²/2n ± z √…) / (1 + z²/n), z = 1.96
    classes = [line.split('] ')[1] for line in result.out.splitlines() if line.endswith(' of 12')]
    shares = sorted((float(line.split()[1]), line.split(':')[0].strip()) for line in classes)
    assert [line.split(':')[0].strip() for line in classes] == [name for _, name in shares], 'the weakest class first'
    assert {name: share for share, name in shares}['blue'] == pytest.approx(100 * right[:12].mean(), abs=0.05)


def test_weights_that_are_too_large_for_an_onnx_file_lie_beside_it(run, command, annotator, monkeypatch, tmp_path):
    monkeypatch.setattr(backbone, 'LIMIT', 1000)
    assert run(fit_annotator, *command()).code == 0
    assert (tmp_path / 'annotator.onnx.data').stat().st_size >= WEIGHT.nbytes and annotator().metadata['backbone']


def test_generate_label_takes_the_annotator_and_records_its_backbone(run, refused, command, network, photos, tmp_path):
    assert run(fit_annotator, *command()).code == 0
    words = [photos, tmp_path / 'maps', '--model', tmp_path / 'annotator.onnx', '--num_workers', 0]
    result = run(generate_label, *words)
    assert result.code == 0 and '--img_size 32 --mean 0.4 0.5 0.6' in result.out and 'of 3 classes' in result.out
    meta = json.loads((tmp_path / 'maps' / 'meta.json').read_text())
    assert meta['backbone_sha256'] == OnnxNetwork(network()).fingerprint() and meta['maps'] == 36
    (tmp_path / 'annotator.onnx').unlink()
    changed = onnx_files.save(tmp_path / 'changed.onnx', WEIGHT, BIAS + 1, metadata=SAYS)
    assert run(fit_annotator, *command(network=changed)).code == 0
    assert "'backbone_sha256'" in refused(generate_label, *words)


@pytest.mark.skipif(not PADDLE_3, reason='needs Paddle 3')
def test_a_classifier_of_paddle_vision_is_a_backbone(run, photos, annotator, tmp_path):
    pytest.importorskip('paddle2onnx')
    paddle.seed(0)
    model = paddle.vision.models.shufflenet_v2_x0_25(num_classes=7)
    paddle.save(model.state_dict(), str(tmp_path / 'shufflenet.pdparams'))
    words = ['shufflenet_v2_x0_25', photos, tmp_path / 'annotator.onnx', '--resume', tmp_path / 'shufflenet.pdparams']
    words += ['--img_size', 64, '--num_workers', 0]
    result = run(fit_annotator, *words)
    assert result.code == 0 and '2x2 cells with 512 features each' in result.out, result.err
    head = PooledHead(model, 'shufflenet_v2_x0_25', 64)
    head.head.weight.set_value(paddle.eye(512, 7))  # its scores are the first seven features
    head.head.bias.set_value(paddle.zeros([7]))
    shown = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype('float32'))
    exported = backbone.Backbone(str(tmp_path / 'annotator.backbone.onnx'), {})
    np.testing.assert_allclose(exported.cells(shown.numpy())[..., :7], head(shown).numpy(), atol=1e-4)
    assert exported.settings['mean'] == IMAGENET_MEAN and annotator().metadata['img_size'] == '64'


@pytest.mark.cross_version
@pytest.mark.skipif(PADDLE_3, reason='what Paddle 2 says')
def test_paddle_2_exports_no_backbone(refused, photos, tmp_path):
    assert 'needs Paddle 3' in refused(fit_annotator, 'resnet18', photos, tmp_path / 'annotator.onnx')


# ---- a second run


def test_an_interrupted_run_computes_the_missing_features_only(run, command, monkeypatch, tmp_path):
    monkeypatch.setattr(photo_features, 'PART', 8)
    seen = []

    def until(limit):
        def count(self, photos, compute=backbone.Backbone.cells):
            if len(seen) + len(photos) > limit:
                raise UserError('stopped')
            seen.extend(photos)
            return compute(self, photos)

        monkeypatch.setattr(backbone.Backbone, 'cells', count)

    cells = backbone.Backbone.cells
    until(20)
    assert 'stopped' in run(fit_annotator, *command('-b', 4)).err
    monkeypatch.setattr(backbone.Backbone, 'cells', cells)
    until(1000)
    seen.clear()
    result = run(fit_annotator, *command('-b', 4))
    assert result.code == 0 and '16 of them computed before' in result.out and len(seen) == 20
    fitted = (tmp_path / 'annotator.onnx').read_bytes()
    assert 'fitted before' in run(fit_annotator, *command()).out
    (tmp_path / 'annotator.onnx').unlink()
    seen.clear()
    assert run(fit_annotator, *command()).code == 0 and not seen
    assert (tmp_path / 'annotator.onnx').read_bytes() == fitted


def test_a_photo_that_was_replaced_is_read_again(run, command, photos):
    assert run(fit_annotator, *command()).code == 0
    shutil.copy(photos / 'red' / '1.png', photos / 'red' / '0.png')
    assert 'photos, labels or flags have changed' in run(fit_annotator, *command()).err
    words = command()
    words[2] = words[2].with_name('second.onnx')
    assert run(fit_annotator, *words).code == 0


def test_another_backbone_or_other_labels_do_not_replace_an_annotator(refused, run, command, network, photos, tmp_path):
    assert run(fit_annotator, *command()).code == 0
    fitted = (tmp_path / 'annotator.onnx').read_bytes()
    changed = onnx_files.save(tmp_path / 'backbone.onnx', WEIGHT + 1, BIAS, metadata=SAYS)
    assert 'BACKBONE has changed since it was made' in refused(fit_annotator, *command(network=changed))
    assert 'photos, labels or flags' in refused(fit_annotator, *command('--mean', 0, 0, 0, network=network()))
    assert (tmp_path / 'annotator.onnx').read_bytes() == fitted


# ---- photos


def test_photos_that_cannot_be_decoded_are_named_and_left_out(run, refused, command, photos, annotator, tmp_path):
    (photos / 'red' / '3.png').write_bytes(b'no picture')
    result = run(fit_annotator, *command())
    assert result.code == 0 and 'red/3.png' in result.err and '1 photos cannot be decoded' in result.out
    assert json.loads(annotator().metadata['cross_validation'])['photos'] == 35
    for i in (4, 5):
        (photos / 'red' / f'{i}.png').write_bytes(b'no picture')
    (tmp_path / 'annotator.onnx').unlink()
    assert 'class red has 9 labelled photos to learn from' in run(fit_annotator, *command()).err


def test_a_list_gives_the_labels_and_a_label_list_their_names(run, refused, command, photos, annotator, tmp_path):
    listed = [f'{name}/{i}.png {name != "blue":d}\n' for name in NAMES for i in range(11)]
    (tmp_path / 'list.txt').write_text(''.join(listed))
    (tmp_path / 'names.txt').write_text('0 cold\n1 warm\n')
    flags = ['--cls_label_path', tmp_path / 'list.txt', '--label_list', tmp_path / 'names.txt']
    assert run(fit_annotator, *command(*flags)).code == 0
    about = annotator().metadata
    assert json.loads(about['class_names']) == ['cold', 'warm'] and '"photos": 33' in about['cross_validation']
    for text, word in ('0 cold', 'has no name for class 1'), ('0 warm\n1 warm', 'several classes have the name warm'):
        (tmp_path / 'names.txt').write_text(text)
        assert f'names.txt: {word}' in refused(fit_annotator, *command(*flags))
    (tmp_path / 'list.txt').write_text(''.join(line for line in listed if not line.endswith('1\n')))
    assert 'photos of 1 class only' in refused(fit_annotator, *command(*flags[:2]))


def test_unlabelled_photos_are_left_out_of_the_fit(run, command, photos, annotator):
    shutil.copytree(photos / 'red', photos / 'unlabelled')
    assert run(fit_annotator, *command()).code == 0
    about = annotator().metadata
    assert json.loads(about['class_names']) == NAMES and json.loads(about['cross_validation'])['photos'] == 36


# ---- what is refused


@pytest.mark.parametrize(
    'file, flags, word',
    [
        (dict(output='mean'), [], 'which has no cells'),
        (dict(metadata={}), ['--img_size', 32], 'give --mean --std'),
        (dict(metadata={}), ['--mean', 0, 0, 0, '--std', 1, 1, 1], 'give --img_size'),
        (dict(output='BNC'), ['--prefix_tokens', 2], '--prefix_tokens'),
        (dict(), ['--img_size', 40], 'do not tile'),
        (dict(), ['--resume', 'x'], '--resume'),
        (dict(), ['--label_list', 'x'], '--label_list'),
        (dict(channels=1), [], 'BACKBONE'),
    ],
)
def test_a_backbone_or_flags_that_do_not_fit_are_refused(refused, command, network, tmp_path, file, flags, word):
    assert word in refused(fit_annotator, *command(*flags, network=network(**file)))
    assert not (tmp_path / 'annotator.onnx').exists() and not (tmp_path / 'annotator.features').exists()


def test_too_few_photos_or_classes_are_refused(refused, command, photos):
    for i in range(3):
        (photos / 'green' / f'{i}.png').unlink()
    assert 'class green has 9 labelled photos to learn from; every class needs 10' in refused(fit_annotator, *command())
    shutil.rmtree(photos / 'green')
    shutil.rmtree(photos / 'red')
    assert 'photos of 1 class only' in refused(fit_annotator, *command())


def test_files_and_names_that_do_not_exist_are_refused(refused, photos, tmp_path):
    for backbone_name, out, word in (
        ('nowhere.onnx', 'a.onnx', 'BACKBONE nowhere.onnx: no such file'),
        ('resnet1', 'a.onnx', 'BACKBONE resnet1: neither an ONNX file'),
        ('resnet18', 'a.pd', 'must end in .onnx'),
    ):
        assert word in refused(fit_annotator, backbone_name, photos, tmp_path / out)


@pytest.mark.cross_version
@pytest.mark.parametrize('package', ['sklearn', 'onnx'])
def test_a_missing_package_is_named_before_any_long_step(refused, command, monkeypatch, tmp_path, package):
    words = command()
    monkeypatch.setitem(sys.modules, package, None)
    assert 'pip install onnx onnxruntime scikit-learn' in refused(fit_annotator, *words)
    assert not (tmp_path / 'annotator.features').exists()


@pytest.mark.parametrize(
    'shape, prefix_tokens, expected',
    [
        ((2, 1280, 9, 9), None, ('[B, C, H, H]', 0, 9, 1280)),
        ((2, 7, 7, 768), None, ('[B, H, H, C]', 0, 7, 768)),
        ((2, 257, 384), None, ('[B, N, C]', 1, 16, 384)),
        ((2, 257, 1024), None, ('[B, N, C]', 1, 16, 1024)),  # 1024 is a square too
        ((2, 261, 384), 5, ('[B, N, C]', 5, 16, 384)),  # DINOv2 with registers
    ],
)
def test_where_the_cells_are(shape, prefix_tokens, expected):
    assert backbone.read_layout(shape, prefix_tokens, 'BACKBONE') == expected


@pytest.mark.parametrize('shape', [(2, 1280), (2, 261, 384), (2, 1280, 9, 8), (2, 1, 3, 9, 9)])
def test_an_output_without_a_square_of_cells(shape):
    with pytest.raises(UserError, match='BACKBONE: its output is'):
        backbone.read_layout(shape, None, 'BACKBONE')
