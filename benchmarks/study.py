"""Do token labels help on photos? Trains several arms with several seeds and writes a table of their accuracies.

    python benchmarks/study.py DATA OUT [--arms labels self maps …] [--seeds 0 1 2] [--jobs 2]

DATA holds train/ and val/ with a folder for each class, train_list.txt, val_list.txt, and in label_maps/ the maps that
a pretrained annotator made of the training photos. OUT receives a folder for each run, study.csv and study.md. A second
call continues and does not repeat finished runs. To see what the tokens of each arm predict, give the checkpoints to
tools/visualize.py --compare.

All arms train the same model for the same number of epochs on the same photos in the same order, except where stated:

    labels           the image's label alone
    labels_twice     the same for twice the epochs, which is the cost of `self`
    labeler          the image's label for the class token and for the mean of the tokens (--token_pool_weight 1)
    self             maps by the labeler of the same seed, as in arXiv 2401.03844: the true label for the class token,
                     for each token one class drawn from the labeler's prediction
    self_soft        the same maps used as the original uses an annotator's: soft, blended with the label
    maps             maps of the pretrained annotator for all tokens
    maps_truth       the same, blended with the image's label for the class token (--ground_truth)
    maps_only        the same, the true label alone for the class token (--ground_truth only)
    reference        maps_truth with --token_label_geometry reference
    distilled        the annotator's map for the class token, no loss on the others (--dense_weight 0)
    distilled_truth  the same, blended with the image's label
    augmented        maps_truth with the published augmentation: RandAugment, random erasing, crops of 8 % and more
    augmented_cv2    the same with --image_backend cv2

The table has the accuracy of the last epoch; the best epoch would be chosen on the validation photos.
"""

import csv
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

import numpy as np

from util.args import Parser
from util.errors import UserError
from util.logger import log
from util.ranges import count, natural

ROOT = Path(__file__).resolve().parents[1]
MODEL = 'lvvit_nano_patch8'  # 8x8 tokens at 64 pixels
RECIPE = (
    f'--model {MODEL} --input_size 64 --batch_size 50 --lr 1e-3 --min_lr 1e-5 --warmup_epochs 1 --cooldown_epochs 0 '
    '--clip_grad 1 --mixup 0 --cutmix 0 --train_scale 0.35 1 --aa= --color_jitter 0 --reprob 0 --no_mix_token '
    '--num_workers 0 --print_freq 50'
)
MAPS = '--token_label --token_label_data {maps}'
AUGMENTED = '--aa rand-m9-mstd0.5-inc1 --train_scale 0.08 1 --reprob 0.25 --train_interpolation random'
ARMS = {
    'labels': '',
    'labels_twice': '',
    'labeler': '--token_pool_weight 1',
    'self': f'{MAPS} --ground_truth only --token_label_gumbel',
    'self_soft': f'{MAPS} --ground_truth',
    'maps': MAPS,
    'maps_truth': f'{MAPS} --ground_truth',
    'maps_only': f'{MAPS} --ground_truth only',
    'reference': f'{MAPS} --ground_truth --token_label_geometry reference',
    'distilled': f'{MAPS} --dense_weight 0',
    'distilled_truth': f'{MAPS} --dense_weight 0 --ground_truth',
    'augmented': f'{MAPS} --ground_truth {AUGMENTED}',
    'augmented_cv2': f'{MAPS} --ground_truth {AUGMENTED} --image_backend cv2',
}
LABELER_VIEW = 128  # pixels: twice the labeler's own input size, for maps of 16x16 cells
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t


class Study:
    """The runs of a study; an arm is a key of ARMS. Each run is a folder of `out`."""

    def __init__(self, data, out, epochs):
        for name in ('train_list.txt', 'val_list.txt', 'label_maps'):
            if not (data / name).exists():
                raise UserError(f'{data / name}: missing; benchmarks/study.py --help describes DATA')
        self.data, self.out, self.epochs = data, out, epochs
        lines = (data / 'train_list.txt').read_text().splitlines()
        self.classes = 1 + max(int(line.rsplit(' ', 1)[1]) for line in lines)

    def folder(self, arm, seed):
        return self.out / f'{arm}-seed{seed}'

    def arm_epochs(self, arm):
        return 2 * self.epochs if arm == 'labels_twice' else self.epochs

    def accuracies(self, arm, seed):
        """Top-1 in percent after each epoch of a finished run; [] of any other."""
        log_txt = self.folder(arm, seed) / 'log.txt'
        if not log_txt.exists():
            return []
        values = [json.loads(line)['test_acc1'] for line in log_txt.read_text().splitlines()]
        return values if len(values) == self.arm_epochs(arm) else []

    def run(self, arm, seed):
        """Train an arm, and what it needs before, unless that is done."""
        if self.accuracies(arm, seed):
            return
        maps = self.data / 'label_maps'
        if arm in ('self', 'self_soft'):
            self.run('labeler', seed)
            maps = self.label(seed)
        self.command(
            self.folder(arm, seed),
            f'main.py {RECIPE} {ARMS[arm].format(maps=maps)} --nb_classes {self.classes} --seed {seed} '
            f'--epochs {self.arm_epochs(arm)} --data_path {self.data} '
            f'--cls_label_path_train {self.data}/train_list.txt --cls_label_path_val {self.data}/val_list.txt '
            f'--output_dir {self.folder(arm, seed)} --resume auto --keep_checkpoints 1',
        )
        log(f'{arm}, seed {seed}: {self.accuracies(arm, seed)[-1]:.1f} %')

    def label(self, seed):
        """Make the maps of the labeler unless they exist; returns their folder."""
        folder = self.folder('labeler', seed)
        meta = folder / 'maps' / 'meta.json'
        if not (meta.exists() and json.loads(meta.read_text())['complete']):
            self.command(
                folder,
                f'generate_label.py {self.data} {folder}/maps --model {MODEL} --img_size {LABELER_VIEW} '
                f'--nb_classes {self.classes} --cls_label_path {self.data}/train_list.txt '
                f'--resume {folder}/checkpoint-latest.pd --relative_scores --num_workers 0',
            )
        return folder / 'maps'

    def command(self, folder, words):
        """Run a script of the project on one thread; its output goes to FOLDER/console.log."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / 'console.log', 'a') as console:
            done = subprocess.run(
                [sys.executable, *words.split()],
                cwd=ROOT,
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            raise UserError(f'{folder}/console.log: a run failed, see its end')


def mean_and_std(values):
    if len(values) == 1:
        return f'{values[0]:.1f}'
    return f'{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}'


def difference(values):
    """Paired differences as text: mean, and its 95 % confidence interval by Student's t."""
    if len(values) < 2:
        return f'{values[0]:+.1f}'
    half = T_975[len(values) - 1] * np.std(values, ddof=1) / math.sqrt(len(values))
    return f'{np.mean(values):+.1f} [{np.mean(values) - half:+.1f}, {np.mean(values) + half:+.1f}]'


def report(study, arms, seeds):
    """Write study.csv and study.md of the finished runs; returns the table in Markdown."""
    runs = {arm: {seed: study.accuracies(arm, seed) for seed in seeds} for arm in arms}
    runs = {arm: {seed: curve for seed, curve in curves.items() if curve} for arm, curves in runs.items()}
    with open(study.out / 'study.csv', 'w', newline='') as f:
        writer = csv.writer(f, lineterminator='\n')
        writer.writerow(['arm', 'seed', 'epochs', 'top1_last', 'top1_each_epoch'])
        for arm, curves in runs.items():
            for seed, curve in curves.items():
                writer.writerow([arm, seed, len(curve), f'{curve[-1]:.2f}', ' '.join(f'{v:.2f}' for v in curve)])
    lines = ['| arm | n | top-1, mean ± std | each seed | against `labels`, each seed | mean [95 % interval] |']
    lines += ['|---|--:|--:|---|---|---|']
    base = {seed: curve[-1] for seed, curve in runs.get('labels', {}).items()}
    for arm, curves in runs.items():
        last = {seed: curve[-1] for seed, curve in curves.items()}
        if not last:
            continue
        cells = [f'`{arm}`', str(len(last)), mean_and_std(list(last.values()))]
        cells.append(', '.join(f'{value:.1f}' for value in last.values()))
        gains = [value - base[seed] for seed, value in last.items() if seed in base]
        if gains and arm != 'labels':
            cells += [', '.join(f'{gain:+.1f}' for gain in gains), difference(gains)]
        else:
            cells += ['', '']
        lines.append('| ' + ' | '.join(cells) + ' |')
    table = '\n'.join(lines)
    (study.out / 'study.md').write_text(table + '\n')
    return table


def main(args):
    args.out.mkdir(parents=True, exist_ok=True)
    study = Study(args.data.resolve(), args.out.resolve(), args.epochs)

    def run_arms(seed):  # in one thread, so that two arms never train the same labeler at once
        for arm in args.arms:
            study.run(arm, seed)

    try:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(run_arms, args.seeds))  # raises the first error
    finally:
        print(report(study, args.arms, args.seeds))


def parser():
    parser = Parser('benchmarks/study.py', description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('data', metavar='DATA', type=Path, help='see the head of benchmarks/study.py')
    add('out', metavar='OUT', type=Path, help='folder for the runs and the table')
    add('--arms', nargs='+', default=['labels', 'self', 'maps_truth', 'distilled'], choices=ARMS, help='what to train')
    add('--seeds', nargs='+', type=natural, default=[0, 1, 2], help='a run for each (default: 0 1 2)')
    add('--epochs', type=count, default=14, help='epochs of a run (default: 14)')
    add('--jobs', type=count, default=2, help='seeds at a time, with one thread each (default: 2)')
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
