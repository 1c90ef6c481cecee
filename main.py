"""Train an LV-ViT, with token labels or without. See README.md for commands."""

from util import runtime

import sys
import time
from functools import partial

import paddle

from engine import evaluate, predict_all, train_one_epoch
from eval import new_eval_loader
from models import (
    FAMILY,
    build_model,
    count_parameters,
    load_model,
    naming_what_fits,
    published_weights,
    token_grid,
    weights_file,
)
from util import class_names, dist, files
from util.args import (
    Parser,
    add_amp,
    add_data,
    add_eval_transform,
    add_model,
    add_normalisation,
    add_weights,
    changed_flags,
    write_config,
)
from util.data import listing, loader, validation
from util.data.label_maps import LabelMaps
from util.data.transforms import TrainTransform
from util.errors import UserError
from util.logger import duration, log, log_to
from util.metrics import log_accuracy, report
from util.train import interrupt, starting
from util.train.amp import Amp, on_gpu
from util.train.loss import TokenLabelLoss
from util.train.mixup import Mixup
from util.train.train_state import TrainState, total_batch
from util.training_args import add_training, complete_training, mixes_images, scale_learning_rates
from util.weights import checkpoint, settings
from util.weights.load import read
from util.writers import Writers, check_packages, epoch_scalars


def parser():
    parser = Parser('main.py', description=__doc__)
    add_model(parser, FAMILY)
    add_data(parser, train=True)
    add_eval_transform(parser, FAMILY)
    add_normalisation(parser)
    add_amp(parser)
    add_weights(parser, "; or 'auto': the newest in --output_dir, if there is one", description=None)
    add_training(parser, FAMILY)
    parser.set_defaults(**settings.DEFAULTS)
    parser.add_config()
    return parser


def complete(args):
    """Check the flags, and set those that the command left out. Raises UserError."""
    settings.complete(args, FAMILY)
    complete_training(args, token_grid(args.model, args.input_size), total_batch(args))
    if args.label_list and not args.cls_label_path_train:
        raise UserError(
            '--label_list needs --cls_label_path_train: without a list file the class folders have the names'
        )


def new_model(args):
    """The model that the flags describe. Its initial weights are the same on all processes."""
    paddle.seed(args.seed)
    return build_model(
        args.model,
        img_size=args.input_size,
        num_classes=args.nb_classes,
        drop_rate=args.drop,
        drop_path_rate=args.drop_path,
        mix_token=args.mix_token,
        recompute=args.recompute,
    )


def new_train_loader(args, rank=0, world_size=1):
    """The loader of the training set that the flags describe."""
    split = 'val' if args.debug else 'train'
    samples = listing.read_samples(args.data_path, split, args.cls_label_path_train, args.nb_classes)
    if args.label_list:
        samples.class_names = class_names.of_training_list(args.label_list, args.nb_classes)
    label_maps = None
    if args.token_label:
        label_maps = LabelMaps(
            args.token_label_data, args.nb_classes, args.token_label_coverage, args.token_label_geometry
        )
    transform = TrainTransform(
        args.input_size,
        interpolation=args.train_interpolation,
        aa=args.aa,
        jitter=args.color_jitter,
        reprob=args.reprob,
        remode=args.remode,
        recount=args.recount,
        scale=args.train_scale,
        flip=args.hflip,
        geometry=args.token_label_geometry,
        mean=args.mean,
        std=args.std,
        backend=args.image_backend,
    )
    return loader.build_train_loader(
        samples,
        transform,
        args.batch_size,
        args.nb_classes,
        label_maps=label_maps,
        token_label_size=args.token_label_size,
        allow_missing_token_label=args.allow_missing_token_label,
        seed=args.seed,
        accum_iter=args.accum_iter,
        max_bad_images=args.max_bad_images,
        num_workers=args.num_workers,
        prefetch_factor=args.prefetch_factor,
        persistent_workers=args.persistent_workers,
        rank=rank,
        world_size=world_size,
    )


def new_loaders(args, ranks, eval_ranks):
    """The loaders of the training and the validation set; the log warns of classes that may be wrong.

    ranks: (rank, number of processes) that share the training; eval_ranks: that share the validation.
    """
    train_loader = new_train_loader(args, *ranks)
    names = train_loader.dataset.samples.class_names
    val_loader = new_eval_loader(args, *eval_ranks, names=names)
    if names is None and not args.cls_label_path_val:
        of_val = val_loader.dataset.samples.class_names
        validation.warn_of_other_ids(train_loader.dataset.samples, args.cls_label_path_train, of_val)
    if names and len(names) < args.nb_classes:
        log(
            f'warning: {len(names)} class folders, but --nb_classes is {args.nb_classes}: the last '
            f'{args.nb_classes - len(names)} class(es) have no images'
        )
    return train_loader, val_loader


def begin(args):
    """Check the folder of the results, and start the processes and the log. Returns (rank, number of processes)."""
    if args.output_dir:
        files.check_folder(args.output_dir, f'--output_dir {args.output_dir}')
    rank, world_size = dist.init()
    if args.sync_bn and not on_gpu():
        raise UserError('--sync_bn needs GPUs: Paddle has no such kernel for CPUs')
    log_to(args.log_file)
    if args.debug and paddle.device.is_compiled_with_cuda():
        paddle.set_flags({'FLAGS_cudnn_deterministic': True})
    today, device = time.strftime('%Y-%m-%d'), paddle.device.get_device()
    log(f'{today}, Paddle {paddle.__version__} on {device}, {world_size} process(es). {runtime.CPU}')
    return rank, world_size


def evaluate_weights(args):
    """--eval: log the accuracy of the weights of --resume, --finetune or --pretrained."""
    ranks = begin(args)
    for name, default in settings.DEFAULTS.items():
        if getattr(args, name) == default:
            setattr(args, name, None)  # the weights may say otherwise
    args.resume = args.resume or args.finetune
    if args.resume == 'auto':
        newest = checkpoint.load_newest(args.output_dir, log)
        if newest is None:
            raise UserError(f'--resume auto: no checkpoint in --output_dir {args.output_dir} to evaluate')
        state, path = newest
    else:
        path = weights_file(args, nearest=True)
        state = read(path)
    model = load_model(args, state, path)
    names = class_names.of_checkpoint(state, path, args.nb_classes)
    val_loader = new_eval_loader(args, *(ranks if args.dist_eval else (0, 1)), names=names)
    amp = Amp(args.use_amp, args.amp_dtype, args.amp_level)
    stats = report(predict_all(val_loader, model, 5, amp, args.dist_eval, print_freq=args.print_freq))
    log_accuracy('network', stats['acc1'], len(val_loader.dataset))


def main(args):
    if args.eval:
        return evaluate_weights(args)
    flags = dict(vars(args))  # as given, for args.yaml
    complete(args)
    check_packages(args.log_visualdl, args.log_wandb)
    ranks = begin(args)
    scaled = scale_learning_rates(args, total_batch(args))
    if scaled:
        log(scaled)
    log(f'flags other than the defaults: {changed_flags(parser(), flags) or "none"}')

    train_loader, val_loader = new_loaders(args, ranks, ranks if args.dist_eval else (0, 1))
    model = new_model(args)
    if args.sync_bn:
        model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    log(f'number of params (M): {count_parameters(model) / 1e6:.2f}')
    log(
        f'{args.model}: input {args.input_size}, crop_pct {args.crop_pct}, lr {args.lr:.2e}, '
        f'total batch {total_batch(args)}, mix_token {args.mix_token}'
    )
    published = partial(published_weights, args.model, args.input_size, nearest=True)
    amp = Amp(args.use_amp, args.amp_dtype, args.amp_level)
    state = TrainState(args, model, train_loader, amp)
    with naming_what_fits():
        starting.start(state, published)
    if args.output_dir and dist.is_main():
        write_config(args.output_dir, flags)
        if state.class_names:
            class_names.write_label_list(args.output_dir, state.class_names)
    with interrupt.listening():
        try:
            train(state, val_loader)
        except interrupt.Interrupted as signal:
            stopped = (
                f'stopped by {signal} in epoch {state.epoch} after {state.steps_done} of {state.steps_per_epoch} steps'
            )
            if not args.output_dir:
                print(f'main.py: {stopped}; nothing is saved without --output_dir', file=sys.stderr)
                sys.exit(130 if str(signal) == 'SIGINT' else 143)
            log(f'{stopped}; --resume auto continues from {args.output_dir}/{checkpoint.LATEST}')


def train(state, val_loader):
    """Train the epochs that are left; evaluate and save after each. Raises Interrupted."""
    args, model, dataset = state.args, state.model, state.loader.dataset
    epochs = args.epochs + args.cooldown_epochs
    if state.epoch >= epochs:
        log(f'all {epochs} epochs are done')
        return
    state.amp.decorate(model, state.optimizer)
    if args.to_static:
        if not model.return_dense:
            raise UserError(f'--to_static needs a model with a token classifier; {args.model} has none')
        model.to_static()
    parallel = paddle.DataParallel(model) if dist.world_size() > 1 else model
    criterion = TokenLabelLoss(args.cls_weight, args.dense_weight, args.token_pool_weight)
    mixup = None
    if mixes_images(args):
        mixup = Mixup(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
        )
    writers = Writers(
        log_visualdl=args.log_visualdl,
        log_wandb=args.log_wandb,
        wandb_entity=args.wandb_entity,
        wandb_project=args.wandb_project,
        config=vars(args),
        run_id=state.wandb_run,
    )
    state.wandb_run = writers.run_id

    if args.warmup_epochs >= args.epochs:
        log(
            f'--warmup_epochs {args.warmup_epochs} is not less than --epochs {args.epochs}: the learning rate rises in '
            'all epochs of the schedule'
        )
    log(f'Start training for {epochs} epochs')
    if args.cooldown_epochs:
        log(f'--epochs {args.epochs} of the schedule and --cooldown_epochs {args.cooldown_epochs}')
    log(
        f'training on {len(dataset)} images, validating on {len(val_loader.dataset)}, '
        f'from epoch {state.epoch}, step {state.steps_done}'
    )
    if dataset.unmapped_images:
        log(f'{dataset.unmapped_images} of them have no label map and train with their label alone')
    if dataset.unlabelled_images:
        log(f'{dataset.unlabelled_images} of them have no label and train with their label map alone')
    run_began, n_parameters = time.time(), count_parameters(model)
    while state.epoch < epochs:
        if 0 < args.mixup_off_epoch <= state.epoch:
            mixup = None
        train_stats = train_one_epoch(state, parallel, criterion, mixup=mixup, writers=writers)
        training_ended = time.time()
        state.save()  # a run that is killed during evaluation repeats the evaluation only
        stats = {'epoch': state.epoch, 'n_parameters': n_parameters}
        stats.update({f'train_{name}': value for name, value in train_stats.items()})
        if dataset.unmapped_images:
            stats['images_without_label_map'] = dataset.unmapped_images
        if dataset.unlabelled_images:
            stats['images_without_label'] = dataset.unlabelled_images
        if dataset.bad_images():
            stats['bad_images'] = dataset.bad_images()

        test_stats, tags = evaluate_epoch(state, val_loader)
        stats.update(test_stats)
        stats.update(train_images=len(dataset), test_images=len(val_loader.dataset))
        stats.update(state.times(time.time() - training_ended))
        if (state.epoch + 1) % 20 == 0 or state.epoch + 1 == epochs:
            tags.append(state.epoch)
        writers.write(epoch_scalars(stats), state.step)
        state.end_epoch(stats, tags)
    writers.close()
    log(f'Training time {duration(time.time() - run_began)}')


def evaluate_epoch(state, val_loader):
    """Evaluate the model, and with --model_ema_eval the averaged one too; update state.best. Raises Interrupted.

    Returns (statistics for log.txt, tags of the checkpoints to write: 'best', 'best-ema' after a new best accuracy).
    """
    args, stats, tags = state.args, {}, []
    candidates = [(state.model, 'network', '', 'best')]
    if state.ema is not None and args.model_ema_eval:
        candidates.append((state.ema.module, 'model EMA', '_ema', 'best-ema'))
    for model, name, suffix, tag in candidates:
        with interrupt.at_once():
            if args.dist_eval:  # each process has batch-norm statistics of its own; all must evaluate with the same
                dist.share_statistics(model)
            test_stats = evaluate(
                val_loader, model, state.amp, args.dist_eval, header=f'Test{suffix}:', print_freq=args.print_freq
            )
        stats.update({f'test_{key}{suffix}': value for key, value in test_stats.items()})
        best = f'best_acc1{suffix}'
        if test_stats['acc1'] > state.best.get(best, -1.0):
            state.best[best] = test_stats['acc1']
            tags.append(tag)
        log_accuracy(name, test_stats['acc1'], len(val_loader.dataset))
        log(f'Max accuracy{" of the model EMA" if suffix else ""}: {state.best[best]:.2f}%')
    return {**stats, **state.best}, tags


if __name__ == '__main__':
    runtime.run(main, parser())
