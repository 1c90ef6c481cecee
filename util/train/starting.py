"""Starting a training run: from scratch, from weights (--finetune), or from a checkpoint (--resume)."""

import itertools
import json
import os

import numpy as np

from util import class_names, dist
from util.errors import UserError
from util.logger import MetricLogger, log
from util.train import optim, saving
from util.train.model_ema import ModelEma
from util.weights import checkpoint
from util.weights.load import has_average, load, load_state, read

# flags whose change is not logged when a run is resumed
INCIDENTAL = set(
    'resume resume_ema finetune output_dir data_path cls_label_path_train cls_label_path_val '
    'pretrained token_label_data num_workers print_freq log_file log_visualdl log_wandb save_freq_steps '
    'keep_checkpoints batch_size accum_iter dist_eval recompute config'.split()
)


def start(state, published_weights=None):
    """Load the weights and the position that a TrainState starts from; build its optimizer and moving average.

    published_weights: see load_start. Raises UserError.
    """
    args, model = state.args, state.model
    if args.token_pool_weight > 0 and not model.return_dense:
        raise UserError(f'--token_pool_weight needs a model with a token classifier; {args.model} has none')
    content, path = load_start(args, model, published_weights, state.class_names)
    if content is not None:
        _check_class_names(state, class_names.of_checkpoint(content, path, args.nb_classes), path)
    if args.model_ema:
        state.ema = ModelEma(model, args.model_ema_decay)
        _load_average(state.ema, args.resume_ema, content, path)
    trains_tokens = args.token_pool_weight > 0 or (args.token_label and args.dense_weight > 0)
    if not (trains_tokens and model.return_dense):
        model.disable_aux_head()
        if state.ema:
            state.ema.module.disable_aux_head()
        log('the class output alone is trained, the token classifier stays at zero')
    state.optimizer = optim.build_optimizer(
        model,
        opt=args.opt,
        lr=args.lr,
        weight_decay=args.weight_decay,
        betas=args.opt_betas,
        eps=args.opt_eps,
        momentum=args.momentum,
        clip_grad=args.clip_grad,
        layer_decay=args.layer_decay,
    )
    if content and 'optimizer' in content:
        _resume(state, content, path)
    positions = dist.gather([state.epoch, state.steps_done])
    if any(position != positions[0] for position in positions):
        raise UserError(
            f'--resume {args.resume}: the processes found different checkpoints (epoch, step: {positions}); '
            'all machines must see the same --output_dir'
        )
    if args.output_dir and dist.is_main():
        _tidy_folder(state, path)


def load_start(args, model, published_weights=None, names=None):
    """Load the weights that a run starts from into `model`: of --resume; without it, of --finetune or --pretrained.

    published_weights: a function that returns the file of --pretrained; it is called only if that file is needed.
    names: of the classes of the training set, by id, or None.
    Returns (content, path) of the checkpoint of --resume, or (None, ''). Raises UserError.
    """
    content, path = None, ''
    if args.resume == 'auto':
        content, path = _newest_checkpoint(args.output_dir)
    elif args.resume:
        content, path = read(args.resume), args.resume
    if content is not None:
        log(f'resuming from {path}')
        load_state(model, content, path, args.ema)
    elif args.finetune or args.pretrained:
        weights = args.finetune or published_weights()
        log(f'fine-tuning from {weights}')
        new_heads = 'all' if args.remove_head_from_pretained else True
        loaded = load(model, weights, args.ema, new_heads, resize=True)
        if not args.remove_head_from_pretained:
            _warn_of_other_classes(names, loaded.get(class_names.KEY), weights)
    return content, path


def _warn_of_other_classes(names, before, path):
    """Log if the heads of fine-tuned weights are those of as many other classes. timm keeps such heads, and so do we.

    names: of the classes of the training set, or None; before: those that the file `path` holds, or None.
    """
    if not names or not before or names == before or len(names) != len(before):
        return
    class_id = next(i for i, (old, new) in enumerate(zip(before, names)) if old != new)
    log(
        f'warning: {path} has as many classes, but others (class {class_id} is {before[class_id]} there and '
        f'{names[class_id]} here); its heads are kept, --remove_head_from_pretained starts with new ones'
    )


def _check_class_names(state, before, path):
    """Raise UserError if the class folders of the training set are not the classes of the resumed checkpoint at `path`.

    before: its class names, or None. A training set from a list file has no class names; the run keeps these.
    """
    now = state.class_names
    if now is None:
        state.class_names = before
    elif before is not None:
        for class_id, (old, new) in enumerate(itertools.zip_longest(before, now, fillvalue='none')):
            if old != new:
                raise UserError(
                    f'--resume {path}: class {class_id} is {old} there, but {new} by the class folders of --data_path '
                    f'{state.args.data_path}; restore the folders, or train on new classes with --finetune'
                )


def _newest_checkpoint(folder):
    """(content, path) for --resume auto; (None, '') for a new run."""
    if not folder:
        raise UserError('--resume auto needs --output_dir, the folder of the checkpoints')
    found = checkpoint.load_newest(folder, log)
    if found is None:
        log(f'--resume auto: no checkpoint in {folder} yet, a new run')
        return None, ''
    return found


def _load_average(ema, resume_ema, content, path):
    """Set the moving average from --resume_ema or from the resumed checkpoint; without both it equals the weights."""
    if resume_ema:
        content = read(resume_ema)
        load_state(ema.module, content, resume_ema, ema=has_average(content))
    elif content is not None and has_average(content):
        load_state(ema.module, content, path, ema=True)
    else:
        log('the moving average starts from the weights')


def _resume(state, content, path):
    """Restore optimizer and position from `content`, the checkpoint at `path`."""
    _restore_optimizer(state, content['optimizer'], path)
    if content.get('scaler'):  # empty if the run did not scale its loss
        state.amp.scaler.load_state_dict(content['scaler'])
    state.best = {key: content[key] for key in ('best_acc1', 'best_acc1_ema') if key in content}
    state.epoch = content['epoch'] + 1
    progress = content.get('progress') or {}
    state.steps_done, state.wandb_run = progress.get('done', 0), progress.get('wandb_run')
    if progress.get('images') == len(state.loader.dataset):  # else the numbers may be those of other images
        state.loader.dataset.bad[np.asarray(progress['bad_images'], 'int64')] = 1
    if state.steps_done:
        _resume_within_epoch(state, progress, path)
    before = content.get('args')
    if not isinstance(before, dict):  # none, or an object of another project's class
        before = {}
    changed = [
        f'{name} {before[name]} -> {value}'
        for name, value in vars(state.args).items()
        if name in before and name not in INCIDENTAL and _as_json(before[name]) != _as_json(value)
    ]
    if changed:
        log(f'flags that differ from those of {path}: {", ".join(changed)}')


def _restore_optimizer(state, saved, path):
    """Restore the optimizer. The keys of the port's checkpoints are translated; if that fails, the optimizer is new."""
    if not isinstance(saved, dict):
        raise UserError(f"{path}: its 'optimizer' is no state of one; start a new run from its weights with --finetune")
    if optim.has_automatic_names(saved):
        saved = optim.translate_keys(saved, checkpoint.automatic_names(path))
        if optim.has_automatic_names(saved):
            log(f'{path}: a checkpoint of the port without the names of its parameters: the optimizer starts anew')
            return
        log(f'{path}: a checkpoint of the port; its optimizer is resumed, the best accuracy is counted anew')
    optim.restore_by_name(state.optimizer, state.model, saved, path)


def _resume_within_epoch(state, progress, path):
    """Restore this process's sums of the losses of the epoch in progress."""
    if (progress['total_batch'], progress['updates']) != (state.total_batch, state.steps_per_epoch):
        raise UserError(
            f'{path}: stopped within an epoch of {progress["updates"]} steps of {progress["total_batch"]} images, '
            f'but this run has {state.steps_per_epoch} of {state.total_batch}; resume with the same data and the same '
            'product of --batch_size, --accum_iter and processes'
        )
    sums = np.asarray(progress['sums'])  # [processes, meters, (sum, count)]
    if len(sums) != dist.world_size():
        log(
            f'continues on {dist.world_size()} process(es) an epoch of {len(sums)}: the same images in the same order, '
            'but other draws of MixToken, Mixup and dropout'
        )
        zeros = np.zeros([dist.world_size() - 1, *sums.shape[1:]])
        sums = np.concatenate([sums.sum(axis=0, keepdims=True), zeros])
    totals = dict(zip(progress['meters'], sums[dist.rank()].tolist()))
    state.meters = MetricLogger(totals, progress.get('seconds', 0.0))


def _tidy_folder(state, resumed_from):
    """Remove from --output_dir what a killed run left: temporary files, later lines of log.txt, a damaged checkpoint.

    resumed_from: path of the checkpoint of --resume, or ''.
    """
    folder = state.args.output_dir
    checkpoint.tidy(folder)
    if resumed_from:
        saving.trim_log(folder, state.epoch)
    latest = os.path.join(folder, checkpoint.LATEST)
    if state.args.resume == 'auto' and resumed_from != latest and os.path.exists(latest):  # it is damaged
        os.replace(latest, os.path.join(folder, 'checkpoint-damaged.pd'))


def _as_json(value):
    """A flag's value as JSON, to compare it with one from a file: lists and tuples are the same."""
    return json.dumps(value, default=str)
