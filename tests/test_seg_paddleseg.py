"""seg/ with PaddleSeg 2.8.0: tiny training, evaluation, prediction, export; the repairs of PaddleSeg."""

import re

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import seg_scenes
from conftest import execute, words
from seg_scenes import CLASSES, pairs, written_config

pytest.importorskip('paddleseg', reason='PaddleSeg is not installed: see seg/requirements.txt')

from seg import common, export, lvvit, predict, shims, train, upernet, val, weights

common.load_paddleseg()


@pytest.fixture(scope='module')
def masked(tmp_path_factory):
    return seg_scenes.make(tmp_path_factory)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, masked):
    """(config, weights) after two steps of training."""
    folder = tmp_path_factory.mktemp('trained')
    path = written_config(folder, masked)
    flags = words('--config', path, '--save_dir', folder / 'run', '--seed 0 --log_iters 1 --save_interval 1 --do_eval')
    with paddle.utils.unique_name.guard():  # parameter names as in a new process, for --resume_model
        assert execute(train, *flags) == 0
    assert (folder / 'run' / 'best_model' / 'model.pdparams').exists()
    return path, folder / 'run' / 'iter_2' / 'model.pdparams'


def model_of(trained):
    """The trained model, built without PaddleSeg."""
    backbone = lvvit.LVViT_nano(img_size=32, out_channels=16)
    model = upernet.OriginalUPerNet(CLASSES, backbone, channels=8)
    weights.load_model(model, str(trained[1]))
    model.eval()
    return model


def normalised(path):
    pixels = np.asarray(Image.open(path), 'float32') / 255
    pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return paddle.to_tensor(pixels.transpose(2, 0, 1)[None].astype('float32'))


# ---- training, evaluation, prediction, export


def test_training_continues_from_a_folder(trained, run, tmp_path):
    flags = f'--save_dir {tmp_path}/more --iters 3 --log_iters 1 --resume_model {trained[1].parent}'
    with paddle.utils.unique_name.guard():
        result = run(train, *words('--config', trained[0], flags))
    assert result.code == 0
    assert re.findall(r'iter: (\d)/3', result.out) == ['3']


def test_flags_of_training(trained, run, tmp_path):
    flags = '--seed 0 --iters 2 --log_iters 1 --save_interval 1 --device cpu'
    checked = run(train, *words('--config', trained[0], flags, '--save_dir', tmp_path / 'plain'))
    flags += ' --learning_rate 0.5 --keep_checkpoint_max 1 --no_check --use_vdl'
    result = run(train, *words('--config', trained[0], flags, '--save_dir', tmp_path / 'other'))
    assert result.code == checked.code == 0
    losses = float(re.search(r'1/2, loss: ([\d.]+)', checked.out)[1])
    assert losses == pytest.approx(
        1.4 * np.log(CLASSES), rel=0.1
    )  # both heads; at the start classes are equally likely
    rates = [float(re.search(r'2/2, loss: .* lr: ([\d.]+)', done.out)[1]) for done in (checked, result)]
    assert rates[1] == pytest.approx(0.5 / 20, rel=1e-3) and rates[1] > 10 * rates[0]  # in the warm-up of 20 steps
    kept = [{path.name for path in (tmp_path / out).glob('iter_*')} for out in ('plain', 'other')]
    assert kept == [{'iter_1', 'iter_2'}, {'iter_2'}]
    assert 'checking 20 images and masks' in checked.out and 'checking' not in result.out
    assert list((tmp_path / 'other').glob('vdlrecords*')) and not list((tmp_path / 'plain').glob('vdlrecords*'))


def test_evaluation_is_the_mean_iou_of_whole_images(trained, run, masked):
    model, hits, either = model_of(trained), np.zeros(CLASSES), np.zeros(CLASSES)
    for image, mask in pairs(masked):
        with paddle.no_grad():
            predicted = model(normalised(image))[0].numpy()[0].argmax(0)
        truth = np.asarray(Image.open(mask))
        for c in range(CLASSES):
            hits[c] += ((predicted == c) & (truth == c)).sum()
            either[c] += ((predicted == c) | (truth == c)).sum()
    expected = (hits / np.maximum(either, 1)).mean()
    result = run(val, '--config', trained[0], '--model_path', trained[1])
    assert float(re.search(r'mIoU: ([\d.]+)', result.out)[1]) == pytest.approx(expected, abs=1e-4)


def test_windows_scales_and_flips(trained, run):
    flags = '--aug_eval --scales 0.75 1.2 --flip_horizontal --is_slide --crop_size 32 32 --stride 20 20'
    result = run(val, *words('--config', trained[0], '--model_path', trained[1], flags))
    assert result.code == 0, result.err
    assert '#Images: 10' in result.out


@pytest.mark.parametrize('workers', [0, 1])
def test_images_that_the_config_resizes_are_evaluated_in_their_own_size(workers, trained, run, tmp_path):
    config = yaml.safe_load(trained[0].read_text())
    config['val_dataset']['transforms'].insert(0, {'type': 'Resize', 'target_size': [48, 64]})
    (tmp_path / 'resized.yml').write_text(yaml.safe_dump(config))
    flags = f'--num_workers {workers} --device cpu'
    result = run(val, *words('--config', tmp_path / 'resized.yml', '--model_path', trained[1], flags))
    assert result.code == 0 and 'mIoU: ' in result.out


def test_prediction_writes_a_mask_of_each_image(trained, run, masked, tmp_path):
    folder = masked / 'val' / 'digit3'
    result = run(
        predict, '--config', trained[0], '--model_path', trained[1], '--image_path', folder, '--save_dir', tmp_path
    )
    assert result.code == 0, result.err
    (mask,) = (tmp_path / 'pseudo_color_prediction').glob('*.png')
    with paddle.no_grad():
        predicted = model_of(trained)(normalised(folder / 'val_00003.JPEG'))[0].numpy()[0].argmax(0)
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), predicted)


def infer(folder, images):
    """Output of the exported model by Paddle Inference."""
    from paddle import inference

    config = inference.Config(str(folder / 'model.json'), str(folder / 'model.pdiparams'))
    config.disable_gpu()
    config.disable_mkldnn()  # oneDNN of 3.3.1 cannot run the graph's bilinear resizing
    predictor = inference.create_predictor(config)
    handle = predictor.get_input_handle(predictor.get_input_names()[0])
    handle.reshape(images.shape)
    handle.copy_from_cpu(images)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


def test_an_export_of_any_size_equals_the_model(trained, run, tmp_path):
    result = run(
        export, *words('--config', trained[0], '--model_path', trained[1], '--save_dir', tmp_path, '--output_op none')
    )
    assert result.code == 0, result.err
    model = model_of(trained)
    for shape in ((1, 3, 32, 32), (2, 3, 48, 64), (1, 3, 37, 50)):
        images = np.random.default_rng(0).standard_normal(shape, dtype='float32')
        with paddle.no_grad():
            expected = model(paddle.to_tensor(images))[0].numpy()
        np.testing.assert_allclose(infer(tmp_path, images), expected, atol=1e-5 * np.abs(expected).max())


def test_an_export_of_one_size_gives_class_ids_and_deploy_yaml_describes_it(trained, run, tmp_path):
    flags = words('--config', trained[0], '--model_path', trained[1], '--save_dir', tmp_path, '--input_shape 1 3 32 48')
    assert run(export, *flags).code == 0
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 48), dtype='float32')
    with paddle.no_grad():
        expected = model_of(trained)(paddle.to_tensor(images))[0].numpy().argmax(1)
    np.testing.assert_array_equal(infer(tmp_path, images), expected)
    deploy = yaml.safe_load((tmp_path / 'deploy.yaml').read_text())['Deploy']
    assert (deploy['model'], deploy['input_shape'], deploy['output_op']) == ('model.json', [1, 3, 32, 48], 'argmax')
    assert [step['type'] for step in deploy['transforms']] == ['Normalize']


def test_the_backbone_works_in_paddleseg_s_own_upernet():
    from paddleseg.models import UPerNet

    backbone = lvvit.LVViT_nano(img_size=32)
    model = UPerNet(CLASSES, backbone, (0, 1, 2, 3), channels=16, enable_auxiliary_loss=True)
    scores = model(paddle.rand([2, 3, 32, 48]))
    assert [list(y.shape) for y in scores] == [[2, CLASSES, 32, 48]] * 2
    sum(y.mean() for y in scores).backward()
    assert np.abs(backbone.cls_token.grad.numpy()).max() > 0


# ---- repairs of PaddleSeg


def test_cross_entropy_is_the_mean_over_pixels_that_count():
    from paddleseg.models.losses import CrossEntropyLoss

    rng = np.random.default_rng(0)
    scores = rng.standard_normal((2, 3, 4, 5), dtype='float32')
    ids = rng.integers(0, 3, (2, 4, 5))
    ids[0, :2] = 255
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    true = np.take_along_axis(shares, np.where(ids == 255, 0, ids)[:, None], 1)[:, 0]
    surprise = np.where(ids == 255, 0, -np.log(true))
    arguments = paddle.to_tensor(scores), paddle.to_tensor(ids)
    assert float(CrossEntropyLoss()(*arguments)) == pytest.approx(surprise.sum() / (ids != 255).sum(), rel=1e-5)
    assert float(CrossEntropyLoss(avg_non_ignore=False)(*arguments)) == pytest.approx(surprise.mean(), rel=1e-5)


def test_areas_of_classes_leave_out_what_is_ignored():
    predicted, truth = paddle.to_tensor([[0, 1, 2, 2]]), paddle.to_tensor([[0, 2, 2, 255]])
    both, of_predicted, of_truth = shims.calculate_area(predicted, truth, 4)
    assert (both.tolist(), of_predicted.tolist(), of_truth.tolist()) == ([1, 0, 1, 0], [1, 1, 1, 0], [1, 0, 2, 0])


@pytest.mark.parametrize('ratio', [1.0, 0.75])
def test_a_random_crop_cuts_image_and_mask_alike(ratio):
    from paddleseg.transforms import RandomPaddingCrop

    ids = np.random.default_rng(0).integers(0, 9, (60, 70)).astype('uint8')
    image = np.repeat(ids[..., None], 3, axis=2).astype('float32')
    crop = RandomPaddingCrop(crop_size=(32, 16), category_max_ratio=ratio)
    for _ in range(5):
        cut = crop({'img': image, 'label': ids, 'gt_fields': ['label'], 'trans_info': []})
        assert cut['label'].shape == (16, 32)
        np.testing.assert_array_equal(cut['img'][..., 0], cut['label'])


def test_a_random_crop_avoids_regions_of_one_class():
    from paddleseg.transforms import RandomPaddingCrop

    ids = np.zeros((32, 400), 'uint8')
    ids[:, 380:] = 1  # few crops of 32 px have less than 75 % background
    crop = RandomPaddingCrop(crop_size=(32, 32), category_max_ratio=0.75, loop_times=1000)
    np.random.seed(0)
    cut = crop({'img': np.zeros((32, 400, 3), 'float32'), 'label': ids, 'gt_fields': ['label']})
    assert (cut['label'] == 0).mean() < 0.75
