"""demo/app.py in a headless browser: the server, the browser, and the page.

Used by tests/test_app_page.py.
"""

import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = (
    '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    '--disable-component-update --disable-sync --hide-scrollbars'
)
PATIENCE = 60  # seconds, on a machine that is busy with other things


class Missing(Exception):
    """The browser, its driver or a library is missing; the message names it."""


def wait(condition, what):
    """The first true value of condition(). Raises TimeoutError."""
    end = time.time() + PATIENCE
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise TimeoutError(f'waited {PATIENCE} s for {what}')


def start(profile, size=(1000, 1000)):
    """A selenium.webdriver.Chrome that records every address it requests. Raises Missing.

    profile: an empty folder; size: (width, height) of the window in pixels.
    """
    try:
        __import__('gradio')
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError as error:
        raise Missing(f'{error.name} (pip install -r tests/requirements.txt)')
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not binary:
        raise Missing('Chromium or Chrome')
    driver = shutil.which(
        'chromedriver', path=os.pathsep.join([os.environ['PATH'], os.environ.get('CHROMEWEBDRIVER', '')])
    )
    if not driver:
        raise Missing('chromedriver')
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS.split(), f'--user-data-dir={profile}', f'--window-size={size[0]},{size[1]}']:
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    return webdriver.Chrome(options=options, service=Service(driver))


class Server:
    """demo/app.py on a free port of 127.0.0.1. folder: for its log and the uploads."""

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


class Page:
    """The page as a visitor sees and uses it."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get(address)
        wait(lambda: self.all('#upload input[type=file]'), 'the page')

    def all(self, selector):
        return self.driver.find_elements('css selector', selector)

    def text(self, name):
        """The text of the element with this id, '' if there is none."""
        script = 'const found = document.getElementById(arguments[0]); return found ? found.innerText.trim() : ""'
        return self.driver.execute_script(script, name)

    def upload(self, path):
        (box,) = wait(lambda: self.all('#upload input[type=file]'), 'a place to drop a file')
        box.send_keys(str(path))

    def shown(self):
        """The picture as an RGB array int [H, W, 3], or None while there is none."""
        script = 'const found = document.querySelector("#seen img"); return found ? found.src : ""'
        source = self.driver.execute_script(script)
        if not source:
            return None
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(',')[2])))).astype(int)

    def point_at(self, element):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()
