"""Command-line flags that scripts share: one definition per flag, grouped by what they are about."""

import argparse

from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD


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
