"""One epoch of training, and evaluation."""

import contextlib

import numpy as np
import paddle
import paddle.nn.functional as F

from util import dist
from util.errors import UserError
from util.logger import MetricLogger, duration, log
from util.metrics import Predictions, statistics
from util.train import mixtoken
from util.train.loss import batch_targets


def train_one_epoch(state, model, criterion, mixup=None, writers=None):
    """Train the steps of the epoch that are left.

    state: TrainState. model: state.model, or paddle.DataParallel of it. criterion: (outputs, Targets) -> scalar.
    mixup: Mixup or None. writers: Writers or None.
    Returns {'lr': rate of the last step, 'loss': mean over the epoch and all processes}.
    Raises UserError for a loss that is not finite, and Interrupted when the run is asked to stop.
    """
    args, loader, optimizer, amp = state.args, state.loader, state.optimizer, state.amp
    grid, num_batches = state.model.grid, len(loader)
    first = state.steps_done * args.accum_iter  # the batch to resume from
    loader.set_epoch(state.epoch, first)
    model.train()
    batches = state.meters.log_every(loader, num_batches, args.print_freq, f'Epoch: [{state.epoch}]', first)
    for i, batch in enumerate(state.until_stopped(batches), first):
        rng = step_rng(args.seed, state.epoch, i)
        lr = state.lr(state.steps_done)
        optimizer.set_lr(lr)

        images = batch['image']
        targets = batch_targets(
            batch,
            args.nb_classes,
            smoothing=args.smoothing,
            ground_truth=args.ground_truth,
            gumbel=args.token_label_gumbel,
            confidence=args.token_label_confidence,
        )
        if mixup is not None:
            images, targets = mixup(images, targets, rng)
        box = mixtoken.rand_box(grid, grid, rng) if state.model.mix_token else mixtoken.EMPTY_BOX

        is_last_of_step = (i + 1) % args.accum_iter == 0
        with synced_gradients(model, is_last_of_step):
            with amp.autocast():
                loss = criterion(model(images, box), targets)
            amp.scaler.scale(loss / args.accum_iter).backward()
        state.meters.update(i, lr=lr, loss=loss.detach())

        if is_last_of_step:
            step = state.steps_done + 1
            is_shown = step % args.print_freq == 0 or step == state.steps_per_epoch
            if writers is not None and writers.active and is_shown:
                writers.write(step_scalars(loss, lr, state.model, optimizer, amp.scaler), state.step + 1)
            amp.scaler.step(optimizer)
            amp.scaler.update()
            optimizer.clear_grad()
            if state.ema is not None:
                state.ema.update(state.model)
            state.steps_done += 1
        if i % args.print_freq == 0 or i == num_batches - 1:
            state.check_losses()  # reads the losses, for which the host waits for the device
        if is_last_of_step:
            state.after_step()
    return {**state.meters.means(), 'lr': state.lr(state.steps_per_epoch - 1)}


def step_rng(seed, epoch, batch):
    """numpy Generator for a batch on this process; paddle's own generator (dropout, drop path) is seeded from it.

    All randomness is a function of (seed, epoch, batch, rank), so a checkpoint needs no state of a generator.
    """
    rng = np.random.default_rng([seed, epoch, batch, dist.rank()])
    paddle.seed(int(rng.integers(2**31)))
    return rng


def synced_gradients(model, sync):
    """Context manager for a backward pass; with sync=False paddle.DataParallel does not average its gradients."""
    return contextlib.nullcontext() if sync or dist.world_size() == 1 else model.no_sync()


@paddle.no_grad()
def step_scalars(loss, lr, model, optimizer, scaler):
    """{name: number or one-element tensor} for Writers. Call it after the backward pass and before scaler.step.

    train/norm is the norm of the gradient of all parameters, before clipping; train/scale is the loss scale, which
    exists only with float16.
    """
    scaler.unscale_(optimizer)  # scaler.step knows that, and does not divide again
    squares = [(p.grad.astype('float32') ** 2).sum() for p in model.parameters() if p.grad is not None]
    scalars = {'train/loss': loss, 'train/lr': lr, 'train/norm': paddle.add_n(squares).sqrt()}
    if scaler.is_enable():
        scalars['train/scale'] = np.asarray(scaler.state_dict()['scale']).item()
    return scalars


def evaluate(data_loader, model, amp=None, shared=False, header='Test:', print_freq=20):
    """Evaluate a model after an epoch: {'loss': mean cross-entropy, 'acc1', 'acc5': in percent}. See predict_all.

    Logs loss and acc5; main.py logs acc1.
    """
    stats = statistics(predict_all(data_loader, model, 5, amp, shared, header, print_freq))
    log(f'* Acc@5 {stats["acc5"]:.3f} loss {stats["loss"]:.3f}')
    return stats


@paddle.no_grad()
def predict_all(data_loader, model, k=5, amp=None, shared=False, header='Test:', print_freq=20, classes=None):
    """metrics.Predictions for every image of the loader's set, in the order of the set.

    k: classes to keep of each image; amp: Amp or None. shared: the loaders of the processes share the set. Each process
    fills in its rows of a table of zeros, and every process gets the sum of the tables. classes: the ids of the only
    classes that count (None: all); the logits of the others become -inf, so softmax, loss and top k leave them out.
    Raises UserError that names an image whose outputs are not finite; RuntimeError unless every image was counted
    exactly once.
    """
    model.eval()
    classes = list(range(model.num_classes)) if classes is None else classes
    k = min(k, len(classes))
    left_out = np.full(model.num_classes, -np.inf, 'float32')
    left_out[classes] = 0
    left_out = paddle.to_tensor(left_out)
    indices, rows = [], []  # read after the loop, so that no batch waits for the device
    meters = MetricLogger()
    for batch in meters.log_every(data_loader, len(data_loader), print_freq, header):
        with amp.autocast() if amp else contextlib.nullcontext():
            logits = model(batch['image']).astype('float32')
        finite = paddle.isfinite(logits).all(axis=-1, keepdim=True)
        logits = logits + left_out
        label = batch['label'].reshape([-1, 1])
        loss = F.cross_entropy(logits, label, reduction='none').reshape([-1, 1])
        columns = [paddle.ones_like(label), label, loss, finite, paddle.topk(logits, k, axis=-1)[1]]
        rows.append(paddle.concat([column.astype('float64') for column in columns], axis=1))  # float64 keeps ids exact
        indices.append(batch['index'])
    log(f'{header} Total time: {duration(meters.seconds)}')
    table = np.zeros([len(data_loader.dataset), 4 + k])
    for index, values in zip(indices, rows):
        table[index.numpy()] += values.numpy()
    if shared:
        table = np.asarray(dist.all_sum(table))
    if (table[:, 0] != 1).any():
        raise RuntimeError('an evaluation must count every image of the set exactly once')
    broken = np.flatnonzero(table[:, 3] == 0)
    if broken.size:
        first, _ = data_loader.dataset.samples[int(broken[0])]
        raise UserError(
            f"{first}: the network's outputs for this image are not finite (NaN or "
            f'infinite), and for {broken.size} of {len(table)} images in all; check the weights, and --use_amp'
        )
    return Predictions(table[:, 1].astype('int64'), table[:, 4:].astype('int64'), table[:, 2])
