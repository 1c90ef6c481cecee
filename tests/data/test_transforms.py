"""util/data/transforms.py: crops, flips and their matrices, evaluation's geometry, normalisation, random erasing.

The distributions of the draws are compared with the original's in tests/parity/test_train_transform.py.
"""

import numpy as np
import pytest
from PIL import Image

import rendered
from util.data.augment import Op
from util.data.render_pil import resize
from util.data.transforms import INTERPOLATIONS, EvalTransform, TrainTransform
from util.data.transforms import to_input
from util.data.transforms import random_crop_box
from util.errors import UserError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def noise(width=40, height=28, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype='uint8'))


def ramp(width, height):
    """Pixel (x, y) holds (x, y, 255)."""
    xs, ys = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([xs, ys, np.full_like(xs, 255)], -1).astype('uint8'))


def apply(matrix, x, y):
    return (matrix @ [x, y, 1.0])[:2]


# ---- resizing


def row_by_row(image, width, interpolation):
    rows = [image.crop((0, y, image.width, y + 1)).resize((width, 1), interpolation) for y in range(image.height)]
    return np.concatenate([np.asarray(row) for row in rows])


SIZES = [((60, 40), (33, 22)), ((40, 60), (22, 33)), ((30, 120), (24, 96)), ((20, 50), (32, 32)), ((50, 20), (32, 32))]


@pytest.mark.parametrize('name', INTERPOLATIONS)
@pytest.mark.parametrize('source, target', [*SIZES, ((24, 60), (24, 24))])
def test_rows_are_resized_before_columns_whatever_pillow_prefers(source, target, name):
    """With black and white pixels, bicubic and Lanczos overshoot between the passes: the order makes a difference."""
    image = noise(*source).point(([0] * 128 + [255] * 128) * 3)
    rows = Image.fromarray(row_by_row(image, target[0], INTERPOLATIONS[name]))
    turned = row_by_row(rows.transpose(Image.TRANSPOSE), target[1], INTERPOLATIONS[name])
    assert np.array_equal(np.asarray(resize(image, target, INTERPOLATIONS[name])), turned.transpose(1, 0, 2))


# ---- evaluation


@pytest.mark.parametrize(
    'size, crop_pct, source, resized, corner',
    [
        (32, 0.8, (100, 60), (66, 40), (17, 4)),  # short side 32 / 0.8 = 40; 40·100/60 = 66.7 floors to 66
        (32, 0.8, (60, 100), (40, 66), (4, 17)),
        (224, 0.9, (500, 375), (330, 248), (53, 12)),  # 248.9 floors to 248; 248·500/375 = 330.7
        (224, 1.0, (500, 375), (298, 224), (37, 0)),
        (31, 1.0, (90, 60), (46, 31), (8, 0)),  # half of an odd rest: 7.5 rounds to even
    ],
)
def test_eval_resizes_the_short_side_and_cuts_the_centre_square(size, crop_pct, source, resized, corner):
    image = noise(*source)
    x, y = corner
    expected = image.resize(resized, Image.BICUBIC).crop((x, y, x + size, y + size))
    assert np.array_equal(np.asarray(EvalTransform(size, crop_pct).crop(image)), np.asarray(expected))


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
def test_eval_uses_the_filter_it_is_told_and_none_for_an_image_of_the_right_size(name):
    own = EvalTransform(16, 1.0, name).crop(noise(64, 64))
    expected = noise(64, 64).resize((16, 16), INTERPOLATIONS.get(name, Image.BICUBIC))  # random is bicubic
    assert np.array_equal(np.asarray(own), np.asarray(expected))
    assert np.array_equal(EvalTransform(32, 1.0, name)(noise(32, 32)), to_input(noise(32, 32)))


@pytest.mark.parametrize('source', [(1, 1), (3, 200), (200, 3), (31, 33)])
@pytest.mark.parametrize('crop_pct', [0.875, 0.9, 1.0])
def test_eval_output_has_the_input_size_whatever_the_source(source, crop_pct, backend, tmp_path):
    noise(*source).save(tmp_path / 'noise.jpg')
    pixels = EvalTransform(32, crop_pct, backend=backend).load(tmp_path / 'noise.jpg')
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


WRONG = [(EvalTransform, dict(crop_pct=0.0)), (EvalTransform, dict(crop_pct=1.5))]
WRONG += [(EvalTransform, dict(crop_pct=0.9, interpolation='cubic')), (TrainTransform, dict(interpolation='cubic'))]
WRONG += [(TrainTransform, dict(remode='noise')), (TrainTransform, dict(aa='autoaugment'))]


@pytest.mark.parametrize('transform, settings', WRONG, ids=str)
def test_unusable_settings_are_refused_by_the_name_of_their_flag(transform, settings):
    name, value = list(settings.items())[-1]
    with pytest.raises(UserError, match=f'--(train_)?{name} {value}'):
        transform(32, **settings)


# ---- random crop


@pytest.mark.parametrize('width, height', [(100, 60), (60, 100), (1, 1), (2, 3), (500, 5), (5, 500)])
def test_crop_boxes_lie_inside_the_image(width, height):
    rng = np.random.default_rng(0)
    for _ in range(400):
        x, y, w, h = random_crop_box(width, height, rng)
        assert 0 <= x and 0 <= y and 1 <= w and 1 <= h and x + w <= width and y + h <= height
        assert all(type(v) is int for v in (x, y, w, h))


def test_crop_scale_bounds_the_area():
    rng = np.random.default_rng(2)
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


def test_the_flip_matrix_maps_corners_to_the_mirrored_corners():
    matrix = quiet(32, flip=1.0, scale=(1.0, 1.0)).draw((32, 32), np.random.default_rng(0)).matrix
    assert np.allclose(apply(matrix, 0, 0), (32, 0)) and np.allclose(apply(matrix, 32, 32), (0, 32))


def test_the_crop_matrix_maps_the_inputs_corners_to_the_boxs():
    for seed in range(20):
        transform = quiet(16, flip=0.0)
        matrix = transform.draw((90, 60), np.random.default_rng(seed)).matrix
        rng = np.random.default_rng(seed)
        rng.random()  # the draw for the flip
        x, y, w, h = random_crop_box(90, 60, rng)
        assert np.allclose(apply(matrix, 0, 0), (x, y)) and np.allclose(apply(matrix, 16, 16), (x + w, y + h))
        assert np.allclose(apply(matrix, 16, 0), (x + w, y))


@pytest.mark.parametrize('flip', [0.0, 1.0])
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic', 'random'])
def test_pixels_come_from_where_the_matrix_says(flip, interpolation, backend):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        transform = quiet(24, flip=flip, interpolation=interpolation, backend=backend)
        image, matrix = rendered.sample(transform, ramp(120, 80), rng)
        array = np.asarray(image).astype('float64')
        for row, column in ((8, 8), (12, 5), (15, 16)):
            x, y = apply(matrix, column + 0.5, row + 0.5)
            assert np.abs(array[row, column, :2] + 0.5 - (x, y)).max() < (1.0 if backend == 'pil' else 1.2)


def test_the_flip_has_its_probability():
    transform = quiet(8, flip=0.3)
    flipped = [transform.draw((40, 28), np.random.default_rng(seed)).matrix[0, 0] < 0 for seed in range(1500)]
    assert abs(np.mean(flipped) - 0.3) < 5 * (0.21 / 1500) ** 0.5


KINDS = [dict(), dict(aa=''), *(dict(interpolation=name) for name in ('random', 'lanczos', 'nearest'))]


@pytest.mark.parametrize('kwargs', [*KINDS, dict(reprob=1.0, remode='rand', recount=3)], ids=str)
def test_a_sample_is_a_function_of_the_generator(kwargs, backend, tmp_path):
    transform, path = TrainTransform(32, **kwargs, backend=backend), tmp_path / 'noise.jpg'
    noise(50, 40).save(path)
    for seed in range(8):
        seeds = seed, seed, seed + 100
        (a, ma, size, ea), (b, mb, _, eb), (c, mc, *_) = (transform.load(path, np.random.default_rng(s)) for s in seeds)
        assert size == (50, 40)
        assert a.shape == (32, 32, 3) and a.dtype == np.uint8 and ma.shape == (3, 3) and ma.dtype == np.float64
        assert np.array_equal(a, b) and np.array_equal(ma, mb) and str(ea) == str(eb)
        assert not np.array_equal(a, c) and not np.array_equal(ma, mc)
        assert np.array_equal(ma[2], [0, 0, 1])


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


def test_both_backends_get_the_same_draws_and_leave_the_generator_alike():
    for seed in range(50):
        generators = [np.random.default_rng(seed) for _ in range(2)]
        pillow, opencv = (TrainTransform(32, 'random', backend=b) for b in ('pil', 'cv2'))
        a, b = (t.draw((90, 60), rng) for t, rng in zip((pillow, opencv), generators))
        assert repr(a) == repr(b) and generators[0].random() == generators[1].random()


def test_without_randaugment_colours_are_jittered():
    image = Image.new('RGB', (40, 40), (100, 150, 200))
    plain, _ = rendered.sample(quiet(16), image, np.random.default_rng(0))
    assert (np.asarray(plain) == (100, 150, 200)).all()
    draws = [rendered.sample(quiet(16, jitter=0.4), image, np.random.default_rng(seed))[0] for seed in range(60)]
    jittered = [np.asarray(draw)[8, 8] for draw in draws]
    assert np.std(jittered, axis=0).min() > 10
