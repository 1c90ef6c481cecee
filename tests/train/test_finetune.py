"""Every script takes the weights of other frameworks, and fine-tunes on other sizes, classes and data without maps."""

import ast

import numpy as np
import paddle
import pytest
import safetensors.numpy

import eval as eval_script
import export_model
import generate_label
import main
import models
import predict
import torch_files
from util.weights import checkpoint, layout

MODEL = ['--model', 'lvvit_nano', '--nb_classes', 10]
TRAIN = [
    *MODEL,
    '--batch_size',
    8,
    '--epochs',
    1,
    '--warmup_epochs',
    0,
    '--cooldown_epochs',
    0,
    '--num_workers',
    0,
    '--mixup',
    0,
    '--cutmix',
    0,
]
STILL = ['--lr', 0, '--min_lr', 0, '--opt', 'momentum']  # what is saved is what the run started from

pytestmark = [pytest.mark.cross_version, pytest.mark.usefixtures('tiny')]


def weights_of(seed, **kwargs):
    paddle.seed(seed)
    model = models.build_model('lvvit_nano', **{**dict(img_size=32, num_classes=10), **kwargs})
    return checkpoint.to_numpy(model.state_dict())


def as_torch(weights):
    return {key: np.array(value, order='C') for key, value in layout.to_torch(weights).items()}


@pytest.fixture
def files(tmp_path):
    """Files with the same weights, (seed 1), and their average (seed 2) where there is room for it; by suffix."""
    weights, averaged = weights_of(1), weights_of(2)
    paths = {
        suffix: str(tmp_path / f'weights{suffix}') for suffix in ('.pd', '.pdparams', '.pth', '.safetensors', '.tar')
    }
    checkpoint.save({'model': weights, 'model_ema': averaged}, paths['.pd'])
    checkpoint.save(weights, paths['.pdparams'])
    torch_files.save(as_torch(weights), paths['.pth'])
    safetensors.numpy.save_file(as_torch(weights), paths['.safetensors'])
    wrapped = {f'module.{key}': value for key, value in as_torch(weights).items()}
    torch_files.save(
        {
            'epoch': 3,
            'state_dict': wrapped,
            'optimizer': {'state': {}, 'param_groups': []},
            'state_dict_ema': as_torch(averaged),
        },
        paths['.tar'],
    )
    return paths


@pytest.fixture
def train(run, scenes, tmp_path):
    """train(*flags) -> (Result, what the run saved last)."""

    def call(*flags):
        result = run(main, *TRAIN, '--data_path', scenes, '--output_dir', tmp_path / 'run', *flags)
        assert result.code == 0, result.err
        return result, checkpoint.load(str(tmp_path / 'run' / 'checkpoint-latest.pd'))

    return call


def learned(weights):
    """Weights without the statistics, which training moves whatever the learning rate."""
    return {key: value for key, value in weights.items() if not key.endswith(('._mean', '._variance'))}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# ---- every script's --resume


@pytest.mark.parametrize('ema', [False, True])
def test_eval_says_the_same_for_every_kind_of_file(run, scenes, files, ema):
    said = set()
    for suffix in ('.pd', '.tar') if ema else files:
        result = run(
            eval_script,
            *MODEL,
            '--input_size',
            32,
            '--data_path',
            scenes,
            '--num_workers',
            0,
            '--resume',
            files[suffix],
            *['--ema'] * ema,
        )
        assert result.code == 0 and files[suffix] in result.out
        said.add(next(line.split('] ')[1] for line in result.out.splitlines() if '* Acc@1' in line))
    assert len(said) == 1


def test_predict_says_the_same_for_every_kind_of_file(run, scenes, files):
    said = set()
    for path in files.values():
        result = run(predict, *MODEL, '--input_size', 32, '--resume', path, '--infer_imgs', scenes / 'val' / 'digit3')
        assert result.code == 0, result.err
        said.add(str(ast.literal_eval(result.out[result.out.index('[{') :])))
    assert len(said) == 1


def test_export_takes_a_file_of_pytorch(run, files, tmp_path):
    result = run(export_model, *MODEL, '--input_size', 32, '--resume', files['.pth'], '--output_dir', tmp_path / 'out')
    assert result.code == 0 and f'using plain weights of {files[".pth"]}' in result.out


def test_generate_label_takes_an_annotator_of_pytorch(run, scenes, tmp_path):
    paddle.seed(0)
    weights = checkpoint.to_numpy(paddle.vision.models.resnet18(num_classes=10).state_dict())
    checkpoint.save(weights, str(tmp_path / 'a.pdparams'))
    torch_files.save(as_torch(weights), str(tmp_path / 'a.pth'))
    maps = []
    for name in ('a.pdparams', 'a.pth'):
        result = run(
            generate_label,
            scenes,
            tmp_path / name[2:],
            '--model',
            'resnet18',
            '--nb_classes',
            10,
            '--pretrained_weights',
            tmp_path / name,
            '--img_size',
            64,
            '--num_workers',
            0,
        )
        assert result.code == 0, result.err
        maps.append(np.load(tmp_path / name[2:] / 'digit3' / 'train_00013.npy'))
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.tar'])
def test_training_starts_from_the_weights_of_a_file_without_an_optimizer(train, files, suffix):
    result, state = train(
        '--input_size',
        32,
        '--resume',
        files[suffix],
        '--token_label',
        '--token_label_size',
        2,
        '--dense_weight',
        0,
        *STILL,
    )
    assert 'resuming from' in result.out and 'epochs 0 to 0' in result.out
    expected = {key: 0 * value if key.startswith('aux_head') else value for key, value in weights_of(1).items()}
    assert_same(learned(state['model']), learned(expected))


def test_the_moving_average_starts_from_the_averaged_weights_of_a_file(train, files):
    flags = ['--input_size', 32, '--model_ema', '--model_ema_decay', 1.0, *STILL]
    _, state = train('--resume', files['.tar'], *flags)
    averaged, weights = weights_of(2), weights_of(1)
    np.testing.assert_array_equal(state['model_ema']['norm.weight'], averaged['norm.weight'])
    np.testing.assert_array_equal(state['model_ema']['head.weight'], averaged['head.weight'])
    np.testing.assert_array_equal(state['model']['head.weight'], weights['head.weight'])
    _, state = train('--resume_ema', files['.tar'], *flags)
    np.testing.assert_array_equal(state['model_ema']['head.weight'], averaged['head.weight'])
    assert not np.array_equal(state['model']['head.weight'], weights['head.weight'])


# ---- fine-tuning


@pytest.mark.parametrize(
    'suffix, ema, seed',
    [('.pth', [], 1), ('.tar', [], 1), ('.tar', ['--ema'], 2), ('.pd', ['--ema'], 2), ('.safetensors', [], 1)],
)
def test_finetune_starts_from_the_chosen_weights_of_a_file(train, files, suffix, ema, seed):
    result, state = train('--input_size', 64, '--finetune', files[suffix], *ema, *STILL)
    assert 'fine-tuning from' in result.out and 'pos_embed: resized from 4 to 16 tokens' in result.out
    for key, value in learned(weights_of(seed)).items():
        if key != 'pos_embed' and not key.startswith('aux_head'):
            np.testing.assert_array_equal(state['model'][key], value, err_msg=key)


def test_data_of_other_classes_without_label_maps_as_the_original_does_it(train, files):
    """Its README: --token-label --token-label-size 14 --dense-weight 0.0 --num-classes N --finetune FILE."""
    result, state = train(
        '--input_size',
        64,
        '--nb_classes',
        12,
        '--token_label',
        '--token_label_size',
        4,
        '--dense_weight',
        0.0,
        '--finetune',
        files['.pth'],
        '--lr',
        1e-3,
    )
    for key in ('head.weight', 'head.bias', 'aux_head.weight', 'aux_head.bias'):
        assert f'{key}: initialised anew' in result.out
    assert 'no token targets' in result.out and '"mix_token": true' in result.out
    assert state['model']['head.weight'].shape == (24, 12)
    assert not state['model']['aux_head.weight'].any(), 'an untrained token classifier adds nothing in evaluation'


def test_without_maps_the_dense_loss_must_be_off(refused, scenes):
    message = refused(main, *TRAIN, '--input_size', 32, '--data_path', scenes, '--token_label', '--token_label_size', 2)
    assert '--token_label_data' in message and '--dense_weight 0' in message


@pytest.mark.parametrize('opt', ['adamw', 'momentum'])
def test_layer_decay_holds_lower_layers_back(train, files, opt):
    _, state = train('--input_size', 32, '--finetune', files['.pth'], '--opt', opt, '--lr', 0.01, '--layer_decay', 1e-4)
    moved = {key: np.abs(state['model'][key] - value).max() for key, value in learned(weights_of(1)).items()}
    assert moved['head.weight'] > 1e-4
    assert moved['blocks.0.mlp.fc1.weight'] < 1e-6 and moved['patch_embed.proj.weight'] < 1e-6


def test_a_layer_decay_that_cannot_be_is_one_line(refused, scenes):
    assert '--layer_decay 1.5' in refused(main, *TRAIN, '--input_size', 32, '--data_path', scenes, '--layer_decay', 1.5)
