"""TIPC's precision check: compare the predictions in logs of infer.py or predict.py with reference predictions.

    python test_tipc/compare_results.py --gt_file test_tipc/results/python_lvvit_t_results_fp32.txt \\
        --log_file 'test_tipc/output/TokenLabeling/lvvit_t/whole_infer/lvvit_t/python_infer_*.log'

The reference is one of these, or both:

--gt_file    a log of predict.py, or a file of lines `image<TAB>{"class_ids": [...], "scores": [...]}`. Like --log_file
             it may be a glob pattern (in quotes). A log is compared with the reference of its precision, which is part
             of both names (fp32, fp16, bf16, int8; without it fp32).
--acc1       the accuracy of eval.py in percent for the images of --cls_label_path

An image is identified by its path below --folder.
"""

import ast
import glob
import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util import runtime
from util.args import Parser
from util.errors import UserError, one_line, visible
from util.ranges import not_negative, number

SHOWN = 5  # differences listed for one log
ROUNDING = 1e-5  # scores are printed with 5 decimals


def parser():
    parser = Parser('test_tipc/compare_results.py', description=__doc__)
    parser.add_argument('--gt_file', metavar='FILES', help='reference, may be a glob pattern')
    help = 'accuracy that the predictions must have'
    parser.add_argument('--acc1', type=number(at_least=0, at_most=100), metavar='PERCENT', help=help)
    parser.add_argument('--cls_label_path', metavar='FILE', help='for --acc1: lines "val/class/image.JPEG 7"')
    parser.add_argument('--log_file', required=True, metavar='FILES', help='logs to check, may be a glob pattern')
    parser.add_argument('--folder', metavar='DIR', help='folder of the images (default: the common one of a log)')
    parser.add_argument('--atol', type=not_negative, default=1e-3, help='absolute tolerance of a score (1e-3)')
    parser.add_argument('--rtol', type=not_negative, default=1e-3, help='relative tolerance of a score (1e-3)')
    parser.add_argument('--store', action='store_true', help='write the predictions of the log to --gt_file instead')
    return parser


def precision_of(path):
    found = re.search(r'(fp32|fp16|bf16|int8)', os.path.basename(path))
    return found.group(1) if found else 'fp32'


def find(flag, pattern):
    files = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
    if not files:
        raise UserError(f'{flag} {pattern}: no such file')
    return files


def read_line(line):
    """[(image, record), …] in one line of a log or of a reference; [] for any other line."""
    if line.startswith('[{'):
        return [(r['file_name'], r) for r in ast.literal_eval(line)]
    image, tab, record = line.partition('\t')
    return [(image, json.loads(record))] if tab and record.startswith('{') else []


def read(path, folder=None):
    """{path of the image below the folder: ([class ids], [scores])} of a log or reference. Raises UserError."""
    predictions = {}
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            for number, line in enumerate(f, 1):
                for image, record in read_line(line.strip()):
                    ids, scores = [int(i) for i in record['class_ids']], [float(s) for s in record['scores']]
                    if len(ids) != len(scores) or not ids:
                        raise ValueError(f'{len(ids)} class ids, {len(scores)} scores')
                    if predictions.setdefault(os.path.normpath(image), (ids, scores)) != (ids, scores):
                        raise ValueError(f'{image} has two different predictions')
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})')
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise UserError(f'{path}, line {number}: not a line of predictions ({error})')
    if not predictions:
        raise UserError(f'{path}: holds no predictions')
    return below(predictions, folder)


def below(named, folder):
    """The same dict; its keys, which are paths, become relative to a folder (default: the common one)."""
    if folder is None:
        parents = [os.path.dirname(name) for name in named]
        absolute = {os.path.isabs(name) for name in named}
        folder = os.path.commonpath(parents) if len(absolute) == 1 else ''
    start = os.path.join(os.path.normpath(folder), '') if folder else ''
    return {name[len(start) :] if name.startswith(start) else name: value for name, value in named.items()}


def read_labels(path, folder):
    """{image's path: class id} of a list file; paths are relative to the file's folder."""
    labels = {}
    try:
        with open(path, encoding='utf-8') as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    image, label = line.rsplit(None, 1)
                    labels[os.path.normpath(os.path.join(os.path.dirname(path), image))] = int(label)
    except OSError as error:
        raise UserError(f'--cls_label_path {path}: cannot be read ({error.strerror})')
    except ValueError:
        found = one_line(line.strip())
        raise UserError(f"--cls_label_path {path}, line {number}: expected 'image id', found '{found}'")
    return below(labels, folder)


def differences(reference, predictions, atol, rtol):
    """A line for each image that is missing or differs ([str]), and the largest difference of two scores.

    The k-th score must be within atol + rtol · reference. The k-th class must be the same, unless it is tied with the
    reference's k-th class: the reference's score for it is within the tolerance. A class that the reference does not
    list counts with the reference's last score.
    """
    problems, largest = [], 0.0
    for image, (ids, scores) in reference.items():
        if image not in predictions:
            problems.append(f'{image}: no prediction')
            continue
        own_ids, own_scores = predictions[image]
        if len(own_ids) != len(ids):
            problems.append(f'{image}: {len(own_ids)} classes, the reference has {len(ids)}')
            continue
        known = dict(zip(ids, scores))
        for k, (want, score) in enumerate(zip(ids, scores)):
            tolerance = atol + rtol * abs(score) + ROUNDING
            gap = abs(own_scores[k] - score)
            largest = max(largest, gap)
            if not gap <= tolerance:  # a NaN too
                problems.append(f'{image}: score {k + 1} is {own_scores[k]:g}, the reference has {score:g}')
                break
            if own_ids[k] != want and not abs(known.get(own_ids[k], scores[-1]) - score) <= tolerance:
                problems.append(f'{image}: class {k + 1} is {own_ids[k]}, the reference has {want} with {score:g}')
                break
    problems += [f'{image}: not in the reference' for image in predictions if image not in reference]
    return problems, largest


def wrong_accuracy(labels, predictions, acc1, atol, rtol):
    """[] if the best class is the label for acc1 percent of the images, to its third decimal; else a line ([str]).

    If classes are tied with the best one within the tolerance, each of them may be the best class of eval.py.
    """
    if labels.keys() != predictions.keys():
        different = sorted(labels.keys() ^ predictions.keys())
        return [
            f'{different[0]}: only the list or only the log has it, as {len(different)} images; no accuracy to compare'
        ]
    right = tied = 0
    for image, label in labels.items():
        ids, scores = predictions[image]
        rivals = [i for i, score in zip(ids, scores) if scores[0] - score <= atol + rtol * scores[0] + ROUNDING]
        right += ids[0] == label and len(rivals) == 1
        tied += label in rivals and len(rivals) > 1
    percent = [100 * count / len(labels) for count in (right, right + tied)]
    if percent[0] - 6e-4 <= acc1 <= percent[1] + 6e-4:
        return []
    return [f'{percent[0]:.3f} % of the {len(labels)} best classes are right, eval.py found {acc1:.3f} %']


def store(path, predictions):
    try:
        with open(path, 'w', encoding='utf-8') as f:
            for image, (ids, scores) in sorted(predictions.items()):
                f.write(f'{image}\t' + json.dumps({'class_ids': ids, 'scores': scores}) + '\n')
    except OSError as error:
        raise UserError(f'--gt_file {path}: cannot be written to ({error.strerror})')
    print(f'{path}: predictions for {len(predictions)} images')


def main(args):
    logs = find('--log_file', args.log_file)
    if args.store:
        if len(logs) > 1 or not args.gt_file:
            raise UserError(f'--store needs one log and a --gt_file; {args.log_file} names {len(logs)}')
        return store(args.gt_file, read(logs[0], args.folder))
    if not args.gt_file and args.acc1 is None:
        raise UserError('nothing to compare with: give --gt_file, or --acc1 with --cls_label_path')
    if args.acc1 is not None and not args.cls_label_path:
        raise UserError('--acc1 needs --cls_label_path, the images and their classes')
    files = find('--gt_file', args.gt_file) if args.gt_file else []
    references = {precision_of(path): path for path in files}
    labels = read_labels(args.cls_label_path, args.folder) if args.acc1 is not None else {}
    failed = 0
    for path in logs:
        if references and precision_of(path) not in references:
            raise UserError(f'{path}: there is no reference for {precision_of(path)} among --gt_file {args.gt_file}')
        predictions, problems, agreed = read(path, args.folder), [], []
        if references:
            against = references[precision_of(path)]
            if os.path.samefile(path, against):
                raise UserError(f'{path}: is its own reference')
            problems, largest = differences(read(against, args.folder), predictions, args.atol, args.rtol)
            agreed.append(f'{against}, scores within {largest:.1e}')
        if args.acc1 is not None:
            problems += wrong_accuracy(labels, predictions, args.acc1, args.atol, args.rtol)
            agreed.append(f'an accuracy of {args.acc1:.3f} %')
        if problems:
            failed += 1
            print(f'{path}: {len(problems)} differences')
            print(''.join(f'    {visible(problem)}\n' for problem in problems[:SHOWN]), end='')
            if len(problems) > SHOWN:
                print(f'    and {len(problems) - SHOWN} more')
        else:
            print(f'{path}: {len(predictions)} predictions agree with {" and ".join(agreed)}')
    if failed:
        raise UserError(f'{failed} of {len(logs)} logs differ (--atol {args.atol:g} --rtol {args.rtol:g})')


if __name__ == '__main__':
    runtime.run(main, parser())
