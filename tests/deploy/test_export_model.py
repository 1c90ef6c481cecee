"""export_model.py: what it writes computes what the model does, or it fails and leaves the folder as it was."""

import hashlib
import os

import numpy as np
import paddle
import pytest
import yaml
from inference_helpers import AS_EXPORTED, FORMATS, MODEL, PADDLE_3, as_exported, assert_agree, records
from inference_helpers import random_images, random_model, random_weights

import export_model
import infer
import models
import predict
from util.deploy import export
from util.deploy.paddle_engine import PaddleNetwork
from util.errors import UserError
from util.weights import checkpoint

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version


def arguments(folder, ckpt, *more):
    return [*MODEL, '--resume', ckpt, '--output_dir', folder, *more]


@pytest.mark.parametrize('name', ['lvvit_s', 'lvvit_l', 'vit', 'lvvit', 'lvvit_nano_patch8'])
def test_a_model_of_every_kind_of_stem_and_head_can_be_exported(run, images, tmp_path, tiny, name):
    paddle.seed(0)
    model = models.build_model(name, img_size=32, num_classes=10)
    checkpoint.save(model.state_dict(), str(tmp_path / 'w.pdparams'))
    flags = ['--model', name, '--input_size', 32, '--nb_classes', 10, '--resume', tmp_path / 'w.pdparams']
    assert run(export_model, *flags, '--output', tmp_path).code == 0
    expected = records(run(predict, *flags, '--infer_imgs', images, '--topk', 1))
    got = records(run(infer, *as_exported(tmp_path), '--input_file', images, '--topk', 1))
    np.testing.assert_allclose([r['scores'] for r in got], [r['scores'] for r in expected], atol=1e-4)


def test_inference_yml_has_the_settings_and_the_identity_of_the_files(run, ckpt, tmp_path):
    folder = tmp_path / 'new' / 'out'
    mean_and_std = ['--mean', 0.1, 0.2, 0.3, '--std', 0.5, 0.6, 0.7]
    assert run(export_model, *arguments(folder, ckpt, *mean_and_std)).code == 0
    assert set(os.listdir(folder)) - {'model.pdiparams.info'} == {'model.pdmodel', 'model.pdiparams', 'inference.yml'}
    written = (folder / 'model.pdiparams').read_bytes()
    settings = yaml.safe_load((folder / 'inference.yml').read_text())
    recorded = settings.pop('files')
    assert set(recorded) == {'pdmodel', 'pdiparams'}
    first_mb = hashlib.sha256(written[: 1 << 20]).hexdigest()
    assert recorded['pdiparams'] == {'bytes': len(written), 'sha256_of_first_mb': first_mb}
    expected = dict(model='lvvit_nano', input_size=32, nb_classes=10, crop_pct=1.0, interpolation='bicubic')
    expected.update(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7], output='logits', precision='fp32')
    assert settings == {**expected, 'paddle': paddle.__version__, 'label_names': {}}


@pytest.mark.parametrize('kind', FORMATS)
def test_the_exported_network_is_the_model_for_batches_of_any_size(exported, kind):
    model = random_model()
    network = PaddleNetwork(str(exported / f'model.{kind}'), str(exported / 'model.pdiparams'))
    for batch in (1, 2, 5, 3):
        images = random_images(batch)
        expected = model(paddle.to_tensor(images)).numpy()
        assert np.abs(network(images) - expected).max() <= 5e-5 * np.abs(expected).max()


@pytest.mark.parametrize('kind', FORMATS)
def test_what_differs_from_the_model_is_not_exported(refused, ckpt, monkeypatch, tmp_path, kind):
    outputs = export.random_outputs
    monkeypatch.setattr(export, 'random_outputs', lambda model: [(x, y * 1.001) for x, y in outputs(model)])
    for name in (f'model.{kind}', 'model.pdiparams', 'inference.yml'):
        (tmp_path / name).write_text('of the export before')
    line = refused(export_model, *arguments(tmp_path, ckpt, '--format', kind))
    assert f'model.{kind}' in line and 'nothing is exported' in line
    assert [path.read_text() for path in tmp_path.iterdir()] == ['of the export before'] * 3


def test_a_model_whose_outputs_are_not_finite_is_not_exported(refused, tmp_path):
    path = str(tmp_path / 'x.pd')
    checkpoint.save({**random_weights(0), 'head.weight': np.full([128, 10], 3e38, 'float32')}, path)
    assert 'not finite' in refused(export_model, *arguments(tmp_path / 'out', path))
    assert not (tmp_path / 'out').exists() or os.listdir(tmp_path / 'out') == []


def test_the_difference_is_the_largest_of_all_batches_relative_to_the_largest_output():
    pairs = [(np.zeros([n, 3]), np.full([n, 2], -10.0)) for n in (1, 2, 3)]
    error = {1: 2e-4, 2: 4e-4, 3: -1e-4}
    assert export.compare(pairs, lambda x: np.full([len(x), 2], -10 + error[len(x)]), 'm') == pytest.approx(4e-5)
    for wrong in (
        lambda x: np.full([len(x), 2], -10 + 2 * error[len(x)]),
        lambda x: np.full([len(x), 2], np.nan),
        lambda x: np.full([len(x), 1], -10.0),
    ):
        with pytest.raises(UserError, match='m.pdmodel'):
            export.compare(pairs, wrong, 'm.pdmodel')


def test_with_fuse_softmax_the_records_stay_the_same(run, ckpt, images, exported, label_list, tmp_path):
    kind = FORMATS[-1]
    flags = ['--fuse_softmax', '--format', kind, '--label_list', label_list, *AS_EXPORTED]
    assert run(export_model, *arguments(tmp_path, ckpt, *flags)).code == 0
    network = PaddleNetwork(str(tmp_path / f'model.{kind}'), str(tmp_path / 'model.pdiparams'))
    np.testing.assert_allclose(network(random_images(3)).sum(axis=1), 1, atol=1e-5)
    assert_agree(
        records(run(infer, *as_exported(tmp_path, kind), '--input_file', images, '--topk', 10)),
        records(run(infer, *as_exported(exported, kind), '--input_file', images, '--topk', 10)),
    )


def test_float16_is_refused_where_it_cannot_be_made(export_with, exported, tmp_path):
    if paddle.device.is_compiled_with_cuda():
        pytest.skip('a GPU build of Paddle')
    assert '--precision fp16' in export_with('--precision', 'fp16')
    for name in ('model.pdmodel', 'model.pdiparams'):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    with pytest.raises(UserError, match='--precision fp16: .* converted nothing'):
        export.to_float16(str(tmp_path / 'model'))


@pytest.mark.skipif(PADDLE_3, reason='the format of Paddle 3')
def test_paddle_2_writes_no_json(export_with):
    for kind in ('json', 'both'):
        assert f'--format {kind}' in export_with('--format', kind)
