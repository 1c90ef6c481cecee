"""What each flag changes that no other test looks at: of the loader, of a training, of what it writes.

tests/test_all_flags.py says which flags there are.
"""

import math
import sys
import types

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import eval as eval_script
import infer
import main
import models
import rendered
import util.data
from conftest import ROOT, STILL, words
from states import same
from tools import visualize
from util.args import complete_training
from util.data.transforms import TrainTransform
from util.deploy import predictor
from util.errors import UserError
from util.train import mixup
from util.train.mixtoken import EMPTY_BOX
from util.weights import checkpoint

STEADY = "--aa '' --color_jitter 0 --reprob 0 --hflip 0 --train_scale 1 1 --train_interpolation bilinear"
SIDE = 64  # pixels of the photos

# ---- what the training loader makes of an image


@pytest.fixture
def photos(tmp_path):
    """train/a with 8 photos of 64 px whose red grows to the right and whose green grows downwards, all alike."""
    folder = tmp_path / 'photos' / 'train' / 'a'
    folder.mkdir(parents=True)
    ramp = np.arange(SIDE) * 3 + 20
    pixels = np.stack([*np.meshgrid(ramp, ramp), np.full((SIDE, SIDE), 128)], axis=-1).astype('uint8')
    for i in range(8):
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return folder.parents[1]


def batch_of(root, *flags):
    """The first batch of 8 images of 32 px as arrays, pixels in 0-255 unless --mean or --std are given."""
    line = words('--input_size 32 --nb_classes 10 --batch_size 8 --num_workers 0 --data_path', root, STEADY)
    line += words('--mean 0 0 0 --std 1 1 1', *flags)
    args = main.parser().parse_args(line)
    complete_training(args, grid=2)
    batch = {key: value.numpy() for key, value in next(iter(main.new_train_loader(args))).items()}
    batch['image'] = batch['image'] * 255
    return batch


def test_hflip_is_the_probability_of_the_mirrored_image(photos):
    plain, mirrored = (batch_of(photos, f'--hflip {p}')['image'] for p in (0, 1))
    assert plain[0, 0, 16, 2] < plain[0, 0, 16, 29] and np.array_equal(mirrored, plain[..., ::-1])


def test_train_scale_is_the_share_of_the_image_that_a_crop_takes(photos):
    whole = batch_of(photos)['image']
    assert np.ptp(whole[0, 0]) > 0.9 * 3 * SIDE, 'all of it'
    crops = batch_of(photos, '--train_scale 0.25 0.25')['image']
    widths, heights = (np.ptp(crops[:, channel], axis=(1, 2)) / (3 * SIDE) for channel in (0, 1))
    np.testing.assert_allclose(widths * heights, 0.25, rtol=0.15)


def test_color_jitter_is_used_when_aa_is_empty_and_then_only(photos):
    plain, jittered = batch_of(photos)['image'], batch_of(photos, '--color_jitter 0.4')['image']
    assert np.abs(plain - jittered).max(axis=(1, 2, 3)).min() > 1, 'every image'
    policy = '--aa rand-m9-mstd0.5-inc1'
    assert same(batch_of(photos, policy), batch_of(photos, policy, '--color_jitter 0.4'))


def test_aa_takes_a_policy_of_autoaugment(photos):
    plain, original, v0 = (batch_of(photos, f"--aa '{aa}'")['image'] for aa in ('', 'original', 'v0'))
    for policy in (original, v0):
        assert (np.abs(plain - policy).max(axis=(1, 2, 3)) > 1).sum() >= 4, 'half of the images at least'
    assert not np.array_equal(original, v0)


def test_image_backend_is_of_training_images_and_nearly_the_same(photos):
    flags = "--aa '' --train_scale 0.3 0.6"
    pillow, opencv = (batch_of(photos, flags, f'--image_backend {name}')['image'] for name in ('pil', 'cv2'))
    assert not np.array_equal(pillow, opencv) and np.abs(pillow - opencv).mean() < 1
    (photos / 'train').rename(photos / 'val')
    line = words('--input_size 32 --nb_classes 10 --batch_size 8 --num_workers 0 --data_path', photos)
    line += words('--image_backend cv2')
    by_main = main.new_eval_loader(main.parser().parse_args([*line, '--crop_pct', '0.9']))
    assert by_main.dataset.transform.backend == 'pil', 'a training validates as published'


@pytest.mark.parametrize('missing', ['cv2', 'simplejpeg'])
def test_image_backend_cv2_says_what_to_install(missing, photos, refused, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, 'util.data.render_cv2', raising=False)
    monkeypatch.delattr(util.data, 'render_cv2', raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    flags = '--image_backend cv2 --model lvvit_nano --input_size 32 --nb_classes 10 --num_workers 0 --data_path'
    (photos / 'val').symlink_to(photos / 'train')
    for script in (main, eval_script):
        line = refused(script, *words(flags, photos))
        assert line.endswith('pip install opencv-python-headless simplejpeg') and '--image_backend cv2: ' in line
    assert 'util.data.render_cv2' not in sys.modules


def holes(photos, *flags):
    """bool [8, 32, 32]: what random erasing changed, and what it put there."""
    image, plain = batch_of(photos, '--reprob 1', *flags)['image'], batch_of(photos)['image']
    return (image != plain).any(axis=1), image


def is_box(mask):
    rows, columns = mask.any(axis=1), mask.any(axis=0)
    return np.array_equal(mask, np.outer(rows, columns)) and np.abs(np.diff(np.flatnonzero(rows), prepend=0)).max() > 0


def test_remode_says_what_an_erased_box_is_filled_with(photos):
    for mode, colours in ('const', 1), ('rand', 1), ('pixel', None):
        for mask, image in zip(*holes(photos, f'--remode {mode}')):
            inside = image[:, mask].T
            assert is_box(mask) and len(np.unique(inside, axis=0)) == (colours or mask.sum()), mode
            assert (mode == 'const') == (not inside.any()), 'const is the mean, 0 once it is normalised'


def test_recount_is_the_number_of_boxes_at_most(photos):
    assert all(is_box(mask) for mask in holes(photos, '--remode const --recount 1')[0])
    several = holes(photos, '--remode const --recount 4')[0]
    assert not all(is_box(mask) for mask in several)


def test_mean_and_std_normalise_training_and_evaluation_alike(photos):
    plain = batch_of(photos)['image'] / 255
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 2.0])
    flags = '--mean 0.1 0.2 0.3 --std 0.5 0.25 2'
    expected = (plain - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(batch_of(photos, flags)['image'] / 255, expected, atol=1e-6)
    (photos / 'train').rename(photos / 'val')
    line = words('--input_size 32 --nb_classes 10 --batch_size 8 --num_workers 0 --crop_pct 1 --data_path', photos)
    evaluated = []
    for more in ('--mean 0 0 0 --std 1 1 1', flags):
        loader = main.new_eval_loader(main.parser().parse_args([*line, *words(more)]))
        evaluated.append(next(iter(loader))['image'].numpy())
    expected = (evaluated[0] - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(evaluated[1], expected, atol=1e-6)


def test_what_lies_outside_the_image_has_the_colour_of_mean(photos):
    """TranslateXRel at its largest moves the image by 45 % of its width in either direction."""
    for mean, fill in ((0.0, 0), (1.0, 255), (0.5, 128)):
        transform = TrainTransform(32, mean=(mean,) * 3, std=(1, 1, 1))
        grey, rng = Image.new('RGB', (20, 20), (9, 9, 9)), np.random.default_rng(0)
        image, _ = rendered.op(transform.augment, 'TranslateXRel', grey, 10, rng, transform.fill)
        columns = np.asarray(image)[10, :, 0].tolist()
        assert set(columns) == {9, fill}


# ---- token labels: one map for all photos, 4 columns of which the last is class 1 and the others class 0


@pytest.fixture
def mapped(tmp_path):
    """(folder of 8 photos of 60x30 pixels, folder of their maps without meta.json)."""
    folder, maps = tmp_path / 'wide' / 'train' / 'a', tmp_path / 'maps' / 'a'
    folder.mkdir(parents=True)
    maps.mkdir(parents=True)
    ids = np.zeros((1, 4, 4))
    ids[..., 3] = 1
    for i in range(8):
        Image.new('RGB', (60, 30), (i, i, i)).save(folder / f'{i}.png')
        np.save(maps / f'{i}.npy', np.stack([np.full((1, 4, 4), 10), ids]).astype('float16'))
    return folder.parents[1], maps.parent


def odds(batch, token):
    """log(probability of class 1 / probability of class 0) of a token in every image; 0 is the class token."""
    result = []
    for ids, listed, floor in zip(batch['ids'], batch['listed'], batch['floor']):
        dense = np.repeat(floor[:, None], 10, axis=1)
        for k, class_id in enumerate(ids):
            if class_id >= 0:
                dense[:, class_id] = listed[k]
        result.append(math.log(dense[token, 1] / dense[token, 0]))
    return np.array(result)


def test_token_label_coverage_says_where_maps_lie_whose_meta_json_does_not(mapped):
    """The crop takes the 40 middle pixels of 60. Of its right half, pixels 30 to 50, a map of the whole image has
    class 1 from pixel 45 on, a quarter; one of the centre square from 37.5 to 45, where it ends (RoIAlign lets its last
    cell reach a little further)."""
    photos, maps = mapped
    given = words('--token_label --mixup 0 --cutmix 0 --token_label_data', maps)
    center, full = (odds(batch_of(photos, *given, f'--token_label_coverage {c}'), 2) for c in ('center', 'full'))
    assert same(odds(batch_of(photos, *given), 2), center), 'the default'
    assert (center > 1).all() and np.allclose(full, -5, atol=1), (center, full)


def test_with_the_reference_geometry_a_map_covers_the_whole_image_whatever_is_said(mapped):
    photos, maps = mapped
    given = words('--token_label --mixup 0 --cutmix 0 --token_label_geometry reference --token_label_data', maps)
    center, full = (odds(batch_of(photos, *given, f'--token_label_coverage {c}'), 2) for c in ('center', 'full'))
    assert same(center, full)


def test_token_label_geometry_changes_the_labels_and_no_pixel(photos, tmp_path):
    """With `reference` the crop's row is read as its column: a map of columns then follows the crop's height."""
    maps = tmp_path / 'maps' / 'a'
    maps.mkdir(parents=True)
    ids = np.stack([np.repeat([[0, 0, 1, 1]], 4, axis=0)])
    for i in range(8):
        np.save(maps / f'{i}.npy', np.stack([np.full((1, 4, 4), 10), ids]).astype('float16'))
    given = words('--token_label --mixup 0 --cutmix 0 --train_scale 0.2 0.2 --token_label_data', maps.parent)
    exact, reference = (batch_of(photos, *given, f'--token_label_geometry {g}') for g in ('exact', 'reference'))
    assert np.array_equal(exact['image'], reference['image'])
    across, down = (exact['image'][:, channel].mean(axis=(1, 2)) / 255 for channel in (0, 1))  # of the crop's centre
    assert np.corrcoef(odds(exact, 0), across)[0, 1] > 0.9
    assert np.corrcoef(odds(reference, 0), down)[0, 1] > 0.9
    assert not np.array_equal(odds(exact, 0), odds(reference, 0))


def test_token_label_confidence_drops_the_loss_of_tokens_that_are_less_sure(train, tiny):
    def loss(*flags):
        train(*train.token, '--no_mix_token', STILL, *flags)
        return train.log()[-1]['train_loss']

    assert loss('--token_label_confidence 1.1') == pytest.approx(loss('--dense_weight 0'), rel=1e-6)
    assert loss('--token_label_confidence 1e-6') == loss()


# ---- Mixup, CutMix, MixToken


@pytest.fixture
def shares(monkeypatch):
    """The shares [B, 1, H, W or 1, 1] that each step of a training draws."""
    seen, real = [], mixup.Mixup.draw

    def draw(self, batch, height, width, rng):
        share = real(self, batch, height, width, rng)
        seen.append(np.broadcast_to(share, (batch, 1, height, width)))
        return share

    monkeypatch.setattr(mixup.Mixup, 'draw', draw)
    return seen


def test_mixup_prob_is_the_share_of_steps_that_mix(train, tiny, shares):
    train('--mixup_prob 0', STILL)
    assert len(shares) == 5 and all((share == 1).all() for share in shares)
    shares.clear()
    train('--mixup_prob 1 --cutmix 0', STILL)
    assert len(shares) == 5 and not any((share == 1).all() for share in shares)


def test_mixup_switch_prob_is_the_share_of_cutmix(train, tiny, shares):
    train('--mixup_switch_prob 0', STILL)
    assert len(shares) == 5 and all(np.ptp(share) == 0 for share in shares), 'Mixup: one share for all pixels'
    shares.clear()
    train('--mixup_switch_prob 1', STILL)
    assert len(shares) == 5 and all(np.isin(share, (0, 1)).all() for share in shares), 'CutMix: a pixel is of one image'


def test_cutmix_minmax_bounds_the_sides_of_the_box_and_switches_cutmix_on(train, tiny, shares):
    train('--mixup 0 --cutmix 0 --cutmix_minmax 0.5 0.5', STILL)
    assert len(shares) == 5 and all((share == 0).mean() == 0.25 for share in shares), 'half of each side'


def test_mixup_off_epoch_is_the_first_without_mixup_or_cutmix_in_a_resumed_run_too(train, tiny, shares):
    flags = words('--epochs 3 --mixup_off_epoch 1 --save_freq_steps 5', STILL)
    train(*flags)
    assert len(shares) == 5, 'the steps of epoch 0'
    train('--epochs 1 --mixup_off_epoch 1', STILL, out='again')
    shares.clear()
    train(*flags, '--resume auto', out='again')
    assert not shares and [r['epoch'] for r in train.log('again')] == [0, 1, 2]
    assert same(train.state()['model'], train.state('again')['model'])
    train('--epochs 2 --mixup_off_epoch 0', STILL, out='never')
    assert len(shares) == 10


def test_mix_token_goes_together_with_mixup_when_told_so(train, tiny, shares, monkeypatch):
    boxes, real = [], models.LV_ViT.forward

    def forward(self, x, box=EMPTY_BOX):
        if self.training:
            boxes.append(tuple(box))
        return real(self, x, box)

    monkeypatch.setattr(models.LV_ViT, 'forward', forward)
    flags = [*train.token, '--mixup 0.8', STILL]
    losses = []
    for mixes, out in ('--mix_token', 'both'), ('--no_mix_token', 'mixup'):
        boxes.clear()
        shares.clear()
        assert train(*flags, mixes, '--input_size 64', out=out).code == 0
        assert len(shares) == len(boxes) == 5
        assert any(box != tuple(EMPTY_BOX) for box in boxes) == (mixes == '--mix_token')
        losses.append(train.log(out)[0]['train_loss'])
    assert np.isfinite(losses).all() and losses[0] != losses[1]


# ---- the run


def test_opt_betas_and_opt_eps_are_adams(train, tiny):
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


def test_debug_trains_on_val(train, tiny):
    assert 'training on 40 images, validating on 20' in train(STILL).out
    assert 'training on 20 images, validating on 20' in train('--debug', STILL, out='debug').out


def test_debug_makes_gpu_kernels_deterministic(train, tiny, monkeypatch):
    """Up to the call of Paddle, for there is no GPU here."""
    asked = []
    monkeypatch.setattr(paddle.device, 'is_compiled_with_cuda', lambda: True)
    monkeypatch.setattr(paddle, 'set_flags', asked.append)
    train('--eval')
    assert not asked
    train('--eval --debug')
    assert asked == [{'FLAGS_cudnn_deterministic': True}]


def test_sync_bn_is_for_gpus(train, tiny):
    assert '--sync_bn needs GPUs' in train.refused('--sync_bn')


@pytest.mark.parametrize('flag', ['--amp_dtype bfloat16', '--amp_level O2'])
def test_kinds_of_mixed_precision_change_nothing_where_there_is_none(train, tiny, flag):
    assert train('--use_amp', flag).out.count('--use_amp has no effect on a CPU') == 1
    train(out='without')
    assert same(train.state()['model'], train.state('without')['model'])


# ---- -c FILE and args.yaml


def test_a_run_writes_its_flags_and_repeats_itself_from_them(train, tiny):
    flags = [*train.token, '--lr 0.01 --opt_betas 0.9 0.95 --cutmix_minmax 0.2 0.8 --ground_truth --no_mix_token']
    train(*flags)
    path = train.folder / 'run' / 'args.yaml'
    assert yaml.safe_load(path.read_text())['opt_betas'] == [0.9, 0.95]
    assert train.run(main, '-c', path, '--output_dir', train.folder / 'again').code == 0
    assert same(train.state()['model'], train.state('again')['model'])
    written = [yaml.safe_load((train.folder / out / 'args.yaml').read_text()) for out in ('run', 'again')]
    assert {key for key in written[0] if written[0][key] != written[1][key]} == {'output_dir'}


def parsed(tmp_path, text, *flags):
    (tmp_path / 'flags.yaml').write_text(text)
    return main.parser().parse_args(['-c', str(tmp_path / 'flags.yaml'), *words(*flags)])


def test_flags_of_the_command_line_win_over_those_of_the_file(tmp_path):
    text = "lr: 1e-3\nbatch-size: 7\naa: ''\nopt_betas: [0.5, 0.6]\nuse_amp: true\nmix_token: false\nclip_grad: null\n"
    args = parsed(tmp_path, text)
    assert (args.lr, args.batch_size, args.aa, args.opt_betas) == (1e-3, 7, '', [0.5, 0.6])
    assert (args.use_amp, args.mix_token, args.clip_grad, args.epochs) == (True, False, None, 300)
    args = parsed(tmp_path, text, '--batch_size 8 --no_use_amp --mix_token --opt_betas 0.1 0.2')
    assert (args.lr, args.batch_size, args.use_amp, args.mix_token) == (1e-3, 8, False, True)
    assert args.opt_betas == [0.1, 0.2]
    assert parsed(tmp_path, 'ground_truth: only').ground_truth == 'only'
    assert parsed(tmp_path, 'ground_truth: true').ground_truth == 'blend'
    assert parsed(tmp_path, text, '--config', tmp_path / 'flags.yaml').lr == 1e-3


WRONG = [
    ('learning_rate: 1', 'learning_rate is not a flag of main.py'),
    ('batch_size: many', "batch_size cannot be 'many'"),
    ('batch_size: 0', 'batch_size cannot be 0 (must be at least 1'),
    ('mixup: true', 'mixup cannot be True'),
    ('amp_level: O3', "amp_level cannot be 'O3' (must be one of O1, O2)"),
    ('lr: {a: 1}', "lr cannot be {'a': 1}"),
    ('- lr', 'must hold lines such as'),
    ('lr: [', 'not readable YAML'),
    ('config: other.yaml', 'config is not a flag'),
]


@pytest.mark.parametrize('text, says', WRONG)
def test_what_is_wrong_in_a_file_of_flags_is_one_line_that_names_it(refused, tmp_path, text, says):
    (tmp_path / 'flags.yaml').write_text(text)
    line = refused(main, '-c', tmp_path / 'flags.yaml')
    assert f'{tmp_path}/flags.yaml: ' in line and says in line
    assert '/nowhere.yaml' in refused(main, '-c', '/nowhere.yaml')


# ---- of other scripts


def test_gpu_mem_is_what_paddle_inference_reserves(run, tmp_path, monkeypatch):
    """Up to the call of Paddle's Config, for there is no GPU here."""
    reserved = []
    config = types.SimpleNamespace(enable_use_gpu=lambda mb, *_: reserved.append(mb))
    on_gpu = predictor.Predictor.__new__(predictor.Predictor)
    on_gpu.config, on_gpu.engine = config, 'gpu'

    def make(*_, gpu_mem, **__):
        on_gpu._set_up_gpu('fp32', gpu_mem)
        raise UserError('that is all')

    monkeypatch.setattr(predictor, 'Predictor', make)
    monkeypatch.setattr(predictor, 'check_files', lambda *_: None)
    flags = words('--model_file m.pdmodel --params_file m.pdiparams --input_file', ROOT / 'demo' / 'chelsea.png')
    for more, expected in ('--gpu_mem 123', 123), ('', 8000):
        assert 'that is all' in run(infer, *flags, *words(more)).err
        assert reserved.pop() == expected


def test_atol_is_how_far_scores_may_lie_from_the_stored_ones(run, tmp_path):
    sys.path.insert(0, str(ROOT / 'test_tipc'))
    import compare_results

    gt, log = tmp_path / 'gt_fp32.txt', tmp_path / 'infer_precision_fp32.log'
    flags = ['--gt_file', gt, '--log_file', log]
    for score, more in (
        (0.5, ['--store']),
        (0.503, ['--rtol', 0, '--atol', 0.01]),
        (0.503, ['--rtol', 0, '--atol', 0.001]),
    ):
        log.write_text(
            str([{'class_ids': [1], 'scores': [score], 'file_name': 'a.JPEG', 'label_names': ['one']}]) + '\n'
        )
        code = run(compare_results, *flags, *more).code
        assert code == (1 if more[-1] == 0.001 else 0), more


# ---- tools/visualize.py


@pytest.fixture
def picture(run, photos, tmp_path):
    """picture(*flags) -> the PNG that visualize.py makes, as an array."""
    maps = tmp_path / 'maps' / 'a'
    maps.mkdir(parents=True)
    for i in range(8):
        np.save(maps / f'{i}.npy', np.zeros((2, 1, 4, 4), 'float16'))

    def call(*flags):
        line = words('--model lvvit_nano --input_size 32 --nb_classes 10 --input', photos / 'train', *flags)
        result = run(visualize, *line, '--output', tmp_path / 'x.png')
        assert result.code == 0, result.err
        return np.asarray(Image.open(tmp_path / 'x.png')).astype('int64')

    call.maps = words('--token_label_data', maps.parent, '--count 1 --draws 1')
    return call


def test_visualize_columns_are_images_per_row(picture, tiny, tmp_path):
    paddle.seed(0)
    model = models.build_model('lvvit_nano', img_size=32, num_classes=10)
    checkpoint.save(model.state_dict(), str(tmp_path / 'w.pdparams'))
    sizes = [picture(f'--count 4 --columns {c} --resume', tmp_path / 'w.pdparams').shape for c in (1, 2, 4)]
    panel = sizes[1][1] - sizes[0][1]  # one more image in a row, with its margin
    assert panel > 0 and sizes[2][1] - sizes[1][1] == 2 * panel
    assert sizes[0][0] > sizes[1][0] > sizes[2][0], 'and fewer rows'


def test_visualize_draws_by_aa_and_seed(picture):
    first = picture(*picture.maps, "--seed 0 --aa ''")
    assert np.array_equal(first, picture(*picture.maps, "--seed 0 --aa ''")), 'the same draws'
    for other in ("--seed 1 --aa ''", '--seed 0 --aa rand-m9-n4-inc1'):
        assert not np.array_equal(first, picture(*picture.maps, other))
    before = slice(-(visualize.SIDE + visualize.MARGIN))  # what stands left of the draw
    others = picture(*picture.maps, "--seed 1 --aa ''")
    assert np.array_equal(first[:, before], others[:, before]), 'nothing else'
