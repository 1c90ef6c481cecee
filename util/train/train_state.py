"""TrainState: the parts of a training run and its position. starting.py starts it, saving.py saves it."""

from util import dist
from util.errors import UserError
from util.logger import MetricLogger, duration, log
from util.train import interrupt, saving
from util.train.amp import on_gpu
from util.train.lr_sched import lr_at


class TrainState:
    """The parts of a training run and its position.

    model: LV_ViT; loader: Loader of the training set; amp: Amp. starting.start adds optimizer and ema (ModelEma, None
    without --model_ema). epoch: the epoch in progress; steps_done: its optimizer steps so far, of steps_per_epoch.
    class_names: names of the classes by id, from class folders or --label_list; None from a list file alone.
    meters: MetricLogger with the losses of the epoch. best: {'best_acc1': the best accuracy so far, in percent, …}.
    """

    def __init__(self, args, model, loader, amp):
        self.args, self.model, self.loader, self.amp = args, model, loader, amp
        self.optimizer = self.ema = None
        self.total_batch = total_batch(args)
        self.steps_per_epoch = len(loader) // args.accum_iter
        self.epoch, self.steps_done = args.start_epoch, 0
        self.meters, self.best, self.wandb_run = MetricLogger(), {}, None
        self.class_names = loader.dataset.samples.class_names

    @property
    def step(self):
        """Optimizer steps since the start of training."""
        return self.epoch * self.steps_per_epoch + self.steps_done

    def lr(self, steps_done):
        """Learning rate in the epoch in progress after `steps_done` of its optimizer steps."""
        args = self.args
        return lr_at(
            self.epoch + steps_done / self.steps_per_epoch,
            lr=args.lr,
            min_lr=args.min_lr,
            warmup_lr=args.warmup_lr,
            epochs=args.epochs,
            warmup_epochs=args.warmup_epochs,
            in_epochs=args.t_in_epochs,
            over_warmup=args.cosine_over_warmup,
        )

    def check_losses(self):
        """Read the losses that are still on the device. Raises UserError if one of them is not finite."""
        try:
            self.meters.flush()
        except FloatingPointError as error:
            raise UserError(
                f'epoch {self.epoch}, {error} on rank {dist.rank()}; the checkpoints are untouched; try a lower --lr, '
                'a longer --warmup_epochs or --clip_grad 1'
            )

    def until_stopped(self, batches):
        """Yield from `batches`. If the run was asked to stop and no batch comes, saves and raises Interrupted.

        Raises UserError instead if an optimizer step may be half done, here or on another process.
        """
        try:
            yield from interrupt.limited(batches)
        except interrupt.NoBatch as stop:
            late = f'{stop}, and no batch has come for {interrupt.BATCH_SECONDS} s'
            if dist.world_size() > 1 or self.args.accum_iter > 1:
                raise UserError(f'{late}; steps since the last save are lost; does the disk of --data_path answer?')
            log(late)
            self.save()
            raise interrupt.Interrupted(stop)

    def after_step(self):
        """Call after every optimizer step: saves every --save_freq_steps steps and when the run is asked to stop.

        Raises Interrupted when the run is asked to stop, on all processes after the same step. The processes agree on
        that in a collective, for which the host waits for the device; on GPUs only every --print_freq steps.
        """
        stop = interrupt.requested()
        if dist.world_size() > 1:
            every = self.args.print_freq if on_gpu() else 1
            agreed = self.steps_done % every == 0 and dist.all_sum([stop is not None])[0] > 0
            stop = (stop or 'a signal') if agreed else None
        freq = self.args.save_freq_steps
        # main.py saves after the last step of an epoch anyway
        is_due = freq > 0 and self.step % freq == 0 and self.steps_done < self.steps_per_epoch
        if stop or is_due:
            self.save()
        if stop:
            raise interrupt.Interrupted(stop)

    def save(self, *tags):
        """Write checkpoint-latest.pd, and checkpoint-<tag>.pd for each tag. All processes must call it.

        Raises UserError if losses or weights are not finite, or if the file cannot be written.
        """
        self.check_losses()
        saving.save(self, tags)

    def times(self, after_training):
        """{'seconds', 'images_per_second'} of the epoch, for log.txt; logs them as the closing line of the epoch.

        after_training: the seconds of saving and evaluation. The training seconds of a resumed epoch are those of all
        its parts. A checkpoint of an older version has none; an epoch that it ends has no images_per_second.
        """
        training = self.meters.seconds
        times = {'seconds': round(training + after_training, 3)}
        closing = f'Epoch: [{self.epoch}] Total time: {duration(times["seconds"])}'
        if training:
            times['images_per_second'] = round(self.steps_per_epoch * self.total_batch / training, 1)
            closing += f', {times["images_per_second"]} images/s'
        log(closing)
        return times

    def end_epoch(self, stats, tags):
        """Write the epoch's line of log.txt, go on to the next epoch, and save. Raises UserError."""
        saving.append_to_log(self.args.output_dir, stats)
        self.epoch, self.steps_done, self.meters = self.epoch + 1, 0, MetricLogger()
        self.save(*tags)


def total_batch(args):
    """Images of an optimizer step, over all processes."""
    return args.batch_size * args.accum_iter * dist.world_size()
