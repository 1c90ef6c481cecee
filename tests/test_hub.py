"""hubconf.py in a process that knows only paddle.hub and the folder, and the functions of models.py."""

import subprocess
import sys

import numpy as np
import pytest

import models
from conftest import ROOT
from util.errors import UserError
from util.weights import checkpoint

pytestmark = pytest.mark.cross_version

NAMES = ['lvvit', 'lvvit_l', 'lvvit_m', 'lvvit_nano', 'lvvit_nano_patch8', 'lvvit_s', 'lvvit_t', 'vit']


def test_paddle_hub_lists_describes_and_builds_every_model(tmp_path):
    code = f"""
import paddle
REPO = {str(ROOT)!r}
names = paddle.hub.list(REPO, source='local')
print(sorted(names))
for name in names:
    assert len(paddle.hub.help(REPO, name, source='local')) > 40
    model = paddle.hub.load(REPO, name, source='local', img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=7)
    model.eval()
    assert list(model(paddle.zeros([2, 3, 32, 32])).shape) == [2, 7]
"""
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(NAMES)]


@pytest.mark.parametrize('name', NAMES)
def test_a_model_has_a_function_of_its_name(name, tiny):
    model = getattr(models, name)(img_size=48, num_classes=7)
    assert model.grid == models.token_grid(name, 48) == (6 if name == 'lvvit_nano_patch8' else 3)
    assert model.head.weight.shape[1] == 7 and getattr(models, name)().img_size == models.FAMILY[name].input_size
    assert model.return_dense == models.FAMILY[name].architecture.get('return_dense', True)


def test_weights_come_from_a_file_or_are_those_published_for_the_size(tiny, tmp_path, monkeypatch):
    source, other = (models.create('lvvit_s', img_size=32, num_classes=7) for _ in range(2))
    path = str(tmp_path / 'x.pd')
    checkpoint.save({'model': source.state_dict(), 'model_ema': other.state_dict()}, path)
    for ema, expected in ((False, source), (True, other)):
        model = models.lvvit_s(path, ema=ema, img_size=32, num_classes=7)
        np.testing.assert_array_equal(model.head.weight.numpy(), expected.head.weight.numpy())
    monkeypatch.setattr(models.download, 'fetch', lambda url: path if '384' in url else '')
    entry = models.FAMILY['lvvit_s']._replace(weights={32: 'http://x/384'})
    monkeypatch.setitem(models.FAMILY, 'lvvit_s', entry)
    model = models.lvvit_s(pretrained=True, img_size=32, num_classes=7)
    np.testing.assert_array_equal(model.head.weight.numpy(), source.head.weight.numpy())
    with pytest.raises(UserError, match='no weights are published for lvvit_s at 48 pixels'):
        models.lvvit_s(pretrained=True, img_size=48)
