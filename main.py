"""Train an LV-ViT, with token labels or without. See README.md for commands."""

import datetime
import json
import sys
import time

from util import runtime
from util.errors import UserError

import paddle

from engine import evaluate, train_one_epoch
from models import build_model, count_parameters, published_defaults
from util import dist, options
from util.data import loader
from util.logger import Writers, log, log_to
from util.train import interrupt
from util.train.amp import Amp, on_gpu
from util.train.loss import TokenLabelLoss
from util.train.mixup import Mixup
from util.train.model_ema import ModelEma
from util.train.optim import build_optimizer
from util.train.train_state import TrainState
from util.weights import checkpoint


def parser():
    parser = runtime.Parser('main.py', description=__doc__)
    options.add_model(parser)
    options.add_data(parser, train=True)
    options.add_eval_transform(parser)
    options.add_amp(parser)
    options.add_weights(parser, "or 'auto': the newest in --output_dir, if any")
    options.add_recipe(parser)
    return parser


def new_model(args):
    model = build_model(
        args.model,
        img_size=args.input_size,
        num_classes=args.nb_classes,
        drop_rate=args.drop,
        drop_path_rate=args.drop_path,
        mix_token=bool(args.mix_token),
    )
    return paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model) if args.sync_bn else model


def main(args):
    published_defaults(args)
    options.check_recipe(args)
    if args.output_dir:
        checkpoint.check_writable(args.output_dir)
    rank, world_size = dist.init()
    if args.sync_bn and not on_gpu():
        raise UserError('--sync_bn needs GPUs: Paddle has no such kernel for CPUs')
    log_to(args.log_file)
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {runtime.CPU}')
    log('arguments: ' + json.dumps(vars(args)))
    if args.debug and paddle.device.is_compiled_with_cuda():
        paddle.set_flags({'FLAGS_cudnn_deterministic': True})

    val_loader = loader.build_eval_loader(args, args.crop_pct, *((rank, world_size) if args.dist_eval else ()))
    train_loader = None if args.eval else loader.build_train_loader(args, rank, world_size)

    paddle.seed(args.seed)  # all processes start from the same weights
    model = new_model(args)
    ema = ModelEma(new_model(args), model, args.model_ema_decay) if args.model_ema else None
    dense = args.token_label and args.dense_weight > 0 and model.return_dense
    if not dense and not args.eval:
        model.disable_aux_head()  # before the optimizer collects what it trains
    total_batch = args.batch_size * args.accum_iter * world_size
    if args.lr is None:
        args.lr = args.blr * total_batch / 512
    optimizer = build_optimizer(
        model,
        args.opt,
        args.lr,
        args.weight_decay,
        args.opt_betas,
        args.opt_eps,
        args.momentum,
        args.clip_grad,
        args.layer_decay,
    )
    amp = Amp(args.use_amp, args.amp_dtype, args.amp_level)
    state = TrainState(args, model, ema, optimizer, amp, dense, train_loader, total_batch)
    state.start()
    log(
        f'{args.model}: {count_parameters(model) / 1e6:.2f} M parameters, input {args.input_size}, '
        f'crop_pct {args.crop_pct}, lr {args.lr:.2e}, total batch {total_batch}'
    )
    if args.eval:
        evaluate(model, val_loader, amp, args.dist_eval, 'Test:', args.print_freq)
        return

    with interrupt.listening():
        try:
            train(args, state, val_loader)
        except interrupt.Interrupted as stop:
            where = f'stopped by {stop} in epoch {state.epoch} after {state.done} of {state.updates} steps'
            if not args.output_dir:
                print(f'main.py: {where}; nothing saved for want of --output_dir', file=sys.stderr)
                sys.exit(130 if str(stop) == 'SIGINT' else 143)
            log(f'{where}; --resume auto continues from {args.output_dir}/{checkpoint.LATEST}')


def train(args, state, val_loader):
    """Train from where `state` stands to the end; evaluates and saves after every epoch. Raises Interrupted."""
    n_parameters = count_parameters(state.model)
    model, optimizer = state.amp.decorate(state.model, state.optimizer)
    if args.to_static:
        if not model.return_dense:
            raise UserError(f'--to_static: for models with a token classifier, which {args.model} is not')
        model.to_static()
    parallel = paddle.DataParallel(model) if dist.world_size() > 1 else model
    criterion = TokenLabelLoss(args.cls_weight, args.dense_weight)
    mixup = None
    if args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax:
        mixup = Mixup(
            args.mixup, args.cutmix, args.cutmix_minmax, args.mixup_prob, args.mixup_switch_prob, args.mixup_mode
        )
    writers = Writers(args, state.run_id)
    state.run_id = writers.run_id

    total_epochs, dataset = args.epochs + args.cooldown_epochs, state.loader.dataset
    log(
        f'training on {len(dataset)} images, validating on {len(val_loader.dataset)}, '
        f'epochs {state.epoch} to {total_epochs - 1}' + (f' from step {state.done}' if state.done else '')
    )
    if dataset.unmapped:
        log(f'{len(dataset.unmapped)} of them have no label map and train with their label alone')
    begin = time.time()
    while state.epoch < total_epochs:
        epoch = state.epoch
        train_stats = train_one_epoch(
            parallel, criterion, state.loader, optimizer, epoch, args, state.amp, mixup, state.ema, writers, state
        )
        state.save()  # what happens during evaluation costs the evaluation only
        stats = {'epoch': epoch, 'n_parameters': n_parameters, **{f'train_{k}': v for k, v in train_stats.items()}}
        if dataset.unmapped:
            stats['images_without_label_map'] = len(dataset.unmapped)
        if dataset.bad_images():
            stats['bad_images'] = dataset.bad_images()

        tags = []  # names for this epoch's checkpoint
        for module, suffix, tag in ((model, '', 'best'), (state.ema and state.ema.module, '_ema', 'best-ema')):
            if module is None or (suffix and not args.model_ema_eval):
                continue
            with interrupt.at_once():
                test_stats = evaluate(module, val_loader, state.amp, args.dist_eval, f'Test{suffix}:', args.print_freq)
            stats.update({f'test_{k}{suffix}': v for k, v in test_stats.items()})
            if test_stats['acc1'] > state.best.get(f'best_acc1{suffix}', -1.0):
                state.best[f'best_acc1{suffix}'] = test_stats['acc1']
                tags.append(tag)
        stats.update(state.best)
        log(f'Max accuracy: {", ".join(f"{k[5:]} {v:.2f}%" for k, v in state.best.items())}')
        if (epoch + 1) % 20 == 0 or epoch + 1 == total_epochs:
            tags.append(epoch)
        writers.write({k: v for k, v in stats.items() if k.startswith('test_')}, (epoch + 1) * state.updates)
        state.end_epoch(stats, tags)
    writers.close()
    log(f'Training time {datetime.timedelta(seconds=int(time.time() - begin))}')


if __name__ == '__main__':
    runtime.run(dist.peers_named()(main), parser())
