"""util/data/images.py: which files are decoded; simplejpeg gives Pillow's pixels."""

import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from conftest import ROOT
from util.data.images import BadImage, JpegFile, is_image, open_jpeg, open_rgb


PHOTO = Image.open(ROOT / 'demo' / 'chelsea.png').convert('RGB').resize((131, 97))


def by_simplejpeg(path):
    """(pixels, whether the file went to simplejpeg), or the error."""
    try:
        image = open_jpeg(str(path))
        pixels, shrink = image.decode()
        assert pixels.shape == (*image.size[::-1], 3) and shrink == 1
        return pixels, isinstance(image, JpegFile)
    except BadImage as error:
        return str(error)


def by_pillow(path):
    try:
        return np.asarray(open_rgb(str(path)))
    except BadImage as error:
        return str(error)


# ---- what is decoded


KINDS = ['JPEG.jpg', 'JPEG.jpeg', 'JPEG.jfif', 'PNG.png', 'BMP.bmp', 'GIF.gif', 'WEBP.webp', 'TIFF.tif', 'TIFF.tiff']
KINDS += ['AVIF.avif'] * ('avif' in features.get_supported())


@pytest.mark.parametrize('kind', KINDS)
def test_the_first_image_of_a_file_is_read(kind, tmp_path):
    format, suffix = kind.split('.')
    assert is_image(f'x.{suffix}') and is_image(f'X.{suffix.upper()}')
    several = {} if format in ('JPEG', 'BMP') else dict(save_all=True, append_images=[Image.new('RGB', PHOTO.size)])
    PHOTO.save(tmp_path / f'x.{suffix}', format, **several)
    pixels, _ = by_simplejpeg(tmp_path / f'x.{suffix}')
    assert np.array_equal(pixels, by_pillow(tmp_path / f'x.{suffix}'))
    assert np.abs(pixels.astype(int) - np.asarray(PHOTO)).mean() < 4


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bit_greys_are_scaled_to_8_bits(suffix, tmp_path):
    grey = np.asarray(PHOTO.convert('L'))
    Image.fromarray(grey.astype('uint16') * 256 + 200).save(tmp_path / f'deep.{suffix}')
    assert np.array_equal(by_pillow(tmp_path / f'deep.{suffix}'), np.stack([grey] * 3, axis=-1))


def test_12_bit_greys_are_scaled_to_8_bits(tmp_path):
    """A TIFF written by hand: two pixels of 12 bits in three bytes."""
    header = b'II*\0' + struct.pack('<IH', 8, 8)
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 110), (278, 1), (279, 3)]
    directory = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in entries)
    (tmp_path / 'deep.tif').write_bytes(header + directory + bytes(4) + bytes([0xC8, 0xF0, 0x70]))
    assert by_pillow(tmp_path / 'deep.tif').tolist() == [[[200] * 3, [7] * 3]]


@pytest.mark.parametrize('type', ['float32', 'int32'])
def test_greys_whose_range_is_not_known_are_refused(type, tmp_path):
    Image.fromarray(np.linspace(0, 1, 48).reshape(6, 8).astype(type)).save(tmp_path / 'x.tif')
    message = by_pillow(tmp_path / 'x.tif')
    assert 'x.tif: cannot be decoded' in message and '8 or 16 bits' in message


@pytest.mark.parametrize('what', ['profile', 'text', 'compressed text', 'international text'])
def test_a_png_with_large_metadata_is_read(what, tmp_path):
    text = PngImagePlugin.PngInfo()
    if what == 'international text':
        text.add_itxt('x', 'y' * 3_000_000, zip=True)
    elif what != 'profile':
        text.add_text('x', 'y' * 3_000_000, zip=what == 'compressed text')
    PHOTO.save(tmp_path / 'x.png', pnginfo=text, icc_profile=bytes(3_000_000) if what == 'profile' else None)
    assert np.array_equal(by_pillow(tmp_path / 'x.png'), np.asarray(PHOTO))


# ---- what is not


@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('mode, progressive', [('RGB', False), ('RGB', True), ('L', False)])
def test_plain_jpegs_have_pillows_pixels_and_an_exif_orientation_is_ignored(mode, progressive, subsampling, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for quality in (30, 75, 95):
        how = dict(quality=quality, progressive=progressive, subsampling=subsampling, exif=exif)
        PHOTO.convert(mode).save(tmp_path / 'a.jpg', **how)
        pixels, fast = by_simplejpeg(tmp_path / 'a.jpg')
        assert fast and pixels.shape == (97, 131, 3) and np.array_equal(pixels, by_pillow(tmp_path / 'a.jpg'))


@pytest.mark.parametrize('mode, format', [('CMYK', 'JPEG'), ('RGB', 'PNG'), ('RGBA', 'PNG'), ('RGB', 'BMP')])
def test_other_files_go_to_pillow_whatever_their_name(mode, format, tmp_path):
    PHOTO.convert(mode).save(tmp_path / 'image.jpg', format)
    pixels, fast = by_simplejpeg(tmp_path / 'image.jpg')
    assert not fast and np.array_equal(pixels, by_pillow(tmp_path / 'image.jpg'))


def test_a_jpeg_of_too_many_pixels_is_left_to_pillow_which_refuses_it(tmp_path, monkeypatch):
    PHOTO.save(tmp_path / 'a.jpg')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 131 * 97 // 3)
    message = by_simplejpeg(tmp_path / 'a.jpg')
    assert 'a.jpg: cannot be decoded' in message and 'resize it' in message


def test_a_file_of_another_type_is_refused_with_the_types_that_are_read(tmp_path):
    (tmp_path / 'x.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(99))
    message = by_pillow(tmp_path / 'x.heic')
    assert message == by_simplejpeg(tmp_path / 'x.heic') and 'x.heic: cannot be decoded' in message
    assert all(format in message for format in ('JPEG', 'PNG', 'GIF', 'TIFF'))


# ---- smaller images


@pytest.mark.parametrize('allowed, shrink', [(0.5, 1), (1.9, 1), (2, 2), (3.9, 2), (4, 4), (7.5, 4), (8, 8), (40, 8)])
def test_an_image_is_decoded_smaller_but_not_smaller_than_allowed(allowed, shrink, tmp_path):
    PHOTO.save(tmp_path / 'a.jpg', quality=95)
    pixels, done = open_jpeg(str(tmp_path / 'a.jpg')).decode(allowed)
    assert done == shrink and pixels.shape == (-(-97 // shrink), -(-131 // shrink), 3)
    means = np.asarray(PHOTO.crop((0, 0, 128, 96)).resize((128 // shrink, 96 // shrink), Image.BOX), 'int64')
    assert np.abs(means - pixels[: 96 // shrink, : 128 // shrink]).mean() < 4, 'each pixel is the mean of a square'
