"""Optimizer steps, weight averaging and learning rates against timm's (torch.optim, ModelEmaV2, CosineLRScheduler)."""

import math
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from parity.fidelity import ABSOLUTE
from parity.weights import arrays, difference, in_our_terms, load_theirs, pair, random_state
from util.train.lr_sched import lr_at
from util.train.model_ema import ModelEma
from util.train.optim import build_optimizer, decays
from util.weights import torch_file

RATES = [1e-3, 1e-3, 5e-4, 2e-3, 1e-5]  # of successive steps


def small(original, seed=0):
    return pair(original, 'lvvit_t', 32, 10, seed, depth=2)


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


def timm_optimizer(original, model, opt, **changes):
    options = dict(opt=opt, lr=RATES[0], weight_decay=0.05, momentum=0.9, opt_eps=1e-8, opt_betas=None)
    return original.timm.optim.create_optimizer(SimpleNamespace(**{**options, **changes}), model)


@pytest.mark.parametrize('clip', [None, 1.0], ids=['free', 'clipped'])
@pytest.mark.parametrize('opt', ['adamw', 'momentum'])
def test_five_steps_give_the_original_s_weights(opt, clip, original, fidelity):
    torch = original.torch
    ours, theirs = small(original)
    optimizer, expected = build_optimizer(ours, opt, RATES[0], clip_grad=clip), timm_optimizer(original, theirs, opt)
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


@pytest.mark.parametrize('betas, eps', [((0.9, 0.95), 1e-8), (None, 1e-3)])
def test_adamw_s_own_numbers_mean_the_same(betas, eps, original, fidelity):
    ours, theirs = small(original, seed=1)
    optimizer = build_optimizer(ours, 'adamw', RATES[0], weight_decay=0.3, betas=betas, eps=eps)
    expected = timm_optimizer(original, theirs, 'adamw', weight_decay=0.3, opt_eps=eps, opt_betas=betas)
    for step in range(3):
        give_gradients(ours, theirs, original.torch, seed=step)
        optimizer.step(), expected.step()
    wanted = in_our_terms(theirs.state_dict())
    error = max(difference(value, wanted[key]) for key, value in arrays(ours.state_dict()).items())
    fidelity('Optimizers', 'AdamW with other betas, epsilon and decay: weights after three steps', error, 1e-6)


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_l', 'vit'])
def test_weight_decay_applies_to_the_same_tensors(name, original, fidelity):
    ours, theirs = pair(original, name, 32, 10, depth=1)
    groups = original.timm.optim.optim_factory.add_weight_decay(theirs, 0.05, theirs.no_weight_decay())
    of_theirs = {id(p) for group in groups if group['weight_decay'] for p in group['params']}
    wanted = {key for key, p in theirs.named_parameters() if id(p) in of_theirs}
    got = {key for key, p in ours.named_parameters() if not p.stop_gradient and decays(key, p, ours.no_weight_decay())}
    what, kind = 'tensors that decay, of lvvit_t, lvvit_l and vit', 'tensors that differ'
    fidelity('Optimizers', what, len(got ^ wanted), 0, kind)


def test_the_moving_average_follows_timm_s(original, fidelity):
    ours, theirs = small(original)
    averaged, expected = ModelEma(ours, 0.99), original.timm.utils.ModelEmaV2(theirs, decay=0.99)
    for seed in range(1, 4):
        state = random_state(ours, seed)
        ours.set_state_dict(state)
        load_theirs(original, theirs, state)
        averaged.update(ours), expected.update(theirs)
        got, wanted = arrays(averaged.module.state_dict()), in_our_terms(expected.module.state_dict())
        assert got.keys() == wanted.keys() and any(key.endswith('._variance') for key in got)
        error = max(difference(got[key], wanted[key]) for key in wanted)
        fidelity('Weight averaging', 'weights and statistics after each of three updates, decay 0.99', error, 1e-6)


RECIPE = dict(lr=1.6e-3, min_lr=1e-5, warmup_lr=1e-6, epochs=300)
POINTS = np.linspace(0, 309.99, 1000).tolist()  # epochs, ten of them after the end


def timm_schedule(original, warmup, epochs=RECIPE['epochs'], **changes):
    """The rate at any time in epochs, by timm's scheduler."""
    torch = original.torch
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RECIPE['lr'])
    numbers = dict(t_initial=epochs, lr_min=RECIPE['min_lr'], warmup_t=warmup, warmup_lr_init=RECIPE['warmup_lr'])
    scheduler = original.timm.scheduler.CosineLRScheduler(optimizer, cycle_limit=1, **numbers, **changes)
    return lambda t: scheduler._get_lr(t)[0]


def test_the_learning_rate_at_a_thousand_points(original, fidelity):
    def ours(warmup, in_epochs=False):
        return lambda t: lr_at(t, warmup_epochs=warmup, in_epochs=in_epochs, **RECIPE)

    def check(what, rate, expected, tolerance=1e-12, points=POINTS, note=''):
        error = max(abs(rate(t) - expected(t)) for t in points) / RECIPE['lr']
        fidelity('Learning rate', what, error, tolerance, ABSOLUTE + ' / peak rate', note)

    theirs = timm_schedule(original, warmup=5)
    check('without warm-up', ours(0), timm_schedule(original, warmup=0))
    check('the warm-up', ours(5), theirs, points=np.linspace(0, 4.999, 1000))
    check('the cool-down', ours(5), theirs, points=np.linspace(300, 310, 1000))
    what = 'the whole schedule as the original sets it up, warm-up of 5 in 300 epochs'
    check(what, ours(5), theirs, 0.03, note='differs on purpose; see below')
    theirs = timm_schedule(original, warmup=5, epochs=295, warmup_prefix=True)
    check('warm-up, then a cosine of its own (timm’s warmup_prefix)', ours(5), theirs)
    check('--t_in_epochs', ours(5, True), lambda t: theirs(math.floor(t)))
