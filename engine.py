"""One epoch of training, and evaluation."""

import contextlib
import functools

import numpy as np
import paddle
import paddle.nn.functional as F

from util import dist
from util.errors import UserError
from util.logger import MetricLogger, NonFinite
from util.metrics import Answers, report
from util.train import mixtoken, nonfinite
from util.train.loss import batch_targets
from util.train.lr_sched import lr_at


def step_rng(seed, epoch, step):
    """numpy Generator of one step on this process; paddle's own generator (dropout, drop path) is seeded with it.

    All randomness of a step is a function of (seed, epoch, step, rank), so there is no generator state to save.
    """
    rng = np.random.default_rng([seed, epoch, step, dist.rank()])
    paddle.seed(int(rng.integers(2**31)))
    return rng


def train_one_epoch(
    model, criterion, loader, optimizer, epoch, args, amp, mixup=None, ema=None, writers=None, run=None
):
    """Train for one epoch; returns {'lr': of the last step, 'loss': mean over all processes}.

    model: LV_ViT or paddle.DataParallel of it. run: TrainState, which says where in the epoch to begin and is told of
    every optimizer step (it saves, and raises Interrupted).
    Raises UserError that names epoch, step, rank and files for a loss that is not finite.
    """
    net = getattr(model, '_layers', model)
    model.train()
    steps = len(loader)
    updates = steps // args.accum_iter
    done, meters = (run.done, run.meters) if run else (0, MetricLogger())
    begin = done * args.accum_iter
    loader.set_epoch(epoch, begin)
    explain = functools.partial(nonfinite.explain, epoch=epoch, loader=loader, output_dir=args.output_dir)
    guard = nonfinite.StepGuard(net, args.skip_nonfinite, amp.scaler.is_enable(), explain)

    def lr_of(update):
        return lr_at(
            epoch + update / updates,
            args.lr,
            args.min_lr,
            args.warmup_lr,
            args.epochs,
            args.warmup_epochs,
            args.t_in_epochs,
        )

    header = f'Epoch: [{epoch}]'
    try:
        for step, batch in enumerate(meters.log_every(loader, steps, args.print_freq, header, begin), begin):
            rng = step_rng(args.seed, epoch, step)
            first, last = step % args.accum_iter == 0, (step + 1) % args.accum_iter == 0
            if first:
                lr, losses = lr_of(done), []
                optimizer.set_lr(lr)
                guard.begin()

            image = batch['image']
            targets = batch_targets(batch, args.nb_classes, args.smoothing, args.ground_truth)
            if mixup is not None:
                image, targets = mixup(image, targets, rng)
            box = mixtoken.rand_box(net.grid, net.grid, rng) if net.mix_token else mixtoken.EMPTY_BOX

            # gradients travel between processes once per update
            with model.no_sync() if model is not net and not last else contextlib.nullcontext():
                with amp.autocast():
                    outputs = model(image, box)
                    loss = criterion(outputs, targets)
                amp.scaler.scale(loss / args.accum_iter).backward()
            losses.append(((step, batch['index']), loss.detach()))

            if last:
                accepted = guard.accepts(losses)
                if accepted or guard.scaled:  # a loss scaler leaves it out by itself, alike on every process
                    amp.scaler.step(optimizer)
                    amp.scaler.update()
                optimizer.clear_grad()
                done += 1
                if accepted:
                    for where, value in losses:
                        meters.update(where, lr=lr, loss=value)
                    if ema is not None:
                        ema.update(net)
                if writers is not None and done % args.print_freq == 0:
                    writers.write({'train/loss': loss.item(), 'train/lr': lr}, epoch * updates + done)
                if run is not None:
                    run.after_update(done)
        return {**meters.means(), 'lr': lr_of(updates - 1)}
    except NonFinite as error:
        raise UserError(f'{explain(error)}; {nonfinite.REMEDY}')


@paddle.no_grad()
def answer(model, loader, k=5, amp=None, shared=False, header='Test:', print_freq=20):
    """protocols.Answers of a model to every image of the loader's set, in the order of the set.

    k: classes kept for an image, at most the model's. shared: the processes hold different parts of the set; each
    fills in its own rows of a table of zeros, and their sum is everyone's. Raises RuntimeError unless every image was
    answered exactly once.
    """
    net = getattr(model, '_layers', model)
    net.eval()
    if shared:
        dist.share_statistics(net)  # else each would judge its part by statistics of its own
    k = min(k, net.num_classes)
    batches = []  # read at the end: no step waits for the device
    for batch in MetricLogger().log_every(loader, len(loader), print_freq, header):
        with amp.autocast() if amp else contextlib.nullcontext():
            logits = net(batch['image'])
        logits, label = logits.astype('float32'), batch['label'].reshape([-1, 1])
        columns = [
            paddle.ones_like(label),
            label,
            F.cross_entropy(logits, label, reduction='none').reshape([-1, 1]),
            paddle.topk(logits, k, axis=-1)[1],
        ]
        batches.append(paddle.concat([column.astype('float64') for column in columns], axis=1))  # ids stay exact
    table = np.zeros([len(loader.dataset), 3 + k])
    for rows, values in zip(loader.sampler, batches):
        table[rows] += values.numpy()
    if shared:
        table = np.asarray(dist.all_sum(table))
    if (table[:, 0] != 1).any():
        raise RuntimeError('an evaluation must count every image of the set exactly once')
    return Answers(table[:, 1].astype('int64'), table[:, 3:].astype('int64'), table[:, 2])


def evaluate(model, loader, amp=None, shared=False, header='Test:', print_freq=20):
    """{'loss', 'acc1', 'acc5'} of a model over a loader: mean cross-entropy, accuracies in percent (see answer)."""
    return report(answer(model, loader, 5, amp, shared, header, print_freq))
