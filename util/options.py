"""Command-line flags that scripts share: one definition per flag, grouped by what they are about."""

import argparse

from util.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def switch(add, name, help):
    """`--name` and `--no_name`, off by default. add: the add_argument of a group."""
    add(f'--{name}', action='store_true', help=help)
    add(f'--no_{name}', action='store_false', dest=name)


def boolean(word):
    """True/False given as a word, as Paddle's inference scripts take it."""
    if word.lower() in ('true', 't', '1', 'yes'):
        return True
    if word.lower() in ('false', 'f', '0', 'no'):
        return False
    raise ValueError(word)


def count(word):
    """A whole number of at least 1."""
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, not {word}')
    return value


def add_model(parser):
    add = parser.add_argument_group('model').add_argument
    add('--model', default='lvvit_t', metavar='NAME', help='name of the model (default: lvvit_t)')
    add('--input_size', type=int, help='side of the input in pixels (default: 448 for lvvit_l, else 224)')
    add('--nb_classes', default=1000, type=int, help='number of classes')


def add_weights(parser, also=''):
    """also: what the help of --resume says besides."""
    group = parser.add_argument_group('weights')
    add = group.add_argument
    add(
        '--resume',
        default='',
        metavar='FILE',
        help='checkpoint or state dict to load: .pd, .pdparams, .pth, .safetensors' + also,
    )
    add('--pretrained', action='store_true', help='instead of --resume: the published weights, fetched once')
    add('--ema', action='store_true', help="use the checkpoint's averaged weights")
    return group


def add_eval_transform(parser, *interpolation_aliases):
    add = parser.add_argument_group('evaluation transform').add_argument
    add(
        '--crop_pct',
        type=float,
        help="side of the centre crop over the resized image's short side "
        '(default: as published, 1.0 for lvvit_m, lvvit_l and lvvit_nano, else 0.9)',
    )
    add('--interpolation', *interpolation_aliases, default='bicubic', help='bicubic, bilinear, nearest, lanczos')


def add_normalisation(parser):
    add = parser.add_argument_group('normalisation').add_argument
    for name, metavar, default in ('mean', 'M', IMAGENET_MEAN), ('std', 'S', IMAGENET_STD):
        help = f"of RGB in 0-1 (default: ImageNet's, {' '.join(map(str, default))})"
        add(f'--{name}', default=default, type=float, nargs=3, metavar=metavar, help=help)


def add_data(parser, train=False):
    add = parser.add_argument_group('data').add_argument
    add('--data_path', default='/datasets/imagenet/', help='folder with train/ and val/')
    if train:
        add('--cls_label_path_train', metavar='FILE', help="list 'path class_id' (default: the folders of train/)")
    add('--cls_label_path_val', metavar='FILE', help='list file of the validation set (default: the folders of val/)')
    add('--num_workers', default=10, type=int, help='loader processes, at most the cores of the machine')
    add('--prefetch_factor', default=2, type=count, help='batches that each loader process prepares in advance')
    if train:
        switch(add, 'persistent_workers', 'keep the loader processes of the training set from epoch to epoch')
    help = "pil: the published recipe's pixels; cv2: nearly the same, faster, by opencv-python-headless and simplejpeg"
    if train:
        help += ' (training only: validation is by pil, so that accuracies compare with published ones)'
    add('--image_backend', default='pil', choices=('pil', 'cv2'), help=help)


def add_amp(parser):
    add = parser.add_argument_group('mixed precision').add_argument
    switch(add, 'use_amp', 'automatic mixed precision (GPU)')
    add('--amp_dtype', default='float16', choices=('float16', 'bfloat16'))
    add('--amp_level', default='O1', choices=('O1', 'O2'))


def add_records(parser):
    """What predict.py and infer.py print and save."""
    add = parser.add_argument_group('output').add_argument
    add('--topk', default=5, type=count, help='classes per image')
    add('--label_list', metavar='FILE', help="names of the classes, lines 'id name'")
    add('--save_json', default='', metavar='FILE', help='write the records to a JSON file as well')
    add('--skip_bad', action='store_true', help='images that cannot be decoded are left out and listed, but no error')


def add_protocols(parser):
    """What eval.py counts and writes beside top-1 and top-5 (util/metrics.py)."""
    add = parser.add_argument_group('protocols').add_argument
    add('--topk', type=count, nargs='+', metavar='K', help='accuracies (default: 1 5)')
    add('--results_file', default='', metavar='CSV', help='write the accuracies, a row for each checkpoint')
    add(
        '--real_labels',
        default='',
        metavar='FILE',
        help='accuracy by ReaL labels too: real.json, or {file name: [class ids]} for other sets',
    )
    add('--per_class', default='', metavar='CSV', help='write the accuracy of each class')
    add('--confusion', default='', metavar='CSV', help='write how often each class (row) was taken for each (column)')
    add('--save_predictions', default='', metavar='CSV', help='write the best classes of each image')
    add('--label_list', metavar='FILE', help="names for --per_class, lines 'id name'")


def add_label_maps(parser):
    group = parser.add_argument_group('token labels')
    add = group.add_argument
    add('--token_label_data', default='', metavar='DIR', help='folder of the label maps')
    add(
        '--token_label_coverage',
        default='center',
        choices=('center', 'full'),
        help="what a map covers when the set's meta.json does not say",
    )
    add(
        '--token_label_geometry',
        default='exact',
        choices=('exact', 'reference'),
        help="exact: labels where the pixels are; reference: the original's exchanged axes and coverage",
    )
    return group


def add_recipe(parser):
    """The training recipe: everything of main.py that no other script has."""
    _add_training(parser)
    _add_optimizer(parser)
    _add_schedule(parser)
    _add_augmentation(parser)
    _add_token_labels(parser)
    _add_run(parser)
    _add_output(parser)


def _add_training(parser):
    add = parser.add_argument_group('training').add_argument
    add('--batch_size', default=64, type=count, help='per process; total = batch_size · accum_iter · processes')
    add('--epochs', default=300, type=int, help='epochs of the schedule, before the cool-down')
    add('--accum_iter', default=1, type=count, help='batches whose gradients make one optimizer step')
    add('--drop', default=0.0, type=float, help='dropout')
    add('--drop_path', type=float, help='stochastic depth of the last block')
    switch(add, 'model_ema', 'keep an exponential moving average of the weights')
    add('--model_ema_decay', default=0.9999, type=float)
    switch(add, 'model_ema_eval', 'evaluate the averaged weights after every epoch too')
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
    switch(add, 't_in_epochs', 'hold the learning rate through each epoch')


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
    add = add_label_maps(parser).add_argument
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
        default=None,  # left to recipe_defaults
        help='MixToken (default: with token labels, unless Mixup or CutMix is on)',
    )
    add('--no_mix_token', action='store_false', dest='mix_token')


def _add_run(parser):
    add = parser.add_argument_group('run').add_argument
    add('--finetune', default='', metavar='FILE', help='start from the weights of another model')
    switch(add, 'remove_head_from_pretained', 'with --finetune: initialise the heads anew')
    add('--resume_ema', default='', metavar='FILE', help='take the averaged weights from this file')
    add('--start_epoch', default=0, type=int, help='first epoch when nothing is resumed')
    add('--save_freq_steps', default=0, type=int, metavar='N', help='save every N optimizer steps too')
    add('--keep_checkpoints', type=count, metavar='K', help='newest numbered checkpoints to keep (default: all)')
    switch(add, 'sync_bn', 'batch statistics over all processes (GPU)')
    add('--eval', action='store_true', help='evaluate and stop')
    add('--dist_eval', action='store_true', help='share the evaluation among the processes')
    add('--to_static', action='store_true', help="train through a static graph (Paddle's dy2static)")
    add('--debug', action='store_true', help='train on val/ and make GPU kernels deterministic')


def _add_output(parser):
    add = parser.add_argument_group('output').add_argument
    add('--output_dir', default='', metavar='DIR', help='for checkpoints and log.txt; without it none')
    add('--log_file', default='', metavar='FILE', help='copy of the console lines')
    add('--print_freq', default=20, type=count, metavar='N', help='steps between console lines')
    add('--log_visualdl', default='', metavar='DIR', help='write VisualDL scalars')
    add('--log_wandb', action='store_true', help='write to Weights & Biases')
    add('--wandb_entity', default=None)
    add('--wandb_project', default=None)


def check_recipe(args, grid):
    """Raise UserError for flags of add_recipe that contradict each other. grid: tokens a side of the model."""
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


def recipe_defaults(args, grid):
    """Set what flags of add_recipe leave to others: the size of the token targets is the model's grid; MixToken is on
    with token labels, unless images are mixed already; and without label maps (--dense_weight 0) there are none.
    """
    args.token_label_size = grid
    if args.mix_token is None:
        args.mix_token = args.token_label and not mixes_images(args)
    args.token_label = args.token_label and bool(args.token_label_data)
