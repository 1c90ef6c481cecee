"""Evaluation sees the very pixels that the original's evaluation sees, from image files of every odd size and kind."""

import contextlib
import itertools
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image

import models
from parity.fidelity import ABSOLUTE
from parity.photos import photos
from parity.weights import random_state
from util.data import listing
from util.data.datasets import EvalDataset
from util.data.images import open_rgb
from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, normalise, to_input
from util.errors import UserError

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


def their_dataset(original, root, **kwargs):
    return original.timm.data.ImageDataset(str(root), transform=original.timm.data.create_transform(**kwargs))


def both(original, root, size, crop_pct, interpolation='bicubic', which=slice(None)):
    """((our uint8 [S, S, 3], our input), (theirs)) of each file of a folder, each side reading the file itself."""
    samples, transform = listing.read_folder(str(root), 1), EvalTransform(size, crop_pct, interpolation)
    ours = EvalDataset(samples, transform)
    arguments = dict(input_size=size, is_training=False, crop_pct=crop_pct, interpolation=interpolation)
    theirs = their_dataset(original, root, **arguments)
    pixels = original.timm.data.create_transform(**arguments, use_prefetcher=True)  # stops at the pixels
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


def test_all_256_values_are_normalised_to_the_same_float(original, fidelity):
    levels = np.arange(256, dtype='uint8').reshape(16, 16, 1).repeat(3, axis=2)
    transforms = original.torchvision.transforms
    expected = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)(transforms.ToTensor()(Image.fromarray(levels)))
    error = np.abs(to_input(Image.fromarray(levels)) - expected.numpy()).max()
    fidelity(SECTION, 'normalisation of 256 levels', error, 0, ABSOLUTE)


@pytest.fixture
def without_gpu(original, monkeypatch):
    """The original's loader copies batches to a GPU on a stream of their own: here they stay where they are."""
    cuda, stream = original.torch.cuda, SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(original.torch.Tensor, 'cuda', lambda tensor, **_: tensor)
    monkeypatch.setattr(cuda, 'Stream', lambda: stream)
    monkeypatch.setattr(cuda, 'current_stream', lambda: stream)
    monkeypatch.setattr(cuda, 'stream', lambda _: contextlib.nullcontext())


def test_a_network_ranks_the_classes_as_on_the_batches_of_the_originals_loader(jpegs, original, without_gpu, fidelity):
    """Its loader normalises after the pixels reached the GPU, by 255·mean and 255·std: other roundings."""
    dataset = their_dataset(original, jpegs, input_size=64)
    flags = dict(is_training=False, interpolation='bicubic', crop_pct=0.9, num_workers=0, pin_memory=False)
    loader = original.tlt.data.create_token_label_loader(dataset, input_size=64, batch_size=20, **flags)
    ours = EvalDataset(listing.read_folder(str(jpegs), 1), EvalTransform(64, 0.9))
    own = normalise(np.stack([ours[i]['image'] for i in range(len(ours))]))
    expected = np.concatenate([batch.numpy() for batch, _ in loader])
    what = "100 JPEGs through the original's loader: "
    fidelity(SECTION, what + "the network's input", np.abs(own - expected).max(), 2e-6, ABSOLUTE)

    model = models.build_model('lvvit_nano', img_size=64, num_classes=1000)
    model.set_state_dict(random_state(model, seed=0))
    model.eval()
    with paddle.no_grad():
        ours, theirs = (model(paddle.to_tensor(x)).numpy() for x in (own, expected))
    prior = theirs.mean(0)  # what random weights say of any image; without it the image decides
    ranks, expected = (np.argsort(prior - logits, axis=-1, kind='stable')[:, :5] for logits in (ours, theirs))
    fidelity(SECTION, what + 'images with another top 5 of 1,000', (ranks != expected).any(-1).sum(), 0, 'count')
    assert len(set(expected[:, 0])) > 20, 'a network that does not look'


def test_differs_on_purpose_sixteen_bit_greys_keep_their_upper_eight_bits(tmp_path):
    """The original's `convert('RGB')` clips them, to white nearly everywhere."""
    grey = np.arange(256, dtype='uint16').reshape(16, 16) * 257
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    assert np.array_equal(np.asarray(open_rgb(tmp_path / 'grey.png'))[:, :, 0], grey >> 8)
    theirs = np.asarray(Image.open(tmp_path / 'grey.png').convert('RGB'))
    assert (theirs == 255).mean() > 0.99


def test_differs_on_purpose_a_crop_larger_than_the_image_is_refused_not_padded_with_black(original):
    photo = photos()[0]
    theirs = original.timm.data.create_transform(64, is_training=False, crop_pct=1.2, use_prefetcher=True)(photo)
    assert not theirs[:, 0].any() and photo.resize((1, 1)).getpixel((0, 0)) != (0, 0, 0)
    with pytest.raises(UserError):
        EvalTransform(64, 1.2)
