"""Files of PyTorch, of the original's models and torchvision's, give the same scores here; counts of model_info.py."""

import argparse
import math
import sys

import paddle
import pytest

import models
from conftest import ROOT
from parity.weights import difference, image, pair, theirs_of, to_paddle
from util.data import annotator
from util.weights.load import load

sys.path.insert(0, str(ROOT / 'tools'))
import model_info

SECTION = 'Weights of files'


def check_scores(fidelity, what, ours, original, theirs, x):
    ours.eval(), theirs.eval()
    with paddle.no_grad(), original.torch.no_grad():
        error = difference(ours(to_paddle(x)), theirs(original.torch.from_numpy(x)))
    fidelity(SECTION, what, error, 5e-6)


@pytest.mark.parametrize('name', ['lvvit_s', 'vit'])
def test_a_checkpoint_of_timm_gives_the_scores_that_it_gave_there(name, original, fidelity, tmp_path):
    """As its CheckpointSaver writes it, of a model inside DistributedDataParallel."""
    torch, path, tiny = original.torch, str(tmp_path / 'file.pth.tar'), dict(embed_dim=24, depth=2, num_heads=2)
    _, theirs = pair(original, name, 32, 5, **tiny)
    linear = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        'epoch': 3,
        'arch': 'lvvit_s',
        'state_dict': {f'module.{key}': value for key, value in theirs.state_dict().items()},
        'optimizer': optimizer.state_dict(),
        'args': argparse.Namespace(lr=1.6e-3, model='x'),
        'state_dict_ema': {key: value + 1 for key, value in theirs.state_dict().items()},
        'metric': 83.3,
    }
    torch.save(state, path)
    ours = models.build_model(name, img_size=32, num_classes=5, **tiny)
    load(ours, path)
    what = "scores after --resume of a checkpoint of timm's, written by torch.save"
    check_scores(fidelity, what, ours, original, theirs, image(0, 2, 32))


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


@pytest.mark.parametrize('name, size', [('lvvit_t', 224), ('lvvit_s', 384), ('lvvit', 224)])
def test_model_info_counts_what_the_originals_own_counters_count(name, size, original):
    theirs, ours = theirs_of(original, name, size), model_info.build(name, size)
    assert models.count_parameters(ours) == sum(math.prod(p.shape) for p in theirs.parameters())
    flops = theirs.patch_embed.flops() + sum(block.flops(theirs.patch_embed.num_patches + 1) for block in theirs.blocks)
    assert model_info.original_count(ours) == flops
