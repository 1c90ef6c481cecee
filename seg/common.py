"""Shared by the scripts of this folder: PaddleSeg with our models, flags, data sets, one-line errors."""

import contextlib
import os

from yaml import YAMLError

from seg import data, lvvit, shims, upernet, weights
from util.errors import UserError, one_line
from util.logger import log
from util.ranges import count, positive

INSTALL = (
    'pip install -r seg/requirements.txt && pip install --no-deps -r seg/requirements-nodeps.txt (docs/segmentation.md)'
)


def load_paddleseg():
    """Import PaddleSeg, repair it (shims.py), register the backbones and OriginalUPerNet. Raises UserError."""
    try:
        from paddleseg.cvlibs import manager
    except Exception as error:  # PaddleSeg or a package that it imports is missing or too new
        raise UserError(f'PaddleSeg cannot be imported ({one_line(error)}): {INSTALL}')
    shims.apply()
    for component in lvvit.BACKBONES:
        if component.__name__ not in manager.BACKBONES.components_dict:
            manager.BACKBONES.add_component(component)
    if 'OriginalUPerNet' not in manager.MODELS.components_dict:
        manager.MODELS.add_component(upernet.OriginalUPerNet)


@contextlib.contextmanager
def our_errors():
    """Raise the UserError that an exception of PaddleSeg was raised from."""
    try:
        yield
    except Exception as error:
        inner = error
        while inner is not None and not isinstance(inner, UserError):
            inner = inner.__cause__ or inner.__context__
        if inner is None:
            raise
        raise inner


@contextlib.contextmanager
def config_errors(config):
    """Turn what PaddleSeg raises for a config, or while it builds from it, into a UserError that names the file."""
    try:
        with our_errors():
            yield
    except (AssertionError, AttributeError, RuntimeError, ValueError, TypeError, KeyError, OSError, YAMLError) as error:
        reason = str(error).split('error message is: \n')[-1]
        raise UserError(f'{config}: {one_line(" ".join(reason.split())) or type(error).__name__}')


# -- flags: names and meanings are those of PaddleSeg's tools ----------------------------------------------------------


def add_config(parser):
    """Flags of all scripts."""
    add = parser.add_argument
    add('--config', required=True, metavar='FILE', help='config of PaddleSeg (.yml)')
    add('--device', default='gpu', choices=('gpu', 'cpu', 'xpu', 'npu', 'mlu'), help='if missing, the CPU is used')
    add('--opts', nargs='+', metavar='KEY=VALUE', help='changes to the config: model.backbone.pretrained=FILE …')


def add_check(parser):
    parser.add_argument('--no_check', action='store_true', help='do not check all images and masks first')


def add_model_path(parser):
    help = 'trained weights: .pdparams of train.py or PaddleSeg, or a .pth of the original'
    parser.add_argument('--model_path', required=True, metavar='FILE', help=help)


def add_inference(parser):
    """How an image goes through the model: whole or in windows, at one scale or several."""
    add = parser.add_argument
    add('--aug_eval', action='store_true', help='average several scales and flips')
    add('--scales', nargs='+', type=positive, default=[1.0], metavar='S', help='with --aug_eval (default: 1.0)')
    add('--flip_horizontal', action='store_true', help='with --aug_eval: add the mirrored image')
    add('--is_slide', action='store_true', help='use overlapping windows')
    add('--crop_size', nargs=2, type=count, metavar=('W', 'H'), help='size of the windows')
    add('--stride', nargs=2, type=count, metavar=('W', 'H'), help='distance of the windows')


def inference(args, config):
    """Keyword arguments that PaddleSeg's evaluate and predict share: the config's test_config, then the flags."""
    if args.is_slide and not (args.crop_size and args.stride):
        raise UserError('--is_slide needs --crop_size and --stride, such as --crop_size 512 512 --stride 341 341')
    changes = dict(scales=args.scales, flip_horizontal=args.flip_horizontal) if args.aug_eval else {}
    if args.is_slide:
        changes.update(is_slide=True, crop_size=args.crop_size, stride=args.stride)
    return {**config.test_config, **changes}


# -- what the config describes -----------------------------------------------------------------------------------------


def builder(args, **changes):
    """PaddleSeg's SegBuilder of --config. changes: iters, batch_size, learning_rate."""
    from paddleseg.cvlibs import Config, SegBuilder
    from paddleseg.utils import utils

    with config_errors(args.config):
        utils.set_device(args.device)
        return SegBuilder(Config(args.config, opts=args.opts, **changes))


def dataset(args, built, part):
    """The data set `part` (train_dataset, val_dataset) of a config, after a check of its masks.

    Raises UserError if its folder does not exist: PaddleSeg would download ADE20K.
    """
    root = built.config.dic.get(part, {}).get('dataset_root')
    if not root or not os.path.isdir(root):
        raise UserError(
            f'{args.config}: {part}.dataset_root {root}: no such folder; see --opts, {part}.dataset_root=DIR'
        )
    with config_errors(args.config):
        found = getattr(built, part)
        if not args.no_check:
            log(f'{part}: checking {len(found)} images and masks (--no_check leaves that out)')
            data.check(found, batched=part == 'train_dataset' and built.config.batch_size > 1)
        return found


def trained_model(args, built):
    """The model of the config in evaluation mode, with the weights of --model_path."""
    # `pretrained` of the config is not needed: --model_path has all weights, and that file may no longer exist.
    built.config.dic['model'].get('backbone', {}).pop('pretrained', None)
    with config_errors(args.config):
        model = built.model
    weights.load_model(model, args.model_path)
    model.eval()
    return model
