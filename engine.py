"""One epoch of training, and evaluation."""

import contextlib

import numpy as np
import paddle
import paddle.nn.functional as F

from util import dist
from util.logger import MetricLogger
from util.metrics import Answers, report
from util.train import mixtoken
from util.train.loss import batch_targets
from util.train.lr_sched import lr_of


def step_rng(seed, epoch, step):
    """numpy Generator of one step on this process; paddle's own generator (dropout, drop path) is seeded with it.

    All randomness of a step is a function of (seed, epoch, step, rank), so there is no generator state to save.
    """
    rng = np.random.default_rng([seed, epoch, step, dist.rank()])
    paddle.seed(int(rng.integers(2**31)))
    return rng


def train_one_epoch(state, model, criterion, mixup=None, writers=None):
    """Train for one epoch from where `state` stands in it; returns {'lr': of the last step, 'loss': its mean}.

    state: TrainState, which says where to begin, counts the optimizer steps and saves between them.
    model: state.model, or paddle.DataParallel of it. criterion: (outputs, Targets) -> scalar. mixup: Mixup or None.
    Raises UserError that names the images of a loss that is not finite, and Interrupted when the run is to stop.
    """
    args, loader, optimizer, amp = state.args, state.loader, state.optimizer, state.amp
    grid = state.model.grid
    steps = len(loader)
    first = state.done * args.accum_iter  # batches of the epoch that a run before this one has done
    loader.set_epoch(state.epoch, first)
    model.train()
    batches = state.meters.log_every(loader, steps, args.print_freq, header=f'Epoch: [{state.epoch}]', first=first)
    for step, batch in enumerate(batches, first):
        rng = step_rng(args.seed, state.epoch, step)
        lr = lr_of(args, state.epoch + state.done / state.updates)
        optimizer.set_lr(lr)

        image = batch['image']
        targets = batch_targets(
            batch,
            args.nb_classes,
            smoothing=args.smoothing,
            ground_truth=args.ground_truth,
            gumbel=args.token_label_gumbel,
            confidence=args.token_label_confidence,
        )
        if mixup is not None:
            image, targets = mixup(image, targets, rng)
        box = mixtoken.rand_box(grid, grid, rng) if state.model.mix_token else mixtoken.EMPTY_BOX

        ends_update = (step + 1) % args.accum_iter == 0
        # several processes exchange their gradients once per optimizer step
        keep_gradients_here = dist.world_size() > 1 and not ends_update
        with model.no_sync() if keep_gradients_here else contextlib.nullcontext():
            with amp.autocast():
                outputs = model(image, box)
                loss = criterion(outputs, targets)
            amp.scaler.scale(loss / args.accum_iter).backward()
        state.meters.update(lr=lr, loss=loss.detach(), where=(step, batch['index']))

        if ends_update:
            scalars = {}
            if writers is not None and writers.active and (state.done + 1) % args.print_freq == 0:
                scalars = step_scalars(loss, lr, state.model, optimizer, amp.scaler)
            amp.scaler.step(optimizer)
            amp.scaler.update()
            optimizer.clear_grad()
            if state.ema is not None:
                state.ema.update(state.model)
            state.done += 1
            if scalars:
                writers.write(scalars, state.epoch * state.updates + state.done)
        if step % args.print_freq == 0 or step == steps - 1:
            state.check_losses()  # reads them: only here does the host wait for the device
        if ends_update:
            state.after_update()
    return {**state.meters.means(), 'lr': lr_of(args, state.epoch + (state.updates - 1) / state.updates)}


@paddle.no_grad()
def step_scalars(loss, lr, model, optimizer, scaler):
    """{name: number or one-element tensor} of an optimizer step, for Writers, just before the step is taken.

    norm is that of the gradient over all parameters, before clipping; scale that of the loss, where it is scaled.
    """
    scaler.unscale_(optimizer)  # which `step` then leaves out
    squares = [(p.grad.astype('float32') ** 2).sum() for p in model.parameters() if p.grad is not None]
    scalars = {'train/loss': loss, 'train/lr': lr, 'train/norm': paddle.add_n(squares).sqrt()}
    if scaler.is_enable():
        scalars['train/scale'] = np.asarray(scaler.state_dict()['scale']).item()
    return scalars


@paddle.no_grad()
def answer(model, loader, k=5, amp=None, shared=False, header='Test:', print_freq=20):
    """metrics.Answers of a model to every image of the loader's set, in the order of the set.

    k: classes kept for an image, at most the model's. shared: the processes hold different parts of the set; each
    fills in its own rows of a table of zeros, and their sum is everyone's. Raises RuntimeError unless every image was
    answered exactly once.
    """
    model.eval()
    k = min(k, model.num_classes)
    rows, answers = [], []  # read at the end: no step waits for the device
    for batch in MetricLogger().log_every(loader, len(loader), print_freq, header):
        with amp.autocast() if amp else contextlib.nullcontext():
            logits = model(batch['image']).astype('float32')
        label = batch['label'].reshape([-1, 1])
        loss = F.cross_entropy(logits, label, reduction='none').reshape([-1, 1])
        columns = [paddle.ones_like(label), label, loss, paddle.topk(logits, k, axis=-1)[1]]
        answers.append(paddle.concat([column.astype('float64') for column in columns], axis=1))  # ids stay exact
        rows.append(batch['index'])
    table = np.zeros([len(loader.dataset), 3 + k])
    for places, values in zip(rows, answers):
        table[places.numpy()] += values.numpy()
    if shared:
        table = np.asarray(dist.all_sum(table))
    if (table[:, 0] != 1).any():
        raise RuntimeError('an evaluation must count every image of the set exactly once')
    return Answers(table[:, 1].astype('int64'), table[:, 3:].astype('int64'), table[:, 2])


def evaluate(model, loader, amp=None, shared=False, header='Test:', print_freq=20):
    """{'loss', 'acc1', 'acc5'} of a model over a loader: mean cross-entropy, accuracies in percent (see answer)."""
    return report(answer(model, loader, k=5, amp=amp, shared=shared, header=header, print_freq=print_freq))
