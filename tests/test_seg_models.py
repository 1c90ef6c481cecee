"""seg/lvvit.py, upernet.py, weights.py: backbone, heads and their weights, without PaddleSeg."""

import numpy as np
import paddle
import pytest
import yaml

import models
import torch_files
from conftest import ROOT
from seg import lvvit, upernet, weights
from util.errors import UserError
from util.weights import checkpoint, fit, torch_file

CLASSES = 5


def network(img_size=32, channels=8, seed=0, **backbone):
    paddle.seed(seed)
    nano = lvvit.LVViT_nano(img_size=img_size, **{'out_channels': 24, **backbone})
    return upernet.OriginalUPerNet(CLASSES, nano, channels=channels)


def images(*shape):
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype='float32'))


def arrays(model):
    return {key: value.numpy() for key, value in model.state_dict().items()}


def refused(function, *args, **kwargs):
    """The message of the UserError that a call must raise: one line."""
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


# ---- maps and scores


def test_every_parameter_is_trained():
    model = network()
    model.train()
    sum(y.square().mean() for y in model(images(2, 3, 32, 32))).backward()
    without_gradient = [name for name, p in model.named_parameters() if not p.stop_gradient and p.grad is None]
    assert without_gradient == []


def test_evaluation_pads_odd_sizes_with_zeros_and_cuts_the_scores():
    model = network()
    model.eval()
    x = images(1, 3, 37, 50)
    padded = paddle.zeros([1, 3, 48, 64])
    padded[:, :, :37, :50] = x
    np.testing.assert_array_equal(model(x)[0].numpy(), model(padded)[0].numpy()[:, :, :37, :50])


def test_dropout_of_the_mlps_grows_over_the_blocks_and_is_off_unless_asked_for():
    rates = [block.mlp.drop.p for block in lvvit.LVViT_nano(img_size=32, mlp_drop_rate=0.5).blocks]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    backbone = lvvit.LVViT_nano(img_size=32, drop_path_rate=0.5)
    assert [block.mlp.drop.p for block in backbone.blocks] == [0.0] * 6
    np.testing.assert_allclose([block.drop_path.rate for block in backbone.blocks], rates)


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (dict(img_size=500), 'img_size 500'),
        (dict(out_indices=[1, 2, 3]), 'out_indices'),
        (dict(out_indices=[1, 2, 3, 6]), '0 to 5'),
        (dict(out_indices=[1, 3, 2, 5]), 'ascending'),
        (dict(in_channels=1), 'in_channels 1'),
    ],
)
def test_wrong_arguments_are_refused(arguments, expected):
    assert expected in refused(lvvit.LVViT_nano, **arguments)


def test_a_side_that_is_no_multiple_of_16_is_refused_in_training():
    model = network()
    model.train()
    message = refused(model, images(1, 3, 32, 40))
    assert '40x32' in message and 'crop_size' in message


# ---- configs


@pytest.mark.parametrize(
    'letter, channels, drop_path, img_size', [('s', 256, 0.1, 512), ('m', 256, 0.2, 512), ('l', 512, 0.5, 448)]
)
def test_configs_are_the_original_s_recipe(letter, channels, drop_path, img_size):
    folder = ROOT / 'seg' / 'configs'
    config = yaml.safe_load((folder / f'upernet_lvvit_{letter}_ade20k_512x512_160k.yml').read_text())
    base = yaml.safe_load((folder / config['_base_']).read_text())
    model, backbone = config['model'], config['model']['backbone']
    assert (model['num_classes'], model['channels'], model['dropout_prob']) == (150, channels, 0.1)
    assert (backbone['drop_path_rate'], backbone['img_size']) == (drop_path, img_size)
    assert backbone['type'] in [f.__name__ for f in lvvit.BACKBONES] and backbone['type'][-1] == letter.upper()
    assert base['iters'] == 160000 and base['loss']['coef'] == [1, 0.4]
    assert base['optimizer']['weight_decay'] == 0.01 and base['lr_scheduler']['learning_rate'] == 6e-5
    assert base['lr_scheduler']['warmup_iters'] == 1500
    assert base['test_config'] == dict(is_slide=True, crop_size=[512, 512], stride=[341, 341])


# ---- weights


def classifier(seed=1, name='lvvit_nano', img_size=48):
    paddle.seed(seed)
    model = models.build_model(name, img_size=img_size, num_classes=10)
    for key, value in model.state_dict().items():
        if key.endswith('_mean'):
            value.set_value(paddle.rand(value.shape))
    return model


def test_classification_weights_start_a_backbone(tmp_path):
    trained, path = arrays(classifier()), tmp_path / 'weights.pd'
    checkpoint.save({'model': trained, 'epoch': 3}, str(path))
    paddle.seed(5)
    initial = arrays(lvvit.LVViT_nano(img_size=32))
    paddle.seed(5)
    own = arrays(lvvit.LVViT_nano(img_size=32, pretrained=str(path)))
    for key, value in own.items():
        if key.startswith('side_layer'):
            np.testing.assert_array_equal(value, initial[key], err_msg=key)
        elif key == 'pos_embed':
            np.testing.assert_array_equal(value, fit.resize_pos_embed(trained[key], 2))
        else:
            np.testing.assert_array_equal(value, trained[key], err_msg=key)
    assert not any(key.startswith(('head.', 'aux_head.', 'norm.')) for key in own)


def test_the_averaged_weights_of_a_checkpoint(tmp_path):
    path, averaged = tmp_path / 'both.pd', arrays(classifier(2))
    checkpoint.save({'model': arrays(classifier(1)), 'model_ema': averaged}, str(path))
    own = arrays(lvvit.LVViT_nano(img_size=48, pretrained=str(path), ema=True))
    np.testing.assert_array_equal(own['cls_token'], averaged['cls_token'])


def test_a_published_segmentation_file_sets_the_whole_network(tmp_path):
    """With the names and nesting of mmsegmentation's files: meta, state_dict, optimizer; BatchNorm's counters."""
    source, path = network(seed=3), tmp_path / 'upernet_lvvit_nano.pth'
    state = torch_file.to_torch(arrays(source))
    assert 'decode_head.psp_modules.0.1.bn.running_mean' in state
    whole = {'meta': {'mmcv_version': '1.3.0', 'iter': 160000}, 'state_dict': state, 'optimizer': {'state': {}}}
    storages = {}
    torch_files.write_zip(path, torch_files.instructions(whole, storages), storages)
    model = network(seed=4)
    weights.load_model(model, str(path))
    source.eval(), model.eval()
    x = images(1, 3, 32, 32)
    np.testing.assert_array_equal(model(x)[0].numpy(), source(x)[0].numpy())
    paddle.seed(6)
    backbone = lvvit.LVViT_nano(img_size=32, out_channels=24, pretrained=str(path))
    backbone.eval()
    for ours, theirs in zip(backbone(x), source.backbone(x)):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())  # side layers too


def test_trained_weights_fit_a_model_of_another_img_size(tmp_path):
    source, path = network(seed=3), tmp_path / 'model.pdparams'
    paddle.save(source.state_dict(), str(path))
    model = network(img_size=64)
    weights.load_model(model, str(path))
    np.testing.assert_array_equal(
        model.backbone.pos_embed.numpy(), fit.resize_pos_embed(source.backbone.pos_embed.numpy(), 4)
    )


def test_a_prefix_of_all_names_is_taken_off(tmp_path):
    source, model, path = network(seed=3), network(seed=4), str(tmp_path / 'model.pdparams')
    checkpoint.save({f'_orig_mod.model.{key}': value for key, value in source.state_dict().items()}, path)
    weights.load_model(model, path)
    whole, backbone = arrays(model), arrays(lvvit.LVViT_nano(img_size=32, out_channels=24, pretrained=path))
    for key, value in arrays(source.backbone).items():
        np.testing.assert_array_equal(whole[f'backbone.{key}'], value, err_msg=key)
        np.testing.assert_array_equal(backbone[key], value, err_msg=key)


def test_an_error_about_another_width_names_the_model_of_that_width(tmp_path):
    path = tmp_path / 'tiny.pd'
    narrow = {'pos_embed': np.zeros([1, 5, 240], 'float32'), 'cls_token': np.zeros([1, 1, 240], 'float32')}
    checkpoint.save({'model': narrow}, str(path))
    message = refused(lvvit.LVViT_nano, img_size=32, pretrained=str(path))
    assert str(path) in message and '240' in message and 'lvvit_t' in message and '128' in message


def test_classification_weights_are_refused_as_a_trained_segmentation_model(tmp_path):
    path = tmp_path / 'classification.pd'
    checkpoint.save({'model': arrays(classifier())}, str(path))
    message = refused(weights.load_model, network(), str(path))
    assert str(path) in message and 'pretrained of the backbone' in message


def test_weights_for_other_classes_are_refused_and_nothing_is_set(tmp_path):
    path, model = tmp_path / 'model.pdparams', network(seed=4)
    other = upernet.OriginalUPerNet(CLASSES + 1, lvvit.LVViT_nano(img_size=32, out_channels=24), channels=8)
    paddle.save(other.state_dict(), str(path))
    before = arrays(model)
    message = refused(weights.load_model, model, str(path))
    assert 'decode_head.conv_seg.weight is [6, 8, 1, 1] in the file and [5, 8, 1, 1] in the model' in message
    assert all((value == before[key]).all() for key, value in arrays(model).items())
