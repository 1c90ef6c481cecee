"""hubconf.py in a process of a user who knows only paddle.hub and the folder; and the functions of models.py."""

import subprocess
import sys

import numpy as np
import pytest

import models
from conftest import ROOT
from util.weights import pretrained

pytestmark = pytest.mark.cross_version

WEIGHTS = ROOT / 'tests' / 'data_260439a' / 'weights.pth'
NAMES = ['lvvit', 'lvvit_l', 'lvvit_m', 'lvvit_nano', 'lvvit_nano_patch8', 'lvvit_s', 'lvvit_t', 'vit']


def user(folder, code):
    """What a process prints that knows paddle.hub and the folder of this project, and works in another one."""
    code = f'import paddle\nfrom functools import partial\nREPO, WEIGHTS = {str(ROOT)!r}, {str(WEIGHTS)!r}\n{code}'
    result = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_every_model_is_listed_described_and_built(tmp_path):
    code = """
names = paddle.hub.list(REPO, source='local')
print(sorted(names))
for name in names:
    assert len(paddle.hub.help(REPO, name, source='local')) > 40
    model = paddle.hub.load(REPO, name, source='local', img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=7)
    model.eval()
    assert list(model(paddle.zeros([2, 3, 32, 32])).shape) == [2, 7]
"""
    assert user(tmp_path, code) == [str(NAMES)]


def test_weights_come_from_a_file_or_are_those_published_for_the_size(tmp_path):
    code = """
from paddle.utils import download
load = partial(paddle.hub.load, REPO, 'lvvit_s', source='local', num_classes=10, stem='naive', embed_dim=8, num_heads=2)
print(load(pretrained=WEIGHTS, img_size=32, depth=2).head.bias.numpy().tolist())
def refuse(url, *_, **__):
    raise RuntimeError('no network')
download.WEIGHTS_HOME, download.get_path_from_url = 'cache', refuse
for wrong in (dict(pretrained=WEIGHTS, img_size=32, depth=3), dict(pretrained=True, img_size=32),
              dict(pretrained=True, img_size=384), dict(pretrained=True)):
    try:
        load(**wrong)
    except Exception as error:
        print(type(error).__name__, error)
"""
    bias, *errors = user(tmp_path, code)
    assert bias == str(np.asarray(pretrained.read(str(WEIGHTS))['head.bias']).tolist())
    misfit, unpublished, of_384, of_224 = errors
    assert misfit.startswith('UserError') and 'does not fit this model: missing blocks.2' in misfit
    assert 'no weights are published for lvvit_s at 32 pixels; there are those of lvvit_t at 224' in unpublished
    assert 'lvvit_s-26M-384-84.4.pth.tar: could not be fetched (no network)' in of_384
    assert 'lvvit_s-26M-224-83.3.pth.tar: could not be fetched (no network)' in of_224


@pytest.mark.parametrize('name', NAMES)
def test_a_model_has_a_function_of_its_name(name, tiny):
    model = getattr(models, name)(img_size=48, num_classes=7)
    assert model.grid == models.token_grid(name, 48) == (6 if name == 'lvvit_nano_patch8' else 3)
    assert model.head.weight.shape[1] == 7
    assert model.return_dense == models.FAMILY[name].architecture.get('return_dense', True)
