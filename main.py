"""Train an LV-ViT, with token labels or without. See README.md for commands."""
import datetime
import json
import os
import time

from util import runtime

CPU = runtime.prepare()
import paddle  # noqa: E402

from engine import evaluate, train_one_epoch  # noqa: E402
from models import build_model, count_parameters, default_crop_pct  # noqa: E402
from util import checkpoint, dist, loader, options  # noqa: E402
from util.amp import Amp  # noqa: E402
from util.logger import Writers, log, log_to  # noqa: E402
from util.loss import TokenLabelLoss  # noqa: E402
from util.mixup import Mixup  # noqa: E402
from util.model_ema import ModelEma  # noqa: E402
from util.optim import build_optimizer  # noqa: E402
from util.train_state import TrainState  # noqa: E402


def parser():
    parser = runtime.Parser('main.py', description=__doc__)
    options.add_model(parser)
    options.add_data(parser, train=True)
    options.add_eval_transform(parser)
    options.add_amp(parser)
    options.add_weights(parser)
    options.add_recipe(parser)
    return parser


def new_model(args):
    return build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes, drop_rate=args.drop,
                       drop_path_rate=args.drop_path, mix_token=bool(args.mix_token))


def main(args):
    options.check_recipe(args)
    if args.output_dir:
        checkpoint.check_writable(args.output_dir)
    rank, world_size = dist.init()
    log_to(args.log_file)
    log(f'Paddle {paddle.__version__} on {paddle.device.get_device()}, {world_size} process(es). {CPU}')
    log('arguments: ' + json.dumps(vars(args)))
    if args.debug and paddle.device.is_compiled_with_cuda():
        paddle.set_flags({'FLAGS_cudnn_deterministic': True})

    crop_pct = default_crop_pct(args.model) if args.crop_pct is None else args.crop_pct
    val_loader = loader.build_eval_loader(args, crop_pct, *((rank, world_size) if args.dist_eval else ()))
    train_loader = None if args.eval else loader.build_train_loader(args, rank, world_size)

    if train_loader and len(train_loader) < args.accum_iter:
        raise runtime.UserError(f'--accum_iter {args.accum_iter}: an epoch has {len(train_loader)} batches only')

    paddle.seed(args.seed)  # all processes start from the same weights
    model = new_model(args)
    ema = ModelEma(new_model(args), model, args.model_ema_decay) if args.model_ema else None
    dense = args.token_label and args.dense_weight > 0 and model.return_dense
    if not dense and not args.eval:
        model.disable_aux_head()  # before the optimizer collects what it trains
    total_batch = args.batch_size * args.accum_iter * world_size
    if args.lr is None:
        args.lr = args.blr * total_batch / 512
    optimizer = build_optimizer(model, args.opt, args.lr, args.weight_decay, args.opt_betas, args.opt_eps,
                                args.momentum, args.clip_grad)
    amp = Amp(args.use_amp, args.amp_dtype, args.amp_level)
    state = TrainState(args, model, ema, optimizer, amp, dense)
    start_epoch = state.start()
    n_parameters = count_parameters(model)
    log(f'{args.model}: {n_parameters / 1e6:.2f} M parameters, input {args.input_size}, crop_pct {crop_pct}, '
        f'lr {args.lr:.2e}, total batch {total_batch}')

    def test(module, name=''):
        return evaluate(module, val_loader, amp, args.dist_eval, f'Test{name}:', args.print_freq)

    if args.eval:
        test(model)
        return

    model, optimizer = amp.decorate(model, optimizer)
    parallel = paddle.DataParallel(model) if world_size > 1 else model
    criterion = TokenLabelLoss(args.cls_weight, args.dense_weight)
    mixup = None
    if args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax:
        mixup = Mixup(args.mixup, args.cutmix, args.cutmix_minmax, args.mixup_prob, args.mixup_switch_prob,
                      args.mixup_mode)
    writers = Writers(args)

    total_epochs = args.epochs + args.cooldown_epochs
    log(f'training on {len(train_loader.dataset)} images, validating on {len(val_loader.dataset)}, '
        f'epochs {start_epoch} to {total_epochs - 1}')
    if train_loader.dataset.unmapped:
        log(f'{len(train_loader.dataset.unmapped)} of them have no label map and train with their label alone')
    begin = time.time()
    updates = len(train_loader) // args.accum_iter
    for epoch in range(start_epoch, total_epochs):
        step = (epoch + 1) * updates
        try:
            train_stats = train_one_epoch(parallel, criterion, train_loader, optimizer, epoch, args, amp, mixup, ema,
                                          writers)
        except FloatingPointError as error:
            raise runtime.UserError(f'epoch {epoch}: {error}; stopped before anything was saved. '
                                    'Try a lower --lr, a longer --warmup_epochs or --clip_grad 1')
        stats = {'epoch': epoch, 'n_parameters': n_parameters, **{f'train_{k}': v for k, v in train_stats.items()}}
        if train_loader.dataset.unmapped:
            stats['images_without_label_map'] = len(train_loader.dataset.unmapped)
        if train_loader.dataset.bad_images():
            stats['bad_images'] = train_loader.dataset.bad_images()
        for module, suffix, tag in ((model, '', 'best'), (ema and ema.module, '_ema', 'best-ema')):
            if module is None or (suffix and not args.model_ema_eval):
                continue
            test_stats = test(module, suffix)
            stats.update({f'test_{k}{suffix}': v for k, v in test_stats.items()})
            if test_stats['acc1'] > state.best.get(f'best_acc1{suffix}', -1.0):
                state.best[f'best_acc1{suffix}'] = test_stats['acc1']
                state.save(tag, epoch, step)
        stats.update(state.best)
        log(f"Max accuracy: {', '.join(f'{k[5:]} {v:.2f}%' for k, v in state.best.items())}")
        if args.output_dir and dist.is_main():
            with open(os.path.join(args.output_dir, 'log.txt'), 'a', encoding='utf-8') as f:
                f.write(json.dumps(stats) + '\n')
        writers.write({k: v for k, v in stats.items() if k.startswith('test_')}, step)
        state.save('latest', epoch, step)
        if (epoch + 1) % 20 == 0 or epoch + 1 == total_epochs:
            state.save(epoch, epoch, step)
    writers.close()
    log(f'Training time {datetime.timedelta(seconds=int(time.time() - begin))}')


if __name__ == '__main__':
    runtime.run(main, parser())
