"""Three real photos: a cat (demo/chelsea.png), and scikit-learn's temple (china.jpg) and flower (flower.jpg)."""

import functools
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image

CAT = Path(__file__).resolve().parents[2] / 'demo' / 'chelsea.png'


@functools.lru_cache(maxsize=None)
def photos():
    """RGB images of 451 x 300, 640 x 427 and 640 x 427 pixels."""
    return (
        Image.open(CAT).convert('RGB'),
        *(Image.fromarray(load_sample_image(name)) for name in ('china.jpg', 'flower.jpg')),
    )
