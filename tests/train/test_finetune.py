"""Every script takes the weights of other frameworks, and fine-tunes on other sizes, classes and data without maps."""

import re

import numpy as np
import paddle
import pytest
import safetensors.numpy

import eval as eval_script
import generate_label
import models
import predict
import torch_files
from conftest import STILL, words
from util.weights import checkpoint, torch_file

MODEL = words('--model lvvit_nano --nb_classes 10 --input_size 32')
PLAIN = '--mixup 0 --cutmix 0'

pytestmark = [pytest.mark.cross_version, pytest.mark.usefixtures('tiny')]


def weights_of(seed):
    paddle.seed(seed)
    return checkpoint.to_numpy(models.build_model('lvvit_nano', img_size=32, num_classes=10).state_dict())


def as_torch(weights):
    return {key: np.array(value, order='C') for key, value in torch_file.to_torch(weights).items()}


@pytest.fixture
def files(tmp_path):
    """Files with the same weights (seed 1), and in .pd and .tar their average (seed 2); by suffix."""
    weights, averaged = weights_of(1), weights_of(2)
    suffixes = '.pd .pdparams .pth .safetensors .tar'.split()
    paths = {suffix: str(tmp_path / f'weights{suffix}') for suffix in suffixes}
    checkpoint.save({'model': weights, 'model_ema': averaged}, paths['.pd'])
    checkpoint.save(weights, paths['.pdparams'])
    torch_files.save(as_torch(weights), paths['.pth'])
    safetensors.numpy.save_file(as_torch(weights), paths['.safetensors'])
    wrapped = {f'module.{key}': value for key, value in as_torch(weights).items()}
    rest = {'epoch': 3, 'optimizer': {'state': {}, 'param_groups': []}}
    torch_files.save({'state_dict': wrapped, 'state_dict_ema': as_torch(averaged), **rest}, paths['.tar'])
    return paths


@pytest.fixture
def trained(train):
    """trained(*flags) -> (Result, what the run saved last)."""

    def call(*flags):
        result = train(PLAIN, *flags)
        assert result.code == 0, result.err
        return result, train.state()

    return call


def learned(weights):
    """Weights without the statistics, which training moves whatever the learning rate."""
    return {key: value for key, value in weights.items() if not key.endswith(('._mean', '._variance'))}


# ---- every script's --resume


@pytest.mark.parametrize('ema', [False, True])
def test_eval_says_the_same_for_every_kind_of_file(run, scenes, files, ema):
    said = set()
    for suffix in ('.pd', '.tar') if ema else files:
        flags = ['--data_path', scenes, '--num_workers', 0, '--resume', files[suffix]]
        result = run(eval_script, *MODEL, *flags, *['--ema'] * ema)
        assert result.code == 0 and files[suffix] in result.out
        said.add(re.search(r'\* Acc@1 .*', result.out)[0])
    assert len(said) == 1


def test_predict_takes_a_file_of_pytorch(run, scenes, files):
    said = set()
    for suffix in ('.pd', '.pth'):
        result = run(predict, *MODEL, '--resume', files[suffix], '--infer_imgs', scenes / 'val' / 'digit3')
        said.add(result.out[result.out.index('[{') :])
    assert len(said) == 1


def test_generate_label_takes_an_annotator_of_pytorch(run, scenes, tmp_path):
    paddle.seed(0)
    weights = checkpoint.to_numpy(paddle.vision.models.resnet18(num_classes=10).state_dict())
    checkpoint.save(weights, str(tmp_path / 'a.pdparams'))
    torch_files.save(as_torch(weights), str(tmp_path / 'a.pth'))
    maps = []
    for name in ('a.pdparams', 'a.pth'):
        flags = words('--model resnet18 --nb_classes 10 --img_size 64 --num_workers 0 --resume')
        result = run(generate_label, scenes, tmp_path / name[2:], *flags, tmp_path / name)
        assert result.code == 0, result.err
        maps.append(np.load(tmp_path / name[2:] / 'digit3' / 'train_00013.npy'))
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize('suffix', ['.tar', '.pdparams'])
def test_training_starts_from_the_weights_of_a_file_without_an_optimizer(trained, files, suffix):
    result, state = trained('--token_label --token_label_size 2 --dense_weight 0', STILL, '--resume', files[suffix])
    assert 'resuming from' in result.out and 'from epoch 0, step 0' in result.out
    saved, expected = learned(state['model']), learned(weights_of(1))
    assert saved.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(saved[key], 0 * value if key.startswith('aux_head') else value, err_msg=key)


def test_the_moving_average_starts_from_the_averaged_weights_of_a_file(trained, files):
    averaged, weights = weights_of(2), weights_of(1)
    for flag in ('--resume', '--resume_ema'):
        _, state = trained('--model_ema --model_ema_decay 1.0', STILL, flag, files['.tar'])
        for key in ('norm.weight', 'head.weight'):
            np.testing.assert_array_equal(state['model_ema'][key], averaged[key])
        same = np.array_equal(state['model']['head.weight'], weights['head.weight'])
        assert same == (flag == '--resume'), 'which is not where the weights come from'


# ---- fine-tuning


@pytest.mark.parametrize('suffix, flag, seed', [('.safetensors', '', 1), ('.tar', '--ema', 2)])
def test_finetune_starts_from_the_chosen_weights_of_a_file(trained, files, suffix, flag, seed):
    result, state = trained('--input_size 64', STILL, flag, '--finetune', files[suffix])
    assert 'fine-tuning from' in result.out and 'pos_embed: resized from 4 to 16 tokens\n' in result.out
    position = state['model']['pos_embed']
    assert position.shape == (1, 17, 24) and np.array_equal(position[:, 0], weights_of(seed)['pos_embed'][:, 0])
    for key, value in learned(weights_of(seed)).items():
        if key != 'pos_embed' and not key.startswith('aux_head'):
            np.testing.assert_array_equal(state['model'][key], value, err_msg=key)


def test_data_of_other_classes_without_label_maps_as_the_original_does_it(trained, files):
    """Its README: --token-label --token-label-size 14 --dense-weight 0.0 --num-classes N --finetune FILE."""
    flags = '--input_size 64 --nb_classes 12 --token_label --token_label_size 4 --dense_weight 0.0 --lr 1e-3'
    result, state = trained(flags, '--finetune', files['.pth'])
    for key in ('head.weight', 'head.bias', 'aux_head.weight', 'aux_head.bias'):
        assert f' {key}: initialised anew\n' in result.out
    assert 'the token classifier stays at zero' in result.out
    assert state['model']['head.weight'].shape == (24, 12) and '"mix_token": true' in result.out
    assert not state['model']['aux_head.weight'].any(), 'an untrained token classifier adds nothing in evaluation'


def test_without_maps_the_dense_loss_must_be_off(train):
    message = train.refused(PLAIN, '--token_label --token_label_size 2')
    assert '--token_label_data' in message and '--dense_weight 0' in message


def test_layer_decay_holds_lower_layers_back(trained, files):
    _, state = trained('--lr 0.01 --layer_decay 1e-4 --finetune', files['.pth'])
    moved = {key: np.abs(state['model'][key] - value).max() for key, value in learned(weights_of(1)).items()}
    assert moved['head.weight'] > 1e-4
    assert moved['blocks.0.mlp.fc1.weight'] < 1e-6 and moved['patch_embed.proj.weight'] < 1e-6
