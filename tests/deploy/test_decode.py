"""util/deploy/decode.py: batches in order, decoded one ahead in a process of their own."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from util.data.transforms import EvalTransform
from util.deploy import decode
from util.errors import UserError

pytestmark = pytest.mark.cross_version


@pytest.fixture
def files(tmp_path):
    """Seven images whose brightness is their number; the fourth is damaged."""
    for i in range(7):
        Image.new('RGB', (32, 32), (20 * i,) * 3).save(tmp_path / f'{i}.png')
    (tmp_path / '3.png').write_bytes((tmp_path / '3.png').read_bytes()[:40])
    return [str(tmp_path / f'{i}.png') for i in range(7)]


def to_number(image):
    return np.full((3, 2, 2), image.getpixel((0, 0))[0] // 20, 'float32')


@pytest.mark.parametrize('ahead', [True, False])
@pytest.mark.parametrize('batch_size', [1, 2, 3, 7, 20])
def test_batches_keep_the_order_and_name_what_is_damaged(files, ahead, batch_size):
    names, numbers, bad = [], [], []
    with decode.Batches(files, to_number, batch_size, ahead) as batches:
        assert len(batches) == -(-7 // batch_size)
        for good, images, left_out in batches:
            names += good
            bad += left_out
            assert images is None if not good else images.shape == (len(good), 3, 2, 2)
            numbers += [] if images is None else images[:, 0, 0, 0].tolist()
    assert names == [f for f in files if '3.png' not in f] and numbers == [0, 1, 2, 4, 5, 6]
    ((path, reason),) = bad
    assert path == files[3] and reason


def test_the_next_batch_is_decoded_while_this_one_is_used(files, tmp_path):
    def slow(image):
        (tmp_path / f'started-{image.getpixel((0, 0))[0] // 20}').touch()
        return to_number(image)

    with decode.Batches(files[:3], slow, 1) as batches:
        iterator = iter(batches)
        next(iterator)
        deadline = time.time() + 20
        while not (tmp_path / 'started-1').exists() and time.time() < deadline:
            time.sleep(0.01)  # nobody has asked for the second batch yet
        assert (tmp_path / 'started-1').exists()


def test_what_fails_in_the_other_process_is_one_error_here(files):
    def broken(image):
        raise RuntimeError('transform broke')

    with decode.Batches(files, broken, 2) as batches, pytest.raises(UserError, match='RuntimeError: transform broke'):
        list(batches)

    def dies(image):
        os._exit(9)

    with decode.Batches(files, dies, 2) as batches, pytest.raises(UserError, match='process that decodes images died'):
        list(batches)


def test_no_process_is_left_behind(files):
    with decode.Batches(files, EvalTransform(32, 1.0), 1) as batches:
        next(iter(batches))
        process = batches._process
        assert process.is_alive()
    assert not process.is_alive()


def test_one_batch_needs_no_process(files):
    with decode.Batches(files, to_number, 7) as batches:
        assert batches._process is None
