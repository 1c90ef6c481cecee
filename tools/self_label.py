"""Train a model on a folder of photos with token labels that another model of the family makes from them.

    python tools/self_label.py PHOTOS OUT --model lvvit_s --epochs 100 --batch_size 64 [any other flag of main.py]
    python tools/self_label.py --launch '--gpus 0,1' --map_size 384 PHOTOS OUT …       flags of this tool come first

Self-emerging token labeling (arXiv 2401.03844) in three steps; the same command resumes an interrupted step:

    1. OUT/labeler   a model learns the photos' labels from its class token and from the mean of its patch tokens
    2. OUT/maps      it writes a label map for each training photo
    3. OUT/student   a new model learns from the labels and these maps

PHOTOS has one folder per class, or train/ and val/ with one folder per class each; without val/ a share of each class
is held out. Photos in a folder unlabelled/ beside the class folders have no label: the labeler does not learn from
them, the student learns from their maps. The tool first decodes every photo: those that cannot be decoded are named and
left out of all three steps; more than --max_bad_images of them are an error. It writes OUT/train_list.txt,
labelled_list.txt, val_list.txt and label_list.txt; OUT/self_label.log has the output of all steps.
"""

import argparse
import os
import shlex
import subprocess
import sys
from multiprocessing.pool import ThreadPool

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import numpy as np

import main as trainer
from models import FAMILY
from util import class_names, files
from util.args import Parser, complete_model
from util.data import listing
from util.data.images import BadImage, open_rgb
from util.data.map_names import check_distinct, map_names
from util.errors import UserError
from util.logger import log, progress
from util.ranges import count, number

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SET_HERE = ['--data_path', '--cls_label_path_train', '--cls_label_path_val', '--output_dir', '--resume', '--nb_classes']


def parser():
    parser = Parser('tools/self_label.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    help = 'share of each class to hold out without val/ (default: 0.1)'
    add('--val_share', default=0.1, type=number(above=0, below=1), help=help)
    add('--map_size', type=count, metavar='PX', help="labeler's input size for the maps (default: twice --input_size)")
    add('--labeler_flags', default='', metavar='FLAGS', help='flags of main.py for the labeler alone')
    add(
        '--student_flags',
        default='--ground_truth only --token_label_gumbel',
        metavar='FLAGS',
        help="flags of main.py for the student alone (default, as in the paper: '%(default)s')",
    )
    add('--launch', default='', metavar='FLAGS', help="flags of Paddle's launcher, such as '--gpus 0,1'")
    add('photos', metavar='PHOTOS', help='folder of the photos')
    add('out', metavar='OUT', help='folder for all results')
    add('flags', nargs=argparse.REMAINDER, metavar='FLAGS', help='flags of main.py for both trainings')
    return parser


# -- the photos -------------------------------------------------------------------------------------------------------


def write_lists(photos, out, val_share, max_bad_images):
    """Write the lists of the head of this file into `out`; returns the number of classes.

    Photos that cannot be decoded are left out. Raises UserError for more than `max_bad_images` of them, and for two
    training photos that would have one label map.
    """
    train, val = os.path.join(photos, 'train'), os.path.join(photos, 'val')
    if os.path.isdir(val) and not os.path.isdir(train):
        raise UserError(f'{photos}: has val/, but no train/; put the class folders for training into train/')
    root = train if os.path.isdir(train) else photos
    samples = listing.read_folder(root, sys.maxsize)
    names = samples.class_names
    if len(names) < 2:
        raise UserError(f'{root}: photos of one class only ({", ".join(names)}); it needs one folder per class')
    check_distinct(map_names(samples), samples.paths, 'rename one of the two')
    class_ids = {name: i for i, name in enumerate(names)}
    held_out = listing.read_folder(val, len(names), class_ids) if os.path.isdir(val) else []
    bad = undecodable([path for path, _ in [*samples, *held_out]])
    if len(bad) > max_bad_images:
        raise UserError(
            f'{photos}: {len(bad)} photos cannot be read or decoded (named above), but --max_bad_images is '
            f'{max_bad_images}; repair or remove them'
        )
    if bad:
        log(f'{photos}: left out {len(bad)} photos that cannot be read or decoded (named above)')
    samples = [sample for sample in samples if sample[0] not in bad]
    empty = set(range(len(names))) - {label for _, label in samples}
    if empty:
        raise UserError(f'{os.path.join(root, names[min(empty)])}: no photo can be decoded; repair them')
    if held_out:
        held_out = [sample for sample in held_out if sample[0] not in bad]
    else:
        samples, held_out = hold_out(samples, names, val_share)
    if not held_out:
        raise UserError(f'{val}: no photo can be decoded; repair them')
    labelled = [sample for sample in samples if sample[1] != listing.UNLABELLED]
    for name, part in (('train_list.txt', samples), ('labelled_list.txt', labelled), ('val_list.txt', held_out)):
        lines = [f'{os.path.relpath(path, photos)} {label}\n' for path, label in part]
        files.write(os.path.join(out, name), os.fsencode(''.join(lines)))
    class_names.write_label_list(out, names)
    log(f'{photos}: {len(names)} classes, {len(samples)} training photos, {len(held_out)} validation photos')
    return len(names)


def undecodable(paths):
    """Decode every photo; returns the set of those that cannot be decoded, and names each on stderr."""
    bad = set()
    with ThreadPool() as pool:  # Pillow decodes without the interpreter lock
        errors = pool.imap(decoding_error, paths)
        for path, error in progress(zip(paths, errors), 'decode all photos', len(paths)):
            if error:
                print(f'warning: {error}; left out', file=sys.stderr, flush=True)
                bad.add(path)
    return bad


def decoding_error(path):
    """Why a photo cannot be decoded, '' if it can be."""
    try:
        open_rgb(path)
    except BadImage as error:
        return str(error)
    return ''


def hold_out(samples, names, share):
    """(training samples, validation samples): the same share of each class, the same photos every time.

    Photos without a label are for training.
    """
    chosen, of_class = set(), [[] for _ in names]
    for i, (_, label) in enumerate(samples):
        if label != listing.UNLABELLED:
            of_class[label].append(i)
    for label, (name, members) in enumerate(zip(names, of_class)):
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise UserError(f'class folder {name} has {len(members)} photo(s): too few for training and validation')
        chosen.update(np.random.default_rng(label).permutation(members)[:count].tolist())
    return [s for i, s in enumerate(samples) if i not in chosen], [s for i, s in enumerate(samples) if i in chosen]


# -- the steps --------------------------------------------------------------------------------------------------------


class Steps:
    """Runs the project's scripts in turn. Raises UserError when one fails."""

    def __init__(self, out, launch):
        self.log_path = os.path.join(out, 'self_label.log')
        self.start = [sys.executable, '-u']
        if launch:
            self.start += ['-m', 'paddle.distributed.launch', '--log_dir', os.path.join(out, 'launch')]
            self.start += shlex.split(launch)

    def run(self, title, words):
        """Run a script; its output goes to the console and to the log."""
        log(f'== {title}: {shlex.join(words)}')
        with open(self.log_path, 'a', encoding='utf-8', errors='backslashreplace') as copy:
            copy.write(f'== {title}: {shlex.join(words)}\n')
            pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
            with subprocess.Popen([*self.start, os.path.join(ROOT, words[0]), *words[1:]], **pipe) as process:
                try:
                    show(process.stdout, copy)
                except SystemExit:  # SIGTERM; Ctrl-C reaches the script too
                    process.terminate()
                    show(process.stdout, copy)  # a training saves first
                    raise
        if process.returncode:
            raise UserError(
                f'{title}: stopped with exit code {process.returncode}, see above and {self.log_path}; '
                'the same command resumes this step'
            )


def show(lines, copy):
    """Print lines, and write them to the file `copy`."""
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()
        copy.write(line)


def accuracy(folder):
    """(top-1 of the last epoch, best top-1) of a run, in percent. Raises UserError."""
    last = files.read_log(os.path.join(folder, 'log.txt'))[-1]
    return last['test_acc1'], last['best_acc1']


def check_flags(words):
    """Raise UserError for flags of main.py that this tool sets, and for its own flags after PHOTOS OUT."""
    for word in words:
        flag = word.split('=')[0]
        if flag in SET_HERE:
            raise UserError(f'{flag}: tools/self_label.py sets it; leave it out')
        if flag in ('--val_share', '--map_size', '--labeler_flags', '--student_flags', '--launch'):
            raise UserError(f'{flag}: must come before PHOTOS; flags after OUT are those of main.py')


def main(args):
    common = args.flags
    check_flags(common)
    flags = trainer.parser().parse_args([*common, *shlex.split(args.labeler_flags)])  # wrong flags are an error now
    trainer.parser().parse_args([*common, *shlex.split(args.student_flags)])
    complete_model(flags, FAMILY[flags.model])
    files.check_folder(args.out, f'OUT {args.out}')
    num_classes = write_lists(args.photos, args.out, args.val_share, flags.max_bad_images)
    labeler, maps, student = (os.path.join(args.out, name) for name in ('labeler', 'maps', 'student'))
    data = ['--data_path', args.photos, '--nb_classes', str(num_classes), '--resume', 'auto']
    data += ['--cls_label_path_val', os.path.join(args.out, 'val_list.txt')]
    first = [*common, '--token_pool_weight', '1', *shlex.split(args.labeler_flags), *data]
    first += ['--cls_label_path_train', os.path.join(args.out, 'labelled_list.txt'), '--output_dir', labeler]
    second = [*common, '--token_label', '--token_label_data', maps, *shlex.split(args.student_flags), *data]
    second += ['--cls_label_path_train', os.path.join(args.out, 'train_list.txt')]
    second += ['--output_dir', student]

    steps = Steps(args.out, args.launch)
    steps.run('labeler', ['main.py', *first])
    view = args.map_size or 2 * flags.input_size
    words = ['generate_label.py', args.photos, maps, '--model', flags.model, '--img_size', str(view)]
    words += ['--nb_classes', str(num_classes), '--cls_label_path', os.path.join(args.out, 'train_list.txt')]
    words += ['--resume', os.path.join(labeler, 'checkpoint-best.pd'), '--relative_scores']
    steps.run('maps', [*words, '--num_workers', str(flags.num_workers)])
    steps.run('student', ['main.py', *second])
    for name in ('labeler', 'student'):
        last, best = accuracy(os.path.join(args.out, name))
        log(f'{name}: top-1 {last:.2f} % after the last epoch, {best:.2f} % at best: {args.out}/{name}')


if __name__ == '__main__':
    runtime.run(main, parser())
