"""The training recipe as flags: everything of main.py that no other script has, and what flags ask of each other."""

from util import options
from util.errors import UserError


def add_flags(parser):
    """All flags below, to a parser."""
    _add_training(parser)
    _add_optimizer(parser)
    _add_schedule(parser)
    _add_augmentation(parser)
    _add_token_labels(parser)
    _add_run(parser)
    _add_output(parser)


def _add_training(parser):
    add = parser.add_argument_group('training').add_argument
    add('--batch_size', default=64, type=options.count, help='per process; total = batch_size · accum_iter · processes')
    add('--epochs', default=300, type=int, help='epochs of the schedule, before the cool-down')
    add('--accum_iter', default=1, type=options.count, help='batches whose gradients make one optimizer step')
    add('--drop', default=0.0, type=float, help='dropout')
    add('--drop_path', type=float, help='stochastic depth of the last block')
    options.switch(add, 'model_ema', 'keep an exponential moving average of the weights')
    add('--model_ema_decay', default=0.9999, type=float)
    options.switch(add, 'model_ema_eval', 'evaluate the averaged weights after every epoch too')
    add('--seed', default=0, type=int)
    add('--max_bad_images', default=100, type=int, help='undecodable training images allowed per process')


def _add_optimizer(parser):
    add = parser.add_argument_group('optimizer').add_argument
    add('--opt', default='adamw', help='adamw or momentum')
    add('--opt_eps', default=1e-8, type=float)
    add('--opt_betas', type=float, nargs=2, metavar='BETA', help='default: 0.9 0.999')
    add('--momentum', default=0.9, type=float)
    add('--clip_grad', type=float, metavar='NORM', help='clip the global gradient norm')
    add('--weight_decay', default=0.05, type=float)
    add('--layer_decay', type=float, metavar='FACTOR', help="learning rate of a block over the next one's")


def _add_schedule(parser):
    add = parser.add_argument_group('learning rate').add_argument
    add('--blr', default=8e-4, type=float, help='lr = blr · total batch / 512 when --lr is absent')
    add('--lr', type=float)
    add('--warmup_lr', default=1e-6, type=float)
    add('--min_lr', default=1e-5, type=float)
    add('--warmup_epochs', default=5, type=int)
    add('--cooldown_epochs', default=10, type=int, help='epochs at min_lr after the schedule')
    options.switch(add, 't_in_epochs', 'hold the learning rate through each epoch')


def _add_augmentation(parser):
    add = parser.add_argument_group('augmentation').add_argument
    add('--color_jitter', default=0.4, type=float, help="used when --aa is ''")
    add(
        '--aa',
        default='rand-m9-mstd0.5-inc1',
        metavar='POLICY',
        help="RandAugment, or AutoAugment's original or v0; '' for none",
    )
    add('--train_interpolation', default='bicubic', help='random, bilinear, bicubic, nearest, lanczos')
    add(
        '--train_scale',
        default=(0.08, 1.0),
        type=float,
        nargs=2,
        metavar=('MIN', 'MAX'),
        help='area of the random crop as a share of the image',
    )
    add('--hflip', default=0.5, type=float, help='probability of the horizontal flip')
    add('--reprob', default=0.25, type=float, help='probability of random erasing')
    add('--remode', default='pixel', help='pixel, rand or const')
    add('--recount', default=1, type=int, help='boxes to erase at most')
    add('--smoothing', default=0.1, type=float, help='label smoothing')
    add('--mixup', default=0.8, type=float, help='alpha of Mixup, 0 = off')
    add('--cutmix', default=1.0, type=float, help='alpha of CutMix, 0 = off')
    add('--cutmix_minmax', type=float, nargs='+', help='side of the box instead of alpha')
    add('--mixup_prob', default=1.0, type=float)
    add('--mixup_switch_prob', default=0.5, type=float, help='of CutMix where both are on')
    add('--mixup_mode', default='batch', help='batch, pair or elem')
    add('--mixup_off_epoch', default=0, type=int, metavar='N', help='no Mixup or CutMix from this epoch on, 0 = never')


def _add_token_labels(parser):
    add = options.add_label_maps(parser).add_argument
    add('--token_label', action='store_true', help='train with a label for every token')
    add('--token_label_size', type=int, metavar='N', help="tokens a side (default: the model's: input_size / 16)")
    add('--allow_missing_token_label', action='store_true', help='images without a map train with their label alone')
    add('--dense_weight', default=1.0, type=float, help='weight of the token loss')
    add('--cls_weight', default=1.0, type=float, help='weight of the class loss')
    add(
        '--ground_truth',
        nargs='?',
        default=False,
        const='blend',
        choices=('blend', 'only'),
        help="blend the class target with the image's true label; 'only': the true label in its place",
    )
    add(
        '--token_label_gumbel',
        action='store_true',
        help='a token learns one class, drawn anew in every step from what its map says (Gumbel-softmax, hard)',
    )
    add(
        '--token_label_confidence',
        default=0.0,
        type=float,
        metavar='P',
        help='tokens whose best class has less probability than this learn nothing',
    )
    add(
        '--token_pool_weight',
        default=0.0,
        type=float,
        metavar='W',
        help="weight of the loss of the tokens' mean logits on the image's label: trains a labeler, without maps",
    )
    add(
        '--mix_token',
        action='store_true',
        default=None,  # left to set_defaults
        help='MixToken (default: with token labels, unless Mixup or CutMix is on)',
    )
    add('--no_mix_token', action='store_false', dest='mix_token')


def _add_run(parser):
    add = parser.add_argument_group('run').add_argument
    add('--finetune', default='', metavar='FILE', help='start from the weights of another model')
    options.switch(add, 'remove_head_from_pretained', 'with --finetune: initialise the heads anew')
    add('--resume_ema', default='', metavar='FILE', help='take the averaged weights from this file')
    add('--start_epoch', default=0, type=int, help='first epoch when nothing is resumed')
    add('--save_freq_steps', default=0, type=int, metavar='N', help='save every N optimizer steps too')
    add(
        '--keep_checkpoints', type=options.count, metavar='K', help='newest numbered checkpoints to keep (default: all)'
    )
    options.switch(add, 'sync_bn', 'batch statistics over all processes (GPU)')
    add('--eval', action='store_true', help='evaluate and stop')
    add('--dist_eval', action='store_true', help='share the evaluation among the processes')
    add('--to_static', action='store_true', help="train through a static graph (Paddle's dy2static)")
    add('--debug', action='store_true', help='train on val/ and make GPU kernels deterministic')


def _add_output(parser):
    add = parser.add_argument_group('output').add_argument
    add('--output_dir', default='', metavar='DIR', help='for checkpoints and log.txt; without it none')
    add('--log_file', default='', metavar='FILE', help='copy of the console lines')
    add('--print_freq', default=20, type=options.count, metavar='N', help='steps between console lines')
    add('--log_visualdl', default='', metavar='DIR', help='write VisualDL scalars')
    add('--log_wandb', action='store_true', help='write to Weights & Biases')
    add('--wandb_entity', default=None)
    add('--wandb_project', default=None)


def check(args, grid):
    """Raise UserError for flags that contradict each other. grid: tokens a side of the model."""
    if args.token_label:
        if not args.token_label_data and args.dense_weight:
            raise UserError(
                '--token_label needs --token_label_data, the folder of the label maps; for data without '
                'maps add --dense_weight 0'
            )
        if args.token_label_size not in (None, grid):
            raise UserError(
                f'--token_label_size {args.token_label_size}: {args.model} has {grid} tokens a side at '
                f'--input_size {args.input_size}; leave the flag out'
            )
    if args.pretrained and args.finetune:
        raise UserError('--pretrained and --finetune both name the weights to start from; give one')
    if args.seed < 0:
        raise UserError(f'--seed {args.seed}: must not be negative')
    if args.save_freq_steps < 0:
        raise UserError(f'--save_freq_steps {args.save_freq_steps}: must not be negative')


def mixes_images(args):
    """Whether Mixup or CutMix is on."""
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None


def set_defaults(args, grid):
    """Set what the command leaves open: token targets have the size of the model's grid; MixToken is on with token
    labels, unless images are mixed already; and without label maps (--dense_weight 0) there are no token labels.
    """
    args.token_label_size = grid
    if args.mix_token is None:
        args.mix_token = args.token_label and not mixes_images(args)
    args.token_label = args.token_label and bool(args.token_label_data)
