"""The models of the LV-ViT family by name, and loading their weights. The network itself is in lv_vit.py."""

import argparse
import contextlib
from typing import NamedTuple

import numpy as np
import paddle

from lv_vit import LV_ViT
from util import class_names
from util.errors import UserError, shorten
from util.weights import download, settings, torch_file
from util.weights.fit import DoesNotFit, differences
from util.weights.load import load_state, read


class ModelConfig(NamedTuple):
    """A model of the family: its architecture, and the settings with which its published accuracy was measured."""

    architecture: dict  # arguments of LV_ViT
    input_size: int = 224  # side of the input, in pixels
    crop_pct: float = 0.9  # side of the centre crop over the short side of the resized image
    weights: dict = {}  # {input size: address of the published weights}


RELEASES = 'https://github.com/zihangJiang/TokenLabeling/releases/download'  # the original's, in PyTorch's format
FAMILY = {
    'vit': ModelConfig(dict(stem='naive', return_dense=False)),
    'lvvit': ModelConfig(dict(skip_lam=2.0, return_dense=False)),
    'lvvit_nano': ModelConfig(
        dict(embed_dim=128, depth=6, num_heads=4), crop_pct=1.0
    ),  # ours: for CPUs, demo and tests
    'lvvit_nano_patch8': ModelConfig(
        dict(embed_dim=128, depth=6, num_heads=4, patch_size=8), input_size=64, crop_pct=1.0
    ),
    'lvvit_t': ModelConfig(dict(embed_dim=240, depth=12, num_heads=4), weights={224: f'{RELEASES}/v0.2.0/lvvit_t.pth'}),
    'lvvit_s': ModelConfig(
        dict(embed_dim=384, depth=16, num_heads=6, skip_lam=2.0),
        weights={
            224: f'{RELEASES}/1.0/lvvit_s-26M-224-83.3.pth.tar',
            384: f'{RELEASES}/1.0/lvvit_s-26M-384-84.4.pth.tar',
        },
    ),
    'lvvit_m': ModelConfig(
        dict(embed_dim=512, depth=20, num_heads=8, skip_lam=2.0),
        crop_pct=1.0,
        weights={
            224: f'{RELEASES}/1.0/lvvit_m-56M-224-84.0.pth.tar',
            384: f'{RELEASES}/1.0/lvvit_m-56M-384-85.4.pth.tar',
            448: f'{RELEASES}/1.0/lvvit_m-56M-448-85.5.pth.tar',
        },
    ),
    'lvvit_l': ModelConfig(
        dict(embed_dim=768, depth=24, num_heads=12, skip_lam=3.0, stem='4_2_128'),
        input_size=448,
        crop_pct=1.0,
        weights={
            448: f'{RELEASES}/1.0/lvvit_l-150M-448-86.2.pth.tar',
            512: f'{RELEASES}/1.0/lvvit_l-150M-512-86.4.pth.tar',
        },
    ),
}


def build_model(name, **kwargs):
    """The model `name` of FAMILY. kwargs: arguments of LV_ViT. Raises UserError for an unknown name or a wrong size."""
    if name not in FAMILY:
        raise UserError(f'--model {name}: unknown; use {", ".join(FAMILY)}')
    try:
        return LV_ViT(**{**FAMILY[name].architecture, **kwargs})
    except ValueError as error:
        raise UserError(f'--model {name}: {error}')


def create(name, pretrained=False, ema=False, **kwargs):
    """The model `name` of FAMILY, with or without weights. The functions below, which paddle.hub lists, call this.

    pretrained: False (as initialised), True (the published weights, fetched once) or a file (.pd, .pdparams, .pth,
    .safetensors). ema: a checkpoint's averaged weights. kwargs: arguments of LV_ViT, such as num_classes and img_size
    (default: those of the file if it says them; else 1,000 and the size of the published evaluation).
    Raises UserError for an unknown name, and for weights that cannot be fetched, cannot be read or do not fit.
    """
    if name not in FAMILY:
        return build_model(name)  # raises the error
    usual_size = FAMILY[name].input_size
    if not pretrained:
        return build_model(name, **{'img_size': usual_size, **kwargs})
    size, classes = kwargs.pop('img_size', None), kwargs.pop('num_classes', None)
    path = published_weights(name, size or usual_size) if pretrained is True else pretrained
    flags = argparse.Namespace(model=name, input_size=size, nb_classes=classes, ema=ema)
    return load_model(flags, read(path), path, **kwargs)


def vit(pretrained=False, **kwargs):
    """ViT with a class token and no token classifier, 384 wide, 16 blocks: the paper's baseline. See create."""
    return create('vit', pretrained, **kwargs)


def lvvit(pretrained=False, **kwargs):
    """LV-ViT-S without the token classifier. See create."""
    return create('lvvit', pretrained, **kwargs)


def lvvit_nano(pretrained=False, **kwargs):
    """128 wide, 6 blocks, 1.9 M parameters with 1,000 classes: this project's own. See create."""
    return create('lvvit_nano', pretrained, **kwargs)


def lvvit_nano_patch8(pretrained=False, **kwargs):
    """lvvit_nano with patches of 8 pixels, for small images: 8×8 tokens at 64 px, its own size. See create."""
    return create('lvvit_nano_patch8', pretrained, **kwargs)


def lvvit_t(pretrained=False, **kwargs):
    """LV-ViT-T: 240 wide, 12 blocks, 8.5 M parameters. Published at 224 px. See create."""
    return create('lvvit_t', pretrained, **kwargs)


def lvvit_s(pretrained=False, **kwargs):
    """LV-ViT-S: 384 wide, 16 blocks, 26 M parameters. Published at 224 and 384 px. See create."""
    return create('lvvit_s', pretrained, **kwargs)


def lvvit_m(pretrained=False, **kwargs):
    """LV-ViT-M: 512 wide, 20 blocks, 56 M parameters. Published at 224, 384 and 448 px. See create."""
    return create('lvvit_m', pretrained, **kwargs)


def lvvit_l(pretrained=False, **kwargs):
    """LV-ViT-L: 768 wide, 24 blocks, 150 M parameters. Published at 448 and 512 px. See create."""
    return create('lvvit_l', pretrained, **kwargs)


def token_grid(name, input_size):
    """Patch tokens a side of the model `name` at an input size in pixels."""
    return input_size // FAMILY[name].architecture.get('patch_size', 16)


# -- with weights ------------------------------------------------------------------------------------------------------


def published_weights(name, input_size, nearest=False):
    """Path of the published weights of a model of FAMILY at an input size in pixels; downloads them the first time.

    nearest: take the nearest published size, for callers that resize the position embedding.
    Raises UserError if there are no such weights, or if they cannot be downloaded.
    """
    addresses = FAMILY[name].weights
    if nearest and addresses:
        input_size = min(addresses, key=lambda size: abs(size - input_size))
    if input_size not in addresses:
        published = [
            f'{other} at {", ".join(str(size) for size in entry.weights)}'
            for other, entry in FAMILY.items()
            if entry.weights
        ]
        raise UserError(
            f'--pretrained: no weights are published for {name} at {input_size} pixels; '
            f'published: {"; ".join(published)}'
        )
    return download.fetch(addresses[input_size])


def weights_file(args, nearest=False):
    """The file of --resume, or with --pretrained that of the published weights. Raises UserError unless one is given.

    args: the flags of args.add_model and add_weights; with --pretrained those of the model are set if they are None.
    nearest: see published_weights.
    """
    if args.pretrained and args.resume:
        raise UserError('--pretrained and --resume both name the weights; give one')
    if args.pretrained:
        settings.complete(args, FAMILY)
        return published_weights(args.model, args.input_size, nearest)
    if not args.resume:
        raise UserError('--resume is missing: the checkpoint or state dict (.pd, .pth, .safetensors); or --pretrained')
    return args.resume


def load_model(args, state, path, **kwargs):
    """The model that flags and a file of weights describe, with these weights.

    args: flags as in settings.KINDS, and `ema`; those that are None are set to what the file says, or else to defaults.
    state: what load.read returned for the file `path`. kwargs: further arguments of LV_ViT. The position embedding is
    resized if --input_size is given. Raises UserError for weights that do not fit, and flags that contradict them.
    """
    resize = args.input_size is not None
    settings.complete(args, FAMILY, settings.of_file(state, path, FAMILY), path)
    model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes, **kwargs)
    with naming_what_fits():
        load_state(model, state, path, args.ema, resize=resize)
    return model


def load_named(args):
    """(model in evaluation mode, {class id: name}) of the flags of a script, see weights_file and load_model."""
    path = weights_file(args)
    state = read(path)
    model = load_model(args, state, path)
    model.eval()
    kept = class_names.of_checkpoint(state, path, args.nb_classes)
    return model, class_names.to_show(args.label_list, kept, args.nb_classes)


def nearest_model(weights):
    """(flags of the model of FAMILY that weights fit, or nearly fit; how they differ: [] if they fit).

    weights: {name: array}, in Paddle's layout. flags: such as '--model lvvit_s --input_size 224 --nb_classes 1000'.
    """
    pos_embed, bias = np.shape(weights.get('pos_embed')), np.shape(weights.get('head.bias'))
    grid = max(1, round((pos_embed[1] - 1) ** 0.5)) if len(pos_embed) == 3 else 1
    classes = max(1, bias[0]) if bias else 1
    found = {}
    for name, entry in FAMILY.items():
        size = grid * entry.architecture.get('patch_size', 16)
        with paddle.LazyGuard():  # shapes only: no memory for the weights
            own = build_model(name, img_size=size, num_classes=classes).state_dict()
        flags = settings.as_flags({'model': name, 'input_size': size, 'nb_classes': classes})
        found[flags] = differences(own, weights)
        if not found[flags]:
            break
    return min(found.items(), key=lambda item: len(item[1]))


@contextlib.contextmanager
def naming_what_fits():
    """Make the error for weights that do not fit the model of a command say which model they fit."""
    try:
        yield
    except DoesNotFit as error:
        flags, problems = nearest_model(error.weights)
        if not problems:
            raise UserError(f'{error.path}: does not fit the model of this command; it fits {flags}')
        if len(problems) < len(error.weights) // 2:
            raise UserError(f'{error.path}: fits no LV-ViT; the nearest is {flags}: {shorten(problems, 3)}')
        raise


def count_parameters(model):
    """Number of learned parameters. Paddle's parameters() has BatchNorm's running statistics too; they do not count."""
    return torch_file.count_parameters(model.state_dict())
