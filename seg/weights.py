"""Weights of files into the models of this folder.

Classification weights have the names of the backbone. A segmentation file of the original (upernet_lvvit_s.pth, by
mmsegmentation) or of PaddleSeg has `backbone.` in front of them, and those of its heads, `decode_head.` and
`auxiliary_head.`, which upernet.OriginalUPerNet shares.
"""

import models
from util.errors import UserError
from util.logger import log
from util.weights.load import HEADS, choose, fit_pos_embed, read, set_weights

BACKBONE = 'backbone.'
SIDE = 'side_layer'
HINT = '; choose the model in the config'
NOT_USED = (*HEADS, 'norm.weight', 'norm.bias')  # what comes after the blocks in classification


def load_backbone(backbone, path, ema=False):
    """Start a LVViT from a file: weights of classification, or of segmentation with their side layers too.

    The position embedding is resized. Raises UserError that names the file, and sets nothing, if it does not fit.
    """
    weights, source = choose(read(path), path, ema)
    if any(key.startswith(BACKBONE) for key in weights):
        weights = {key[len(BACKBONE) :]: value for key, value in weights.items() if key.startswith(BACKBONE)}
    else:
        weights = {key: value for key, value in weights.items() if key not in NOT_USED}
    check_width(backbone, weights, path)
    weights, notes = fit_pos_embed(weights, backbone.grid)
    if not any(key.startswith(SIDE) for key in weights):
        own = backbone.state_dict()
        weights = {**weights, **{key: own[key].numpy() for key in own if key.startswith(SIDE)}}
        notes.append('side layers: as initialised')
    set_weights(backbone, weights, path, HINT)
    log('; '.join([f'{backbone.name}: {source}', *notes]))


def load_model(model, path):
    """Set all weights of a segmentation model (with `backbone`): --model_path of val, predict and export.

    The position embedding is resized. Raises UserError that names the file if they are those of another model.
    """
    weights, source = choose(read(path), path)
    if not any(key.startswith(BACKBONE) for key in weights):
        raise UserError(
            f'{path}: no weights of a segmentation model (none of their names begins with {BACKBONE}); '
            'those of classification go into the config, as pretrained of the backbone'
        )
    own = {key[len(BACKBONE) :]: value for key, value in weights.items() if key.startswith(BACKBONE)}
    check_width(model.backbone, own, path)
    fitted, notes = fit_pos_embed(own, model.backbone.grid)
    set_weights(model, {**weights, BACKBONE + 'pos_embed': fitted.get('pos_embed')}, path, HINT)
    log('; '.join([f'using {source}', *notes]))


def check_width(backbone, weights, path):
    """Raise UserError if the weights are those of another LV-ViT, and say which."""
    width = getattr(weights.get('pos_embed'), 'shape', (0,))[-1]
    if width in (0, backbone.embed_dim):
        return
    names = [name for name, entry in models.FAMILY.items() if entry.architecture.get('embed_dim', 384) == width]
    of = f', as in {" and ".join(names)}' if names else ''
    raise UserError(
        f'{path}: has an embed_dim of {width}{of}, the backbone of the config, {backbone.name}, '
        f'one of {backbone.embed_dim}; change the type of the backbone or the file'
    )
