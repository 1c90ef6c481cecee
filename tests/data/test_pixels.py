"""The same command gives the same pixels with every Pillow that requirements.txt allows.

The digests were the same with Pillow 9.5.0 (numpy 1.26.4), 12.3.0 and 13.0.0 (numpy 2.4.6). A Pillow that breaks this
test changes the pixels of the published recipe: exclude it in requirements.txt, or do as render_pil.resize does.
"""

import hashlib

import numpy as np
import pytest
from PIL import Image

import rendered
from conftest import ROOT
from util.data.transforms import EvalTransform, TrainTransform


PHOTO = Image.open(ROOT / 'demo' / 'chelsea.png').convert('RGB')
DIGESTS = {
    'rand-m9-mstd0.5-inc1 random': 'f32ed686abd7021e',
    'rand-m6-n4 lanczos': '9c0a3b561601f239',
    'original random': 'f0ae3edec444e57e',
    'v0 lanczos': '4d712c0f1ce67f5c',
    ' random': '6135546569f4a455',
}


def digest(images):
    return hashlib.sha256(b''.join(image.tobytes() for image in images)).hexdigest()[:16]


@pytest.mark.parametrize('flags', DIGESTS)
def test_forty_draws_of_the_training_transform(flags):
    aa, interpolation = flags.split(' ')
    transform = TrainTransform(64, interpolation=interpolation, aa=aa)
    draws = [rendered.sample(transform, PHOTO, np.random.default_rng(seed))[0] for seed in range(40)]
    assert digest(draws) == DIGESTS[flags]


def test_the_evaluation_transform():
    shapes = [PHOTO, PHOTO.crop((0, 0, 200, 300)), PHOTO.crop((3, 5, 100, 90))]
    filters = ('nearest', 'bilinear', 'bicubic', 'lanczos')
    crops = [EvalTransform(size, 0.9, name).crop(image) for image in shapes for size in (32, 224) for name in filters]
    assert digest(crops) == 'bf1c2cead20e308e'
