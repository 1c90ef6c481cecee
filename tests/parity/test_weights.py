"""Files that PyTorch writes of the original's models load here by name; ours load strictly there; fine-tuning resizes
the position embedding as the original does."""

import argparse
import math
import sys

import paddle
import pytest
import safetensors.torch

import models
from conftest import ROOT, execute
from parity.weights import arrays, difference, image, pair, theirs_of, to_paddle
from util.data import annotator
from util.weights import checkpoint, pretrained

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


def differ(original, ours, theirs, x):
    """The difference of the scores of images x."""
    ours.eval(), theirs.eval()
    with paddle.no_grad(), original.torch.no_grad():
        return difference(ours(to_paddle(x)), theirs(original.torch.from_numpy(x)))


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
    about = dict(epoch=3, arch='lvvit_s', version=2, args=argparse.Namespace(lr=1.6e-3, model='x'), metric=83.3)
    about['state_dict'] = {f'module.{key}': value for key, value in state.items()}
    about['state_dict_ema'] = {key: value + 1 for key, value in state.items()}
    torch.save({**about, 'optimizer': optimizer.state_dict()}, path)


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_s', 'lvvit_l', 'vit', 'lvvit'])
@pytest.mark.parametrize('write', [as_zip, as_legacy, as_checkpoint])
def test_a_file_of_pytorch_gives_the_scores_that_it_gave_there(name, write, original, fidelity, tmp_path):
    theirs, path, x = trained(original, name), str(tmp_path / 'file.pth.tar'), image(0, 2, 32)
    write(original.torch, theirs.state_dict(), path)
    ours = models.build_model(name, **TINY)
    pretrained.load_into(ours, path)
    what = f'scores after --resume of a file of torch.save, {write.__name__[3:]} format'
    fidelity(SECTION, what, differ(original, ours, theirs, x), 5e-6)


def test_the_published_model_at_its_size(original, fidelity, tmp_path):
    original.torch.manual_seed(1)
    theirs, path, x = original.tlt.models.lvvit_s(), str(tmp_path / 'lvvit_s-26M-224-83.3.pth.tar'), image(1, 2, 224)
    original.torch.save(theirs.state_dict(), path)
    ours = models.build_model('lvvit_s')
    assert pretrained.load_into(ours, path).startswith(f'using plain weights of {path}')
    fidelity(SECTION, 'lvvit_s at 224: scores after --resume', differ(original, ours, theirs, x), 5e-6)


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v2'])
def test_classifiers_of_torchvision_are_annotators_here(name, original, fidelity, tmp_path):
    torch, path, x = original.torch, str(tmp_path / 'classifier.pth'), image(3, 2, 64)
    torch.manual_seed(0)
    theirs = getattr(original.torchvision.models, name)(num_classes=7)
    theirs.train()(torch.from_numpy(x))  # moves the statistics
    torch.save(theirs.state_dict(), path)
    ours, _ = annotator.load_classifier(name, 7, path)
    what = f"torchvision's {name} as an annotator: scores"
    fidelity(SECTION, what, differ(original, ours, theirs, x), 5e-6)


@pytest.mark.parametrize('name', ['lvvit_s', 'vit'])
def test_what_we_convert_loads_strictly_in_the_originals_model(name, original, fidelity, tmp_path):
    ours, path, x = models.build_model(name, **TINY), str(tmp_path / 'checkpoint.pd'), image(0, 2, 32)
    checkpoint.save({'model': ours.state_dict(), 'epoch': 3}, path)
    assert execute(convert_weight, path, tmp_path / 'out.safetensors') == 0
    theirs = theirs_of(original, name, **TINY)
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / 'out.safetensors'), strict=True)
    what = "our checkpoint as .safetensors in the original's model: scores"
    fidelity(SECTION, what, differ(original, ours, theirs, x), 5e-6)


@pytest.mark.parametrize('size', [384, 448, 512, 160])
@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_s'])
def test_finetuning_resizes_the_position_embedding_as_the_original(name, size, original, fidelity, tmp_path):
    torch, path, x = original.torch, str(tmp_path / 'at_224.pth'), image(2, 1, size)
    source = trained(original, name, img_size=224)
    torch.save(source.state_dict(), path)
    changes = {**TINY, 'img_size': size}
    theirs, ours = theirs_of(original, name, **changes), models.build_model(name, **changes)
    original.tlt.utils.load_pretrained_weights(theirs, path, num_classes=5)
    weights, _ = pretrained.read_weights(path)
    assert pretrained.finetune(ours, weights, path) == [f'pos_embed: resized from 196 to {(size // 16) ** 2} tokens']
    resized, expected = arrays(ours.state_dict())['pos_embed'], arrays(theirs.state_dict())['pos_embed']
    what = f'--finetune from 224 to {size}: '
    fidelity(SECTION, what + 'position embedding', difference(resized, expected), 1e-5)
    fidelity(SECTION, what + 'scores', differ(original, ours, theirs, x), 1e-5)


@pytest.mark.parametrize('classes', [3, 5])
def test_finetuning_keeps_and_drops_the_heads_where_the_original_does(classes, original, tmp_path):
    torch, path = original.torch, str(tmp_path / 'weights.pth')
    torch.save(trained(original).state_dict(), path)
    theirs = theirs_of(original, 'lvvit_s', **{**TINY, 'num_classes': classes})
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    original.tlt.utils.load_pretrained_weights(theirs, path, num_classes=classes, strict=False)
    kept = {key for key, value in theirs.state_dict().items() if torch.equal(value, before[key])}
    ours = models.build_model('lvvit_s', **{**TINY, 'num_classes': classes})
    notes = pretrained.finetune(ours, pretrained.read_weights(path)[0], path)
    assert kept == {note.split(':')[0] for note in notes} and len(kept) == (4 if classes == 3 else 0)


@pytest.mark.parametrize('name, size', [('lvvit_t', 224), ('lvvit_s', 384), ('lvvit_l', 448), ('lvvit', 224)])
def test_model_info_counts_what_the_originals_own_counters_count(name, size, original):
    theirs, ours = theirs_of(original, name, size), model_info.build(name, size)
    assert models.count_parameters(ours) == sum(math.prod(p.shape) for p in theirs.parameters())
    flops = theirs.patch_embed.flops() + sum(block.flops(theirs.patch_embed.num_patches + 1) for block in theirs.blocks)
    assert model_info.original_count(ours) == flops
