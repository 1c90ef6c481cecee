"""util/data/auto_augment.py: policies, draws, matrices against what pixels do (by Pillow).

What each op does to the pixels at each level is compared with the original's in tests/parity/test_augmentation.py.
"""

import collections

import numpy as np
import pytest
from PIL import Image

import rendered
from util.data.augment import GEOMETRIC, NAMES, WEIGHTS, Op, RandAugment
from util.data.augment_ops import rotate
from util.data.render_pil import affine
from util.errors import UserError

RAMP = Image.fromarray(
    np.stack([np.arange(256), np.arange(256)[::-1], (np.arange(256) * 7) % 256], -1).astype('uint8').reshape(16, 16, 3)
)
RECIPE = 'rand-m9-mstd0.5-inc1'


def noise(width=40, height=28, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype='uint8'))


def pixels(image):
    return np.asarray(image).astype('int64')


# ---- policies


POLICIES = [(RECIPE, (9.0, 2, 0.5, True)), ('rand', (10.0, 2, 0.0, False)), ('rand-m5.5-n3', (5.5, 3, 0.0, False))]
POLICIES += [('rand-inc0-m7', (7.0, 2, 0.0, False)), ('rand-n1-mstd1.25', (10.0, 1, 1.25, False))]
NO_POLICIES = 'augmix-m3 rand-m rand-q5 rand-m9-w1 rand-mx rand-n2x m9 rand- original rand-n14-w0'.split()


@pytest.mark.parametrize('config, expected', POLICIES)
def test_a_policy_sets_magnitude_layers_deviation_and_the_increasing_set(config, expected):
    policy = RandAugment(config)
    assert (policy.magnitude, policy.layers, policy.std, policy.increasing) == expected
    assert policy.weights is None


@pytest.mark.parametrize('config', NO_POLICIES)
def test_what_is_no_policy_is_refused_by_name(config):
    with pytest.raises(UserError, match=f'--aa {config}: '):
        RandAugment(config)


class Recorder(RandAugment):
    """Notes (op, level)."""

    def op(self, name, level, size, rng):
        self.__dict__.setdefault('seen', []).append((name, level))
        return Op(name, None)


def record(config, images=8000, seed=0):
    policy, rng = Recorder(config), np.random.default_rng(seed)
    for _ in range(images):
        policy.draw(RAMP.size, rng)
    return policy.seen


def test_each_of_15_ops_is_applied_to_a_fifteenth_of_an_images_two_draws_with_probability_one_half():
    counts = collections.Counter(name for name, _ in record(RECIPE))
    assert set(counts) == set(NAMES) and len(NAMES) == 15
    expected = 8000 * 2 * 0.5 / 15
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values()), counts
    assert abs(sum(counts.values()) - 8000) < 5 * (16000 * 0.25) ** 0.5
    assert abs(len(record('rand-n3', 4000)) - 6000) < 5 * (12000 * 0.25) ** 0.5, 'n is the number of draws'


def test_weighted_choice_follows_the_weights_and_never_draws_what_has_none():
    counts = collections.Counter(name for name, _ in record('rand-n1-w0'))
    assert set(counts) <= set(WEIGHTS) and 'Invert' not in counts and 'Posterize' not in counts
    for name, weight in WEIGHTS.items():
        expected = 4000 * weight
        assert abs(counts[name] - expected) < 5 * max(expected, 1) ** 0.5, name
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    policy, rng = Recorder('rand-n2-w0'), np.random.default_rng(0)
    for _ in range(1000):
        policy.seen = []
        policy.draw(RAMP.size, rng)
        assert len({name for name, _ in policy.seen}) == len(policy.seen), 'no op twice for an image'


# ---- levels to arguments

SCALE = {'Rotate': 30.0, 'ShearX': 0.3, 'ShearY': 0.3, 'TranslateXRel': 0.45, 'TranslateYRel': 0.45}
FILTERS = Image.NEAREST, Image.BILINEAR, Image.BICUBIC


@pytest.mark.parametrize('name', GEOMETRIC)
def test_geometric_arguments_grow_with_the_level_and_have_either_sign_equally_often(name):
    argument = GEOMETRIC[name].argument
    rng = np.random.default_rng(0)
    for level in (0.0, 4.0, 10.0):
        values = np.array([argument(level, rng) for _ in range(2000)])
        assert np.allclose(np.abs(values), level / 10 * SCALE[name])
    assert abs((values > 0).mean() - 0.5) < 5 * 0.5 / 2000**0.5


def test_inc_selects_the_increasing_set():
    rng = np.random.default_rng(0)
    policies = RandAugment('rand-inc1'), RandAugment('rand-inc0')
    weak, strong = (np.asarray(rendered.op(policy, 'Posterize', RAMP, 0.0, rng)[0]) for policy in policies)
    assert np.array_equal(weak, pixels(RAMP) // 16 * 16) and not strong.any()


# ---- geometric ops


@pytest.mark.parametrize('name', GEOMETRIC)
def test_geometric_ops_at_level_zero_are_the_identity(name):
    for interpolation in FILTERS:
        policy = RandAugment('rand', interpolation=interpolation)
        image, matrix = rendered.op(policy, name, noise(), 0.0, np.random.default_rng(0))
        assert np.allclose(matrix, np.eye(3)) and np.array_equal(pixels(image), pixels(noise()))


def blob(width, height, x, y):
    """A bright blob centred at the continuous point (x, y) on black."""
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    value = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 2.0**2))
    return Image.fromarray(np.repeat(value.round().astype('uint8')[:, :, None], 3, axis=2))


def centre(image):
    value = pixels(image)[:, :, 0].astype('float64')
    xs, ys = np.meshgrid(np.arange(value.shape[1]) + 0.5, np.arange(value.shape[0]) + 0.5)
    return np.array([(value * xs).sum(), (value * ys).sum()]) / value.sum()


@pytest.mark.parametrize('interpolation', FILTERS)
@pytest.mark.parametrize('name', GEOMETRIC)
def test_the_matrix_says_where_a_blob_in_the_result_came_from(name, interpolation):
    rng = np.random.default_rng(0)
    policy, checked = RandAugment('rand', interpolation=interpolation), 0
    for _ in range(40):
        width, height = rng.integers(50, 90, 2)
        source = rng.uniform(8, width - 8), rng.uniform(8, height - 8)
        before = blob(width, height, *source)
        image, matrix = rendered.op(policy, name, before, rng.uniform(2, 10), rng, fill=(0, 0, 0))
        landed = np.linalg.inv(matrix) @ [*source, 1.0]
        if not (8 < landed[0] < width - 8 and 8 < landed[1] < height - 8):
            continue  # cut off by the frame
        checked += 1
        assert np.abs(centre(image) - landed[:2]).max() < (0.6 if interpolation == Image.NEAREST else 0.15)
        assert np.abs(landed[:2] - source).max() > 0.01
    assert checked >= 15


def test_ops_do_what_their_names_say():
    """The matrix takes a point of the result to the point of the source that is shown there."""
    at = np.array([10.0, 20.0, 1.0])
    cases = {'ShearX': (10 + 0.25 * 20, 20), 'ShearY': (10, 20 + 0.25 * 10)}
    cases.update({'TranslateXRel': (10 + 0.25 * 80, 20), 'TranslateYRel': (10, 20 + 0.25 * 60)})
    for name, expected in cases.items():
        assert np.allclose((GEOMETRIC[name].matrix(0.25, 80, 60) @ at)[:2], expected), name


@pytest.mark.parametrize('interpolation', FILTERS)
def test_rotate_has_the_very_pixels_of_pils_counter_clockwise_rotation_about_the_centre(interpolation):
    rng = np.random.default_rng(0)
    for degrees in (-30.0, 7.5, 27.0, 90.0, *rng.uniform(-30, 30, 60)):
        width, height = rng.integers(40, 130, 2)
        image = noise(width, height, seed=1)
        own = affine(image, rotate(degrees, width, height), interpolation, (9, 9, 9), (0, 0, width, height))
        pil = image.rotate(degrees, interpolation, fillcolor=(9, 9, 9))
        assert np.array_equal(pixels(own), pixels(pil)), degrees


def test_what_comes_from_outside_the_image_is_filled():
    policy, white = RandAugment('rand', Image.BILINEAR), Image.new('RGB', (40, 20), (255, 255, 255))
    image, _ = rendered.op(policy, 'TranslateXRel', white, 10.0, np.random.default_rng(0), fill=(124, 116, 104))
    filled = (pixels(image) == (124, 116, 104)).all(-1)
    assert filled.sum() == 20 * 18 and (pixels(image)[~filled] == 255).all()  # 0.45 of 40 columns


@pytest.mark.parametrize('name', NAMES)
def test_every_op_works_with_every_filter_at_both_ends_and_photometric_ones_move_no_pixel(name):
    for config in ('rand-inc0', 'rand-inc1'):
        for interpolation, level in [
            (None, 9.0),
            (Image.LANCZOS, 9.0),
            *((f, end) for f in FILTERS for end in (0, 10)),
        ]:
            policy = RandAugment(config, interpolation=interpolation)
            image, matrix = rendered.op(policy, name, noise(), level, np.random.default_rng(0))
            assert image.size == (40, 28) and image.mode == 'RGB'
            assert name in GEOMETRIC or np.array_equal(matrix, np.eye(3))
