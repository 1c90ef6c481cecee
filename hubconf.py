"""The LV-ViT family for paddle.hub: paddle.hub.load(DIR, 'lvvit_s', source='local', pretrained=True).

Each model takes `pretrained`: False (as initialised), True (the published weights of its size, fetched once) or a file
(checkpoint, .pdparams, .pth, .safetensors); and LV_ViT's arguments in models.py, such as img_size (the published one
by default) and num_classes. Give the keyword `ema=True` for a checkpoint's averaged weights.
"""

import models as _models
from util.weights import pretrained as _pretrained

dependencies = ['numpy', 'yaml', 'tqdm', 'safetensors']


def _load(name, pretrained, ema, kwargs):
    """Build a model and load its weights. Raises util.errors.UserError for what cannot be had or does not fit."""
    kwargs.setdefault('img_size', _models.FAMILY[name].input_size)
    model = _models.build_model(name, **kwargs)
    if pretrained:
        path = _models.published_weights(name, model.img_size) if pretrained is True else pretrained
        _pretrained.load_into(model, path, ema)
    return model


def vit(pretrained=False, ema=False, **kwargs):
    """ViT with a class token and no token classifier; pretrained: False or a file, none are published."""
    return _load('vit', pretrained, ema, kwargs)


def lvvit(pretrained=False, ema=False, **kwargs):
    """LV-ViT-S without the token classifier; pretrained: False or a file, none are published."""
    return _load('lvvit', pretrained, ema, kwargs)


def lvvit_nano(pretrained=False, ema=False, **kwargs):
    """LV-ViT of 1.9 M parameters; pretrained: False or a file, none are published."""
    return _load('lvvit_nano', pretrained, ema, kwargs)


def lvvit_t(pretrained=False, ema=False, **kwargs):
    """LV-ViT-T, 8.5 M parameters; pretrained: False, a file, or True for those published (img_size 224)."""
    return _load('lvvit_t', pretrained, ema, kwargs)


def lvvit_s(pretrained=False, ema=False, **kwargs):
    """LV-ViT-S, 26 M parameters; pretrained: False, a file, or True for those published (img_size 224 or 384)."""
    return _load('lvvit_s', pretrained, ema, kwargs)


def lvvit_m(pretrained=False, ema=False, **kwargs):
    """LV-ViT-M, 56 M parameters; pretrained: False, a file, or True for those published (img_size 224, 384 or 448)."""
    return _load('lvvit_m', pretrained, ema, kwargs)


def lvvit_l(pretrained=False, ema=False, **kwargs):
    """LV-ViT-L, 150 M parameters; pretrained: False, a file, or True for those published (img_size 448 or 512)."""
    return _load('lvvit_l', pretrained, ema, kwargs)
