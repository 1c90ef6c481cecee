"""What flags change that no other test looks at: in the training loader and in a training."""

import sys

import numpy as np
import paddle
import pytest
from PIL import Image

import eval as eval_script
import main
import util.data
from conftest import STILL, words
from inference_helpers import random_weights
from util.training_args import complete_training
from util.train import mixup
from util.weights import checkpoint

SMALL = '--input_size 32 --nb_classes 10 --batch_size 8 --num_workers 0 --mean 0 0 0 --std 1 1 1 --data_path'

# ---- the training loader


@pytest.fixture
def photos(tmp_path):
    """train/a and val/a with 8 equal photos of 64 px: red grows by 3 a pixel to the right, green downwards."""
    folder = tmp_path / 'photos' / 'train' / 'a'
    folder.mkdir(parents=True)
    ramp = np.arange(64) * 3 + 20
    pixels = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 128)], axis=-1).astype('uint8')
    for i in range(8):
        Image.fromarray(pixels).save(folder / f'{i}.png')
    (tmp_path / 'photos' / 'val').symlink_to(folder.parent)
    return tmp_path / 'photos'


def new_loader(root, *flags):
    args = main.parser().parse_args(words(SMALL, root, *flags))
    complete_training(args, grid=2, total_batch=1)
    return main.new_train_loader(args)


def test_flags_of_the_training_images_reach_their_transform(photos, maps):
    flags = "--aa '' --train_interpolation bilinear --color_jitter 0.3 --reprob 0.6 --remode const --recount 3 "
    flags += '--train_scale 0.2 0.7 --hflip 0.1 --mean 0.1 0.5 1 --std 0.5 0.25 2 --image_backend cv2 --token_label '
    flags += f'--token_label_geometry reference --token_label_data {maps}'
    dataset = new_loader(photos, flags).dataset
    assert dataset.label_maps.coverage == 'full', 'as in the reference geometry'
    expected = dict(size=32, augment=None, interpolation=Image.BILINEAR, jitter=0.3, flip=0.1, scale=[0.2, 0.7])
    expected.update(reprob=0.6, remode='const', recount=3, fill=(26, 128, 255), backend='cv2', geometry='reference')
    expected.update(mean=[0.1, 0.5, 1.0], std=[0.5, 0.25, 2.0])
    assert {name: getattr(dataset.transform, name) for name in expected} == expected
    assert new_loader(photos, '--aa rand-m7-n4').dataset.transform.augment.magnitude == 7


def test_mean_and_std_normalise_the_evaluation_whose_pixels_are_pillows_whatever_the_backend(photos):
    flags = '--crop_pct 1 --image_backend cv2 --mean 0.1 0.2 0.3 --std 0.5 0.25 2'
    loader = main.new_eval_loader(main.parser().parse_args(words(SMALL, photos, flags)), names=['a'])
    assert loader.dataset.transform.backend == 'pil'
    plain = main.new_eval_loader(main.parser().parse_args(words(SMALL, photos, '--crop_pct 1')), names=['a'])
    raw, normalised = (next(iter(loader))['image'].numpy() for loader in (plain, loader))
    mean, std = np.reshape([0.1, 0.2, 0.3], [3, 1, 1]), np.reshape([0.5, 0.25, 2.0], [3, 1, 1])
    np.testing.assert_allclose(normalised, (raw - mean) / std, atol=1e-6)


@pytest.mark.parametrize('missing', ['cv2', 'simplejpeg'])
def test_image_backend_cv2_names_the_packages_to_install(missing, photos, refused, monkeypatch, tmp_path):
    checkpoint.save(random_weights(0, num_classes=1), str(tmp_path / 'x.pd'))
    monkeypatch.delitem(sys.modules, 'util.data.render_cv2', raising=False)
    monkeypatch.delattr(util.data, 'render_cv2', raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    flags = words('--model lvvit_nano --image_backend cv2', SMALL, photos, '--nb_classes 1 --resume', tmp_path / 'x.pd')
    for script in (main, eval_script):
        line = refused(script, *flags)
        assert '--image_backend cv2' in line and 'pip install opencv-python-headless simplejpeg' in line


# ---- token labels


@pytest.fixture
def maps(tmp_path):
    """The folder of the maps of `photos`, without meta.json: 4 columns, the last of class 1, the others of class 0."""
    ids = np.zeros((1, 4, 4))
    ids[..., 3] = 1
    (tmp_path / 'maps' / 'a').mkdir(parents=True)
    for i in range(8):
        np.save(tmp_path / 'maps' / 'a' / f'{i}.npy', np.stack([np.full((1, 4, 4), 10), ids]).astype('float16'))
    return tmp_path / 'maps'


def test_token_label_coverage_is_what_maps_cover_that_have_no_meta_json(photos, maps):
    labels = ['--token_label --mixup 0 --cutmix 0 --token_label_data', maps]
    for flags, coverage in ('', 'center'), ('--token_label_coverage full', 'full'):
        assert new_loader(photos, *labels, flags).dataset.label_maps.coverage == coverage


def test_token_label_confidence_drops_the_loss_of_less_certain_tokens(train, tiny):
    def loss(*flags):
        train(*train.token, '--no_mix_token', STILL, *flags)
        return train.log()[-1]['train_loss']

    assert loss('--token_label_confidence 1') == pytest.approx(loss('--dense_weight 0'), rel=1e-6)
    assert loss('--token_label_confidence 1e-6') == loss()


# ---- Mixup, CutMix, MixToken


@pytest.fixture
def shares(monkeypatch):
    """The shares [B, 1, H, W] that each step of a training draws."""
    seen, real = [], mixup.Mixup.draw

    def draw(self, batch, height, width, rng):
        share = real(self, batch, height, width, rng)
        seen.append(np.broadcast_to(share, (batch, 1, height, width)))
        return share

    monkeypatch.setattr(mixup.Mixup, 'draw', draw)
    return seen


MIXES = [
    ('--mixup_prob 0', lambda share: (share == 1).all()),
    ('--mixup_prob 1 --cutmix 0', lambda share: not (share == 1).all()),
    ('--mixup_switch_prob 0', lambda share: np.ptp(share) == 0),  # Mixup: one share for all pixels
    ('--mixup_switch_prob 1', lambda share: np.isin(share, (0, 1)).all()),  # CutMix: a pixel is of one image
    ('--mixup 0 --cutmix 0 --cutmix_minmax 0.5 0.5', lambda share: (share == 0).mean() == 0.25),  # half of each side
]


@pytest.mark.parametrize('flags, holds', MIXES, ids=[flags for flags, _ in MIXES])
def test_flags_of_mixup_reach_every_step(train, tiny, shares, flags, holds):
    train(flags, STILL)
    assert len(shares) == 5 and all(holds(share) for share in shares)


def test_mixup_off_epoch_is_the_first_without_mixup_or_cutmix(train, tiny, shares):
    train('--epochs 3 --mixup_off_epoch 1', STILL)
    assert len(shares) == 5, 'the steps of epoch 0'
    shares.clear()
    train('--epochs 2 --mixup_off_epoch 0', STILL, out='never')
    assert len(shares) == 10, 'never'


# ---- the run


def test_opt_betas_and_opt_eps_are_those_of_adamw(train, tiny):
    train('--opt_betas 0.5 0.25')
    state = train.state()['optimizer']
    products = {name: float(np.ravel(state[f'head.weight/{name}_pow_acc_0'])[0]) for name in ('beta1', 'beta2')}
    assert products == {'beta1': pytest.approx(0.5**6, rel=1e-5), 'beta2': pytest.approx(0.25**6, rel=1e-5)}
    train(STILL, out='start')
    start = train.state('start')['model']
    moved = {}
    for eps in (1e-8, 1e4):
        train(f'--opt_eps {eps} --lr 0.01 --weight_decay 0', out=str(eps))
        moved[eps] = np.abs(train.state(str(eps))['model']['head.weight'] - start['head.weight']).max()
    assert moved[1e-8] > 1e-3 and moved[1e4] < 1e-6, 'a step is lr · m / (√v + eps)'


@pytest.mark.parametrize('name', ['log.txt', './log.txt', 'link', 'folder/log.txt'])
def test_a_log_file_that_is_log_txt_is_refused(train, tmp_path, monkeypatch, name):
    out = tmp_path / 'run'
    out.mkdir()
    (out / 'link').symlink_to('log.txt')
    (out / 'folder').symlink_to('.')
    monkeypatch.chdir(out)
    line = train.refused('--log_file', name)
    assert f'--log_file {name}' in line and 'give another file' in line
    assert train('--log_file console.txt').code == 0 and 'Start training' in (out / 'console.txt').read_text()


def test_a_warm_up_as_long_as_the_run_is_said(train, tiny):
    assert '--warmup_epochs 1 is not less than --epochs 1' in train('--warmup_epochs 1 --cooldown_epochs 1').out
    assert 'is not less than' not in train('--epochs 2 --warmup_epochs 1', out='other').out


def test_the_epochs_of_the_cool_down_are_said(train, tiny):
    said = train('--epochs 1 --cooldown_epochs 1', STILL).out
    assert '--epochs 1 of the schedule and --cooldown_epochs 1\n' in said and len(train.log()) == 2
    assert 'of the schedule' not in train('--epochs 1 --cooldown_epochs 0', STILL, out='none').out


def test_start_epoch_is_the_first_epoch_of_a_run_that_resumes_nothing(train, tiny):
    train('--epochs 3', STILL)
    train('--epochs 3 --start_epoch 2', STILL, out='late')
    (late,), third = train.log('late'), train.log()[2]
    assert late['epoch'] == 2 and late['train_loss'] == third['train_loss'], 'its images are those of that epoch'


def test_debug_trains_on_val_with_deterministic_gpu_kernels(train, tiny, monkeypatch):
    """The flag of the kernels up to the call of Paddle, for there is no GPU here."""
    loaders, asked, real = [], [], main.new_train_loader
    monkeypatch.setattr(main, 'new_train_loader', lambda *a, **k: loaders.append(real(*a, **k)) or loaders[-1])
    train(STILL)
    train('--debug', STILL, out='debug')
    assert [len(loader.dataset) for loader in loaders] == [40, 20]
    monkeypatch.setattr(paddle.device, 'is_compiled_with_cuda', lambda: True)
    monkeypatch.setattr(paddle, 'set_flags', asked.append)
    train('--eval')
    assert not asked
    train('--eval --debug')
    assert asked == [{'FLAGS_cudnn_deterministic': True}]


def test_mixed_precision_has_no_effect_on_a_cpu_and_the_console_says_so(train, tiny):
    assert train('--use_amp --amp_dtype bfloat16 --amp_level O2').out.count('--use_amp has no effect on a CPU') == 1
