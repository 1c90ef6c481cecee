"""The train transform is the original's with label maps: flip, RandAugment, crop, normalisation, erasing."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image

import rendered
from parity.draws import SAMPLING, SIGMAS, Draws, counts_differ, share, values_differ
from parity.photos import photos
from util.data.augment import color_jitter, draw_erasing
from util.data.transforms import TrainTransform, erase, random_crop_box, to_input

SECTION = 'Train transform'
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
SIZES = [
    (500, 375),
    (375, 500),
    (640, 427),
    (224, 224),
    (33, 47),
    (4000, 3000),
    (1000, 100),
    (100, 1000),
    (200, 5),
    (5, 400),
]
EXTREME = [(1000, 100), (100, 1000), (200, 5), (5, 400)]


def their_crop_box(original, size, scale=SCALE):
    """(left, top, width, height) of the original's random crop of an image of `size`."""
    crop = original.timm.data.transforms.RandomResizedCropAndInterpolation
    top, left, height, width = crop.get_params(Image.new('1', size), scale, RATIO)
    return left, top, width, height


# ---- random resized crop


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_with_the_same_draws_the_crop_is_the_same(size, original, fidelity, monkeypatch):
    draws = Draws(1)
    ours = [random_crop_box(*size, draws) for _ in range(2000)]
    share(monkeypatch, original, Draws(1))
    wrong = sum(box != their_crop_box(original, size) for box in ours)
    fidelity(SECTION, 'crops that differ, same draws, 10 image sizes of 2,000', wrong, 0, 'count')
    centred = [((size[0] - w) // 2, (size[1] - h) // 2) == (x, y) for x, y, w, h in ours]
    assert size not in EXTREME or sum(centred) > 100, 'the way out after ten misses was not taken'


@pytest.mark.parametrize(
    'size, scale', [((500, 375), SCALE), ((224, 224), SCALE), ((427, 640), (0.3, 0.6)), ((1000, 100), SCALE)], ids=str
)
def test_crops_of_20000_images_are_distributed_as_the_originals(size, scale, original, fidelity):
    rng = np.random.default_rng(4)
    original.timm.data.transforms.random.seed(5)
    ours = np.array([random_crop_box(*size, rng, scale) for _ in range(20000)]).T
    theirs = np.array([their_crop_box(original, size, scale) for _ in range(20000)]).T
    for what, number in {
        'area': lambda x, y, w, h: w * h,
        'aspect ratio': lambda x, y, w, h: w / h,
        'place across': lambda x, y, w, h: x / np.maximum(size[0] - w, 1),
        'place down': lambda x, y, w, h: y / np.maximum(size[1] - h, 1),
    }.items():
        fidelity(
            SECTION,
            f'20,000 crops of each of 4 sizes: {what}',
            values_differ(number(*ours), number(*theirs)),
            SIGMAS,
            SAMPLING,
        )


def test_differs_on_purpose_a_crop_has_at_least_one_pixel(original):
    original.timm.data.transforms.random.seed(0)
    assert any(0 in their_crop_box(original, (1, 1))[2:] for _ in range(100))
    rng = np.random.default_rng(0)
    assert all(min(random_crop_box(1, 1, rng)[2:]) > 0 for _ in range(1000))


# ---- random erasing


def painted(image, erased):
    """An image [3, H, W] with what was drawn for it erased."""
    return image if erased is None else erase(image[None], *erased)[0]


@pytest.mark.parametrize('mode', ['pixel', 'rand', 'const'])
@pytest.mark.parametrize('count', [1, 3])
def test_with_the_same_draws_the_same_values_are_erased(mode, count, original, fidelity, monkeypatch):
    erasing = original.timm.data.random_erasing.RandomErasing(0.6, mode=mode, max_count=count, device='cpu')
    wrong = erased = 0
    for seed in range(400):
        own = painted(np.full((3, 32, 40), 9.0, 'float32'), draw_erasing(32, 40, Draws(seed), 0.6, mode, count))
        with monkeypatch.context() as patch:
            share(patch, original, Draws(seed))
            expected = erasing(original.torch.full((3, 32, 40), 9.0)).numpy()
        wrong += not np.array_equal(own, expected)
        erased += (own != 9.0).any()
    fidelity(SECTION, 'erased images that differ, same draws, 6 settings of 400', wrong, 0, 'count')
    assert 200 < erased < 280


def test_erased_boxes_of_20000_images_are_distributed_as_the_originals(original, fidelity):
    rng, torch = np.random.default_rng(6), original.torch
    original.timm.data.random_erasing.random.seed(7), torch.manual_seed(8)
    erasing = original.timm.data.random_erasing.RandomErasing(0.25, mode='pixel', device='cpu')
    sides, blank = [], np.zeros((3, 24, 24), 'float32')
    for erased_image in (
        lambda: painted(blank.copy(), draw_erasing(24, 24, rng, 0.25)),
        lambda: erasing(torch.zeros(3, 24, 24)).numpy(),
    ):
        boxes, values = [], []
        for _ in range(20000):
            array = erased_image()
            ys, xs = np.nonzero(array[0])
            boxes.append((ys.min(), xs.min(), np.ptp(ys) + 1, np.ptp(xs) + 1) if len(ys) else None)
            if len(ys) and len(values) < 500:
                values.append(array[array != 0])
        sides.append((boxes, np.concatenate(values)))

    def check(what, measured):
        fidelity(SECTION, f'20,000 erased images: {what}', measured, SIGMAS, SAMPLING)

    (ours, our_values), (theirs, their_values) = sides
    check('how many', counts_differ(*([box is None for box in side] for side in (ours, theirs))))
    check('values', values_differ(our_values, their_values))
    for what, number in {
        'area': lambda y, x, h, w: h * w,
        'aspect ratio': lambda y, x, h, w: h / w,
        'place down': lambda y, x, h, w: y / (24 - h),
        'place across': lambda y, x, h, w: x / (24 - w),
    }.items():
        check(what, values_differ(*(number(*np.array([box for box in side if box]).T) for side in (ours, theirs))))


# ---- flip, colour jitter


def test_as_many_of_20000_images_are_flipped_as_by_the_original(original, fidelity):
    flip = original.tlt.data.label_transforms_factory.RandomHorizontalFlipWithLabel(p=0.5)
    transform, rng = TrainTransform(2, aa='', jitter=0.0), np.random.default_rng(9)
    image, label = Image.new('RGB', (4, 4)), original.torch.zeros(1, 1, 1, 1)
    original.torch.manual_seed(10)
    ours = [transform.draw(image.size, rng).matrix[0, 0] < 0 for _ in range(20000)]
    theirs = [flip(image, label)[0] is not image for _ in range(20000)]
    fidelity(SECTION, '20,000 images: how many are flipped', counts_differ(ours, theirs), SIGMAS, SAMPLING)
    assert 9500 < sum(ours) < 10500


class Jitter:
    """A generator that draws an order and factors given, and notes the bounds asked for."""

    def __init__(self, order, shares):
        self.order, self.shares, self.bounds = order, iter(shares), []

    def permutation(self, n):
        assert n == len(self.order)
        return np.array(self.order)

    def uniform(self, low, high):
        self.bounds.append((low, high))
        return low + next(self.shares) * (high - low)


@pytest.mark.parametrize('strength', [0.4, 1.3])
@pytest.mark.parametrize('order', list(itertools.permutations(range(3))), ids=str)
def test_colour_jitter_gives_the_pixels_of_the_original(order, strength, original, fidelity, monkeypatch):
    theirs = original.torchvision.transforms.ColorJitter(strength, strength, strength)
    low, high = theirs.brightness
    assert theirs.contrast == theirs.saturation == (low, high)
    for shares, photo in zip([(0.1, 0.9, 0.3), (0.0, 1.0, 0.5), (1.0, 0.2, 0.0)], photos()):
        rng = Jitter(order, [shares[kind] for kind in order])
        own, _ = rendered.carried_out(color_jitter(strength, rng), photo)
        assert np.allclose(rng.bounds, [(low, high)] * 3)
        monkeypatch.setattr(
            theirs,
            'get_params',
            lambda *_: (original.torch.tensor([3, *order]), *(low + s * (high - low) for s in shares), None),
        )
        fidelity(
            SECTION,
            "colour jitter (`--aa ''`): pixels",
            np.abs(np.asarray(own, 'int16') - np.asarray(theirs(photo), 'int16')).max(),
            0,
            'grey levels',
        )


def test_colour_jitters_order_is_as_random_as_the_originals(original, fidelity):
    class Notes(np.random.Generator):
        def permutation(self, n):
            orders.append(tuple(super().permutation(n)))
            return orders[-1]

    orders, rng = [], Notes(np.random.PCG64(11))
    for _ in range(5000):
        color_jitter(0.4, rng)
    original.torch.manual_seed(12)
    get = original.torchvision.transforms.ColorJitter.get_params
    theirs = [tuple(i for i in get(None, None, None, None)[0].tolist() if i < 3) for _ in range(5000)]
    fidelity(SECTION, '5,000 colour jitters: order', counts_differ(orders, theirs), SIGMAS, SAMPLING)


# ---- the whole


def their_transform(original, size, interpolation, aa, reprob=0.25, remode='pixel', recount=1):
    return original.tlt.data.label_transforms_factory.create_token_label_transform(
        size,
        is_training=True,
        auto_augment=aa,
        interpolation=interpolation,
        re_prob=reprob,
        re_mode=remode,
        re_count=recount,
    )


@pytest.mark.parametrize(
    'size, interpolation, aa, erase',
    [
        (224, 'random', 'rand-m9-mstd0.5-inc1', ('pixel', 1)),
        (64, 'bicubic', 'rand-m9-mstd0.5-inc1', ('pixel', 1)),
        (64, 'bilinear', 'rand-m5-n3', ('rand', 3)),
        (96, 'random', 'rand-m7-mstd1-w0', ('const', 2)),
    ],
    ids=str,
)
def test_with_the_same_draws_a_sample_is_the_same_from_the_photo_to_the_network(
    size, interpolation, aa, erase, original, fidelity, monkeypatch
):
    mode, count = erase
    ours = TrainTransform(size, interpolation, aa, reprob=0.5, remode=mode, recount=count)
    theirs = their_transform(original, size, interpolation, aa, 0.5, mode, count)
    label = original.torch.zeros(2, 5, 18, 18)
    kinds = set()
    for seed in range(50):
        photo = photos()[seed % 3].crop((0, 0, 200 + 3 * seed, 300 - 3 * seed))
        draws = Draws(seed)
        image, matrix = rendered.sample(ours, photo, draws)
        own = painted(to_input(image), draw_erasing(size, size, draws, 0.5, mode, count))
        with monkeypatch.context() as patch:
            share(patch, original, Draws(seed))
            expected, _ = theirs(photo, label)
        assert own.shape == tuple(expected.shape) and own.dtype == np.float32
        fidelity(
            SECTION,
            f'whole transform, same draws ({aa}, {interpolation}, {mode})',
            np.abs(own - expected.numpy()).max(),
            0,
            'max abs difference',
        )
        kinds.add((matrix[0, 0] < 0, abs(matrix[0, 1]) > 0))
    assert len(kinds) == 4, 'not all of: flipped or not, sheared or not'


def test_the_steps_come_in_the_originals_order_with_its_constants(original):
    def steps(transform):
        return [type(step).__name__ for step in transform.transforms]

    aa, ours = 'rand-m9-mstd0.5-inc1', TrainTransform(224)
    theirs = their_transform(original, 224, 'bicubic', aa)
    assert steps(theirs) == [
        'RandomHorizontalFlipWithLabel',
        'RandAugment',
        'RandomResizedCropAndInterpolationWithCoords',
        'ToTensor',
        'Normalize',
        'RandomErasing',
    ]
    flip, augment, crop, _, _, erasing = theirs.transforms
    assert flip.p == ours.flip and crop.scale == ours.scale and crop.ratio == RATIO and crop.size == (224, 224)
    assert {(op.kwargs['fillcolor'], op.kwargs['resample']) for op in augment.ops} == {
        (ours.fill, ours.augment.interpolation)
    }
    assert (erasing.min_area, erasing.max_area) == (0.02, 1 / 3)
    assert np.allclose(erasing.log_aspect_ratio, (math.log(0.3), -math.log(0.3)))
    assert (erasing.probability, erasing.max_count, erasing.per_pixel) == (
        ours.reprob,
        ours.recount,
        ours.remode == 'pixel',
    )


def test_differs_on_purpose_without_label_maps_the_original_cuts_before_it_augments(original):
    """timm's pipeline, which the original falls back on; ours is one pipeline with and without label maps."""
    theirs = original.timm.data.create_transform(
        224, is_training=True, auto_augment='rand-m9-mstd0.5-inc1', interpolation='random'
    )
    assert [type(step).__name__ for step in theirs.transforms][:3] == [
        'RandomResizedCropAndInterpolation',
        'RandomHorizontalFlip',
        'RandAugment',
    ]


def test_differs_on_purpose_nearest_is_nearest_not_bilinear(original):
    assert original.timm.data.transforms._pil_interp('nearest') == Image.BILINEAR
    assert TrainTransform(32, 'nearest').interpolation == Image.NEAREST
