"""Optimizer steps against timm's (torch.optim)."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from parity.weights import arrays, difference, in_our_terms, pair
from util.train.optim import build_optimizer, decays
from util.weights import torch_file

RATES = [1e-3, 1e-3, 5e-4, 2e-3, 1e-5]  # of successive steps


def give_gradients(ours, theirs, torch, seed):
    """The same random gradients to both models. Scales differ by tensor from 1e-10 to 10: at the small end AdamW's
    epsilon rules the step, and its place in the formula shows."""
    rng = np.random.default_rng(seed)
    gradients = {}
    for key, p in ours.named_parameters():
        if not p.stop_gradient:
            gradients[key] = rng.standard_normal(p.shape, dtype='float32') * np.float32(10 ** rng.uniform(-10, 1))
            p.grad = paddle.to_tensor(gradients[key])
    theirs_by_name = dict(theirs.named_parameters())
    for key, value in torch_file.to_torch(gradients).items():
        theirs_by_name[key].grad = torch.from_numpy(np.array(value))


@pytest.mark.parametrize('clip', [None, 1.0], ids=['free', 'clipped'])
@pytest.mark.parametrize('opt', ['adamw', 'momentum'])
def test_five_steps_give_the_original_s_weights(opt, clip, original, fidelity):
    torch = original.torch
    ours, theirs = pair(original, 'lvvit_t', 32, 10, depth=2)
    optimizer = build_optimizer(ours, opt, RATES[0], clip_grad=clip)
    options = dict(opt=opt, lr=RATES[0], weight_decay=0.05, momentum=0.9, opt_eps=1e-8, opt_betas=None)
    expected = original.timm.optim.create_optimizer(SimpleNamespace(**options), theirs)
    for step, lr in enumerate(RATES):
        give_gradients(ours, theirs, torch, seed=step)
        optimizer.set_lr(lr)
        for group in expected.param_groups:
            group['lr'] = lr
        before = arrays(ours.state_dict())
        if clip:
            original.timm.utils.dispatch_clip_grad(theirs.parameters(), clip, mode='norm')
        optimizer.step(), expected.step()
        optimizer.clear_grad()
        ours_now, wanted = arrays(ours.state_dict()), in_our_terms(theirs.state_dict())
        moved = [key for key in wanted if not np.array_equal(before[key], ours_now[key])]
        assert len(moved) > 20, moved
        name = {'adamw': 'AdamW', 'momentum': 'SGD with momentum'}[opt] + ' with a clipped gradient norm' * bool(clip)
        error = max(difference(ours_now[key], wanted[key]) for key in wanted)
        fidelity('Optimizers', f'{name}: weights after each of five steps', error, 1e-6)


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_l', 'vit'])
def test_weight_decay_applies_to_the_same_tensors(name, original, fidelity):
    ours, theirs = pair(original, name, 32, 10, depth=1)
    groups = original.timm.optim.optim_factory.add_weight_decay(theirs, 0.05, theirs.no_weight_decay())
    of_theirs = {id(p) for group in groups if group['weight_decay'] for p in group['params']}
    wanted = {key for key, p in theirs.named_parameters() if id(p) in of_theirs}
    got = {key for key, p in ours.named_parameters() if not p.stop_gradient and decays(key, p, ours.no_weight_decay())}
    what, kind = 'tensors that decay, of lvvit_t, lvvit_l and vit', 'tensors that differ'
    fidelity('Optimizers', what, len(got ^ wanted), 0, kind)
