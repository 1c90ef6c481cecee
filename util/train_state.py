"""What a run carries from epoch to epoch, how it starts, and how it is saved."""
import os

from util import checkpoint, dist, optim, pretrained
from util.logger import log


class TrainState:
    """model, ema (ModelEma or None), optimizer and amp of a run, and `best`, its best accuracies so far.

    dense: whether the token classifier is trained; if not it is kept at zero (LV_ViT.disable_aux_head).
    """

    def __init__(self, args, model, ema, optimizer, amp, dense):
        self.args, self.model, self.ema, self.optimizer, self.amp, self.dense = args, model, ema, optimizer, amp, dense
        self.best = {}

    def start(self):
        """Load the weights the run starts from, --resume before --finetune before scratch; returns the first epoch."""
        args, first = self.args, self.args.start_epoch
        if args.resume:
            first = self._resume(args.resume, first)
        elif args.finetune:
            weights, source = pretrained.load_weights(args.finetune, args.ema)
            notes = pretrained.finetune(self.model, weights, args.finetune, args.remove_head_from_pretained)
            log(f'fine-tuning from {source}' + ''.join(f'\n  {note}' for note in notes))
        if self.ema:
            self._start_ema(args.resume_ema or args.resume)
        if not self.dense and not args.eval:
            for model in [self.model] + ([self.ema.module] if self.ema else []):
                model.disable_aux_head()
            log('no token targets: the class output alone is trained, the token classifier stays at zero')
        return first

    def _resume(self, path, first):
        state = checkpoint.load(path)
        weights, source = pretrained.pick_weights(state, path, self.args.ema)
        pretrained.restore(self.model, weights, path)
        log(f'resuming from {source}')
        if 'optimizer' not in state or self.args.eval:
            return first
        optim.restore_by_name(self.optimizer, self.model, state['optimizer'], path)
        if state.get('scaler'):  # empty when the run that wrote it did not scale
            self.amp.scaler.load_state_dict(state['scaler'])
        self.best = {key: state[key] for key in ('best_acc1', 'best_acc1_ema') if key in state}
        return state['epoch'] + 1

    def _start_ema(self, path):
        state = checkpoint.load(path) if path else {}
        if 'model_ema' in state:
            weights = state['model_ema']
        elif self.args.resume_ema:
            weights, _ = pretrained.pick_weights(state, path)
        else:
            weights = self.model.state_dict()
            log('the moving average starts from the weights')
        pretrained.restore(self.ema.module, weights, path)

    def save(self, tag, epoch, step):
        """Write checkpoint-<tag>.pd into --output_dir, on the first process; step: optimizer steps done so far."""
        if not self.args.output_dir or not dist.is_main():
            return
        state = {'model': self.model.state_dict(), 'optimizer': optim.state_by_name(self.optimizer, self.model),
                 'scaler': self.amp.scaler.state_dict(), 'epoch': epoch, 'step': step,
                 'rng': {'seed': self.args.seed}, **self.best, 'args': vars(self.args)}
        if self.ema:
            state['model_ema'] = self.ema.module.state_dict()
        checkpoint.save(state, os.path.join(self.args.output_dir, f'checkpoint-{tag}.pd'))
