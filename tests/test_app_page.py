"""The page of demo/app.py in a headless browser: upload, slider, examples, errors.

Needs Chromium or Chrome and its ChromeDriver. Without them the tests are skipped; with CI set they fail.
"""

import json
import os
import sys

import numpy as np
import pytest
from inference_helpers import AS_EXPORTED, MODEL, WORDS, records
from PIL import Image

import predict
from browser import Missing, Page, Server, start, wait
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'demo'))
import app
import photo
import predictions

pytest_plugins = 'inference_fixtures'

CHELSEA = str(ROOT / 'demo' / 'chelsea.png')


@pytest.fixture(scope='module')
def driver(tmp_path_factory):
    try:
        driver = start(tmp_path_factory.mktemp('profile'))
    except Missing as error:
        if os.environ.get('CI'):
            pytest.fail(f'{error} is missing, and CI must have it')
        pytest.skip(f'NOT RUN: {error} is missing')
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def flags(ckpt, label_list):
    return [*MODEL, *AS_EXPORTED, '--resume', ckpt, '--label_list', label_list]


@pytest.fixture(scope='module')
def server(driver, tmp_path_factory, flags):
    server = Server(tmp_path_factory.mktemp('server'), *flags, '--examples', CHELSEA)
    yield server
    server.stop()


@pytest.fixture
def page(driver, server):
    return Page(driver, server.address)


@pytest.fixture(scope='module')
def expected(flags):
    """expected(block, written): the picture that the page should show of the sample photo."""
    network = predictions.load(app.parser().parse_args([str(flag) for flag in flags]))
    prediction = predictions.predict(network, photo.read_photo(CHELSEA))

    def picture(block, written=True):
        return np.asarray(predictions.picture(prediction, block, network.names, written)).astype(int)

    return picture


def looks_like(picture, other):
    return picture is not None and picture.shape == other.shape and np.abs(picture - other).mean() < 2  # JPEG


def test_a_photo_shows_five_classes_and_the_tokens_of_each_block(run, page, flags, expected):
    (record,) = records(run(predict, *flags, '--infer_imgs', CHELSEA))
    page.upload(CHELSEA)
    wait(lambda: all(name in page.text('classes') for name in record['label_names']), 'five classes')
    assert len(set(WORDS) & set(page.text('classes').split())) == 5
    assert f'{record["scores"][0]:.0%}' in page.text('classes')
    wait(lambda: looks_like(page.shown(), expected(6)), 'the tokens of the last block')
    cat = np.asarray(Image.open(CHELSEA).convert('RGB').resize(page.shown().shape[1::-1])).astype(int)
    assert np.abs(page.shown() - cat).mean() > 20
    assert 'chelsea.png' in page.text('about')
    (box,) = page.all('#block input[type=number]')
    assert not box.is_displayed(), 'its numbers can be no blocks'
    (slider,) = page.all('#block input[type=range]')
    for _ in range(5):
        slider.send_keys('\ue012')  # the left arrow key
    wait(lambda: 'block 1 of 6' in page.text('note'), 'the text of the first block')
    wait(lambda: looks_like(page.shown(), expected(1)), 'the tokens of the first block')
    page.all('#written input')[0].click()
    wait(lambda: looks_like(page.shown(), expected(1, written=False)), 'the tokens without words')


def test_a_token_that_is_pointed_at_shows_three_classes(page):
    page.upload(CHELSEA)
    token = wait(lambda: page.all('.grid i'), 'the tokens')[3]
    page.point_at(token)
    (said,) = wait(lambda: [span for span in page.all('.grid span') if span.is_displayed()], 'its classes')
    assert len(said.text.splitlines()) == 3 and said.text.count('%') == 3 and set(said.text.split()[::2]) < set(WORDS)


def test_the_visitor_chooses_the_class_of_the_relevance(page):
    page.upload(CHELSEA)
    wait(lambda: 'attention rollout' in page.text('heat'), 'the heat maps')
    (choice,) = page.all('#class_id input')
    choice.click()
    choice.send_keys('seven', '\ue007')  # Enter
    wait(lambda: 'relevance to seven' in page.text('heat'), 'the relevance to the chosen class')


def test_a_file_that_is_no_photo_is_one_line_and_the_page_still_works(page, server, tmp_path):
    page.upload(CHELSEA)
    wait(lambda: page.shown() is not None, 'the tokens')
    (tmp_path / 'notes.png').write_text('no image')
    page.upload(tmp_path / 'notes.png')
    wait(lambda: 'notes.png' in page.text('note'), 'the error')
    assert '\n' not in page.text('note') and str(tmp_path) not in page.text('note')
    wait(lambda: page.shown() is None, 'the end of the former picture')
    assert not page.all('.toast-body')
    page.upload(CHELSEA)
    wait(lambda: page.shown() is not None, 'the next photo')
    assert 'Traceback' not in server.printed() + page.driver.page_source


def test_an_example_is_a_click_away(page, expected):
    (cat,) = wait(lambda: page.all('#examples button'), 'the examples')
    cat.click()
    wait(lambda: looks_like(page.shown(), expected(6)), 'the tokens of the sample photo')


def test_nothing_is_fetched_from_other_servers(page, server):
    page.upload(CHELSEA)
    wait(lambda: page.shown() is not None, 'the tokens')
    messages = [json.loads(entry['message'])['message'] for entry in page.driver.get_log('performance')]
    asked = {m['params']['request']['url'] for m in messages if m['method'] == 'Network.requestWillBeSent'}
    fetched = {address for address in asked if address.startswith(('http', 'ws'))}
    assert len(fetched) > 10 and {address for address in fetched if not address.startswith(server.address)} == set()
