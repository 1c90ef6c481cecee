"""Scripts start from a checkpoint of PyTorch, and fine-tune at other sizes."""

import numpy as np
import paddle
import pytest

import eval as eval_script
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
def file(tmp_path):
    """A checkpoint of PyTorch: weights of seed 1, their average of seed 2."""
    path = str(tmp_path / 'weights.tar')
    rest = {'epoch': 3, 'optimizer': {'state': {}, 'param_groups': []}}
    torch_files.save({'state_dict': as_torch(weights_of(1)), 'state_dict_ema': as_torch(weights_of(2)), **rest}, path)
    return path


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


def test_eval_and_predict_take_the_averaged_weights_with_ema(run, scenes, file):
    for script, *flags in (
        (eval_script, '--data_path', scenes, '--num_workers', 0),
        (predict, '--infer_imgs', scenes / 'val' / 'digit3'),
    ):
        result = run(script, *MODEL, '--resume', file, '--ema', *flags)
        assert result.code == 0 and 'using averaged weights (state_dict_ema)' in result.out


def test_weights_that_are_not_finite_are_named_instead_of_the_learning_rate(train, file):
    torch_files.save({key: value * np.float32(np.nan) for key, value in as_torch(weights_of(1)).items()}, file)
    for flag in ('--finetune', '--resume'):
        result = train(PLAIN, flag, file)
        (line,) = result.err.splitlines()
        assert result.code == 1 and f'{file}: ' in line and 'not finite' in line and '--lr' not in line


def test_training_starts_from_the_weights_of_a_file_of_pytorch_whose_optimizer_is_left_out(trained, file):
    result, state = trained('--token_label --token_label_size 2 --dense_weight 0', STILL, '--resume', file)
    assert 'resuming from' in result.out and 'from epoch 0, step 0' in result.out
    saved, expected = learned(state['model']), learned(weights_of(1))
    assert saved.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(saved[key], 0 * value if key.startswith('aux_head') else value, err_msg=key)


def test_the_moving_average_starts_from_the_averaged_weights_of_a_file(trained, file):
    averaged, weights = weights_of(2), weights_of(1)
    for flag in ('--resume', '--resume_ema'):
        _, state = trained('--model_ema --model_ema_decay 1.0', STILL, flag, file)
        for key in ('norm.weight', 'head.weight'):
            np.testing.assert_array_equal(state['model_ema'][key], averaged[key])
        same = np.array_equal(state['model']['head.weight'], weights['head.weight'])
        assert same == (flag == '--resume'), 'which is not where the weights come from'


def test_finetune_with_ema_starts_from_the_averaged_weights_of_a_file(trained, file):
    result, state = trained('--input_size 64 --ema', STILL, '--finetune', file)
    assert 'fine-tuning from' in result.out and 'pos_embed: resized from 4 to 16 tokens\n' in result.out
    position = state['model']['pos_embed']
    assert position.shape == (1, 17, 24) and np.array_equal(position[:, 0], weights_of(2)['pos_embed'][:, 0])
    for key, value in learned(weights_of(2)).items():
        if key != 'pos_embed' and not key.startswith('aux_head'):
            np.testing.assert_array_equal(state['model'][key], value, err_msg=key)


def test_layer_decay_holds_lower_layers_back(trained, file):
    _, state = trained('--lr 0.01 --layer_decay 1e-4 --finetune', file)
    moved = {key: np.abs(state['model'][key] - value).max() for key, value in learned(weights_of(1)).items()}
    assert moved['head.weight'] > 1e-4
    assert moved['blocks.0.mlp.fc1.weight'] < 1e-6 and moved['patch_embed.proj.weight'] < 1e-6
