"""seg/: the backbone's four maps, and the scores of both heads, are those of the original's network."""

import numpy as np
import paddle
import pytest

from parity import segmentation
from parity.weights import difference, load_theirs, random_state, to_paddle
from seg import lvvit, upernet

TOLERANCE = 5e-6  # largest difference over the largest value
THEIRS = [segmentation.restated] + ([segmentation.from_files] if segmentation.FILES else [])
TYPES = {'lvvit_s': lvvit.LVViT_S, 'lvvit_m': lvvit.LVViT_M, 'lvvit_l': lvvit.LVViT_L}
LAST = 48  # channels of the last map


def pair(original, theirs_of, name, img_size):
    """(our network, theirs) with equal random weights, in which no part of the sum is small beside another."""
    backbone = TYPES[name](img_size=img_size, out_channels=LAST, skip_lam=segmentation.SIZES[name]['skip_lam'])
    ours = upernet.OriginalUPerNet(segmentation.CLASSES, backbone, segmentation.CHANNELS, dropout_prob=0.0)
    state = random_state(ours, seed=1)
    for key in state:
        if key.endswith(('side_layer1.0.weight', 'side_layer2.0.weight')):  # each output pixel sees one matrix of k x k
            state[key] *= state[key].shape[-1]
    ours.set_state_dict(state)
    theirs = theirs_of(original, name, img_size, LAST)
    load_theirs(original, theirs, state)
    return ours, theirs


def images(seed, batch, height, width):
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal([batch, 3, -(-height // 16), -(-width // 16)], dtype='float32')
    smooth = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    return smooth + 0.3 * rng.standard_normal([batch, 3, height, width], dtype='float32')


def compare(original, ours, theirs, x, record_property):
    """Asserts that maps and scores agree; notes the largest difference. For mmsegmentation's heads too."""
    torch = original.torch
    with paddle.no_grad(), torch.no_grad():
        maps, expected = ours.backbone(to_paddle(x)), theirs.backbone(torch.from_numpy(x))
        assert len(maps) == len(expected) == 4
        errors = [difference(a, b) for a, b in zip(maps, expected)]
        copies = [to_paddle(m.numpy()) for m in expected]  # the heads by themselves, on equal maps
        errors.append(difference(ours.decode_head(copies), theirs.decode_head(expected)))
        errors.append(difference(ours.auxiliary_head(copies[2]), theirs.auxiliary_head(expected)))
    record_property('largest difference', max(errors))
    assert max(errors) <= TOLERANCE, errors


@pytest.mark.parametrize('theirs_of', THEIRS)
@pytest.mark.parametrize(
    'name, img_size, height, width',
    [
        ('lvvit_s', 512, 512, 512),  # the crops of training
        ('lvvit_s', 512, 528, 336),  # 33 x 21 tokens
        ('lvvit_m', 512, 80, 112),
        ('lvvit_l', 448, 112, 80),
    ],
)
def test_maps_and_scores_in_evaluation(name, img_size, height, width, theirs_of, original, record_property):
    ours, theirs = pair(original, theirs_of, name, img_size)
    ours.eval(), theirs.eval()
    compare(original, ours, theirs, images(2, 1, height, width), record_property)


@pytest.mark.parametrize('theirs_of', THEIRS)
def test_maps_and_scores_in_training_with_statistics_of_the_batch(theirs_of, original, record_property):
    ours, theirs = pair(original, theirs_of, 'lvvit_s', 512)
    ours.train(), theirs.train()
    compare(original, ours, theirs, images(3, 2, 112, 80), record_property)
