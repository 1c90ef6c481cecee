"""PaddleSeg for the scripts of this folder: imported, mended, with our models registered; its errors as one line."""

import contextlib
import os

from seg import data, lvvit, shims, upernet, weights
from util.errors import UserError, one_line
from util.logger import log

INSTALL = (
    'pip install -r seg/requirements.txt && pip install --no-deps -r seg/requirements-nodeps.txt (docs/segmentation.md)'
)


def load():
    """Import PaddleSeg, mend it (shims.py) and register the backbones and OriginalUPerNet. Raises UserError."""
    try:
        from paddleseg.cvlibs import manager
    except Exception as error:  # absent, or what it imports is absent or too new
        raise UserError(f'PaddleSeg cannot be imported ({one_line(error)}): {INSTALL}')
    shims.apply()
    for component in lvvit.BACKBONES:
        if component.__name__ not in manager.BACKBONES.components_dict:
            manager.BACKBONES.add_component(component)
    if 'OriginalUPerNet' not in manager.MODELS.components_dict:
        manager.MODELS.add_component(upernet.OriginalUPerNet)


@contextlib.contextmanager
def our_errors():
    """A UserError of ours comes out as it was raised, also when PaddleSeg or a loader process has wrapped it."""
    try:
        yield
    except Exception as error:
        inner = error
        while inner is not None and not isinstance(inner, UserError):
            inner = inner.__cause__ or inner.__context__
        if inner is None:
            raise
        # of a loader process: the last line of its traceback
        raise UserError(str(inner).strip().splitlines()[-1].removeprefix('util.errors.UserError: '))


@contextlib.contextmanager
def explained(config):
    """What PaddleSeg raises while it reads a config or builds from it becomes a UserError that names the file."""
    try:
        with our_errors():
            yield
    except (AssertionError, RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error).split('error message is: \n')[-1]
        raise UserError(f'{config}: {one_line(reason) or type(error).__name__}')


def add_config(parser):
    """Flags of all scripts here; names and meanings are those of PaddleSeg's tools."""
    add = parser.add_argument
    add('--config', required=True, metavar='FILE', help='config of PaddleSeg (.yml)')
    add('--device', default='gpu', choices=('gpu', 'cpu', 'xpu', 'npu', 'mlu'), help='cpu if there is no such device')
    add('--opts', nargs='+', metavar='KEY=VALUE', help='changes to the config: model.backbone.pretrained=FILE …')
    return add


def add_check(add):
    add('--no_check', action='store_true', help='do not look at all images and masks first')


def add_model_path(add):
    """--model_path of the scripts that use a trained model."""
    help = 'trained weights: of train.py or PaddleSeg (.pdparams), or published by the original (.pth)'
    add('--model_path', required=True, metavar='FILE', help=help)


def add_inference(add):
    """How an image goes through the model: whole or in windows, at one scale or several."""
    add('--aug_eval', action='store_true', help='several scales and flips, averaged')
    add('--scales', nargs='+', type=float, default=[1.0], metavar='S', help='with --aug_eval')
    add('--flip_horizontal', action='store_true', help='with --aug_eval: the mirrored image too')
    add('--is_slide', action='store_true', help='in overlapping windows')
    add('--crop_size', nargs=2, type=int, metavar=('W', 'H'), help='size of the windows')
    add('--stride', nargs=2, type=int, metavar=('W', 'H'), help='distance of the windows')


def inference(args, config):
    """Arguments of PaddleSeg's evaluate and predict, without those that the two call differently: the config's
    test_config, and over it the flags of add_inference."""
    if args.is_slide and not (args.crop_size and args.stride):
        raise UserError('--is_slide needs --crop_size and --stride, such as --crop_size 512 512 --stride 341 341')
    changes = dict(scales=args.scales, flip_horizontal=args.flip_horizontal) if args.aug_eval else {}
    if args.is_slide:
        changes.update(is_slide=True, crop_size=args.crop_size, stride=args.stride)
    return {**config.test_config, **changes}


def builder(args, **changes):
    """PaddleSeg's builder of what the config describes. changes: iters, batch_size, learning_rate."""
    from paddleseg.cvlibs import Config, SegBuilder
    from paddleseg.utils import utils

    with explained(args.config):
        utils.set_device(args.device)
        return SegBuilder(Config(args.config, opts=args.opts, **changes))


def dataset(args, built, part):
    """The data set `part` (train_dataset, val_dataset) of a config, its masks checked. Raises UserError if its folder
    is not there: PaddleSeg would fetch ADE20K from the network."""
    root = built.config.dic.get(part, {}).get('dataset_root')
    if not root or not os.path.isdir(root):
        raise UserError(
            f'{args.config}: {part}.dataset_root {root}: no such folder; see --opts, {part}.dataset_root=DIR'
        )
    with explained(args.config):
        found = getattr(built, part)
        if not args.no_check:
            log(f'{part}: looking at {len(found)} images and masks (--no_check leaves that out)')
            data.check(found)
        return found


def trained_model(args, built):
    """The model of the config with the weights of --model_path, ready for evaluation."""
    # the weights to start training from are not needed any more, and may be gone
    built.config.dic['model'].get('backbone', {}).pop('pretrained', None)
    with explained(args.config):
        model = built.model
    weights.load_model(model, args.model_path)
    model.eval()
    return model
