"""Optimizers with the parameter groups of the recipe."""
import paddle
from paddle import nn

from util.runtime import UserError

NO_DECAY = {'pos_embed', 'cls_token'}


def decays(name, param):
    """Whether weight decay applies: not to biases, one-dimensional parameters, position embedding and class token."""
    return param.ndim > 1 and not name.endswith('.bias') and name not in NO_DECAY


def build_optimizer(model, opt='adamw', lr=1e-3, weight_decay=0.05, betas=None, eps=1e-8, momentum=0.9, clip_grad=None):
    """opt: `adamw` (decoupled decay) or `momentum` (SGD, decay as L2 in the gradient); clip_grad: global norm or None.

    One list of parameters, no groups: Paddle would clip each group by a norm of its own.
    """
    named = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]
    params = [p for _, p in named]
    clip = nn.ClipGradByGlobalNorm(clip_grad) if clip_grad is not None else None
    if opt == 'adamw':
        decayed = {p.name for name, p in named if decays(name, p)}
        beta1, beta2 = betas or (0.9, 0.999)
        return paddle.optimizer.AdamW(learning_rate=lr, beta1=beta1, beta2=beta2, epsilon=eps, parameters=params,
                                      weight_decay=weight_decay, apply_decay_param_fun=lambda auto: auto in decayed,
                                      grad_clip=clip)
    if opt == 'momentum':
        for name, p in named:
            p.regularizer = paddle.regularizer.L2Decay(weight_decay if decays(name, p) else 0.0)
        return paddle.optimizer.Momentum(learning_rate=lr, momentum=momentum, parameters=params, grad_clip=clip)
    raise UserError(f'--opt {opt}: use adamw or momentum')
