"""RandAugment is the original's: every op's pixels, what a policy's name means, which ops are drawn and how strong.
AutoAugment is timm's, op by op."""

import itertools

import numpy as np
import pytest
from PIL import Image

import rendered
from parity.draws import Draws, share
from parity.photos import photos
from util.data.augment import APPLY_PROBABILITY, NAMES, AutoAugment, RandAugment
from util.data.augment_ops import GEOMETRIC, PHOTOMETRIC, no_argument
from util.errors import UserError

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


def their_policy(original, config, labelled=True, **kwargs):
    """The original's RandAugment; labelled: that of tlt, which also moves a label map, else that of timm."""
    module = original.tlt.data.random_augment_label if labelled else original.timm.data.auto_augment
    return module, module.rand_augment_transform(config, dict(img_mean=FILL, **kwargs))


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
    results = set()
    for config, negative, interpolation in cases(name):
        ours, (module, theirs) = RandAugment(config, interpolation), their_policy(original, config)
        for level, photo in itertools.product(LEVELS, photos()):
            own, _ = rendered.op(ours, name, photo, level, Sign(negative), FILL)
            op = theirs.ops[NAMES.index(name)]
            expected = their_op(monkeypatch, module, op, photo, level, negative, interpolation)
            fidelity(SECTION, f'{name} at 5 levels on 3 photos: pixels', furthest(own, expected), 0, GREY)
            results.add(own.tobytes())
    levelled = name in GEOMETRIC or PHOTOMETRIC[name].argument is not no_argument
    assert len(results) >= len(photos()) * (4 if levelled else 1), 'the same at every level'


# ---- policies


CONFIGS = 'rand-m9-mstd0.5-inc1 rand rand-m7-n3 rand-mstd1-w0 rand-n1-m3-inc1 rand-inc1-w0-n4-mstd2.5-m0'.split()


@pytest.mark.parametrize('config', CONFIGS)
def test_a_policys_name_means_what_it_means_to_the_original(config, original):
    ours, (_, theirs) = RandAugment(config), their_policy(original, config)
    assert ours.layers == theirs.num_layers
    drawn = {(op.magnitude, op.magnitude_std, op.prob) for op in theirs.ops}
    assert drawn == {(ours.magnitude, ours.std, APPLY_PROBABILITY)}
    if ours.weights is None:
        assert theirs.choice_weights is None
    else:
        assert np.allclose(ours.weights, theirs.choice_weights, rtol=0, atol=1e-15)
    level = 2.0  # with different arguments in the two sets
    for name, op in zip(NAMES, theirs.ops):
        if name in PHOTOMETRIC and op.level_fn:
            argument = PHOTOMETRIC[name].increasing if ours.increasing else PHOTOMETRIC[name].argument
            assert op.level_fn(level, op.hparams)[0] in [argument(level, Sign(s)) for s in (True, False)], name


def test_differs_on_purpose_inc0_is_plain_magnitudes_may_be_fractions_and_a_part_needs_a_figure(original):
    _, theirs = their_policy(original, 'rand-inc0')  # any figure counts as true
    assert 'increasing' in theirs.ops[NAMES.index('Posterize')].level_fn.__name__
    assert not RandAugment('rand-inc0').increasing and RandAugment('rand-m5.5').magnitude == 5.5
    with pytest.raises(ValueError):
        their_policy(original, 'rand-m5.5')
    their_policy(original, 'rand-m')  # it ignores the part
    with pytest.raises(UserError):
        RandAugment('rand-m')


def test_differs_on_purpose_lanczos_is_bicubic_where_pillow_has_no_lanczos(original, monkeypatch):
    module, policy = their_policy(original, 'rand', interpolation=Image.LANCZOS)
    with pytest.raises(ValueError):
        their_op(monkeypatch, module, policy.ops[NAMES.index('ShearX')], photos()[0], 9, True, Image.LANCZOS)
    assert RandAugment('rand', Image.LANCZOS).interpolation == Image.BICUBIC


# ---- same draws


@pytest.mark.parametrize('interpolation', [None, Image.BICUBIC], ids=['random', 'bicubic'])
@pytest.mark.parametrize('config', ['rand-m9-mstd0.5-inc1', 'rand-m6-n4-mstd1', 'rand-n3-w0-mstd2'])
def test_with_the_same_draws_images_come_out_the_same(config, interpolation, original, fidelity, monkeypatch):
    ours = RandAugment(config, interpolation)
    hints = {'interpolation': interpolation} if interpolation else {}
    _, theirs = their_policy(original, config, labelled=False, **hints)
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


@pytest.mark.parametrize('config', ['original', 'v0', 'v0-mstd0.5'])
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
