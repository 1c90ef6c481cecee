"""util/train/model_ema.py: the moving average of weights and BatchNorm statistics."""

import numpy as np
import paddle
import pytest

from lv_vit import LV_ViT
from util.train.mixtoken import EMPTY_BOX
from util.train.model_ema import ModelEma

pytestmark = pytest.mark.cross_version


@pytest.fixture
def model():
    paddle.seed(0)
    return LV_ViT(img_size=32, num_classes=3, embed_dim=8, depth=1, num_heads=2)


def values(model):
    return {name: t.numpy().astype('float64') for name, t in model.state_dict().items()}


def move(model, seed):
    """New weights, and new BatchNorm statistics by a forward pass in training."""
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        if not p.stop_gradient:
            p.set_value(rng.normal(size=p.shape).astype('float32'))
    model.train()
    model(paddle.to_tensor(rng.normal(2.0, 3.0, (4, 3, 32, 32)).astype('float32')), EMPTY_BOX)


def test_it_starts_as_a_copy_in_evaluation_mode_that_is_not_trained(model):
    ema, own = ModelEma(model), values(model)
    assert all(np.array_equal(value, own[name]) for name, value in values(ema.module).items())
    assert not ema.module.training and all(p.stop_gradient for p in ema.module.parameters())
    assert any(not p.stop_gradient for p in model.parameters())


def test_every_update_is_decay_times_old_plus_the_rest_of_new_and_leaves_the_model_as_it_is(model):
    ema = ModelEma(model, decay=0.8)
    expected = values(ema.module)
    for step in range(3):
        move(model, step)
        new = values(model)
        ema.update(model)
        assert all(np.array_equal(value, new[name]) for name, value in values(model).items())
        expected = {name: 0.8 * old + 0.2 * new[name] for name, old in expected.items()}
    actual = values(ema.module)
    assert {'patch_embed.bn1._mean', 'patch_embed.bn3._variance'} <= set(actual)
    for name, value in expected.items():
        assert np.abs(actual[name] - value).max() <= 1e-6 * max(1.0, np.abs(value).max()), name
