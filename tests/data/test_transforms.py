"""util/data/transforms.py: crops, flips and their matrices, evaluation's geometry, from bytes to the network's input.

With the same draws the results are the original's: tests/parity/test_train_transform.py.
"""

import numpy as np
import paddle
import pytest
from PIL import Image

import rendered
from util.data import images, render_cv2, transforms
from util.data.augment import draw_erasing, pack_erased
from util.data.augment_ops import Op
from util.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    Draws,
    EvalTransform,
    TrainTransform,
    crop_matrix,
    network_input,
    normalise,
    random_crop_box,
    to_input,
)
from util.errors import UserError


def noise(width=40, height=28, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype='uint8'))


def ramp(width, height):
    """Pixel (x, y) holds (x, y, 255)."""
    xs, ys = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([xs, ys, np.full_like(xs, 255)], -1).astype('uint8'))


def apply(matrix, x, y):
    return (matrix @ [x, y, 1.0])[:2]


# ---- evaluation


@pytest.mark.parametrize(
    'size, crop_pct, source, resized, corner',
    [
        (32, 0.8, (100, 60), (66, 40), (17, 4)),  # short side 32 / 0.8 = 40; 40·100/60 = 66.7 floors to 66
        (32, 0.8, (60, 100), (40, 66), (4, 17)),
        (224, 0.9, (500, 375), (330, 248), (53, 12)),  # 248.9 floors to 248; 248·500/375 = 330.7
        (31, 1.0, (90, 60), (46, 31), (8, 0)),  # half of an odd rest: 7.5 rounds to even
    ],
)
def test_eval_resizes_the_short_side_and_cuts_the_centre_square(size, crop_pct, source, resized, corner):
    image = noise(*source)
    x, y = corner
    expected = image.resize(resized, Image.BICUBIC).crop((x, y, x + size, y + size))
    assert EvalTransform(size, crop_pct).crop(image).tobytes() == expected.tobytes()


@pytest.mark.parametrize('crop_pct, source', [(0.8, (100, 60)), (0.875, (61, 97)), (1.0, (250, 100)), (1.0, (40, 40))])
def test_the_region_of_the_centre_square_holds_the_pixels_of_the_crop(crop_pct, source, backend, tmp_path):
    """A pixel of the ramp names its place: that of the crop's middle columns and rows is where the region says."""
    ramp(*source).save(tmp_path / 'ramp.png')
    transform = EvalTransform(32, crop_pct, 'bilinear', backend=backend)
    left, top, right, bottom = transform.region(*source)
    crop = transform.load(tmp_path / 'ramp.png').astype('float64')
    inner = np.arange(4, 28) + 0.5  # pixels at the edge of an image are averages of fewer
    error = 0.6 if backend == 'pil' else 0.9  # OpenCV's bilinear filter rounds down more than up
    assert np.abs(crop[16, 4:28, 0] + 0.5 - (left + inner * (right - left) / 32)).max() < error
    assert np.abs(crop[4:28, 16, 1] + 0.5 - (top + inner * (bottom - top) / 32)).max() < error
    assert 0 <= left < right <= source[0] and 0 <= top < bottom <= source[1]


@pytest.mark.parametrize('name', [*INTERPOLATIONS, 'random'])
def test_eval_uses_its_filter_and_none_for_an_image_of_the_right_size(name):
    expected = noise(64, 64).resize((16, 16), INTERPOLATIONS.get(name, Image.BICUBIC))  # random is bicubic
    assert EvalTransform(16, 1.0, name).crop(noise(64, 64)).tobytes() == expected.tobytes()
    assert np.array_equal(EvalTransform(32, 1.0, name)(noise(32, 32)), to_input(noise(32, 32)))


def opened(image, backend):
    """The image as the backend opens it."""
    return image if backend == 'pil' else images.DecodedImage(np.asarray(image))


@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('crop_pct', [0.9, 1.0])
def test_of_an_extremely_long_image_only_what_the_crop_shows_is_resized(
    crop_pct, turned, interpolation, backend, monkeypatch
):
    """The middle of an image of 3 x 60,000 pixels looks as in an image of 3 x 300, which is resized as a whole."""
    long, transform = noise(3, 60_000), EvalTransform(224, crop_pct, interpolation, backend=backend)
    middle = long.crop((0, 29_850, 3, 30_150))
    if turned:
        long, middle = (image.transpose(Image.TRANSPOSE) for image in (long, middle))
    pixels, sizes = transforms.renderer(backend), []
    expected = pixels.eval_pixels(opened(middle, backend), *place(transform, middle), 224, transform.interpolation)
    watch_sizes(monkeypatch, sizes)
    result = pixels.eval_pixels(opened(long, backend), *place(transform, long), 224, transform.interpolation)
    assert max(sizes) == (224, 224) and result.shape == (224, 224, 3)
    tolerance = 1 if backend == 'pil' else 10  # OpenCV's warp rounds positions to 1/32 of a pixel
    different = np.abs(result.astype(int) - expected) > tolerance
    assert different.mean() < (0.02 if interpolation == 'nearest' else 1e-9), 'nearest: halfway between two pixels'


def place(transform, image):
    return transform._resized_and_corner(*image.size)


def watch_sizes(monkeypatch, sizes):
    """Append the size of whatever either backend resamples to `sizes`."""

    def watched(function, position):
        def call(*args, **kwargs):
            sizes.append(tuple(args[position]))
            assert max(sizes[-1]) <= 32_766, 'larger than what OpenCV 4 warps, and than the memory should hold'
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Image.Image, 'resize', watched(Image.Image.resize, 1))
    monkeypatch.setattr(render_cv2, 'resample', watched(render_cv2.resample, 2))


@pytest.mark.parametrize('interpolation', ['nearest', 'bicubic'])
def test_an_image_longer_than_opencv_warps_trains_with_statistics_after_another_op(interpolation, monkeypatch):
    image, sides = images.DecodedImage(np.asarray(noise(60, 40).resize((33_000, 200)))), []
    warp = render_cv2.cv2.warpAffine

    def watched(pixels, matrix, size, **kwargs):
        sides.extend([*pixels.shape[:2], *size])
        return warp(pixels, matrix, size, **kwargs)

    monkeypatch.setattr(render_cv2.cv2, 'warpAffine', watched)
    ops = [Op('Color', 1.5), Op('Equalize', None), Op('TranslateXRel', 0.1, np.eye(3), Image.BILINEAR)]
    ops += [Op('AutoContrast', None)]
    draws = Draws(ops, (0, 0, 250, 200), INTERPOLATIONS[interpolation], np.eye(3))
    pixels = render_cv2.train_pixels(image, draws, 32, (0, 0, 0))
    assert sides and max(sides) <= 32_766 and pixels.std() > 20


WRONG = [(EvalTransform, dict(crop_pct=0.0), 'crop_pct 0.0'), (EvalTransform, dict(crop_pct=1.5), 'crop_pct 1.5')]
WRONG += [(EvalTransform, dict(crop_pct=0.9, interpolation='cubic'), 'interpolation cubic')]
WRONG += [(TrainTransform, dict(interpolation='cubic'), 'train_interpolation cubic')]
WRONG += [(TrainTransform, dict(remode='noise'), 'remode noise'), (TrainTransform, dict(aa='auto'), 'aa auto')]
for wrong in dict(mean=(0.5, 0.5)), dict(std=(0.5, 0.0, 0.5)), dict(std=(1, 1, 1, 1)):
    WRONG += [(TrainTransform, wrong, 'mean .*--std'), (EvalTransform, {'crop_pct': 1.0, **wrong}, 'mean .*--std')]


@pytest.mark.parametrize('transform, settings, flag', WRONG, ids=str)
def test_unusable_settings_are_refused_by_the_name_of_their_flag(transform, settings, flag):
    with pytest.raises(UserError, match=f'--{flag}'):
        transform(32, **settings)


# ---- random crop


@pytest.mark.parametrize('width, height', [(100, 60), (60, 100), (1, 1), (2, 3)])
def test_crop_boxes_lie_inside_the_image_and_reach_its_edges(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(width, height, rng) for _ in range(400)]).T
    x, y, w, h = boxes
    assert min(x.min(), y.min()) == 0 and min(w.min(), h.min()) >= 1 and boxes.dtype == np.int64
    assert (x + w).max() == width and (y + h).max() == height


def test_area_and_aspect_ratio_of_crops_lie_between_their_bounds():
    rng = np.random.default_rng(2)
    w, h = np.array([random_crop_box(400, 400, rng)[2:] for _ in range(2000)]).T
    assert 0.079 < (w * h).min() / 400**2 < 0.09 and (w * h).max() / 400**2 > 0.9
    assert 0.74 < (w / h).min() < 0.76 and 1.31 < (w / h).max() < 1.35
    assert abs(np.log(w / h).mean()) < 0.02, 'both shapes are equally likely'
    area = np.array([np.prod(random_crop_box(300, 300, rng, scale=(0.25, 0.3))[2:]) for _ in range(300)]) / 300**2
    assert area.min() > 0.245 and area.max() < 0.305


@pytest.mark.parametrize(
    'source, box', [((500, 5), (246, 0, 7, 5)), ((5, 500), (0, 246, 5, 7)), ((100, 100), (0, 0, 100, 100))]
)
def test_after_ten_misses_it_is_the_largest_centred_crop_of_a_permitted_shape(source, box):
    # an area of ten images never fits
    assert random_crop_box(*source, np.random.default_rng(0), scale=(10.0, 10.0)) == box


# ---- the train transform


def quiet(size, **kwargs):
    return TrainTransform(size, **{**dict(aa='', jitter=0.0, reprob=0.0, interpolation='bilinear'), **kwargs})


def test_the_reference_geometry_exchanges_the_axes_of_the_box():
    matrix = crop_matrix((10, 30, 20, 15), 8, width=100, height=50, geometry='reference')
    assert np.allclose(apply(matrix, 0, 0), (60, 5)) and np.allclose(apply(matrix, 8, 8), (60 + 30, 5 + 10))
    rng = [np.random.default_rng(3) for _ in range(2)]
    exact, other = (quiet(8, flip=0, geometry=g).draw((100, 50), r) for g, r in zip(('exact', 'reference'), rng))
    assert exact.box == other.box
    assert np.allclose(other.matrix, crop_matrix(exact.box, 8, 100, 50, 'reference'))


def test_the_matrix_is_the_product_of_the_steps_from_the_crop_back_to_the_source():
    """Flip, then ops, then crop: a point of the result is taken through the last of them first."""

    class Fixed:
        def draw(self, size, rng):
            turn, shear = (np.array([[1, a, b], [c, 1, d], [0, 0, 1.0]]) for a, b, c, d in rng.normal(size=(2, 4)))
            self.ops = [Op('Rotate', 0, turn, 0), Op('Invert', None), Op('ShearX', 0, shear, 0)]
            return self.ops

    transform = quiet(16, flip=1.0)
    transform.augment = Fixed()
    draws = transform.draw((90, 60), np.random.default_rng(0))
    assert [op.name for op in draws.ops] == ['Flip', 'Rotate', 'Invert', 'ShearX']
    left, top, width, height = draws.box
    point = np.array([left + 4 / 16 * width, top + 12 / 16 * height, 1.0])
    for op in (transform.augment.ops[2], transform.augment.ops[0]):
        point = op.matrix @ point
    assert np.allclose(apply(draws.matrix, 4, 12), (90 - point[0], point[1]))


def test_flips_and_random_filters_have_their_probability():
    draws = [quiet(8, flip=0.3, interpolation='random').draw((40, 28), np.random.default_rng(i)) for i in range(1500)]
    assert abs(np.mean([draw.matrix[0, 0] < 0 for draw in draws]) - 0.3) < 5 * (0.21 / 1500) ** 0.5
    assert abs(np.mean([draw.interpolation == Image.BICUBIC for draw in draws]) - 0.5) < 5 * (0.25 / 1500) ** 0.5


def test_a_file_gives_the_pixels_the_matrix_the_size_and_the_erased_values_that_were_drawn(backend, tmp_path):
    noise(50, 40).save(tmp_path / 'noise.png')
    transform = TrainTransform(32, reprob=0.9, remode='rand', recount=3, backend=backend)
    pixels, matrix, size, erased = transform.load(tmp_path / 'noise.png', np.random.default_rng(1))
    rng = np.random.default_rng(1)
    draws, expected = transform.draw((50, 40), rng), draw_erasing(32, 32, rng, 0.9, 'rand', 3)
    assert pixels.tobytes() == rendered.pixels(transform, noise(50, 40), draws).tobytes() and size == (50, 40)
    assert np.array_equal(matrix, draws.matrix) and np.array_equal(erased.positions, expected.positions)
    assert np.array_equal(erased.values, expected.values)


def test_without_a_policy_colours_are_jittered_by_factors_around_1_in_random_order():
    draws = [quiet(16, flip=0, jitter=0.4).draw((9, 9), np.random.default_rng(seed)).ops for seed in range(300)]
    assert len({tuple(op.name for op in ops) for ops in draws}) == 6 and {len(ops) for ops in draws} == {3}
    for name in ('Brightness', 'Contrast', 'Color'):
        factors = [op.argument for ops in draws for op in ops if op.name == name]
        assert 0.6 < min(factors) < 0.62 and 1.38 < max(factors) < 1.4
    strong = [quiet(16, jitter=1.5).draw((9, 9), np.random.default_rng(seed)).ops for seed in range(100)]
    assert min(op.argument for ops in strong for op in ops if op.name != 'Flip') >= 0
    assert quiet(16, flip=0).draw((9, 9), np.random.default_rng(0)).ops == []


# ---- bytes to the network's input

MEAN, STD = (0.1, 0.25, 0.7), (0.5, 0.2, 0.31)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, 'uint8')


@pytest.mark.parametrize('how', [(), (MEAN, STD)], ids=['of ImageNet', 'of others'])
def test_bytes_become_normalised_float32_channels_first(how):
    images = pixels(4, 6, 5, 3)
    mean, std = how or (IMAGENET_MEAN, IMAGENET_STD)
    planes = normalise(images, *how)
    assert planes.dtype == np.float32 and planes.shape == (4, 3, 6, 5) and planes.flags.c_contiguous
    expected = ((images / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(planes, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(to_input(images[2], mean, std), planes[2])


@pytest.mark.cross_version
@pytest.mark.parametrize('where', ['arrays', 'tensors on the CPU', 'tensors on another device'])
def test_the_images_of_a_batch_get_the_values_that_were_drawn_for_them(where, monkeypatch):
    rng = np.random.default_rng(3)
    drawn = [draw_erasing(24, 20, rng, 0.6, 'pixel', count=3) for _ in range(12)]
    expected = normalise(pixels(12, 24, 20, 3), MEAN, STD)
    for image, erased in zip(expected, drawn):
        if erased is not None:
            image.reshape(-1)[erased.positions] = erased.values
    kind = np.asarray if where == 'arrays' else paddle.to_tensor
    batch = {'image': kind(pixels(12, 24, 20, 3)), 'label': 0}
    batch.update({name: kind(part) for name, part in pack_erased(drawn, 3 * 24 * 20).items()})
    if where == 'tensors on another device':
        monkeypatch.setattr(type(batch['image'].place), 'is_cpu_place', lambda _: False)
    network_input(batch, MEAN, STD)
    assert set(batch) == {'image', 'label'} and len(batch['image'].shape) == 4
    np.testing.assert_allclose(np.asarray(batch['image']), expected, rtol=0, atol=1e-6 if where[-6:] == 'device' else 0)
