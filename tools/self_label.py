"""Train a model on a folder of photos with token labels of an annotator, or of another model of the family.

    python tools/self_label.py --annotator BACKBONE.onnx PHOTOS OUT --model lvvit_s --epochs 100 --batch_size 64
    python tools/self_label.py PHOTOS OUT --model lvvit_s --epochs 100 --batch_size 64 [any other flag of main.py]
    python tools/self_label.py --launch '--gpus 0,1' --map_size 384 PHOTOS OUT …       flags of this tool come first

Three steps; the same command resumes an interrupted step:

    1. OUT/annotator.onnx   tools/fit_annotator.py makes an annotator for these classes from BACKBONE and the labels
       OUT/labeler          without --annotator: a model learns the labels from its class token and from the mean of
                            its patch tokens (self-emerging token labeling, arXiv 2401.03844)
    2. OUT/maps             it writes a label map for each training photo
    3. OUT/student          a new model learns from the labels and these maps

PHOTOS has one folder per class, or train/ and val/ with one folder per class each; without val/ a share of each class
is held out. Photos in a folder unlabelled/ beside the class folders have no label: step 1 does not learn from
them, the student learns from their maps. The tool first decodes every photo: those that cannot be decoded are named and
left out of all three steps; more than --max_bad_images of them are an error. It writes OUT/train_list.txt,
labelled_list.txt, val_list.txt and label_list.txt; OUT/self_label.log has the output of all steps.
"""

import argparse
import functools
import json
import os
import shlex
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime

import main as trainer
from models import FAMILY
from tools import fit_annotator, linear_classifier
from tools.photo_lists import write_lists
from tools.steps import Steps, maps_remedy
from util import files
from util.args import Parser
from util.data import listing
from util.data.label_maps import META
from util.data.onnx_annotator import OnnxNetwork
from util.errors import UserError
from util.logger import log, log_to
from util.ranges import count, number
from util.weights import settings

LABELS, SAMPLED = '--ground_truth only', '--token_label_gumbel'
OWN_FLAGS = '--annotator --annotator_flags --val_share --map_size --labeler_flags --student_flags --launch'.split()
SET_HERE = (
    '--data_path --cls_label_path_train --cls_label_path_val --label_list --output_dir --resume --nb_classes'.split()
)


def parser():
    parser = Parser('tools/self_label.py', description=__doc__)
    add = parser.add_argument
    help = 'ONNX file or classifier of paddle.vision.models that tools/fit_annotator.py makes an annotator of'
    add('--annotator', default='', metavar='BACKBONE', help=help)
    add('--annotator_flags', default='', metavar='FLAGS', help='flags of tools/fit_annotator.py')
    help = 'share of each class to hold out without val/ (default: 0.1)'
    add('--val_share', default=0.1, type=number(above=0, below=1), help=help)
    add('--map_size', type=count, metavar='PX', help="labeler's input size for the maps (default: twice --input_size)")
    add('--labeler_flags', default='', metavar='FLAGS', help='flags of main.py for the labeler alone')
    add(
        '--student_flags',
        metavar='FLAGS',
        help=f"flags of main.py for the student alone (default: '{LABELS}'; without --annotator, as in the paper, "
        f"'{LABELS} {SAMPLED}')",
    )
    add('--launch', default='', metavar='FLAGS', help="flags of Paddle's launcher, such as '--gpus 0,1'")
    add('photos', metavar='PHOTOS', help='folder of the photos')
    add('out', metavar='OUT', help='folder for all results')
    add('flags', nargs=argparse.REMAINDER, metavar='FLAGS', help='flags of main.py for both trainings')
    return parser


def check_flags(words):
    """Raise UserError for flags of main.py that this tool sets, and for its own flags after PHOTOS OUT."""
    for word in words:
        flag = word.split('=')[0]
        if flag in SET_HERE:
            raise UserError(f'{flag}: tools/self_label.py sets it; leave it out')
        if flag in OWN_FLAGS:
            raise UserError(f'{flag}: must come before PHOTOS; flags after OUT are those of main.py')


def parse_flags(args):
    """(flags of main.py for the labeler, the same for the student, words for the student). Wrong ones are an error."""
    check_flags(args.flags)
    if args.annotator and (args.map_size or args.labeler_flags):
        raise UserError('--map_size and --labeler_flags are for a labeler; with --annotator there is none')
    if args.annotator_flags and not args.annotator:
        raise UserError('--annotator_flags: needs --annotator')
    student = args.student_flags
    if student is None:
        student = LABELS if args.annotator else f'{LABELS} {SAMPLED}'
    flags = trainer.parser().parse_args([*args.flags, *shlex.split(args.labeler_flags)])
    of_student = trainer.parser().parse_args([*args.flags, *shlex.split(student)])
    for parsed in (flags, of_student):
        settings.complete(parsed, FAMILY)
    return flags, of_student, shlex.split(student)


def fit_words(args, in_out, workers):
    """The command of step 1 with --annotator. Wrong flags, files and missing packages are an error now."""
    words = [args.annotator, args.photos, in_out('annotator.onnx'), '--cls_label_path', in_out('labelled_list.txt')]
    words += ['--label_list', in_out('label_list.txt'), *workers, *shlex.split(args.annotator_flags)]
    fit_annotator.check(fit_annotator.parser().parse_args(words))
    return ['tools/fit_annotator.py', *words]


def check_labeler(args, flags):
    """Raise UserError if the command would train the labeler on although OUT has maps.

    They are maps of the labeler as it was, and generate_label.py does not add others to them.
    """
    labeler, epochs = os.path.join(args.out, 'labeler'), flags.epochs + flags.cooldown_epochs
    records = os.path.join(labeler, 'log.txt')
    if args.annotator or not os.path.exists(os.path.join(args.out, 'maps', META)):
        return
    trained = files.read_log(records)[-1]['epoch'] + 1 if os.path.exists(records) else 0
    if trained < epochs:
        raise UserError(
            f'{labeler}: has {trained} of {epochs} epochs, but there are maps of an earlier labeler; '
            f'{maps_remedy(args.out)}'
        )


def batch_words(name, flags, photos):
    """Words that make the batch as large as the training set if it is larger, with a line in the log."""
    most = max(1, photos // flags.accum_iter)
    if flags.batch_size <= most:
        return []
    log(f'{name}: --batch_size {most} instead of {flags.batch_size}: there are {photos} training photos')
    return ['--batch_size', str(most)]


def log_results(in_out, trained, annotator, held_out):
    """Log the accuracies. trained: names of the trained models; annotator: its file, '' without one.

    held_out: number of validation photos.
    """
    if annotator:
        found = json.loads(OnnxNetwork(annotator).metadata['cross_validation'])
        share = linear_classifier.accuracy(found['right'], found['photos'])
        log(f'annotator: top-1 {share} in cross-validation on {found["photos"]} labelled photos: {annotator}')
    for name in trained:
        last = files.read_log(in_out(name, 'log.txt'))[-1]
        shown = f'top-1 {last["test_acc1"]:.2f} % after the last epoch, {last["best_acc1"]:.2f} % at best'
        log(f'{name}: {shown}, on {held_out} validation photos: {in_out(name)}')


def main(args):
    flags, student_flags, for_student = parse_flags(args)
    files.check_folder(args.out, f'OUT {args.out}')
    in_out, workers = functools.partial(os.path.join, args.out), ['--num_workers', str(flags.num_workers)]
    check_labeler(args, flags)
    log_to(in_out('self_label.log'))
    fit = fit_words(args, in_out, workers) if args.annotator else []
    num_classes = write_lists(args.photos, args.out, args.val_share, flags.max_bad_images)
    if args.annotator:
        fit_annotator.labelled_samples(args.photos, in_out('labelled_list.txt'), in_out('label_list.txt'))
    data = ['--data_path', args.photos, '--nb_classes', str(num_classes), '--resume', 'auto']
    data += ['--cls_label_path_val', in_out('val_list.txt'), '--label_list', in_out('label_list.txt')]

    photos, labelled, held_out = (
        listing.read_photos(args.photos, in_out(f'{name}_list.txt')) for name in ('train', 'labelled', 'val')
    )
    steps = Steps(args.out, args.launch)
    words = ['generate_label.py', args.photos, in_out('maps'), '--cls_label_path', in_out('train_list.txt')]
    if args.annotator:
        steps.run('annotator', fit, launched=False)
        words += ['--model', in_out('annotator.onnx'), '--nb_classes', str(num_classes)]
    else:
        first = ['main.py', *args.flags, '--token_pool_weight', '1', *shlex.split(args.labeler_flags), *data]
        first += ['--cls_label_path_train', in_out('labelled_list.txt'), '--output_dir', in_out('labeler')]
        first += batch_words('labeler', flags, len(labelled))
        steps.run('labeler', first)
        view = args.map_size or 2 * flags.input_size
        words += ['--img_size', str(view), '--resume', in_out('labeler', 'checkpoint-best.pd')]
    steps.run('maps', [*words, '--relative_scores', *workers])
    last = ['main.py', *args.flags, '--token_label', '--token_label_data', in_out('maps'), *for_student, *data]
    last += ['--cls_label_path_train', in_out('train_list.txt'), '--output_dir', in_out('student')]
    steps.run('student', last + batch_words('student', student_flags, len(photos)))
    if args.annotator:
        log_results(in_out, ['student'], in_out('annotator.onnx'), len(held_out))
    else:
        log_results(in_out, ['labeler', 'student'], '', len(held_out))
    words = ['predict.py', '--resume', in_out('student', 'checkpoint-best.pd'), '--infer_imgs', held_out.paths[0]]
    log(f'classify a photo: {shlex.join(["python", *words])}')


if __name__ == '__main__':
    runtime.run(main, parser())
