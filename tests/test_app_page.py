"""The page of demo/app.py in a headless browser: a photo is uploaded as a visitor would, and what is no photo.

Needs tests/requirements-browser.txt, Chromium or Chrome, and its ChromeDriver: tests/run.sh makes the environment. What
is missing is a skip that says so; with CI set in the environment, a failure.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from inference_helpers import AS_EXPORTED, MODEL, WORDS, records
from PIL import Image

import predict
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'demo'))
import app

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.browser

CHELSEA = str(ROOT / 'demo' / 'chelsea.png')
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = (
    '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    '--disable-component-update --disable-sync --window-size=1000,1000'
)
PATIENCE = 60  # seconds, on a machine that is busy with other things


def need(found, what):
    """found, or the end of the test for want of it."""
    if found:
        return found
    if os.environ.get('CI'):
        pytest.fail(f'{what} is missing, and CI must have it')
    pytest.skip(f'NOT RUN: {what} is missing')


def module(name):
    try:
        return __import__(name)
    except ImportError:
        return None


def driver_path():
    """ChromeDriver: on the path, or where GitHub's machines have it."""
    there = os.path.join(os.environ.get('CHROMEWEBDRIVER', ''), 'chromedriver')
    return shutil.which('chromedriver') or (there if os.path.isfile(there) else None)


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    """A selenium.webdriver.Chrome that notes every address that it asks for."""
    need(module('selenium'), 'selenium (tests/requirements-browser.txt)')
    need(module('gradio'), 'gradio (tests/requirements-browser.txt)')
    binary = need(next(filter(None, map(shutil.which, BROWSERS)), None), 'Chromium or Chrome')
    service_path = need(driver_path(), 'chromedriver')
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS.split(), f'--user-data-dir={tmp_path_factory.mktemp("profile")}']:
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    driver = webdriver.Chrome(options=options, service=Service(service_path))
    yield driver
    driver.quit()


class Server:
    """demo/app.py on a free port of 127.0.0.1, with a folder for what is uploaded."""

    def __init__(self, folder, *flags):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        self.address, self.log = f'http://127.0.0.1:{port}', folder / 'server.log'
        command = [sys.executable, str(ROOT / 'demo' / 'app.py'), '--port', str(port), *map(str, flags)]
        environment = {**os.environ, 'GRADIO_TEMP_DIR': str(folder / 'uploads'), 'OMP_NUM_THREADS': '1'}
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        wait(lambda: 'the page: ' in self.printed() or self.process.poll() is not None, 'the server')
        assert self.process.poll() is None, self.printed()

    def printed(self):
        return self.log.read_text()

    def stop(self):
        self.process.terminate()
        return self.process.wait(PATIENCE)


@pytest.fixture(scope='module')
def flags(ckpt, label_list):
    return [*MODEL, *AS_EXPORTED, '--resume', ckpt, '--label_list', label_list]


@pytest.fixture(scope='module')
def server(browser, tmp_path_factory, flags):
    server = Server(tmp_path_factory.mktemp('server'), *flags)
    yield server
    server.stop()


def wait(condition, what):
    """The first true value of condition()."""
    end = time.time() + PATIENCE
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    pytest.fail(f'waited {PATIENCE} s for {what}')


class Page:
    """What a visitor sees and does."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get(address)
        wait(lambda: self.all('#upload input[type=file]'), 'the page')

    def all(self, selector):
        return self.driver.find_elements('css selector', selector)

    def text(self, name):
        return '\n'.join(element.text for element in self.all(f'#{name}'))

    def upload(self, path):
        (box,) = wait(lambda: self.all('#upload input[type=file]'), 'a place to drop a file')
        box.send_keys(str(path))

    def shown(self):
        """The picture as an RGB array int [H, W, 3], or None while there is none."""
        for image in self.all('#seen img'):
            source = image.get_attribute('src')
            if source and source.startswith('http'):
                with urllib.request.urlopen(source) as answer:
                    return np.asarray(Image.open(io.BytesIO(answer.read())).convert('RGB')).astype(int)
        return None


@pytest.fixture
def page(browser, server):
    return Page(browser, server.address)


def expected(flags, block):
    """The picture that the page should show of the sample photo."""
    network = app.load(app.parser().parse_args([str(flag) for flag in flags]))
    return np.asarray(app.picture(app.ask(network, CHELSEA), block, network.names)).astype(int)


def looks_like(picture, other):
    return picture is not None and picture.shape == other.shape and np.abs(picture - other).max() <= 2


def test_a_photo_dropped_shows_five_classes_and_what_every_token_says(run, page, flags):
    (record,) = records(run(predict, *flags, '--infer_imgs', CHELSEA))
    page.upload(CHELSEA)
    wait(lambda: all(name in page.text('classes') for name in record['label_names']), 'five classes')
    assert len(set(WORDS) & set(page.text('classes').split())) == 5
    assert f'{record["scores"][0]:.0%}' in page.text('classes')
    wait(lambda: looks_like(page.shown(), expected(flags, 6)), 'the tokens')
    assert 'After block 6 of 6' in page.text('note')
    photo = np.asarray(Image.open(CHELSEA).convert('RGB').resize(page.shown().shape[1::-1])).astype(int)
    assert np.abs(page.shown() - photo).mean() > 20


def test_the_slider_goes_through_the_blocks(page, flags):
    page.upload(CHELSEA)
    wait(lambda: 'After block 6 of 6' in page.text('note'), 'the last block')
    (slider,) = page.all('#block input[type=range]')
    for _ in range(5):
        slider.send_keys('\ue012')  # the left arrow key
    wait(lambda: 'After block 1 of 6' in page.text('note'), 'the first block')
    wait(lambda: looks_like(page.shown(), expected(flags, 1)), 'its tokens')


def test_what_is_no_photo_is_refused_in_one_line_and_the_page_goes_on(page, server, tmp_path):
    page.upload(CHELSEA)
    wait(lambda: page.shown() is not None, 'the tokens')
    (tmp_path / 'notes.png').write_text('no image')
    page.upload(tmp_path / 'notes.png')
    wait(lambda: 'cannot be decoded' in page.text('note'), 'the refusal')
    line = page.text('note')
    assert line.startswith('notes.png: cannot be decoded') and '\n' not in line and str(tmp_path) not in line
    wait(lambda: page.shown() is None, 'the end of the former picture')
    assert 'Traceback' not in page.driver.page_source
    page.upload(CHELSEA)
    wait(lambda: page.shown() is not None and 'After block' in page.text('note'), 'the next photo')
    lines = server.printed().splitlines()
    assert len(lines) == 2 and lines[0].endswith('checkpoint.pd; it also holds averaged weights, which --ema selects')


def test_an_example_is_a_click_away(page, flags):
    wait(lambda: page.all('#examples button img'), 'the examples')[0].click()
    wait(lambda: looks_like(page.shown(), expected(flags, 6)), 'the tokens of the sample photo')


def test_nothing_is_fetched_from_elsewhere(page, server):
    page.upload(CHELSEA)
    wait(lambda: page.shown() is not None, 'the tokens')
    messages = [json.loads(entry['message'])['message'] for entry in page.driver.get_log('performance')]
    asked = {m['params']['request']['url'] for m in messages if m['method'] == 'Network.requestWillBeSent'}
    fetched = {address for address in asked if address.startswith(('http', 'ws'))}
    assert len(fetched) > 10 and {address for address in fetched if not address.startswith(server.address)} == set()


def test_an_exported_model_shows_its_classes_and_says_that_it_has_no_tokens(browser, exported, tmp_path):
    server = Server(tmp_path, '--model_file', exported / 'model.pdmodel')
    try:
        page = Page(browser, server.address)
        assert 'An exported model gives classes only' in page.text('note') and page.text('block') == ''
        page.upload(CHELSEA)
        wait(lambda: len(set(WORDS) & set(page.text('classes').split())) == 5, 'five classes')
        wait(lambda: page.shown() is not None, 'the photo')
        assert 'An exported model gives classes only' in page.text('note')
    finally:
        code = server.stop()
    assert code == 143 and 'Traceback' not in server.printed()  # SIGTERM ends it quietly
