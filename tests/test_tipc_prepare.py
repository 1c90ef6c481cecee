"""test_tipc/prepare.sh: which of a user's images each mode takes, and that it deletes none."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT

TIPC = ROOT / 'test_tipc'


@pytest.fixture
def imagenet(tmp_path):
    """An ImageNet folder without lists, its path with a blank: 3 classes of 20 training and 10 validation images."""
    root = tmp_path / 'image net'
    for split, count in (('train', 20), ('val', 10)):
        for folder in ('a', 'a-b', 'c'):
            (root / split / folder).mkdir(parents=True)
            for i in range(count):
                (root / split / folder / f'{folder} {i:02d}.JPEG').write_text('an image')
    (root / 'label_maps').mkdir()
    return root


@pytest.fixture
def prepare(tmp_path):
    """prepare(mode, **environment) -> (result, the folder that it fills), in a copy of test_tipc/."""
    root = tmp_path / 'project'
    (root / 'test_tipc').mkdir(parents=True)
    for name in ('common_func.sh', 'prepare.sh'):
        (root / 'test_tipc' / name).write_bytes((TIPC / name).read_bytes())

    def call(mode, **env):
        command = ['bash', root / 'test_tipc/prepare.sh', TIPC / 'config/TokenLabeling/lvvit_t.txt', mode]
        env = {**os.environ, 'PYTHON': sys.executable, **env}
        return subprocess.run(command, text=True, capture_output=True, env=env), root / 'dataset/ILSVRC2012'

    return call


def test_the_lite_modes_take_a_few_of_the_users_images_of_all_classes(prepare, imagenet):
    done, data = prepare('lite_train_lite_infer', TIPC_DATA=str(imagenet))
    assert done.returncode == 0, done.stderr
    train = (data / 'train_list.txt').read_text().splitlines()
    assert len(train) == 40 and len((data / 'val_list.txt').read_text().splitlines()) == 20
    classes = {line.split('/')[1]: int(line.rpartition(' ')[2]) for line in train}
    assert classes == {'a': 0, 'a-b': 1, 'c': 2}  # sorted folder names, as main.py numbers them
    assert all((data / line.rpartition(' ')[0]).read_text() == 'an image' for line in train)
    assert len(list((data / 'val').rglob('*.JPEG'))) == 20
    assert (data / 'label_maps').resolve() == (imagenet / 'label_maps').resolve()


def test_whole_training_takes_all_images_and_an_existing_list(prepare, imagenet):
    (imagenet / 'train_list.txt').write_text('train/c/c 00.JPEG 7\n')
    done, data = prepare('whole_train_whole_infer', TIPC_DATA=str(imagenet))
    assert done.returncode == 0, done.stderr
    assert (data / 'train_list.txt').read_text() == 'train/c/c 00.JPEG 7\n'
    (imagenet / 'train_list.txt').write_text('train/c/c 00.JPEG\t7\r\n')
    done, _ = prepare('lite_train_lite_infer', TIPC_DATA=str(imagenet))
    assert done.returncode == 0 and (data / 'train_list.txt').read_text() == 'train/c/c 00.JPEG 7\n'
    done, data = prepare('whole_train_whole_infer', TIPC_DATA=str(imagenet))
    assert len((data / 'val_list.txt').read_text().splitlines()) == 30 and len(list(data.glob('train/*/*'))) == 60
    again, _ = prepare('whole_infer', TIPC_DATA=str(imagenet), TIPC_WEIGHTS=__file__)
    assert again.returncode == 0 and len(list(imagenet.rglob('*.JPEG'))) == 90  # it deleted links only
    (data / 'links').unlink()
    other, _ = prepare('whole_infer', TIPC_DATA=str(imagenet), TIPC_WEIGHTS=__file__)
    assert other.returncode == 2 and 'was not made by this script' in other.stderr and data.exists()


@pytest.mark.parametrize(
    'mode, missing, expected',
    [
        ('lite_train_lite_infer', 'val', 'has no val/'),
        ('lite_train_lite_infer', 'label_maps', 'TIPC_LABEL_MAPS=DIR'),
        ('whole_train_whole_infer', '', 'TIPC_DATA=DIR'),
    ],
)
def test_missing_data_are_one_line(prepare, imagenet, mode, missing, expected):
    if missing:
        (imagenet / missing).rename(imagenet / 'elsewhere')
    done, _ = prepare(mode, TIPC_DATA=str(imagenet) if missing else '')
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and expected in done.stderr
