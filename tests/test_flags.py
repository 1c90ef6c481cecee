"""What flags change that no other test looks at: in the training loader, in a training, in other scripts."""

import sys
import types

import numpy as np
import paddle
import pytest
from PIL import Image

import eval as eval_script
import infer
import main
import models
import util.data
from conftest import ROOT, STILL, words
from states import same
from tools import visualize
from util.args import complete_training
from util.data.token_label import dense_target
from util.deploy import predictor
from util.errors import UserError
from util.train import mixup
from util.train.mixtoken import EMPTY_BOX

SMALL = '--input_size 32 --nb_classes 10 --batch_size 8 --num_workers 0 --mean 0 0 0 --std 1 1 1 --data_path'
STEADY = "--aa '' --color_jitter 0 --reprob 0 --hflip 0 --train_scale 1 1 --train_interpolation bilinear"

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
    flags += '--train_scale 0.2 0.7 --hflip 0.1 --mean 0.1 0.5 1.2 --std 0.5 0.25 2 --image_backend cv2 --token_label '
    flags += f'--token_label_geometry reference --token_label_data {maps}'
    dataset = new_loader(photos, flags).dataset
    assert dataset.label_maps.coverage == 'full', 'as in the reference geometry'
    expected = dict(size=32, augment=None, interpolation=Image.BILINEAR, jitter=0.3, flip=0.1, scale=[0.2, 0.7])
    expected.update(reprob=0.6, remode='const', recount=3, fill=(26, 128, 255), backend='cv2', geometry='reference')
    expected.update(mean=[0.1, 0.5, 1.2], std=[0.5, 0.25, 2.0])
    assert {name: getattr(dataset.transform, name) for name in expected} == expected
    assert new_loader(photos, '--aa rand-m7-n4').dataset.transform.augment.magnitude == 7


def test_mean_and_std_normalise_the_evaluation_whose_pixels_are_pillows_whatever_the_backend(photos):
    flags = '--crop_pct 1 --image_backend cv2 --mean 0.1 0.2 0.3 --std 0.5 0.25 2'
    loader = main.new_eval_loader(main.parser().parse_args(words(SMALL, photos, flags)))
    assert loader.dataset.transform.backend == 'pil'
    plain = main.new_eval_loader(main.parser().parse_args(words(SMALL, photos, '--crop_pct 1')))
    raw, normalised = (next(iter(loader))['image'].numpy() for loader in (plain, loader))
    mean, std = np.reshape([0.1, 0.2, 0.3], [3, 1, 1]), np.reshape([0.5, 0.25, 2.0], [3, 1, 1])
    np.testing.assert_allclose(normalised, (raw - mean) / std, atol=1e-6)


@pytest.mark.parametrize('missing', ['cv2', 'simplejpeg'])
def test_image_backend_cv2_names_the_packages_to_install(missing, photos, refused, monkeypatch):
    monkeypatch.delitem(sys.modules, 'util.data.render_cv2', raising=False)
    monkeypatch.delattr(util.data, 'render_cv2', raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    for script in (main, eval_script):
        line = refused(script, *words('--model lvvit_nano --image_backend cv2', SMALL, photos))
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


def test_token_label_coverage_is_what_maps_cover_that_have_no_meta_json(maps, tmp_path):
    """Photos of 60x30 pixels; the crop takes the middle 40 columns. In its right half, pixels 30 to 50, a map of the
    whole image has class 1 from pixel 45 on, a quarter; a map of the centre square has it from 37.5 to 45, where the
    square ends (RoIAlign lets the last cell reach a little further)."""
    wide = tmp_path / 'wide' / 'train' / 'a'
    wide.mkdir(parents=True)
    for i in range(8):
        Image.new('RGB', (60, 30), (i, i, i)).save(wide / f'{i}.png')

    def odds(*flags):
        """log(probability of class 1 / probability of class 0) of the upper right token of each image."""
        labels = ['--token_label --mixup 0 --cutmix 0 --token_label_data', maps]
        batch = next(iter(new_loader(tmp_path / 'wide', STEADY, *labels, *flags)))
        target = dense_target(batch['ids'], batch['listed'], batch['floor'], 10).numpy()
        return np.log(target[:, 2, 1] / target[:, 2, 0])

    center, full = (odds(f'--token_label_coverage {c}') for c in ('center', 'full'))
    assert (center > 1).all() and np.allclose(full, -5, atol=1), (center, full)
    assert same(odds(), center), 'the default'


def test_token_label_confidence_drops_the_loss_of_less_certain_tokens(train, tiny):
    def loss(*flags):
        train(*train.token, '--no_mix_token', STILL, *flags)
        return train.log()[-1]['train_loss']

    assert loss('--token_label_confidence 1.1') == pytest.approx(loss('--dense_weight 0'), rel=1e-6)
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


def test_mixup_off_epoch_is_the_first_without_mixup_or_cutmix_in_a_resumed_run_too(train, tiny, shares):
    flags = words('--epochs 3 --mixup_off_epoch 1', STILL)
    train(*flags)
    assert len(shares) == 5, 'the steps of epoch 0'
    train('--epochs 1 --mixup_off_epoch 1', STILL, out='again')
    shares.clear()
    train(*flags, '--resume auto', out='again')
    assert not shares and [r['epoch'] for r in train.log('again')] == [0, 1, 2]
    train('--epochs 2 --mixup_off_epoch 0', STILL, out='never')
    assert len(shares) == 10


def test_mix_token_can_be_combined_with_mixup(train, tiny, shares, monkeypatch):
    boxes, real = [], models.LV_ViT.forward

    def forward(self, x, box=EMPTY_BOX):
        if self.training:
            boxes.append(tuple(box))
        return real(self, x, box)

    monkeypatch.setattr(models.LV_ViT, 'forward', forward)
    for flag in ('--mix_token', '--no_mix_token'):
        boxes.clear()
        shares.clear()
        assert train(*train.token, '--mixup 0.8 --input_size 64', flag, STILL, out=flag).code == 0
        assert len(shares) == len(boxes) == 5
        assert any(box != tuple(EMPTY_BOX) for box in boxes) == (flag == '--mix_token')


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
    train(out='without')
    assert same(train.state()['model'], train.state('without')['model'])


# ---- other scripts


def test_gpu_mem_is_what_paddle_inference_reserves(run, monkeypatch):
    """Up to the call of Paddle's Config, for there is no GPU here."""
    reserved = []
    on_gpu = predictor.Predictor.__new__(predictor.Predictor)
    on_gpu.config = types.SimpleNamespace(enable_use_gpu=lambda mb, *_: reserved.append(mb))
    on_gpu.engine = 'gpu'

    def make(*_, gpu_mem, **__):
        on_gpu._set_up_gpu('fp32', gpu_mem)
        raise UserError('that is all')

    monkeypatch.setattr(predictor, 'Predictor', make)
    monkeypatch.setattr(predictor, 'check_files', lambda *_: None)
    flags = words('--model_file m.pdmodel --params_file m.pdiparams --input_file', ROOT / 'demo' / 'chelsea.png')
    for more, expected in ('--gpu_mem 123', 123), ('', 8000):
        assert 'that is all' in run(infer, *flags, *words(more)).err
        assert reserved.pop() == expected


def test_visualize_draws_by_columns_aa_and_seed(run, photos, maps, tmp_path):
    def picture(*flags):
        line = words(f'--model lvvit_nano --input_size 32 --nb_classes 10 --input {photos}/train', *flags)
        assert run(visualize, *line, '--token_label_data', maps, '--output', tmp_path / 'x.png').code == 0
        return np.asarray(Image.open(tmp_path / 'x.png'))

    first = picture("--count 1 --draws 1 --seed 0 --aa ''")
    assert same(first, picture("--count 1 --draws 1 --seed 0 --aa ''"))
    for other in "--seed 1 --aa ''", '--seed 0 --aa rand-m9-n4-inc1':
        assert not same(first, picture('--count 1 --draws 1', other))
    sizes = [picture(f'--count 4 --draws 1 --columns {columns}').shape for columns in (1, 2, 4)]
    panel = sizes[1][1] - sizes[0][1]  # one more image in a row, with its margin
    assert panel > 0 and sizes[2][1] - sizes[1][1] == 2 * panel
    assert sizes[0][0] > sizes[1][0] > sizes[2][0], 'and fewer rows'
