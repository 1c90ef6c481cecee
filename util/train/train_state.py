"""What a training run carries from step to step: how it starts, stops, and is saved."""

import json
import os

import numpy as np

from util import dist, files
from util.errors import UserError
from util.logger import MetricLogger, NonFinite, log
from util.train import interrupt, nonfinite, optim
from util.train.amp import on_gpu
from util.train.model_ema import ModelEma
from util.weights import checkpoint, download, pretrained

# flags that a continued run may change without a line in the log
INCIDENTAL = set(
    'resume resume_ema finetune output_dir data_path cls_label_path_train cls_label_path_val '
    'pretrained token_label_data num_workers print_freq log_file log_visualdl log_wandb save_freq_steps '
    'keep_checkpoints batch_size accum_iter dist_eval config'.split()
)


class TrainState:
    """The parts of a run, and where it stands.

    model: LV_ViT; loader: of the training set; amp: Amp. `start` makes `optimizer` and `ema` (ModelEma, or None without
    --model_ema). `epoch` is the epoch in progress and `done` its optimizer steps so far, of `updates`; `meters`
    (MetricLogger) has their losses, `best` the best accuracies so far.
    """

    def __init__(self, args, model, loader, amp):
        self.args, self.model, self.loader, self.amp = args, model, loader, amp
        self.optimizer = self.ema = None
        self.total_batch = total_batch(args)
        self.updates = len(loader) // args.accum_iter
        self.epoch, self.done = args.start_epoch, 0
        self.meters, self.best, self.wandb_run = MetricLogger(), {}, None

    # -- starting ------------------------------------------------------------------------------------------------------

    def start(self):
        """Load what the run starts from, and build average and optimizer. Raises UserError."""
        args = self.args
        if args.token_pool_weight > 0 and not self.model.return_dense:
            raise UserError(f'--token_pool_weight: for models with a token classifier, which {args.model} is not')
        state, path = load_start(args, self.model)
        if args.model_ema:
            self.ema = ModelEma(self.model, args.model_ema_decay)
            self._load_average(state, path)
        if not self.trains_tokens():
            for model in [self.model] + ([self.ema.module] if self.ema else []):
                model.disable_aux_head()
            log('the class output alone is trained, the token classifier stays at zero')
        self.optimizer = optim.build_optimizer(
            self.model,
            opt=args.opt,
            lr=args.lr,
            weight_decay=args.weight_decay,
            betas=args.opt_betas,
            eps=args.opt_eps,
            momentum=args.momentum,
            clip_grad=args.clip_grad,
            layer_decay=args.layer_decay,
        )
        if state and 'optimizer' in state:
            self._resume(state, path)
        places = dist.gather([self.epoch, self.done])
        if any(place != places[0] for place in places):
            raise UserError(
                f'--resume {args.resume}: the processes found different checkpoints (epoch, step: {places}); '
                'all machines must see the same --output_dir'
            )
        if args.output_dir and dist.is_main():
            self._tidy_folder(resumed_from=path)

    def trains_tokens(self):
        """Whether the token classifier is trained; if not it is kept at zero."""
        args = self.args
        learns = args.token_pool_weight > 0 or (args.token_label and args.dense_weight > 0)
        return bool(learns and self.model.return_dense)

    def _load_average(self, state, path):
        if self.args.resume_ema:
            path = self.args.resume_ema
            state = pretrained.read(path)
            weights, _ = pretrained.choose(state, path, ema=pretrained.holds_average(state))
        elif state is not None and pretrained.holds_average(state):
            weights, _ = pretrained.choose(state, path, ema=True)
        else:
            log('the moving average starts from the weights')
            return
        pretrained.set_weights(self.ema.module, weights, path)

    def _resume(self, state, path):
        """Go on where the run stood that wrote the checkpoint `state`."""
        self._restore_optimizer(state['optimizer'], path)
        if state.get('scaler'):  # empty when the run that wrote it did not scale
            self.amp.scaler.load_state_dict(state['scaler'])
        self.best = {key: state[key] for key in ('best_acc1', 'best_acc1_ema') if key in state}
        self.epoch = state['epoch'] + 1
        progress = state.get('progress') or {}
        self.wandb_run, self.done = progress.get('wandb_run'), progress.get('done', 0)
        bad_images = np.asarray(progress.get('bad_images', []), 'int64')
        self.loader.dataset.bad[bad_images] = 1
        if self.done:
            self._resume_within_epoch(progress, path)
        before = state.get('args') or {}
        changed = [
            f'{key} {before[key]} -> {value}'
            for key, value in vars(self.args).items()
            if key in before and key not in INCIDENTAL and _without_tuples(before[key]) != _without_tuples(value)
        ]
        if changed:
            log(f'flags that differ from those of {path}: {", ".join(changed)}')

    def _restore_optimizer(self, state, path):
        """Give the optimizer its state; one of the port is translated, or left out if that cannot be done."""
        if optim.is_by_automatic_names(state):
            state = optim.named_as_in_model(state, checkpoint.automatic_names(path))
            if state is None:
                log(f"{path}: a checkpoint of the port whose parameters' names are lost: a fresh optimizer goes on")
                return
            log(f'{path}: a checkpoint of the port; its optimizer goes on, the best accuracy is counted anew')
        optim.restore_by_name(self.optimizer, self.model, state, path)

    def _resume_within_epoch(self, progress, path):
        """Restore this process's sums of the losses of the epoch in progress."""
        if (progress['total_batch'], progress['updates']) != (self.total_batch, self.updates):
            raise UserError(
                f'{path}: stopped within an epoch of {progress["updates"]} steps of {progress["total_batch"]} images, '
                f'this run has {self.updates} of {self.total_batch}; continue it with the same data and the same '
                '--batch_size · --accum_iter · processes'
            )
        sums = np.asarray(progress['sums'])  # [processes, meters, (sum, count)]
        if len(sums) != dist.world_size():
            log(
                f'continues on {dist.world_size()} process(es) what {len(sums)} began: the same images in the same '
                'order, but MixToken, Mixup and dropout are drawn anew by each process'
            )
            others = np.zeros([dist.world_size() - 1, *sums.shape[1:]])
            sums = np.concatenate([sums.sum(axis=0, keepdims=True), others])
        self.meters = MetricLogger(dict(zip(progress['meters'], sums[dist.rank()].tolist())))

    def _tidy_folder(self, resumed_from):
        """Remove from --output_dir what a killed run left half done. resumed_from: path of the checkpoint, or ''."""
        folder = self.args.output_dir
        checkpoint.tidy(folder)
        log_txt = os.path.join(folder, 'log.txt')
        if resumed_from and os.path.exists(log_txt):  # epochs that are about to be done again keep one line each
            with open(log_txt, encoding='utf-8') as f:
                lines = [line for line in f if line.endswith('\n') and json.loads(line)['epoch'] < self.epoch]
            files.write(log_txt, ''.join(lines).encode())
        latest = os.path.join(folder, checkpoint.LATEST)
        if self.args.resume == 'auto' and resumed_from != latest and os.path.exists(latest):  # it is damaged
            os.replace(latest, os.path.join(folder, 'checkpoint-damaged.pd'))

    # -- going on ------------------------------------------------------------------------------------------------------

    def check_losses(self):
        """Read the losses that are still on the device. Raises UserError if one of them is not finite."""
        try:
            self.meters.flush()
        except NonFinite as error:
            samples = self.loader.dataset.samples
            raise UserError(nonfinite.explain(error, self.epoch, samples, self.args.output_dir))

    def after_update(self):
        """After every optimizer step: saves every --save_freq_steps, and when the run is asked to stop.

        Raises Interrupted then, on all processes after the same step. Several processes must agree on it, for which
        the host waits for the device; on GPUs, where that costs, they do it as often as losses are read.
        """
        stop = interrupt.requested()
        if dist.world_size() > 1:
            every = self.args.print_freq if on_gpu() else 1
            asked = self.done % every == 0 and dist.all_sum([stop is not None])[0] > 0
            stop = (stop or 'a signal') if asked else None
        freq, step = self.args.save_freq_steps, self.epoch * self.updates + self.done
        is_due = freq > 0 and step % freq == 0 and self.done < self.updates  # after the last step main.py saves anyway
        if stop or is_due:
            self.save()
        if stop:
            raise interrupt.Interrupted(stop)

    def end_epoch(self, stats, tags):
        """Write the epoch's line of log.txt and its checkpoint (see save), and go on to the next."""
        path = os.path.join(self.args.output_dir, 'log.txt')
        if self.args.output_dir and dist.is_main():
            try:
                with open(path, 'a', encoding='utf-8') as f:
                    f.write(json.dumps(stats) + '\n')
            except OSError as error:
                raise UserError(f'{path}: cannot be written to ({error.strerror or error})')
        self.epoch, self.done, self.meters = self.epoch + 1, 0, MetricLogger()
        self.save(*tags)

    def share_bad_images(self):
        """Let every process know the training files that any of them could not decode. All processes must call it."""
        dataset = self.loader.dataset
        if dist.all_sum([dataset.bad_images()])[0] > 0:
            dataset.bad[:] = np.asarray(dist.all_sum(dataset.bad)) > 0

    def save(self, *tags):
        """Write checkpoint-latest.pd into --output_dir, and the same as checkpoint-<tag>.pd for each tag.

        The one before becomes checkpoint-previous.pd. All processes must call it; the first writes.
        Raises UserError if losses or weights are not finite, or the disk does not take it.
        """
        self.check_losses()
        self.share_bad_images()
        folder = self.args.output_dir
        if not folder:
            return
        totals = self.meters.totals()
        sums = []
        if totals:
            sums = np.reshape(dist.gather(np.ravel(list(totals.values()))), [-1, len(totals), 2])
        if not dist.is_main():
            return
        latest = os.path.join(folder, checkpoint.LATEST)
        also = [os.path.join(folder, f'checkpoint-{tag}.pd') for tag in tags]
        state = self._content(list(totals), sums)
        checkpoint.save(state, latest, *also, previous=os.path.join(folder, checkpoint.PREVIOUS))
        if self.args.keep_checkpoints:
            checkpoint.tidy(folder, self.args.keep_checkpoints)

    def _content(self, meters, sums):
        """What a checkpoint holds. meters: their names; sums: of all processes, [processes, meters, (sum, count)].

        Raises UserError if weights are not finite.
        """
        state = {
            'model': checkpoint.to_numpy(self.model.state_dict()),
            'optimizer': optim.state_by_name(self.optimizer, self.model),
            'scaler': self.amp.scaler.state_dict(),
            'epoch': self.epoch - 1,
            'step': self.epoch * self.updates + self.done,
            'rng': {'seed': self.args.seed},
            **self.best,
            'args': vars(self.args),
            'progress': {
                'done': self.done,
                'updates': self.updates,
                'total_batch': self.total_batch,
                'meters': meters,
                'sums': sums,
                'wandb_run': self.wandb_run,
                'bad_images': np.flatnonzero(self.loader.dataset.bad),
            },
        }
        broken = [name for name, value in state['model'].items() if not np.isfinite(value).all()]
        if broken:
            raise UserError(
                f'epoch {self.epoch}, step {self.done}: {len(broken)} of the weights are not finite, {broken[0]} among '
                'them; not saved, the checkpoint before is untouched'
            )
        if self.ema:
            state['model_ema'] = self.ema.module.state_dict()
        return state


def total_batch(args):
    """Images of an optimizer step, over all processes."""
    return args.batch_size * args.accum_iter * dist.world_size()


def load_start(args, model):
    """Load the weights that a run starts from into `model`: --resume before --finetune before scratch.

    With --pretrained, --finetune is an address, which is fetched only if the run does start from it.
    Returns the content of the checkpoint that is resumed and its path, or (None, ''). Raises UserError.
    """
    state, path = None, ''
    if args.resume == 'auto':
        state, path = _newest_checkpoint(args.output_dir)
    elif args.resume:
        state, path = pretrained.read(args.resume), args.resume
    if state is not None:
        weights, source = pretrained.choose(state, path, args.ema)
        pretrained.set_weights(model, weights, path)
        log(f'resuming from {source}')
    elif args.finetune:
        file = download.fetch(args.finetune) if args.pretrained else args.finetune
        weights, source = pretrained.read_weights(file, args.ema)
        notes = pretrained.finetune(model, weights, file, args.remove_head_from_pretained)
        log(f'fine-tuning from {source}' + ''.join(f'\n  {note}' for note in notes))
    return state, path


def _newest_checkpoint(folder):
    """(content, path) for --resume auto; (None, '') for a new run."""
    if not folder:
        raise UserError('--resume auto needs --output_dir, the folder of the checkpoints')
    found = checkpoint.load_newest(folder, log)
    if found is None:
        log(f'--resume auto: no checkpoint in {folder} yet, a new run')
        return None, ''
    return found


def _without_tuples(value):
    """A flag's value, the same whether it comes from the command line (a list) or from a default (a tuple)."""
    return list(value) if isinstance(value, tuple) else value
