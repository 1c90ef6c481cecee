"""util/data/jpeg.py: the pixels of Pillow, and the same files refused."""

import io

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from hostile import fuzz
from util.data import images
from util.data.images import BadImage, open_rgb
from util.errors import UserError

pytestmark = pytest.mark.cross_version

PHOTO = Image.open(ROOT / 'demo' / 'chelsea.png').convert('RGB').resize((131, 97))


def decoded(path):
    """(pixels, whether simplejpeg was asked), or the message of what is refused."""
    try:
        image = images.open_jpeg(str(path))
        pixels, shrunk = image.decode()
        assert pixels.shape == (*image.size[::-1], 3) and shrunk == 1
        return pixels, isinstance(image, images.JpegFile)
    except (BadImage, UserError) as error:
        return type(error), str(error)


def by_pillow(path):
    try:
        return np.asarray(open_rgb(str(path)))
    except (BadImage, UserError) as error:
        return type(error), str(error)


@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_plain_jpegs_have_pillows_pixels(mode, progressive, subsampling, tmp_path):
    for quality in (30, 75, 95):
        how = dict(quality=quality, progressive=progressive, subsampling=subsampling)
        PHOTO.convert(mode).save(tmp_path / 'a.jpg', **how)
        pixels, fast = decoded(tmp_path / 'a.jpg')
        assert fast and np.array_equal(pixels, by_pillow(tmp_path / 'a.jpg'))


def test_an_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    PHOTO.save(tmp_path / 'turned.jpg', exif=exif)
    pixels, fast = decoded(tmp_path / 'turned.jpg')
    assert fast and pixels.shape == (97, 131, 3)


OTHERS = {
    'CMYK': lambda path: PHOTO.convert('CMYK').save(path, 'JPEG'),
    'PNG': lambda path: PHOTO.save(path, 'PNG'),
    'alpha': lambda path: PHOTO.convert('RGBA').save(path, 'PNG'),
    'BMP': lambda path: PHOTO.save(path, 'BMP'),
    'WEBP': lambda path: PHOTO.save(path, 'WEBP'),
}


@pytest.mark.parametrize('kind', OTHERS)
def test_whatever_is_no_plain_jpeg_goes_to_pillow(kind, tmp_path):
    OTHERS[kind](tmp_path / 'image.jpg')
    pixels, fast = decoded(tmp_path / 'image.jpg')
    assert not fast and np.array_equal(pixels, by_pillow(tmp_path / 'image.jpg'))


def test_a_jpeg_of_too_many_pixels_is_left_to_pillow_which_refuses_it(tmp_path, monkeypatch):
    PHOTO.save(tmp_path / 'a.jpg')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 131 * 97 // 3)
    kind, message = decoded(tmp_path / 'a.jpg')
    assert kind is BadImage and 'a.jpg: cannot be decoded' in message


def test_a_file_that_is_gone_is_no_bad_image(tmp_path):
    assert decoded(tmp_path / 'none.jpg') == by_pillow(tmp_path / 'none.jpg')
    assert decoded(tmp_path / 'none.jpg')[0] is UserError


@pytest.mark.parametrize('progressive', [False, True])
def test_of_damaged_files_the_same_are_refused_and_the_others_give_the_same_pixels(progressive, tmp_path):
    good, path = io.BytesIO(), tmp_path / 'damaged.jpg'
    PHOTO.resize((61, 47)).save(good, 'JPEG', progressive=progressive)
    refused = accepted = 0
    for what, data in [*fuzz.cuts(good.getvalue()), *fuzz.changes(good.getvalue(), 300, seed=0)]:
        path.write_bytes(data)
        own, expected = decoded(path), by_pillow(path)
        if isinstance(expected, tuple):
            assert own == expected, what
            refused += 1
        else:
            assert np.array_equal(own[0], expected), what
            accepted += 1
    assert refused > 100 and accepted > 40


@pytest.mark.parametrize('most, times', [(1, 1), (1.9, 1), (2, 2), (3.9, 2), (4, 4), (7.5, 4), (8, 8), (40, 8)])
def test_an_image_is_decoded_smaller_but_not_smaller_than_allowed(most, times, tmp_path):
    PHOTO.save(tmp_path / 'a.jpg', quality=95)
    pixels, shrunk = images.open_jpeg(str(tmp_path / 'a.jpg')).decode(most)
    assert shrunk == times and pixels.shape == (-(-97 // times), -(-131 // times), 3)
    expected = np.asarray(PHOTO.crop((0, 0, 128, 96)).resize((128 // times, 96 // times), Image.BOX), 'int64')
    assert np.abs(expected - pixels[: 96 // times, : 128 // times]).mean() < 4, 'each pixel is the mean of a square'
