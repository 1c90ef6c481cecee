"""What a run carries from step to step, how it starts, and how it is saved."""

import json
import os

import numpy as np

from util import dist, files
from util.errors import UserError
from util.logger import MetricLogger, log
from util.train import interrupt, optim
from util.train.amp import on_gpu
from util.weights import checkpoint, pretrained

# flags that may differ between a run and its continuation without a word
INCIDENTAL = {
    'resume',
    'resume_ema',
    'finetune',
    'output_dir',
    'data_path',
    'num_workers',
    'print_freq',
    'log_file',
    'log_visualdl',
    'log_wandb',
    'save_freq_steps',
    'keep_checkpoints',
    'cls_label_path_train',
    'cls_label_path_val',
    'token_label_data',
    'batch_size',
    'accum_iter',
    'dist_eval',
}


class TrainState:
    """model, ema (ModelEma or None), optimizer and amp of a run, and where it stands: `epoch`, the one in progress,
    `done`, its optimizer steps so far, `meters` (MetricLogger) of them, and `best`, the best accuracies so far.

    dense: whether the token classifier is trained; if not it is kept at zero (LV_ViT.disable_aux_head).
    loader: the training loader (None to evaluate only); total_batch: images of an optimizer step.
    """

    def __init__(self, args, model, ema, optimizer, amp, dense, loader=None, total_batch=0):
        self.args, self.model, self.ema, self.optimizer, self.amp, self.dense = args, model, ema, optimizer, amp, dense
        self.loader, self.total_batch = loader, total_batch
        self.updates = len(loader) // args.accum_iter if loader else 0  # optimizer steps of an epoch
        self.epoch, self.done, self.meters, self.best, self.run_id = args.start_epoch, 0, MetricLogger(), {}, None

    # -- starting -----------------------------------------------------------------------------------------------------

    def start(self):
        """Load what the run starts from: --resume before --finetune before scratch. Raises UserError."""
        args = self.args
        state, path = None, args.resume
        if args.resume == 'auto':
            state, path = self._newest()
        elif args.resume:
            state = pretrained.read(path)
        if state is not None:
            self._resume(state, path)
        elif args.finetune:
            weights, source = pretrained.read_weights(args.finetune, args.ema)
            notes = pretrained.finetune(self.model, weights, args.finetune, args.remove_head_from_pretained)
            log(f'fine-tuning from {source}' + ''.join(f'\n  {note}' for note in notes))
        if self.ema:
            self._start_ema(state, path)
        if not self.dense and not args.eval:
            for model in [self.model] + ([self.ema.module] if self.ema else []):
                model.disable_aux_head()
            log('no token targets: the class output alone is trained, the token classifier stays at zero')
        places = dist.gather([self.epoch, self.done])
        if any(place != places[0] for place in places):
            raise UserError(
                f'--resume {args.resume}: the processes found different checkpoints (epoch, step: '
                f'{places}); all machines must see the same --output_dir'
            )
        if args.output_dir and dist.is_main() and not args.eval:
            checkpoint.tidy(args.output_dir)
            if state is not None:
                self._trim_log()
            latest = os.path.join(args.output_dir, checkpoint.LATEST)
            if args.resume == 'auto' and path != latest and os.path.exists(latest):  # damaged
                os.replace(latest, os.path.join(args.output_dir, 'checkpoint-damaged.pd'))

    def _newest(self):
        """(state, path) of --resume auto; (None, '') for a new run."""
        if not self.args.output_dir:
            raise UserError('--resume auto needs --output_dir, the folder of the checkpoints')
        found = checkpoint.load_newest(self.args.output_dir, log)
        if found is None:
            log(f'--resume auto: no checkpoint in {self.args.output_dir} yet, a new run')
        return found or (None, '')

    def _resume(self, state, path):
        weights, source = pretrained.choose(state, path, self.args.ema)
        pretrained.set_weights(self.model, weights, path)
        log(f'resuming from {source}')
        if 'optimizer' not in state or self.args.eval:
            return
        optim.restore_by_name(self.optimizer, self.model, state['optimizer'], path)
        if state.get('scaler'):  # empty when the run that wrote it did not scale
            self.amp.scaler.load_state_dict(state['scaler'])
        self.best = {key: state[key] for key in ('best_acc1', 'best_acc1_ema') if key in state}
        self.epoch = state['epoch'] + 1
        self._resume_progress(state.get('progress') or {}, path)
        before, now = state.get('args') or {}, vars(self.args)
        changed = [
            f'{key} {before[key]} -> {now[key]}'
            for key in now
            if key in before and key not in INCIDENTAL and _plain(before[key]) != _plain(now[key])
        ]
        if changed:
            log(f'flags that differ from those of {path}: {", ".join(changed)}')

    def _resume_progress(self, progress, path):
        """Within an epoch: how far, and the sums behind its means, which every process had of its own."""
        self.run_id, self.done = progress.get('wandb_run'), progress.get('done', 0)
        bad = progress.get('bad_images', [])
        if self.loader and len(bad):
            self.loader.dataset.bad[np.asarray(bad)] = 1
        if not self.done:
            return
        if (progress['total_batch'], progress['updates']) != (self.total_batch, self.updates):
            raise UserError(
                f'{path}: stopped within an epoch of {progress["updates"]} steps of '
                f'{progress["total_batch"]} images, this run has {self.updates} of {self.total_batch}; '
                'continue it with the same data and the same --batch_size · --accum_iter · processes'
            )
        sums = np.asarray(progress['sums'])  # [processes, meters, (sum, count)]
        if len(sums) != dist.world_size():
            log(
                f'continues on {dist.world_size()} process(es) what {len(sums)} began: the same images in the same '
                'order, but MixToken, Mixup and dropout are drawn anew by each process'
            )
            sums = np.concatenate([sums.sum(0, keepdims=True), np.zeros([dist.world_size() - 1, *sums.shape[1:]])])
        self.meters = MetricLogger(dict(zip(progress['meters'], sums[dist.rank()].tolist())))

    def _start_ema(self, state, path):
        if self.args.resume_ema:
            path = self.args.resume_ema
            state = pretrained.read(path)
            weights, _ = pretrained.choose(state, path, pretrained.holds_average(state))
        elif state is not None and pretrained.holds_average(state):
            weights, _ = pretrained.choose(state, path, ema=True)
        else:
            weights = self.model.state_dict()
            log('the moving average starts from the weights')
        pretrained.set_weights(self.ema.module, weights, path)

    def _trim_log(self):
        """Drop from log.txt what the run is about to do again, so that each epoch has one line."""
        path = os.path.join(self.args.output_dir, 'log.txt')
        if os.path.exists(path):
            with open(path, encoding='utf-8') as f:
                lines = [line for line in f if line.endswith('\n') and json.loads(line)['epoch'] < self.epoch]
            files.write(path, ''.join(lines).encode())

    # -- going on -----------------------------------------------------------------------------------------------------

    def after_update(self, done):
        """After every optimizer step: saves every --save_freq_steps, and when the run is asked to stop.

        Raises Interrupted then, on all processes after the same step. Several processes must agree on it, which on
        GPUs would have the host wait for the device, so there they do it where losses are read anyway.
        """
        self.done = done
        every = self.args.print_freq if on_gpu() else 1
        stop = interrupt.requested()
        if dist.world_size() > 1:
            stop = done % every == 0 and dist.all_sum([stop is not None])[0] and (stop or 'a signal')
        freq, step = self.args.save_freq_steps, self.epoch * self.updates + done
        if stop or (freq and step % freq == 0 and done < self.updates):  # after the last one main.py saves anyway
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

    def bad_images(self):
        """How many training files could not be decoded so far, by any process. All processes must call it."""
        dataset = self.loader.dataset
        if dist.all_sum([dataset.bad_images()])[0]:
            dataset.bad[:] = np.asarray(dist.all_sum(dataset.bad)) > 0
        return dataset.bad_images()

    def save(self, *tags):
        """Write checkpoint-latest.pd into --output_dir, and the same as checkpoint-<tag>.pd for each tag.

        The one before becomes checkpoint-previous.pd. All processes must call it; the first writes.
        Raises UserError if the weights are not finite, or the disk does not take it.
        """
        if not self.args.output_dir:
            return
        self.bad_images()
        totals = self.meters.totals()
        sums = np.reshape(dist.gather(np.ravel(list(totals.values()))), [-1, len(totals), 2]) if totals else []
        if not dist.is_main():
            return
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
                'meters': list(totals),
                'sums': sums,
                'wandb_run': self.run_id,
                'bad_images': np.flatnonzero(self.loader.dataset.bad),
            },
        }
        broken = [name for name, value in state['model'].items() if not np.isfinite(value).all()]
        if broken:
            raise UserError(
                f'epoch {self.epoch}, step {self.done}: {len(broken)} of the weights are not finite, '
                f'{broken[0]} among them; not saved, the checkpoint before is untouched'
            )
        if self.ema:
            state['model_ema'] = self.ema.module.state_dict()
        folder = self.args.output_dir
        latest = os.path.join(folder, checkpoint.LATEST)
        checkpoint.save(
            state,
            latest,
            *(os.path.join(folder, f'checkpoint-{tag}.pd') for tag in tags),
            previous=os.path.join(folder, checkpoint.PREVIOUS),
        )
        if self.args.keep_checkpoints:
            checkpoint.tidy(folder, self.args.keep_checkpoints)


def _plain(value):
    """A flag's value whether it comes from the command line or from a default."""
    return list(value) if isinstance(value, tuple) else value
