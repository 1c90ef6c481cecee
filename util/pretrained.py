"""Weights of a file into a model: which of a checkpoint's weights, whether they fit, and what fine-tuning changes."""
import numpy as np
import paddle

from util import checkpoint
from util.runtime import UserError


def load_weights(path, ema=False):
    """(state dict, what it is) from a training checkpoint or a plain state dict such as a `.pdparams` file.

    ema: take the averaged weights; without it the trained ones. The second value is for the user to read.
    """
    return pick_weights(checkpoint.load(path), path, ema)


def pick_weights(state, path, ema=False):
    """load_weights of a file that is loaded already."""
    if ema:
        if 'model_ema' not in state:
            raise UserError(f'{path}: holds no averaged weights (model_ema); leave out --ema')
        return state['model_ema'], f'averaged weights (model_ema) of {path}'
    if 'model' in state and isinstance(state['model'], dict):
        also = '; it also holds averaged weights, which --ema selects' if 'model_ema' in state else ''
        return state['model'], f'trained weights (model) of {path}{also}'
    return state, f'plain weights of {path}'


def check_fit(model, weights, path):
    """Raises UserError that names the first keys if `weights` are not those of `model`."""
    own = model.state_dict()
    problems = [f'missing {k}' for k in own if k not in weights]
    problems += [f'unexpected {k}' for k in weights if k not in own]
    problems += [f'{k} is {list(np.shape(weights[k]))} in the file and {list(own[k].shape)} in the model'
                 for k in own if k in weights and list(np.shape(weights[k])) != list(own[k].shape)]
    if problems:
        more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
        raise UserError(f"{path}: does not fit this model: {', '.join(problems[:3])}{more}; "
                        'check --model, --input_size and --nb_classes')


def restore(model, weights, path):
    """Set all of a model's weights, or raise UserError (see check_fit) and set none."""
    check_fit(model, weights, path)
    model.set_state_dict({k: np.asarray(v) for k, v in weights.items()})


def load_into(model, path, ema=False):
    """Load the weights that --resume and --ema name into a model; returns a line that says which. Raises UserError."""
    if not path:
        raise UserError('--resume is missing: the checkpoint or .pdparams file to use')
    weights, source = load_weights(path, ema)
    restore(model, weights, path)
    return f'using {source}'


def resize_pos_embed(array, grid):
    """Position embedding [1, N+1, D] for another token grid [1, grid²+1, D]: class token kept, the rest bicubic."""
    cls, patches = array[:, :1], np.asarray(array[:, 1:], 'float32')
    old = round(patches.shape[1] ** 0.5)
    square = paddle.to_tensor(patches.reshape(1, old, old, -1).transpose(0, 3, 1, 2))
    resized = paddle.nn.functional.interpolate(square, size=[grid, grid], mode='bicubic', align_corners=False)
    return np.concatenate([cls, resized.numpy().transpose(0, 2, 3, 1).reshape(1, grid * grid, -1)], axis=1)


def finetune(model, weights, path, remove_head=False):
    """Start `model` from other weights: heads of another class count (or all, with remove_head) are left as
    initialised and the position embedding is resized. Returns lines that say what was done; other misfits raise.
    """
    own, weights, notes = model.state_dict(), dict(weights), []
    for key in ('head.weight', 'head.bias', 'aux_head.weight', 'aux_head.bias'):
        if key in own and (remove_head or key not in weights or list(np.shape(weights[key])) != list(own[key].shape)):
            weights[key] = own[key].numpy()
            notes.append(f'{key}: initialised anew')
        elif key not in own and weights.pop(key, None) is not None:
            notes.append(f'{key}: not used, this model has none')
    pos_embed = weights.get('pos_embed')
    if pos_embed is not None and np.shape(pos_embed)[1] != own['pos_embed'].shape[1]:
        weights['pos_embed'] = resize_pos_embed(np.asarray(pos_embed), model.grid)
        notes.append(f'pos_embed: resized from {np.shape(pos_embed)[1] - 1} to {model.grid ** 2} tokens')
    restore(model, weights, path)
    return notes
