"""Photos without labels: they train on their label maps, and what needs their labels refuses them."""

import shutil

import numpy as np
import pytest
from conftest import words

import eval as eval_script
from models import build_model
from tools import pack_token_label
from util.train.train_state import TrainState
from util.weights import checkpoint

WITHOUT = 15  # of the 40 training photos of `scenes`


@pytest.fixture
def lists(scenes, tmp_path):
    """train.txt and val.txt, in which some photos have class id -1. The train set still has ten classes."""
    for split in ('train', 'val'):
        lines = (scenes / f'{split}_list.txt').read_text().splitlines()
        changed = [line.rsplit(' ', 1)[0] + ' -1' for line in lines[:WITHOUT]]
        (tmp_path / f'{split}.txt').write_text('\n'.join(changed + lines[WITHOUT:]))
    return tmp_path


@pytest.fixture
def train_some(train, lists):
    """train(*flags) with the photos of train.txt and their label maps."""

    def call(*flags, out='run'):
        return train(*words('--cls_label_path_train', str(lists / 'train.txt')), *train.token, *flags, out=out)

    call.log, call.state = train.log, train.state
    return call


def weights(train, out):
    return np.concatenate([np.ravel(value) for value in train.state(out)['model'].values()])


@pytest.mark.cross_version
@pytest.mark.parametrize('flags', ['', '--ground_truth only', '--ground_truth --dense_weight 0 --token_label_gumbel'])
def test_they_train_on_their_maps_and_the_log_says_how_many(train_some, flags):
    result = train_some(flags, '--token_label_confidence 0.2')
    assert result.code == 0, result.err
    assert f'{WITHOUT} of them have no label and train with their label map alone' in result.out
    (record,) = train_some.log()
    assert record['images_without_label'] == WITHOUT and np.isfinite(record['train_loss'])


def test_packed_maps_loader_processes_and_a_resumed_run_change_nothing(train_some, scenes, tmp_path, run, monkeypatch):
    always = '--mixup 0.8 --cutmix 1 --ground_truth --save_freq_steps 2'
    assert train_some(always, out='folder').code == 0
    assert run(pack_token_label, scenes / 'label_maps', tmp_path / 'packed').code == 0
    assert train_some(always, f"--token_label_data '{tmp_path}/packed' --num_workers 2", out='packed').code == 0

    def die_at_three(state):
        after_step(state)
        if state.steps_done == 3:
            raise KeyError

    after_step = TrainState.after_step
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(TrainState, 'after_step', die_at_three)
        train_some(always, out='resumed')
    assert train_some(always, '--resume auto', out='resumed').code == 0
    for out in ('packed', 'resumed'):
        np.testing.assert_array_equal(weights(train_some, out), weights(train_some, 'folder'))
        (record,), (of_folder,) = train_some.log(out), train_some.log('folder')
        assert record['train_loss'] == of_folder['train_loss']


@pytest.mark.parametrize(
    'flags',
    ['', '--token_label --dense_weight 0', '--token_label --token_label_data {maps} --allow_missing_token_label'],
)
def test_without_a_map_such_a_photo_is_an_error_that_says_so(train, lists, scenes, flags):
    maps = lists / 'maps'
    shutil.copytree(scenes / 'label_maps', maps)
    first = (lists / 'train.txt').read_text().split()[0].replace('train/', '', 1)
    (maps / first).with_suffix('.npy').unlink()
    count = 1 if 'data' in flags else WITHOUT
    line = train.refused('--cls_label_path_train', lists / 'train.txt', flags.format(maps=maps))
    assert f'{first}: has no label' in line and 'label map' in line and f'(this holds for {count} of 40 images)' in line


def test_a_photo_with_a_label_needs_no_map_if_a_flag_allows_it(train_some, lists, scenes):
    maps = lists / 'maps'
    shutil.copytree(scenes / 'label_maps', maps)
    last = (lists / 'train.txt').read_text().split()[-2].replace('train/', '', 1)
    (maps / last).with_suffix('.npy').unlink()
    flags = ['--token_label_data', maps, '--ground_truth only', '--allow_missing_token_label']
    assert train_some(*flags).code == 0
    (record,) = train_some.log()
    assert (record['images_without_label'], record['images_without_label_map']) == (WITHOUT, 1)


def test_validation_needs_labels(train, lists, refused, scenes):
    flags = ['--cls_label_path_val', lists / 'val.txt']
    message = f'validation needs labels (this holds for {WITHOUT} of 20 images)'
    assert message in train.refused(*flags)
    weights = lists / 'random.pdparams'
    checkpoint.save(build_model('lvvit_nano', img_size=32, num_classes=10).state_dict(), str(weights))
    model = '--model lvvit_nano --input_size 32 --nb_classes 10 --num_workers 0'.split()
    assert message in refused(eval_script, *model, '--data_path', scenes, *flags, '--resume', weights)
