"""The same command gives the same pixels with every Pillow that requirements.txt allows.

The digests were the same with Pillow 9.5.0 (numpy 1.26.4), 12.3.0 and 13.0.0 (numpy 2.4.6). A Pillow that breaks this
test changes what a published recipe trains on: keep it out by the bound in requirements.txt, or do as
transforms.resize does.
"""

import hashlib

import numpy as np
import pytest
from PIL import Image

import rendered
from conftest import ROOT
from util.data.transforms import EvalTransform, TrainTransform

pytestmark = pytest.mark.cross_version

DIGESTS = {
    'rand-m9-mstd0.5-inc1 random': 'f32ed686abd7021e',
    'rand-m9-mstd0.5-inc1 lanczos': '2e1f586f315c071f',
    'rand-m6-n4 random': 'b5db33b59365607d',
    'rand-m6-n4 lanczos': '9c0a3b561601f239',
    'original random': 'f0ae3edec444e57e',
    'original lanczos': '8806a09905046e10',
    'v0 random': '1eb70845a03bb6a8',
    'v0 lanczos': '4d712c0f1ce67f5c',
    ' random': '6135546569f4a455',
    ' lanczos': '22e47cdc0bf04db5',
    'evaluation': 'bf1c2cead20e308e',
}


def digest(images):
    sha256 = hashlib.sha256()
    for image in images:
        sha256.update(np.asarray(image).tobytes())
    return sha256.hexdigest()[:16]


@pytest.fixture(scope='module')
def photo():
    return Image.open(ROOT / 'demo' / 'chelsea.png').convert('RGB')


@pytest.mark.parametrize('aa', ['rand-m9-mstd0.5-inc1', 'rand-m6-n4', 'original', 'v0', ''])
@pytest.mark.parametrize('interpolation', ['random', 'lanczos'])
def test_forty_draws_of_the_training_transform(photo, aa, interpolation):
    transform = TrainTransform(64, interpolation=interpolation, aa=aa)
    draws = [rendered.sample(transform, photo, np.random.default_rng(seed))[0] for seed in range(40)]
    assert digest(draws) == DIGESTS[f'{aa} {interpolation}']


def test_the_evaluation_transform(photo):
    shapes = [photo, photo.crop((0, 0, 200, 300)), photo.crop((3, 5, 100, 90))]
    filters = ('nearest', 'bilinear', 'bicubic', 'lanczos')
    crops = [EvalTransform(size, 0.9, name).crop(image) for image in shapes for size in (32, 224) for name in filters]
    assert digest(crops) == DIGESTS['evaluation']
