"""Optimizers: which parameters decay, and saving their state under the names of the model's parameters."""

import re

import numpy as np
import paddle
from paddle import nn

from util.errors import UserError

# a key of the state_dict of a Paddle optimizer, such as linear_3.w_0_moment1_0
AUTOMATIC = re.compile(r'[^/]+_(moment1|moment2|beta1_pow_acc|beta2_pow_acc|velocity)_0')


def decays(name, param, no_decay):
    """Whether a parameter has weight decay: biases, 1-d parameters and the names in `no_decay` have none."""
    return param.ndim > 1 and not name.endswith('.bias') and name not in no_decay


def lr_scales(names, layer_decay=None):
    """{name: factor of the learning rate} for layer-wise decay (BEiT, arXiv 2106.08254).

    With L blocks the factor is layer_decay ^ (L + 1 - layer); layer 0 is the stem with cls_token and pos_embed, layer
    i + 1 is block i, layer L + 1 is the norm with the heads. Without layer_decay all factors are 1.
    """
    last = len({name.split('.')[1] for name in names if name.startswith('blocks.')}) + 1
    scales = {}
    for name in names:
        part = name.split('.')[0]
        if part == 'blocks':
            layer = int(name.split('.')[1]) + 1
        elif part in ('patch_embed', 'cls_token', 'pos_embed'):
            layer = 0
        else:
            layer = last
        scales[name] = (layer_decay or 1.0) ** (last - layer)
    return scales


def build_optimizer(
    model, opt='adamw', lr=1e-3, weight_decay=0.05, betas=None, eps=1e-8, momentum=0.9, clip_grad=None, layer_decay=None
):
    """A Paddle optimizer for the parameters of a model that are not frozen. Raises UserError.

    opt: `adamw` (decoupled decay) or `momentum` (SGD, decay as L2 in the gradient). clip_grad: largest global norm of
    the gradient, 0 or None for no clipping. layer_decay: see lr_scales; the factor applies to the weight decay too.

    All parameters form one group, because Paddle clips each group by its own norm. Layer decay sets the learning rate
    factor of each parameter, because AdamW's lr_ratio does not work on a CPU.
    """
    named = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]
    params = [p for _, p in named]
    scales = lr_scales([name for name, _ in named], layer_decay)
    for name, p in named:
        p.optimize_attr = {**p.optimize_attr, 'learning_rate': scales[name]}
    no_decay = model.no_weight_decay()
    clip = nn.ClipGradByGlobalNorm(clip_grad) if clip_grad else None
    if opt == 'adamw':
        decayed = {p.name for name, p in named if decays(name, p, no_decay)}
        beta1, beta2 = betas or (0.9, 0.999)
        return paddle.optimizer.AdamW(
            learning_rate=lr,
            beta1=beta1,
            beta2=beta2,
            epsilon=eps,
            parameters=params,
            weight_decay=weight_decay,
            apply_decay_param_fun=lambda auto: auto in decayed,
            grad_clip=clip,
        )
    if opt == 'momentum':
        for name, p in named:
            p.regularizer = paddle.regularizer.L2Decay(weight_decay if decays(name, p, no_decay) else 0.0)
        return paddle.optimizer.Momentum(learning_rate=lr, momentum=momentum, parameters=params, grad_clip=clip)
    raise UserError(f'--opt {opt}: use adamw or momentum')


def state_by_name(optimizer, model):
    """The optimizer's state, with keys '<parameter name in the model>/<slot>'.

    Paddle's keys are automatic parameter names, which change when another model is built first.
    """
    return translate_keys(optimizer.state_dict(), {p.name: name for name, p in model.named_parameters()})


def translate_keys(state, names):
    """An optimizer's state with the keys of state_by_name in place of Paddle's. Keys that are not in `names` stay.

    names: {automatic name: name in the model}.
    """
    result = {}
    for key, value in state.items():
        automatic = next((auto for auto in names if key.startswith(auto + '_')), None)
        if key == 'master_weights':
            result[key] = {names.get(auto, auto): weight for auto, weight in value.items()}
        elif automatic is None:
            result[key] = value
        else:
            result[f'{names[automatic]}/{key[len(automatic) + 1 :]}'] = value
    return result


def has_automatic_names(state):
    """Whether an optimizer's state has keys with Paddle's automatic names, as in the port's checkpoints."""
    return any(AUTOMATIC.fullmatch(key) for key in state)


def restore_by_name(optimizer, model, state, path):
    """Set the optimizer's state from what state_by_name returned.

    Raises UserError that names the file `path` if the state is of another optimizer or of other parameters.
    """
    slot = 'velocity' if isinstance(optimizer, paddle.optimizer.Momentum) else 'moment1'
    held = {key.rsplit('_', 1)[0] for key in state}
    for name, p in model.named_parameters():
        if not p.stop_gradient and f'{name}/{slot}' not in held:
            raise UserError(
                f"{path}: its optimizer state has no '{slot}' of {name}; resume with the --opt and --token_label of "
                'the run that wrote it, or start a new run from its weights with --finetune'
            )
    autos = {name: p.name for name, p in model.named_parameters()}
    restored = {}
    for key, value in state.items():
        if key == 'master_weights':
            restored[key] = {autos[name]: paddle.to_tensor(v) for name, v in value.items()}
            continue
        name, _, slot = key.partition('/')
        if isinstance(value, np.ndarray):
            value = paddle.to_tensor(value)
        restored[f'{autos[name]}_{slot}' if slot else key] = value
    optimizer.set_state_dict(restored)
