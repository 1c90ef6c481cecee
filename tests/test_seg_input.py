"""seg/ with files that are damaged, do not fit each other, or are no images; flags and configs that are wrong."""

import os
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image

import seg_scenes
from conftest import words
from seg_scenes import CLASSES, pairs, written_config

pytest.importorskip('paddleseg', reason='PaddleSeg is not installed: see seg/requirements.txt')

from seg import common, export, lvvit, predict, train, upernet, val
from util import paddle_fixes
from util.data import images

common.load_paddleseg()


@pytest.fixture(scope='module')
def masked(tmp_path_factory):
    return seg_scenes.make(tmp_path_factory)


@pytest.fixture
def config(tmp_path, masked):
    return written_config(tmp_path, masked)


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
    """Weights of the config's model."""
    import paddle

    model = upernet.OriginalUPerNet(CLASSES, lvvit.LVViT_nano(img_size=32, out_channels=16), channels=8)
    path = tmp_path_factory.mktemp('untrained') / 'model.pdparams'
    paddle.save(model.state_dict(), str(path))
    return path


def save_turned(image, path):
    """Write a JPEG whose EXIF orientation is 6: viewers turn it by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def save_truncated(image, path):
    image.save(path)
    path.write_bytes(path.read_bytes()[:-200])


def other_size(image, mask, folder):
    mask.resize((32, 48), Image.NEAREST).save(folder / 'bad.png')
    return folder / 'bad.png', '32×48', None


def rgb_mask(image, mask, folder):
    mask.convert('RGB').save(folder / 'bad.png')
    return folder / 'bad.png', 'channels R, G, B', None


def turned_mask(image, mask, folder):
    save_turned(image.resize((48, 32)), folder / 'turned.jpg')
    mask.resize((32, 48), Image.NEAREST).save(folder / 'bad.png')
    return folder / 'bad.png', 'EXIF', folder / 'turned.jpg'


def truncated_image(image, mask, folder):
    save_truncated(image, folder / 'cut.jpg')
    return folder / 'good.png', 'truncated', folder / 'cut.jpg'


def several_sizes(image, mask, folder):
    image.resize((48, 32)).save(folder / 'wide.png')
    mask.resize((48, 32), Image.NEAREST).save(folder / 'good.png')
    return folder / 'good.png', 'RandomPaddingCrop', folder / 'wide.png'


@pytest.fixture
def bad_list(masked, tmp_path):
    """bad_list(kind) -> (list of eight pairs, of which one is bad; the file that the error must name; what it says)."""

    def call(kind):
        good = pairs(masked, 'train')[:8]
        image, mask = (Image.open(path) for path in good[5])
        mask.save(tmp_path / 'good.png')
        bad_mask, says, bad_image = kind(image, mask, tmp_path)
        good[5] = [bad_image or good[5][0], bad_mask]
        listed = tmp_path / 'list.txt'
        listed.write_text(''.join(f'{image} {mask}\n' for image, mask in good))
        named = bad_mask if bad_mask.name == 'bad.png' else bad_image
        return listed, str(named), says

    return call


KINDS = [other_size, rgb_mask, turned_mask, truncated_image, several_sizes]


@pytest.mark.parametrize('kind', KINDS)
def test_the_check_names_a_pair_that_cannot_be_trained(kind, config, refused, bad_list, tmp_path):
    listed, named, says = bad_list(kind)
    line = refused(
        train,
        *words('--config', config, '--save_dir', tmp_path / 'run'),
        '--opts',
        f'train_dataset.train_path={listed}',
    )
    assert named in line and says in line


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('kind', KINDS)
def test_without_the_check_such_a_pair_ends_the_training(kind, workers, config, run, bad_list, tmp_path, time_limit):
    listed, named, _ = bad_list(kind)
    flags = words(
        '--config', config, '--save_dir', tmp_path / 'run', f'--no_check --num_workers {workers} --device cpu'
    )
    with time_limit(60):
        result = run(train, *flags, '--opts', f'train_dataset.train_path={listed}')
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert 'error: ' in last and named in last, result.err


@pytest.mark.parametrize('workers', [0, 1])
def test_sigterm_ends_a_training_that_waits_for_a_file(workers, config, run, tmp_path, time_limit, monkeypatch):
    main_process, open_rgb = os.getpid(), images.open_rgb

    def wait(path):
        if workers and os.getpid() == main_process:  # reads one sample to know its size
            return open_rgb(path)
        os.kill(main_process, signal.SIGTERM)
        time.sleep(100)

    monkeypatch.setattr(images, 'open_rgb', wait)
    monkeypatch.setattr(paddle_fixes, 'SHUTDOWN_SECONDS', 0.2)
    flags = f'--save_dir {tmp_path}/run --no_check --num_workers {workers} --device cpu'
    with time_limit(60):
        assert run(train, '--config', config, *words(flags)).code == 143


def test_the_exif_orientation_of_an_image_is_ignored(config, run, untrained, masked, tmp_path):
    image, mask = pairs(masked)[0]
    image, mask = Image.open(image).resize((48, 32)), Image.open(mask).resize((48, 32), Image.NEAREST)
    save_turned(image, tmp_path / 'turned.jpg')
    mask.save(tmp_path / 'mask.png')
    (tmp_path / 'list.txt').write_text('turned.jpg mask.png\n')
    opts = words('--opts', f'val_dataset.dataset_root={tmp_path}', f'val_dataset.val_path={tmp_path}/list.txt')
    assert run(val, '--config', config, '--model_path', untrained, *opts).code == 0
    flags = ['--model_path', untrained, '--image_path', tmp_path / 'turned.jpg', '--save_dir', tmp_path / 'out']
    assert run(predict, '--config', config, *flags).code == 0
    assert Image.open(tmp_path / 'out' / 'pseudo_color_prediction' / 'turned.png').size == (48, 32)


def test_an_evaluation_without_the_check_does_not_count_a_turned_mask(config, run, untrained, bad_list):
    listed, _, _ = bad_list(turned_mask)
    result = run(
        val, '--config', config, '--model_path', untrained, '--no_check', '--opts', f'val_dataset.val_path={listed}'
    )
    assert result.code == 1 and '--no_check' in result.err.splitlines()[-1]


def test_prediction_names_files_that_it_cannot_decode_and_predicts_the_others(config, run, untrained, masked, tmp_path):
    folder = tmp_path / 'odd'
    folder.mkdir()
    image = Image.open(pairs(masked)[0][0])
    for name in ('a.gif', 'b.webp', 'c.jpg', 'c.png'):
        image.save(folder / name)
    image.convert('CMYK').save(folder / 'cmyk.jpg')
    image.crop((0, 0, 1, 1)).save(folder / 'one.png')
    save_truncated(image, folder / 'cut.jpg')
    (folder / 'empty.png').touch()
    (folder / 'notes.txt').write_text('no image')
    flags = ['--config', config, '--model_path', untrained, '--image_path', folder, '--save_dir', tmp_path / 'out']
    result = run(predict, *flags)
    assert result.code == 1 and '2 of 8 images' in result.err
    assert f'warning: {folder}/cut.jpg' in result.err and f'warning: {folder}/empty.png' in result.err
    assert 'skipped 1: 1 .txt' in result.out
    expected = ['a.png', 'b.png', 'c.jpg.png', 'c.png.png', 'cmyk.png', 'one.png']
    for kind in ('pseudo_color_prediction', 'added_prediction'):
        assert sorted(path.name for path in (tmp_path / 'out' / kind).iterdir()) == expected
    assert run(predict, *flags, '--skip_bad').code == 0


@pytest.mark.parametrize('text', ['model: [1\nb', '- 1\n', 'model: 5\nbatch_size: 1\niters: 1\n', ''])
def test_a_config_that_is_not_one_is_named(text, refused, tmp_path):
    (tmp_path / 'bad.yml').write_text(text)
    assert f'{tmp_path}/bad.yml' in refused(train, '--config', tmp_path / 'bad.yml')


def test_a_mask_with_ids_outside_of_the_classes_is_named(config, refused, masked, tmp_path):
    image, mask = pairs(masked, 'train')[0]
    ids = np.array(Image.open(mask))
    ids[3, 4], ids[5, 6], ids[7, 8] = 11, 200, 255
    changed, listed = tmp_path / 'changed.png', tmp_path / 'list.txt'
    Image.fromarray(ids).save(changed)
    listed.write_text(f'{image} {changed}\n' * 4)
    line = refused(
        train, '--config', config, '--save_dir', tmp_path / 'run', '--opts', f'train_dataset.train_path={listed}'
    )
    assert f'{changed}: has the ids 11, 200, ' in line and '0 to 10; 255 is ignored' in line
    assert not list(tmp_path.glob('run/*'))


@pytest.mark.parametrize(
    'script, flags, expected',
    [
        (train, '--opts model.backbone.type=LVViT_XXL', 'LVViT_XXL'),
        (train, '--opts train_dataset.dataset_root=/nowhere', 'train_dataset.dataset_root /nowhere'),
        (train, '--opts model.num_classes=12', 'num_classes'),
        (train, '--opts model.backbone.img_size=50', 'img_size 50'),
        (train, '--config none.yml', 'none.yml'),
        (val, '--model_path none.pdparams', 'none.pdparams'),
        (val, '--model_path none.pdparams --is_slide', '--crop_size'),
        (predict, '--model_path none.pdparams --image_path none.jpg', 'none.jpg'),
        (export, '--model_path none.pdparams --input_shape 1 3 40 48', 'multiples of 16'),
    ],
)
def test_bad_input_is_one_line_that_names_it(config, refused, script, flags, expected):
    assert expected in refused(script, '--config', config, *words(flags))


def test_without_paddleseg_the_scripts_say_how_to_install_it(config, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, 'paddleseg.cvlibs', None)
    assert 'pip install --no-deps -r seg/requirements-nodeps.txt' in refused(train, '--config', config)
