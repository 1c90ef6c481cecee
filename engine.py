"""One epoch of training, and evaluation."""
import contextlib
import itertools

import numpy as np
import paddle
import paddle.nn.functional as F

from util import dist, mixtoken
from util.logger import MetricLogger, log
from util.loss import batch_targets
from util.lr_sched import lr_at


def step_rng(seed, epoch, step):
    """numpy Generator of one step on this process; paddle's own generator (dropout, drop path) is seeded with it.

    All randomness of a step is a function of (seed, epoch, step, rank), so there is no generator state to save.
    """
    rng = np.random.default_rng([seed, epoch, step, dist.rank()])
    paddle.seed(int(rng.integers(2 ** 31)))
    return rng


def train_one_epoch(model, criterion, loader, optimizer, epoch, args, amp, mixup=None, ema=None, writers=None):
    """Train for one epoch; returns {'lr': …, 'loss': mean}.

    model: LV_ViT or paddle.DataParallel of it. Batches beyond a multiple of accum_iter are left out.
    Raises FloatingPointError (with epoch and step) for a loss that is not finite.
    """
    net = getattr(model, '_layers', model)
    model.train()
    loader.set_epoch(epoch)
    updates = len(loader) // args.accum_iter
    steps = updates * args.accum_iter
    meters = MetricLogger()
    for step, batch in enumerate(meters.log_every(itertools.islice(loader, steps), steps, args.print_freq,
                                                  f'Epoch: [{epoch}]')):
        rng = step_rng(args.seed, epoch, step)
        first, last = step % args.accum_iter == 0, (step + 1) % args.accum_iter == 0
        if first:
            lr = lr_at(epoch + step / steps, args.lr, args.min_lr, args.warmup_lr, args.epochs, args.warmup_epochs,
                       args.t_in_epochs)
            optimizer.set_lr(lr)

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
        if last:
            amp.scaler.step(optimizer)
            amp.scaler.update()
            optimizer.clear_grad()
            if ema is not None:
                ema.update(net)

        meters.update(lr=lr, loss=loss.detach())
        if writers is not None and (step + 1) % args.print_freq == 0:
            writers.write({'train/loss': loss.item(), 'train/lr': lr}, epoch * updates + (step + 1) // args.accum_iter)
    return {**meters.means(), 'lr': lr}


@paddle.no_grad()
def evaluate(model, loader, amp=None, shared=False, header='Test:', print_freq=20):
    """{'loss', 'acc1', 'acc5'} of a model over a loader: mean cross-entropy, accuracies in percent.

    shared: the processes hold different parts of the set, and what they counted is summed. Every image counts once,
    so the result depends neither on the batch size nor on the number of processes.
    """
    net = getattr(model, '_layers', model)
    net.eval()
    if shared:
        dist.share_statistics(net)  # else each would judge its part by statistics of its own
    sums, images = paddle.zeros([3], 'float64'), 0  # sums of loss, correct, correct among 5: read once, at the end
    for batch in MetricLogger().log_every(loader, len(loader), print_freq, header):
        image, label = batch['image'], batch['label']
        with amp.autocast() if amp else contextlib.nullcontext():
            logits = net(image)
        logits = logits.astype('float32')
        best = paddle.topk(logits, min(5, logits.shape[-1]), axis=-1)[1] == label.unsqueeze(-1)
        sums += paddle.stack([F.cross_entropy(logits, label, reduction='sum').astype('float64').reshape([]),
                              best[:, 0].sum().astype('float64'), best.sum().astype('float64')])
        images += label.shape[0]
    loss, top1, top5, images = dist.all_sum(sums.tolist() + [images]) if shared else sums.tolist() + [images]
    stats = {'loss': loss / images, 'acc1': 100 * top1 / images, 'acc5': 100 * top5 / images}
    log(f"* Acc@1 {stats['acc1']:.3f} Acc@5 {stats['acc5']:.3f} loss {stats['loss']:.3f} on {images:.0f} images")
    return stats
