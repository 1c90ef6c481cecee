"""Files that PyTorch writes of the original's models load here by name; ours load strictly there; fine-tuning resizes
the position embedding as the original does."""

import argparse
import math
import sys

import numpy as np
import paddle
import pytest
import safetensors.torch

import models
from conftest import ROOT, execute
from parity.weights import arrays, difference, image, pair, theirs_of, to_paddle
from states import same
from util.data import annotator
from util.weights import checkpoint
from util.weights.load import choose, load, read

sys.path.insert(0, str(ROOT / 'tools'))
import convert_weight
import model_info

SECTION = 'Weights of files'
TINY = dict(img_size=32, num_classes=5, embed_dim=24, depth=2, num_heads=2)


def trained(original, name='lvvit_s', **changes):
    """A model of the original's in which no tensor is what it is at the start, counters included."""
    _, model = pair(original, name, **{**TINY, **changes})
    for key, value in model.state_dict().items():
        if key.endswith('num_batches_tracked'):
            value.add_(7)
    return model


def scores(model, x):
    model.eval()
    with paddle.no_grad():
        return model(to_paddle(x)).numpy()


def expected_scores(original, model, x):
    model.eval()
    with original.torch.no_grad():
        return model(original.torch.from_numpy(x)).numpy()


def check_scores(fidelity, what, ours, original, theirs, x, tolerance=5e-6):
    error = difference(scores(ours, x), expected_scores(original, theirs, x))
    fidelity(SECTION, what, error, tolerance)


def as_zip(torch, state, path):
    torch.save(state, path)


def as_legacy(torch, state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def as_checkpoint(torch, state, path):
    """As timm's CheckpointSaver writes it, of a model inside DistributedDataParallel."""
    linear = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save(
        {
            'epoch': 3,
            'arch': 'lvvit_s',
            'state_dict': {f'module.{key}': value for key, value in state.items()},
            'optimizer': optimizer.state_dict(),
            'version': 2,
            'args': argparse.Namespace(lr=1.6e-3, model='x'),
            'state_dict_ema': {key: value + 1 for key, value in state.items()},
            'metric': 83.3,
        },
        path,
    )


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_s', 'lvvit_l', 'vit', 'lvvit'])
@pytest.mark.parametrize('write', [as_zip, as_legacy, as_checkpoint])
def test_a_file_of_pytorch_gives_the_scores_that_it_gave_there(name, write, original, fidelity, tmp_path):
    theirs, path, x = trained(original, name), str(tmp_path / 'file.pth.tar'), image(0, 2, 32)
    write(original.torch, theirs.state_dict(), path)
    ours = models.build_model(name, **TINY)
    load(ours, path)
    what = f'scores after --resume of a file of torch.save, {write.__name__[3:]} format'
    check_scores(fidelity, what, ours, original, theirs, x)


def test_the_published_model_at_its_size(original, fidelity, tmp_path):
    original.torch.manual_seed(1)
    theirs, path, x = original.tlt.models.lvvit_s(), str(tmp_path / 'lvvit_s-26M-224-83.3.pth.tar'), image(1, 2, 224)
    original.torch.save(theirs.state_dict(), path)
    ours = models.build_model('lvvit_s')
    load(ours, path)
    what = 'lvvit_s at 224: scores after --resume'
    check_scores(fidelity, what, ours, original, theirs, x)


def test_ema_takes_the_averaged_weights_of_timms_checkpoints(original, tmp_path):
    theirs, path = trained(original), str(tmp_path / 'model_best.pth.tar')
    as_checkpoint(original.torch, theirs.state_dict(), path)
    (weights, source), (averaged, source_ema) = (choose(read(path), path, ema) for ema in (False, True))
    assert 'trained weights (state_dict)' in source and 'averaged weights (state_dict_ema)' in source_ema
    assert weights.keys() == averaged.keys() == models.build_model('lvvit_s', **TINY).state_dict().keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(value + np.float32(1), averaged[key])


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v2'])
def test_classifiers_of_torchvision_are_annotators_here(name, original, fidelity, tmp_path):
    torch, path, x = original.torch, str(tmp_path / 'classifier.pth'), image(3, 2, 64)
    torch.manual_seed(0)
    theirs = getattr(original.torchvision.models, name)(num_classes=7)
    theirs.train()(torch.from_numpy(x))  # moves the statistics
    torch.save(theirs.state_dict(), path)
    ours = annotator.load_classifier(name, 7, path)
    what = f"torchvision's {name} as an annotator: scores"
    check_scores(fidelity, what, ours, original, theirs, x)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_files_load_with_their_values(dtype, original, tmp_path):
    torch, path = original.torch, str(tmp_path / 'half.pt')
    state = {
        key: value.to(getattr(torch, dtype)) if value.is_floating_point() else value
        for key, value in trained(original).state_dict().items()
    }
    torch.save(state, path)
    ours = models.build_model('lvvit_s', **TINY)
    load(ours, path)
    np.testing.assert_array_equal(ours.head.weight.numpy().T, state['head.weight'].float().numpy())


@pytest.mark.parametrize('name', ['lvvit_s', 'vit'])
def test_what_we_convert_loads_strictly_in_the_originals_model(name, original, fidelity, tmp_path):
    ours, path, x = models.build_model(name, **TINY), str(tmp_path / 'checkpoint.pd'), image(0, 2, 32)
    checkpoint.save({'model': ours.state_dict(), 'epoch': 3}, path)
    assert execute(convert_weight, path, tmp_path / 'out.safetensors') == 0
    theirs = theirs_of(original, name, **TINY)
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / 'out.safetensors'), strict=True)
    what = "our checkpoint as .safetensors in the original's model: scores"
    check_scores(fidelity, what, ours, original, theirs, x)


@pytest.mark.parametrize('write', [as_zip, as_legacy])
def test_the_way_to_paddle_and_back_changes_no_bit(write, original, tmp_path):
    torch, state = original.torch, trained(original).state_dict()
    write(torch, state, tmp_path / 'a.pth')
    assert execute(convert_weight, tmp_path / 'a.pth', tmp_path / 'b.pdparams') == 0
    assert execute(convert_weight, tmp_path / 'b.pdparams', tmp_path / 'c.safetensors') == 0
    back = safetensors.torch.load_file(tmp_path / 'c.safetensors')
    assert sorted(back) == sorted(state)
    for key, value in state.items():
        assert back[key].dtype == value.dtype and back[key].shape == value.shape, key
        assert key.endswith('num_batches_tracked') or same(back[key].numpy(), value.numpy()), key


@pytest.mark.parametrize('size', [384, 448, 512, 160])
@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_s'])
def test_finetuning_resizes_the_position_embedding_as_the_original(name, size, original, fidelity, tmp_path):
    torch, path, x = original.torch, str(tmp_path / 'at_224.pth'), image(2, 1, size)
    source = trained(original, name, img_size=224)
    torch.save(source.state_dict(), path)
    theirs, ours = (
        theirs_of(original, name, **{**TINY, 'img_size': size}),
        models.build_model(name, **{**TINY, 'img_size': size}),
    )
    original.tlt.utils.load_pretrained_weights(theirs, path, num_classes=5)
    load(ours, path, new_heads=True, resize=True)
    resized, expected = arrays(ours.state_dict())['pos_embed'], arrays(theirs.state_dict())['pos_embed']
    fidelity(SECTION, f'--finetune from 224 to {size}: position embedding', difference(resized, expected), 1e-5)
    what = f'--finetune from 224 to {size}: scores'
    check_scores(fidelity, what, ours, original, theirs, x, 1e-5)


@pytest.mark.parametrize('classes', [3, 5])
def test_finetuning_keeps_and_drops_the_heads_where_the_original_does(classes, original, tmp_path):
    torch, path = original.torch, str(tmp_path / 'weights.pth')
    torch.save(trained(original).state_dict(), path)
    theirs = theirs_of(original, 'lvvit_s', **{**TINY, 'num_classes': classes})
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    original.tlt.utils.load_pretrained_weights(theirs, path, num_classes=classes, strict=False)
    kept = {key for key, value in theirs.state_dict().items() if torch.equal(value, before[key])}
    ours = models.build_model('lvvit_s', **{**TINY, 'num_classes': classes})
    before = arrays(ours.state_dict())
    load(ours, path, new_heads=True, resize=True)
    own = arrays(ours.state_dict())
    assert kept == {key for key in own if 'num_batches' not in key and np.array_equal(own[key], before[key])}
    assert len(kept) == (4 if classes == 3 else 0)


@pytest.mark.parametrize('name, size', [('lvvit_t', 224), ('lvvit_s', 384), ('lvvit', 224)])
def test_model_info_counts_what_the_originals_own_counters_count(name, size, original):
    theirs, ours = theirs_of(original, name, size), model_info.build(name, size)
    assert models.count_parameters(ours) == sum(math.prod(p.shape) for p in theirs.parameters())
    flops = theirs.patch_embed.flops() + sum(block.flops(theirs.patch_embed.num_patches + 1) for block in theirs.blocks)
    assert model_info.original_count(ours) == flops
