"""RandAugment is the original's, by the pixels of every op and of policies; AutoAugment is timm's, op by op."""

import itertools

import numpy as np
import pytest
from PIL import Image

import rendered
from parity.draws import Draws, share
from parity.photos import photos
from util.data.augment import NAMES, AutoAugment, RandAugment
from util.data.augment_ops import GEOMETRIC

SECTION = 'RandAugment'
LEVELS = (0.0, 2.5, 5.0, 9.0, 10.0)
FILL = (124, 116, 104)
GREY = 'grey levels'
SIGNED = {*GEOMETRIC, 'Color', 'Contrast', 'Brightness', 'Sharpness'}


class Sign:
    """A generator that always draws the one sign."""

    def __init__(self, negative):
        self.value = 0.25 if negative else 0.75

    def random(self):
        return self.value


def their_policy(original, config, labelled=True):
    """The original's RandAugment; labelled: that of tlt, which also moves a label map, else that of timm."""
    module = original.tlt.data.random_augment_label if labelled else original.timm.data.auto_augment
    return module, module.rand_augment_transform(config, dict(img_mean=FILL))


def their_op(monkeypatch, module, op, image, level, negative, interpolation):
    """Apply an AugmentOp of the original with a sign and a filter given."""
    with monkeypatch.context() as patch:
        patch.setattr(module, '_randomly_negate', lambda v: -v if negative else v)
        arguments = op.level_fn(level, op.hparams) if op.level_fn else ()
    return op.aug_fn(image, *arguments, **{**op.kwargs, 'resample': interpolation})


def furthest(a, b):
    """The largest difference of two RGB images."""
    return np.abs(np.asarray(a, 'int16') - np.asarray(b, 'int16')).max()


# ---- pixels of the fifteen ops


def cases(name):
    """(policy, negative, filter) of all the ways in which an op is applied."""
    geometric = name in GEOMETRIC
    return itertools.product(
        ('rand-inc1',) if geometric else ('rand-inc1', 'rand'),
        (True, False) if name in SIGNED else (False,),
        (Image.BILINEAR, Image.BICUBIC) if geometric else (None,),
    )


@pytest.mark.parametrize('name', NAMES)
def test_an_op_gives_the_pixels_of_the_original(name, original, fidelity, monkeypatch):
    for config, negative, interpolation in cases(name):
        ours, (module, theirs) = RandAugment(config, interpolation), their_policy(original, config)
        for level, photo in itertools.product(LEVELS, photos()):
            own, _ = rendered.op(ours, name, photo, level, Sign(negative), FILL)
            op = theirs.ops[NAMES.index(name)]
            expected = their_op(monkeypatch, module, op, photo, level, negative, interpolation)
            fidelity(SECTION, f'{name} at 5 levels on 3 photos: pixels', furthest(own, expected), 0, GREY)


# ---- same draws


@pytest.mark.parametrize('config', ['rand-m9-mstd0.5-inc1', 'rand-m6-n4-mstd1', 'rand-n3-w0-mstd2'])
def test_with_the_same_draws_images_come_out_the_same(config, original, fidelity, monkeypatch):
    ours, (_, theirs) = RandAugment(config), their_policy(original, config, labelled=False)
    changed = 0
    for seed in range(60):
        photo = photos()[seed % 3].crop((0, 0, 150 + seed, 201 - seed))
        own, _ = rendered.policy(ours, photo, Draws(seed), FILL)
        with monkeypatch.context() as patch:
            share(patch, original, Draws(seed))
            expected = theirs(photo)
        fidelity(SECTION, f'`{config}`, same draws, 60 photos: pixels', furthest(own, expected), 0, GREY)
        changed += own.tobytes() != photo.tobytes()
    assert changed > 30


# ---- AutoAugment, which the port took from timm


@pytest.mark.parametrize('config', ['original', 'v0-mstd0.5'])
def test_a_policy_of_autoaugment_is_timms_op_by_op(config, original, monkeypatch):
    module, photo = original.timm.data.auto_augment, photos()[0]
    ours = AutoAugment(config, Image.BILINEAR)
    theirs = module.auto_augment_transform(config, dict(img_mean=FILL))
    assert len(theirs.policy) == len(ours.table) == 25
    for pair, their_pair in zip(ours.table, theirs.policy):
        assert len(pair) == len(their_pair) == 2
        for (name, probability, level), op in zip(pair, their_pair):
            assert (probability, level, ours.std) == (op.prob, op.magnitude, op.magnitude_std)
            for negative in (True, False) if name in GEOMETRIC else (False,):
                own, _ = rendered.op(ours, name, photo, level, Sign(negative), FILL)
                expected = their_op(monkeypatch, module, op, photo, level, negative, Image.BILINEAR)
                assert furthest(own, expected) == 0, (name, level)
