"""Loads weights from files into the models of this folder.

Classification weights have the names of the backbone. In a segmentation file of the original (upernet_lvvit_s.pth, by
mmsegmentation) or of PaddleSeg these names begin with `backbone.`, those of the heads with `decode_head.` and
`auxiliary_head.`, as in upernet.OriginalUPerNet.
"""

import models
from util.errors import UserError
from util.logger import log
from util.weights.fit import HEADS, fit_pos_embed, without_prefix
from util.weights.load import choose, read, set_weights

BACKBONE = 'backbone.'
SIDE = 'side_layer'
HINT = '; choose the model in the config'
ONLY_CLASSIFICATION = (*HEADS, 'norm.weight', 'norm.bias')  # the backbone has no layers after its blocks


def load_backbone(backbone, path, ema=False):
    """Load classification weights, or the backbone of segmentation weights with its side layers, into a LVViT.

    The position embedding is resized. Raises UserError that names the file, and sets nothing, if it does not fit.
    """
    weights, source = choose(read(path), path, ema)
    own = backbone.state_dict()
    weights = without_prefix(weights, path, [*own, *(BACKBONE + key for key in own)])
    if any(key.startswith(BACKBONE) for key in weights):
        weights = _of_backbone(weights)
    else:
        weights = {key: value for key, value in weights.items() if key not in ONLY_CLASSIFICATION}
    check_width(backbone, weights, path)
    weights, notes = fit_pos_embed(weights, backbone.grid)
    if not any(key.startswith(SIDE) for key in weights):
        weights = {**weights, **{key: own[key].numpy() for key in own if key.startswith(SIDE)}}
        notes.append('side layers: as initialised')
    set_weights(backbone, weights, path, HINT)
    log('; '.join([f'{backbone.name}: {source}', *notes]))


def load_model(model, path):
    """Set all weights of a segmentation model (with `backbone`): --model_path of val, predict and export.

    The position embedding is resized. Raises UserError that names the file if it does not fit.
    """
    weights, source = choose(read(path), path)
    weights = without_prefix(weights, path, model.state_dict())
    if not any(key.startswith(BACKBONE) for key in weights):
        raise UserError(
            f'{path}: no weights of a segmentation model (no name begins with {BACKBONE}); '
            'give classification weights in the config, as pretrained of the backbone'
        )
    check_width(model.backbone, _of_backbone(weights), path)
    fitted, notes = fit_pos_embed(_of_backbone(weights), model.backbone.grid)
    set_weights(model, {**weights, BACKBONE + 'pos_embed': fitted.get('pos_embed')}, path, HINT)
    log('; '.join([f'using {source}', *notes]))


def _of_backbone(weights):
    return {key[len(BACKBONE) :]: value for key, value in weights.items() if key.startswith(BACKBONE)}


def check_width(backbone, weights, path):
    """Raise UserError if the weights belong to an LV-ViT of another width; the error names that model."""
    width = getattr(weights.get('pos_embed'), 'shape', (0,))[-1]
    if width in (0, backbone.embed_dim):
        return
    names = [name for name, entry in models.FAMILY.items() if entry.architecture.get('embed_dim', 384) == width]
    of = f' (of {" and ".join(names)})' if names else ''
    raise UserError(
        f'{path}: has an embed_dim of {width}{of}, the backbone of the config, {backbone.name}, '
        f'has {backbone.embed_dim}; change the type of the backbone or the file'
    )
