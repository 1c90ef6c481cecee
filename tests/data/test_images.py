"""util/data/images.py: which files are found; simplejpeg gives Pillow's pixels."""

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from util.data.images import BadImage, JpegFile, find_images, open_jpeg, open_rgb
from util.errors import UserError

pytestmark = pytest.mark.cross_version

PHOTO = Image.open(ROOT / 'demo' / 'chelsea.png').convert('RGB').resize((131, 97))


def by_simplejpeg(path):
    """(pixels, whether the file went to simplejpeg), or the error."""
    try:
        image = open_jpeg(str(path))
        pixels, shrink = image.decode()
        assert pixels.shape == (*image.size[::-1], 3) and shrink == 1
        return pixels, isinstance(image, JpegFile)
    except (BadImage, UserError) as error:
        return type(error), str(error)


def by_pillow(path):
    try:
        return np.asarray(open_rgb(str(path)))
    except (BadImage, UserError) as error:
        return type(error), str(error)


def test_files_folders_and_patterns_name_images_in_their_order(tmp_path):
    (tmp_path / 'b').mkdir()
    for name in ('b/4.bmp', 'b/2.JPG', 'b/1.png', 'b/5.png', 'b/3.webp', 'b/note.txt', 'a.webp', 'z.jpeg'):
        (tmp_path / name).touch()
    found = find_images([str(tmp_path / 'z.jpeg'), str(tmp_path / 'b'), str(tmp_path / '*.webp')])
    folder = ['b/1.png', 'b/2.JPG', 'b/3.webp', 'b/4.bmp', 'b/5.png']
    assert found == [str(tmp_path / name) for name in ('z.jpeg', *folder, 'a.webp')]
    with pytest.raises(UserError, match='none.jpg: no such file'):
        find_images([str(tmp_path / 'b'), str(tmp_path / 'none.jpg')])


def test_a_folder_is_searched_recursively_and_what_is_skipped_is_logged(tmp_path, capsys):
    for name in ('z.jpg', 'b/a/1.png', '.cache/2.png', 'b/@eaDir/1.png', 'b/._1.png', 'b/note.txt'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'b/loop').symlink_to('..')
    (tmp_path / 'c').symlink_to('b/a')
    assert find_images([str(tmp_path)]) == [str(tmp_path / name) for name in ('b/a/1.png', 'c/1.png', 'z.jpg')]
    log = capsys.readouterr().out
    for count in ('1 .txt', '1 ._*', '1 folder .cache', '1 folder @eaDir', '1 link to a folder around it'):
        assert count in log


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
    kind, message = by_simplejpeg(tmp_path / 'a.jpg')
    assert kind is BadImage and 'a.jpg: cannot be decoded' in message


def test_a_file_that_is_gone_is_no_bad_image(tmp_path):
    assert by_simplejpeg(tmp_path / 'none.jpg') == by_pillow(tmp_path / 'none.jpg')
    kind, message = by_pillow(tmp_path / 'none.jpg')
    assert kind is UserError and 'none.jpg: cannot be read' in message


@pytest.mark.parametrize('allowed, shrink', [(0.5, 1), (1.9, 1), (2, 2), (3.9, 2), (4, 4), (7.5, 4), (8, 8), (40, 8)])
def test_an_image_is_decoded_smaller_but_not_smaller_than_allowed(allowed, shrink, tmp_path):
    PHOTO.save(tmp_path / 'a.jpg', quality=95)
    pixels, done = open_jpeg(str(tmp_path / 'a.jpg')).decode(allowed)
    assert done == shrink and pixels.shape == (-(-97 // shrink), -(-131 // shrink), 3)
    means = np.asarray(PHOTO.crop((0, 0, 128, 96)).resize((128 // shrink, 96 // shrink), Image.BOX), 'int64')
    assert np.abs(means - pixels[: 96 // shrink, : 128 // shrink]).mean() < 4, 'each pixel is the mean of a square'
