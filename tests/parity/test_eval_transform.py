"""Evaluation sees the very pixels that the original's evaluation sees, from image files of every odd size and kind."""

import itertools

import numpy as np
import pytest
from PIL import Image

from parity.fidelity import ABSOLUTE
from parity.photos import photos
from util.data import listing
from util.data.datasets import EvalDataset
from util.data.images import open_rgb
from util.data.transforms import EvalTransform

SECTION = 'Evaluation transform'
SIDES = (33, 47, 65, 101, 127, 223, 255, 333, 499, 501)
SETTINGS = list(itertools.product((32, 64, 224, 384), (0.875, 0.9, 1.0)))
GREY = 'grey levels'


@pytest.fixture(scope='module')
def jpegs(tmp_path_factory):
    """100 JPEGs of every width and height of SIDES, of three photos, two qualities and all three chroma samplings."""
    root = tmp_path_factory.mktemp('jpegs')
    (root / 'a').mkdir()
    for i, (width, height) in enumerate(itertools.product(SIDES, SIDES)):
        photo = photos()[i % 3].resize((width, height), Image.BOX)
        how = dict(quality=(75, 95)[i % 2], subsampling=i % 3, progressive=i % 5 == 0)
        photo.save(root / 'a' / f'{i:03}-{width}x{height}.jpg', **how)
    return root


@pytest.fixture(scope='module')
def kinds(tmp_path_factory):
    """A photo in every mode that files come in, and images of extreme shapes."""
    root, photo = tmp_path_factory.mktemp('kinds'), photos()[0]
    folder = root / 'a'
    folder.mkdir()
    for mode in ('L', 'CMYK', 'RGB'):
        photo.convert(mode).save(folder / f'{mode}.jpeg')
    for mode in ('L', 'LA', 'P', 'RGB', 'RGBA', '1'):
        photo.convert(mode).save(folder / f'{mode}.png')
    photo.convert('P').save(folder / 'transparent.png', transparency=7)
    photo.save(folder / 'misnamed.JPEG', format='PNG')  # ImageNet has one
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a viewer, not by either side here
    photo.save(folder / 'turned.jpg', exif=exif)
    for width, height in ((1, 1), (2, 3), (3, 200), (1200, 35), (640, 427), (224, 224), (223, 225)):
        photo.resize((width, height)).save(folder / f'{width}x{height}.png')
    return root


def both(original, root, size, crop_pct, interpolation='bicubic', which=slice(None)):
    """((our uint8 [S, S, 3], our input), (theirs)) of each file of a folder, each side reading the file itself."""
    samples, transform = listing.read_folder(str(root), 1), EvalTransform(size, crop_pct, interpolation)
    ours = EvalDataset(samples, transform)
    arguments = dict(input_size=size, is_training=False, crop_pct=crop_pct, interpolation=interpolation)
    data = original.timm.data
    theirs = data.ImageDataset(str(root), transform=data.create_transform(**arguments))
    pixels = data.create_transform(**arguments, use_prefetcher=True)  # stops at the pixels
    place = {path: i for i, path in enumerate(theirs.filenames(absolute=True))}  # it sorts 2.png before 10.png
    for i, (path, _) in list(enumerate(samples))[which]:
        yield (
            (ours[i]['image'], transform(open_rgb(path))),
            (pixels(Image.open(path).convert('RGB')).transpose(1, 2, 0), theirs[place[path]][0].numpy()),
        )


def compare(fidelity, what, pairs):
    for number, ((own, own_input), (expected, expected_input)) in enumerate(pairs):
        assert own.shape == expected.shape and own_input.shape == expected_input.shape
        fidelity(SECTION, f'{what}: pixels', np.abs(own.astype('int16') - expected).max(), 0, GREY)
        error = np.abs(own_input - expected_input).max()
        fidelity(SECTION, f"{what}: the network's input", error, 0, ABSOLUTE)
    assert number > 10


@pytest.mark.parametrize('number', range(len(SETTINGS)))
def test_jpegs_of_all_odd_sizes_give_the_input_that_they_give_the_original(number, jpegs, original, fidelity):
    """100 files; each of the twelve settings takes every third of them."""
    size, crop_pct = SETTINGS[number]
    pairs = both(original, jpegs, size, crop_pct, which=slice((number + number // 3) % 3, None, 3))
    compare(fidelity, '100 JPEGs of 33 to 501 px, input 32 to 384, crop_pct .875 to 1', pairs)


@pytest.mark.parametrize('size, crop_pct', [(64, 0.9), (224, 1.0), (97, 0.875)])
def test_every_kind_of_file_gives_the_input_that_it_gives_the_original(size, crop_pct, kinds, original, fidelity):
    compare(fidelity, 'grey, CMYK, palette, alpha, bilevel and extreme shapes', both(original, kinds, size, crop_pct))


@pytest.mark.parametrize('interpolation', ['bilinear', 'lanczos'])
def test_the_other_filters_are_the_originals_too(interpolation, jpegs, original, fidelity):
    compare(fidelity, 'bilinear and Lanczos', both(original, jpegs, 64, 0.9, interpolation, slice(0, None, 5)))
