"""Label maps of an NFNet: generate_label.py with its ONNX file, and the original's generate_label.py in PyTorch.

The original's script made the published maps with dm_nfnet_f6. Its steps, restated here: timm's evaluation transform,
the network's features, its last layer as a 1x1 convolution, the five best classes of each cell, in float16.
"""

import dataclasses
import importlib

import numpy as np
import pytest
from PIL import Image

import generate_label
from parity.photos import photos
from tools import torch_networks
from tools.backbone import Backbone
from util.errors import UserError

SECTION = 'Label maps'
SIZE, CLASSES = 96, 1000
SHAPES = [(130, 97), (61, 97), (96, 96), (301, 200), (89, 163), (64, 64)]  # width, height


@pytest.fixture(scope='module')
def tool(original):
    return importlib.import_module('tools.export_dense_onnx')


@pytest.fixture(scope='module')
def nfnet(original):
    """dm_nfnet_f6 with 6 blocks instead of 84 and thinner ones; random weights, in which no block is skipped."""
    module, torch = importlib.import_module('timm.models.nfnet'), original.torch
    torch.manual_seed(0)
    cfg = module._dm_nfnet_cfg(depths=(1, 2, 2, 1), channels=(64, 128, 192, 192))
    network = module.NormFreeNet(dataclasses.replace(cfg, stem_chs=32, group_size=32), num_classes=CLASSES)
    network.default_cfg = module.default_cfgs['dm_nfnet_f6']
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(('bias', 'skipinit_gain')):
                parameter.normal_(std=0.5)
        network.head.fc.weight.normal_()
    return network.eval()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Images of SHAPES in two class folders, cut from photos."""
    root = tmp_path_factory.mktemp('data')
    for i, size in enumerate(SHAPES):
        (root / f'class{i % 2}').mkdir(exist_ok=True)
        photos()[i % 3].resize(size, Image.BOX).save(root / f'class{i % 2}' / f'{i}.jpeg', quality=90)
    return root


def their_map(original, network, path):
    """What the original's script writes for an image: float16 [2, 5, H, H]."""
    torch = original.torch
    how = dict(input_size=(3, SIZE, SIZE), interpolation='bicubic', crop_pct=1.0, use_prefetcher=False)
    transform = original.timm.data.create_transform(**how)
    layer = network.get_classifier()
    kernel = layer.weight.reshape(CLASSES, -1, 1, 1)
    with torch.no_grad():
        features = network.forward_features(transform(Image.open(path).convert('RGB'))[None])
        scores = torch.nn.functional.conv2d(features, kernel, layer.bias)
        values, ids = scores.topk(5, dim=1)
    return torch.stack([values[0].half(), ids[0].half()]).numpy()


def test_maps_by_onnx_are_those_of_the_original_s_script(
    run, original, fidelity, tool, nfnet, data, tmp_path, monkeypatch
):
    size, properties = torch_networks.timm_properties(nfnet)
    assert size == 576 and properties['interpolation'] == 'bicubic'
    monkeypatch.setattr(tool, 'LIMIT', 1e6)  # weights too many for one file lie beside it
    tool.export(torch_networks.dense(nfnet, SIZE), str(tmp_path / 'nfnet.onnx'), SIZE, properties)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['nfnet.onnx', 'nfnet.onnx.data']
    result = run(
        generate_label, data, tmp_path / 'maps', '--model', tmp_path / 'nfnet.onnx', '--num_workers', 0, '-b', 4
    )
    assert result.code == 0, result.err
    worst, cells = 0.0, set()
    for path in sorted(data.rglob('*.jpeg')):
        ours = np.load((tmp_path / 'maps' / path.relative_to(data)).with_suffix('.npy'))
        theirs = their_map(original, nfnet, path)
        assert ours.dtype == theirs.dtype == np.float16 and ours.shape == theirs.shape == (2, 5, 3, 3)
        np.testing.assert_array_equal(ours[1], theirs[1])
        gap = np.abs(ours[0].astype('float32') - theirs[0].astype('float32'))
        worst = max(worst, (gap / np.spacing(np.maximum(np.abs(ours[0]), np.abs(theirs[0]))).astype('float32')).max())
        cells |= {tuple(ids) for ids in ours[1].reshape(5, -1).T}
    assert len(cells) > 3 * len(SHAPES)  # maps that say something, differently from place to place
    what = 'maps of an NFNet by generate_label.py --model FILE.onnx: scores (the ids are equal)'
    fidelity(SECTION, what, worst, 1, 'units in the last place of float16')


@pytest.mark.parametrize('name, chosen', [('vit_tiny_patch16_224', {}), ('resnet18', {'global_pool': 'max'})])
def test_classifiers_without_dense_scores_are_refused(original, name, chosen):
    classifier = original.timm.create_model(name, **chosen).eval()
    with pytest.raises(UserError, match='(no dense form|average pool).*--features'):
        torch_networks.dense(classifier, 224)


def test_the_tool_from_a_checkpoint_to_a_file_that_says_its_input(run, original, tool, data, tmp_path, capfd):
    original.torch.manual_seed(0)
    original.torch.save(original.timm.create_model('resnet18', num_classes=7).state_dict(), tmp_path / 'resnet18.pth')
    path = str(tmp_path / 'dense.onnx')
    flags = ['--checkpoint', str(tmp_path / 'resnet18.pth'), '--nb_classes', '7', '--img_size', '64']
    tool.main(tool.parser().parse_args(['resnet18', path, *flags]))
    assert '64 pixels, mean 0.485 0.456 0.406' in capfd.readouterr().out and not (tmp_path / 'dense.onnx.data').exists()
    result = run(generate_label, data, tmp_path / 'maps', '--model', path, '--num_workers', 0)
    assert result.code == 0 and '--img_size 64' in result.out
    assert np.load(tmp_path / 'maps' / 'class0' / '0.npy').shape == (2, 5, 2, 2)
    for words, line in (
        (['no_such_model', path], 'no_such_model: timm cannot build it'),
        (['resnet18', path, *flags[:2]], 'resnet18.pth: has 7 classes, not 1000; add --nb_classes 7'),
        (['resnet34', path, *flags[:4]], 'resnet34: --checkpoint .*resnet18.pth: timm cannot load it'),
        (['resnet18', path, '--checkpoint', 'nowhere.pth'], '--checkpoint nowhere.pth: no such file'),
    ):
        with pytest.raises(UserError, match=line):
            tool.main(tool.parser().parse_args(words))


def test_classes_that_the_published_weights_do_not_have_are_refused(original, monkeypatch):
    create = original.timm.create_model
    monkeypatch.setattr(
        original.timm, 'create_model', lambda name, pretrained, **how: create(name, **how)
    )  # no network
    with pytest.raises(UserError, match='--nb_classes 7: .* have 1000 classes; .*--checkpoint FILE'):
        torch_networks.timm_classifier('resnet18', '', 7, None)
    assert torch_networks.timm_classifier('resnet18', '', 1000, None).num_classes == 1000


def test_features_are_the_classifier_s_before_its_pool(original, tool, tmp_path, capfd):
    torch = original.torch
    torch.manual_seed(0)
    classifier = original.timm.create_model('resnet18', num_classes=7).eval()
    torch.save(classifier.state_dict(), tmp_path / 'resnet18.pth')
    words = ['resnet18', str(tmp_path / 'features.onnx'), '--features', '--img_size', '64', '--nb_classes', '7']
    tool.main(tool.parser().parse_args([*words, '--checkpoint', str(tmp_path / 'resnet18.pth')]))
    backbone = Backbone(str(tmp_path / 'features.onnx'), {})
    images = torch_networks.random_images(3, 64)
    with torch.no_grad():
        pooled = classifier.global_pool(classifier.forward_features(torch.from_numpy(images)))
    assert backbone.layout.side == 2 and backbone.settings['img_size'] == 64
    np.testing.assert_allclose(backbone.cells(images).mean(axis=1), pooled.numpy(), rtol=1e-4, atol=1e-4)


def test_features_of_a_vision_transformer_leave_out_its_class_token_and_registers(original):
    torch = original.torch

    class Transformer(torch.nn.Module):
        """As in timm 1: one class token and four registers before 3x3 patch tokens."""

        num_prefix_tokens = 5

        def forward_features(self, images):
            return torch.arange(14.0)[None, :, None].expand(len(images), 14, 8)

    tokens = torch_networks.features(Transformer(), 48)(torch.zeros(2, 3, 48, 48))
    assert tokens.shape == (2, 9, 8) and tokens[0, :, 0].tolist() == list(range(5, 14))
