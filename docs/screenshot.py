"""Draw docs/images/app.png: python docs/screenshot.py (after ./demo/run.sh).

demo/app.py with the demo's model, in a headless browser, after the upload of a scene. Needs tests/requirements.txt.
"""

import io
import os
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests'))
import browser
from browser import ROOT

WIDTH = 1000  # pixels
OUTPUT = ROOT / 'demo' / 'output'
MODEL = '--model lvvit_nano --input_size 48 --nb_classes 10'


def save(png):
    """Without the empty ground below the page, in 256 colours."""
    image = Image.open(io.BytesIO(png)).convert('RGB')
    _, _, _, bottom = ImageOps.invert(image).getbbox()
    image = image.crop((0, 0, image.width, min(bottom + 16, image.height)))
    few = image.quantize(palette=image.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
    few.save(ROOT / 'docs' / 'images' / 'app.png', optimize=True)


def main():
    flags = [*MODEL.split(), '--resume', OUTPUT / 'train' / 'checkpoint-best.pd']
    flags += ['--label_list', OUTPUT / 'digits' / 'label_list.txt']
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, 'profile'))
        server = browser.Server(Path(folder), *flags)
        try:
            driver = browser.start(os.path.join(folder, 'profile'), size=(WIDTH, 1200))
            page = browser.Page(driver, server.address)
            page.upload(OUTPUT / 'digits' / 'val' / 'digit9' / 'val_00069.JPEG')
            browser.wait(lambda: page.shown() is not None, 'the tokens')
            time.sleep(3)  # the bars grow, and a blink after the upload
            save(driver.get_screenshot_as_png())
            driver.quit()
        finally:
            server.stop()


if __name__ == '__main__':
    main()
