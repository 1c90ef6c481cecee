"""seg/: the backbone's four maps, and the scores of both heads, are those of the original's network."""

import numpy as np
import paddle
import pytest

import models
from parity import segmentation
from parity.weights import difference, load_theirs, random_state, to_paddle
from seg import lvvit, upernet

TOLERANCE = 5e-6  # largest difference over the largest value
TYPES = {'lvvit_s': lvvit.LVViT_S, 'lvvit_m': lvvit.LVViT_M, 'lvvit_l': lvvit.LVViT_L}
LAST = 48  # channels of the last map
WIDTH = dict(embed_dim=384, num_heads=6)


def pair(original, name, img_size, monkeypatch):
    """(our network, theirs) with equal random weights, of which none is too small to show in the result. The width of
    the larger models is that of lvvit_s."""
    entry = models.FAMILY[name]
    monkeypatch.setitem(models.FAMILY, name, entry._replace(architecture={**entry.architecture, **WIDTH}))
    backbone = TYPES[name](img_size=img_size, out_channels=LAST, skip_lam=segmentation.SIZES[name]['skip_lam'])
    ours = upernet.OriginalUPerNet(segmentation.CLASSES, backbone, segmentation.CHANNELS, dropout_prob=0.0)
    state = random_state(ours, seed=1)
    for key in state:
        if key.endswith(('side_layer1.0.weight', 'side_layer2.0.weight')):  # each output pixel sees one matrix of k x k
            state[key] *= state[key].shape[-1]
    ours.set_state_dict(state)
    theirs = segmentation.network(original, name, img_size, LAST)
    load_theirs(original, theirs, state)
    return ours, theirs


def images(seed, batch, height, width):
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal([batch, 3, -(-height // 16), -(-width // 16)], dtype='float32')
    smooth = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    return smooth + 0.3 * rng.standard_normal([batch, 3, height, width], dtype='float32')


def compare(original, ours, theirs, x):
    """Assert that maps and scores agree."""
    torch = original.torch
    with paddle.no_grad(), torch.no_grad():
        maps, expected = ours.backbone(to_paddle(x)), theirs.backbone(torch.from_numpy(x))
        assert len(maps) == len(expected) == 4
        errors = [difference(a, b) for a, b in zip(maps, expected)]
        copies = [to_paddle(m.numpy()) for m in expected]  # both heads get equal maps
        errors.append(difference(ours.decode_head(copies), theirs.decode_head(expected)))
        errors.append(difference(ours.auxiliary_head(copies[2]), theirs.auxiliary_head(expected)))
    assert max(errors) <= TOLERANCE, errors


@pytest.mark.parametrize(
    'name, img_size, height, width',
    [
        ('lvvit_s', 128, 128, 128),  # the position embedding fits
        ('lvvit_s', 128, 176, 112),  # 11 x 7 tokens
        ('lvvit_m', 512, 80, 112),
        ('lvvit_l', 448, 112, 80),
    ],
)
def test_maps_and_scores_in_evaluation(name, img_size, height, width, original, monkeypatch):
    ours, theirs = pair(original, name, img_size, monkeypatch)
    ours.eval(), theirs.eval()
    compare(original, ours, theirs, images(2, 1, height, width))


def test_maps_and_scores_in_training_with_statistics_of_the_batch(original, monkeypatch):
    ours, theirs = pair(original, 'lvvit_s', 512, monkeypatch)
    ours.train(), theirs.train()
    compare(original, ours, theirs, images(3, 2, 112, 80))
