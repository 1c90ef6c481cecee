"""The command-line flags of main.py alone: the recipe of a training and its output. args.py has those of other scripts.

`family` is models.FAMILY, from which the help texts take patch sizes.
"""

import os

from util.args import add_label_maps, by_model, switch
from util.errors import UserError
from util.ranges import below_one, count, natural, not_negative, positive, probability, seed, share


def add_training(parser, family):
    """Flags of the training recipe."""
    _add_run(parser)
    _add_optimizer(parser)
    _add_schedule(parser)
    _add_augmentation(parser)
    _add_mixing(parser)
    _add_token_labels(parser, family)
    _add_output(parser)


def _add_run(parser):
    add = parser.add_argument_group('training').add_argument
    help = 'images per process and step; the total batch is batch_size * accum_iter * processes (default: 64)'
    add('--batch_size', default=64, type=count, metavar='N', help=help)
    help = 'epochs of the schedule, without cool-down (default: 300)'
    add('--epochs', default=300, type=count, metavar='N', help=help)
    help = 'batches whose gradients are accumulated for one optimizer step (default: 1)'
    add('--accum_iter', default=1, type=count, metavar='N', help=help)
    add('--drop', default=0.0, type=below_one, metavar='RATE', help='dropout rate (default: 0)')
    help = 'stochastic depth rate of the last block; it grows linearly over the blocks (default: 0)'
    add('--drop_path', type=below_one, metavar='RATE', help=help)
    switch(add, 'model_ema', 'keep an exponential moving average of the weights')
    help = 'decay of the moving average per step (default: 0.9999)'
    add('--model_ema_decay', default=0.9999, type=probability, metavar='DECAY', help=help)
    switch(add, 'model_ema_eval', 'evaluate the averaged weights after every epoch too')
    help = 'seed of the initial weights, the order of the images and all augmentation (default: 0)'
    add('--seed', default=0, type=seed, metavar='N', help=help)
    help = 'training images per process that may fail to decode before the run stops (default: 100)'
    add('--max_bad_images', default=100, type=natural, metavar='N', help=help)
    add('--finetune', default='', metavar='FILE', help='start from the weights in this file')
    switch(add, 'remove_head_from_pretained', 'with --finetune: start with new classification heads')
    add('--resume_ema', default='', metavar='FILE', help='take the averaged weights from this file')
    help = 'number of the first epoch of a run that resumes no checkpoint (default: 0)'
    add('--start_epoch', default=0, type=natural, metavar='N', help=help)
    switch(add, 'sync_bn', 'compute batch-norm statistics over all processes (GPU only)')
    help = 'save memory: keep only the inputs of the blocks, compute the rest again in the backward pass'
    add('--recompute', '--grad_checkpointing', action='store_true', help=help)
    add('--to_static', action='store_true', help='train through a static graph (dy2static)')
    add('--eval', action='store_true', help='evaluate the weights and stop')
    add('--dist_eval', action='store_true', help='share the evaluation among the processes')
    add('--debug', action='store_true', help='train on val/ and make GPU kernels deterministic')


def _add_optimizer(parser):
    add = parser.add_argument_group('optimizer').add_argument
    add('--opt', default='adamw', metavar='NAME', help='adamw (default) or momentum')
    add('--opt_eps', default=1e-8, type=positive, metavar='EPS', help='epsilon of AdamW (default: 1e-8)')
    add('--opt_betas', type=below_one, nargs=2, metavar='BETA', help='betas of AdamW (default: 0.9 0.999)')
    add('--momentum', default=0.9, type=below_one, metavar='M', help='momentum of --opt momentum (default: 0.9)')
    help = 'clip the global gradient norm, 0 for no clipping (default: none)'
    add('--clip_grad', type=not_negative, metavar='NORM', help=help)
    add('--weight_decay', default=0.05, type=not_negative, metavar='W', help='weight decay (default: 0.05)')
    help = 'learning rate of a block divided by that of the next block (default: all blocks learn alike)'
    add('--layer_decay', type=share, metavar='FACTOR', help=help)


def _add_schedule(parser):
    add = parser.add_argument_group('learning rate').add_argument
    help = 'base learning rate: lr = blr * total batch / 512 if --lr is not given (default: 8e-4)'
    add('--blr', default=8e-4, type=not_negative, metavar='LR', help=help)
    add('--lr', type=not_negative, help='learning rate after warm-up (default: from --blr)')
    help = 'images per step for which --lr, --warmup_lr and --min_lr are given; others scale them (default: not scaled)'
    add('--lr_total_batch', type=count, metavar='N', help=help)
    add('--warmup_lr', default=1e-6, type=not_negative, metavar='LR', help='learning rate at the start (default: 1e-6)')
    help = 'lowest learning rate, at the end of the schedule (default: 1e-5)'
    add('--min_lr', default=1e-5, type=not_negative, metavar='LR', help=help)
    add('--warmup_epochs', default=5, type=natural, metavar='N', help='epochs of linear warm-up (default: 5)')
    add('--cooldown_epochs', default=10, type=natural, metavar='N', help='last epochs, at min_lr (default: 10)')
    switch(add, 't_in_epochs', 'change the learning rate once an epoch instead of in every step')
    help = 'let the cosine begin at epoch 0, as in the original, instead of after the warm-up'
    add('--cosine_over_warmup', action='store_true', help=help)


def _add_augmentation(parser):
    add = parser.add_argument_group('augmentation').add_argument
    help = "strength of the colour jitter, which is used only with --aa '' (default: 0.4)"
    add('--color_jitter', default=0.4, type=not_negative, metavar='S', help=help)
    help = "RandAugment policy, or AutoAugment's original or v0; '' for none (default: %(default)s)"
    add('--aa', default='rand-m9-mstd0.5-inc1', metavar='POLICY', help=help)
    help = 'interpolation of the random crop: random, bilinear, bicubic (default), nearest, lanczos'
    add('--train_interpolation', default='bicubic', metavar='NAME', help=help)
    help = "area of the random crop as a share of the image's (default: 0.08 1)"
    add('--train_scale', default=[0.08, 1.0], type=share, nargs=2, metavar=('MIN', 'MAX'), help=help)
    add('--hflip', default=0.5, type=probability, metavar='P', help='probability of the horizontal flip (default: 0.5)')
    add('--reprob', default=0.25, type=probability, metavar='P', help='probability of random erasing (default: 0.25)')
    help = 'fill of an erased box. pixel (default): a random colour per pixel; rand: one for the box; const: the mean'
    add('--remode', default='pixel', metavar='MODE', help=help)
    add('--recount', default=1, type=count, metavar='N', help='largest number of erased boxes (default: 1)')


def _add_mixing(parser):
    add = parser.add_argument_group('label smoothing, Mixup and CutMix').add_argument
    add('--smoothing', default=0.1, type=probability, metavar='EPS', help='label smoothing (default: 0.1)')
    add('--mixup', default=0.8, type=not_negative, metavar='ALPHA', help='alpha of Mixup, 0 for none (default: 0.8)')
    add('--cutmix', default=1.0, type=not_negative, metavar='ALPHA', help='alpha of CutMix, 0 for none (default: 1)')
    help = "smallest and largest side of CutMix's box as a share of the image's, instead of drawing it by --cutmix"
    add('--cutmix_minmax', type=probability, nargs=2, metavar=('MIN', 'MAX'), help=help)
    help = 'probability that a batch is mixed (default: 1)'
    add('--mixup_prob', default=1.0, type=probability, metavar='P', help=help)
    help = 'probability of CutMix instead of Mixup if both are on (default: 0.5)'
    add('--mixup_switch_prob', default=0.5, type=probability, metavar='P', help=help)
    help = 'batch (default): one mix for the batch; pair: one for each pair of images; elem: one for each image'
    add('--mixup_mode', default='batch', metavar='MODE', help=help)
    help = 'no Mixup or CutMix from this epoch on; 0 (default): in all epochs'
    add('--mixup_off_epoch', default=0, type=natural, metavar='N', help=help)


def _add_token_labels(parser, family):
    add = add_label_maps(parser).add_argument
    add('--token_label', action='store_true', help='train with a label for every token')
    patch_sizes = by_model(family, lambda entry: entry.architecture.get('patch_size', 16))
    help = f'tokens a side; must be input_size / patch size, which is the default (patch size: {patch_sizes})'
    add('--token_label_size', type=count, metavar='N', help=help)
    help = 'train images that have no map with their class label alone'
    add('--allow_missing_token_label', action='store_true', help=help)
    add('--dense_weight', default=1.0, type=not_negative, metavar='W', help='weight of the token loss (default: 1)')
    add('--cls_weight', default=1.0, type=not_negative, metavar='W', help='weight of the class loss (default: 1)')
    help = "blend the class target with the image's true label, or with 'only' use the true label alone"
    add('--ground_truth', nargs='?', default=False, const='blend', choices=('blend', 'only'), help=help)
    help = 'train each token on one class, drawn in every step from its label (hard Gumbel-softmax)'
    add('--token_label_gumbel', action='store_true', help=help)
    help = 'leave out the loss of tokens whose best class has a probability below P (default: 0)'
    add('--token_label_confidence', default=0.0, type=probability, metavar='P', help=help)
    help = "weight of the loss of the tokens' mean logits on the class label, to train a labeler (default: 0)"
    add('--token_pool_weight', default=0.0, type=not_negative, metavar='W', help=help)
    help = 'use MixToken (default: with --token_label, unless Mixup or CutMix is on)'
    add('--mix_token', action='store_true', default=None, help=help)  # None: complete_training decides
    add('--no_mix_token', action='store_false', dest='mix_token', help='do not use MixToken')


def _add_output(parser):
    add = parser.add_argument_group('output').add_argument
    add(
        '--output_dir', default='', metavar='DIR', help='folder for checkpoints and log.txt (default: none are written)'
    )
    help = 'save a checkpoint every N optimizer steps too, 0 for none (default: 0)'
    add('--save_freq_steps', default=0, type=natural, metavar='N', help=help)
    help = 'how many of the numbered checkpoints to keep, the newest (default: all)'
    add('--keep_checkpoints', type=count, metavar='K', help=help)
    help = 'write the console lines to this file too (default: train.log in --output_dir)'
    add('--log_file', default='', metavar='FILE', help=help)
    add('--print_freq', default=20, type=count, metavar='N', help='steps between console lines (default: 20)')
    add('--log_visualdl', default='', metavar='DIR', help='write VisualDL scalars')
    add('--log_wandb', action='store_true', help='write to Weights & Biases')
    add('--wandb_entity', metavar='NAME', help='entity of Weights & Biases')
    add('--wandb_project', metavar='NAME', help='project of Weights & Biases')


def mixes_images(args):
    """Whether Mixup or CutMix is on."""
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None


def complete_training(args, grid, total_batch):
    """Check the flags of main.py against each other, and set those left out. Raises UserError.

    grid: tokens a side of the model at --input_size; total_batch: images of an optimizer step. The learning rate
    depends on the total batch. MixToken is on with token labels, unless Mixup or CutMix is on. Without
    --token_label_data, --token_label is turned off. The console of a training goes to train.log in --output_dir.
    """
    if args.token_label and not args.token_label_data and args.dense_weight:
        raise UserError(
            '--token_label needs --token_label_data, the folder of the label maps; without maps add --dense_weight 0'
        )
    if args.token_label and args.token_label_size not in (None, grid):
        source = f'-c {args.config}: ' if args.config else ''
        raise UserError(
            f'{source}--token_label_size {args.token_label_size}: {args.model} has {grid} tokens a side at '
            f'--input_size {args.input_size}; leave the flag out'
        )
    if args.output_dir and args.log_file:
        records = os.path.join(args.output_dir, 'log.txt')
        if os.path.realpath(args.log_file) == os.path.realpath(records):
            raise UserError(f'--log_file {args.log_file}: {records} holds the records of the epochs; give another file')
    if args.pretrained and args.finetune:
        raise UserError('--pretrained and --finetune both name the weights to start from; give one')
    if args.recompute and args.to_static:
        raise UserError('--recompute and --to_static exclude each other; give one')
    if args.output_dir and not args.log_file:
        args.log_file = os.path.join(args.output_dir, 'train.log')
    args.token_label_size = grid
    if args.mix_token is None:
        args.mix_token = args.token_label and not mixes_images(args)
    args.token_label = args.token_label and bool(args.token_label_data)
    if args.lr is None and args.lr_total_batch:
        raise UserError('--lr_total_batch needs --lr')
    if args.lr is None:
        args.lr = args.blr * total_batch / 512


def scale_learning_rates(args, total_batch):
    """Scale --lr, --warmup_lr and --min_lr linearly from --lr_total_batch to the total batch (arXiv 1706.02677).

    Returns a line for the log; '' if there is nothing to scale.
    """
    if args.lr_total_batch in (None, total_batch):
        return ''
    factor, before = total_batch / args.lr_total_batch, args.lr
    args.lr, args.warmup_lr, args.min_lr = factor * args.lr, factor * args.warmup_lr, factor * args.min_lr
    return (
        f'warning: {total_batch} images a step (batch_size * accum_iter * processes), but the learning rates are for '
        f'{args.lr_total_batch}: --lr, --warmup_lr and --min_lr are scaled by {factor:g}, lr {before:g} -> {args.lr:g}'
    )
