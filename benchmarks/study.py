"""Do token labels help on photos, and whose? Several arms of one training, over several seeds; one table, two pictures.

    python benchmarks/study.py DATA OUT [--arms labels self maps …] [--seeds 0 1 2] [--jobs 2]

DATA: train/ and val/ with a folder a class, train_list.txt, val_list.txt, label_list.txt (lines 'id name'), and in
label_maps/ what a pretrained annotator says of the training photos. OUT receives a folder for each run, study.csv,
study.md, curves.png, and tokens.png: validation photos with what the tokens of each arm say. Called again it goes on
where it was: runs that are done are only read. Table and curves are written anew after every run.

All arms train the same model for the same number of optimizer steps on the same photos in the same order, unless said:

    labels         the image's label alone
    labels_twice   the same for twice the epochs: as long as labeler and student together
    labeler        the image's label on the class token and on the mean of the tokens (--token_pool_weight 1)
    self           maps by the labeler of the same seed, as in arXiv 2401.03844: the true label on the class token, and
                   for each token one class drawn from what the labeler says
    self_soft      the same maps as the original uses an annotator's: soft, blended with the label on the class token
    maps           maps of the pretrained annotator, on all tokens
    maps_truth     the same, blended with the image's label on the class token (--ground_truth)
    maps_only      the same, with the true label alone on the class token (--ground_truth only)
    reference      maps_truth with --token_label_geometry reference
    distilled      the annotator's map on the class token, nothing on the others (--dense_weight 0)
    distilled_truth  the same, blended with the image's label
    augmented      maps_truth with the published augmentation: RandAugment, random erasing, crops of 8 % and more
    augmented_cv2  the same with --image_backend cv2

An arm's name followed by /5 trains on a fifth of the photos for five times the epochs, so for as many steps.
Reported is the accuracy of the last epoch, not of the best one, which would be chosen on the validation photos.
"""

import csv
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

import numpy as np

from util.args import Parser
from util.data import listing
from util.errors import UserError
from util.logger import log

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
FIRST = ['labels', 'self', 'maps_truth', 'distilled']
LABELER_VIEW = 128  # pixels: the labeler looks at the photos at twice its own input size, for maps of 16x16 cells
PART = 5
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t


class Study:
    """The runs of a study. arm: a key of ARMS, with /5 behind it or without."""

    def __init__(self, data, out, epochs, maps):
        self.data, self.out, self.epochs, self.maps = data, out, epochs, maps
        for name in ('train_list.txt', 'val_list.txt', 'label_list.txt'):
            if not (data / name).exists():
                raise UserError(f'{data / name}: missing; benchmarks/study.py --help says what DATA holds')
        photos = listing.read_list(str(data), str(data / 'train_list.txt'), sys.maxsize)
        self.classes = 1 + int(photos.labels.max())
        self.locks = defaultdict(threading.Lock)  # of runs, by folder: two arms may need the same labeler
        self.write_fifth()

    def folder(self, arm, seed):
        return self.out / f'{arm.replace("/", "-")}-seed{seed}'

    def arm_epochs(self, arm):
        epochs = self.epochs * (2 if arm.startswith('labels_twice') else 1)
        return epochs * PART if arm.endswith('/5') else epochs

    def accuracies(self, arm, seed):
        """Top-1 after each epoch in percent, of a run that is done; [] of any other."""
        log_txt = self.folder(arm, seed) / 'log.txt'
        if not log_txt.exists():
            return []
        values = [json.loads(line)['test_acc1'] for line in log_txt.read_text().splitlines()]
        return values if len(values) == self.arm_epochs(arm) else []

    def list_of(self, arm):
        """The list file of an arm's training photos."""
        return self.out / 'fifth.txt' if arm.endswith('/5') else self.data / 'train_list.txt'

    def write_fifth(self):
        """Write the list of every fifth photo of each class."""
        of_class = defaultdict(list)
        for line in (self.data / 'train_list.txt').read_text().splitlines():
            of_class[line.rsplit(' ', 1)[1]].append(line)
        fifth = [line for lines in of_class.values() for line in lines[::PART]]
        (self.out / 'fifth.txt').write_text('\n'.join(fifth) + '\n')

    def run(self, arm, seed):
        """Train an arm, and what it needs before, unless that is done."""
        part = '/5' if arm.endswith('/5') else ''
        name = arm.removesuffix('/5')
        maps = self.maps
        if name.startswith('self'):
            self.run('labeler' + part, seed)
            maps = self.label('labeler' + part, seed)
        folder = self.folder(arm, seed)
        with self.locks[folder]:
            if not self.accuracies(arm, seed):
                self.train(arm, seed, f'{ARMS[name].format(maps=maps)} --output_dir {folder}')

    def train(self, arm, seed, flags):
        self.command(
            self.folder(arm, seed),
            f'main.py {RECIPE} {flags} --nb_classes {self.classes} --seed {seed} '
            f'--epochs {self.arm_epochs(arm)} --data_path {self.data} --cls_label_path_train {self.list_of(arm)} '
            f'--cls_label_path_val {self.data}/val_list.txt --resume auto --keep_checkpoints 1',
        )

    def label(self, labeler, seed):
        """Make the maps of a labeler, unless they are there; returns their folder."""
        folder = self.folder(labeler, seed)
        meta = folder / 'maps' / 'meta.json'
        with self.locks[folder]:
            if not (meta.exists() and json.loads(meta.read_text())['complete']):
                self.command(
                    folder,
                    f'generate_label.py {self.data} {folder}/maps --model {MODEL} --img_size {LABELER_VIEW} '
                    f'--nb_classes {self.classes} --cls_label_path {self.list_of(labeler)} '
                    f'--resume {folder}/checkpoint-latest.pd --relative_scores --num_workers 0',
                )
        return folder / 'maps'

    def command(self, folder, words):
        """Run one of the project's scripts on one thread, its output added to FOLDER/console.log."""
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


# -- what came out ----------------------------------------------------------------------------------------------------


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
    """Write study.csv, study.md and curves.png of the runs that are done; returns the table."""
    runs = {arm: {seed: study.accuracies(arm, seed) for seed in seeds} for arm in arms}
    runs = {arm: {seed: curve for seed, curve in of.items() if curve} for arm, of in runs.items()}
    runs = {arm: of for arm, of in runs.items() if of}
    with open(study.out / 'study.csv', 'w', newline='') as f:
        writer = csv.writer(f, lineterminator='\n')
        writer.writerow(['arm', 'seed', 'epochs', 'top1_last', 'top1_each_epoch'])
        for arm, of in runs.items():
            for seed, curve in of.items():
                writer.writerow([arm, seed, len(curve), f'{curve[-1]:.2f}', ' '.join(f'{v:.2f}' for v in curve)])
    lines = ['| arm | n | top-1, mean ± std | each seed | against `labels`, each seed | mean [95 % interval] |']
    lines += ['|---|--:|--:|---|---|---|']
    for arm, of in runs.items():
        last = {seed: curve[-1] for seed, curve in of.items()}
        base = runs.get('labels/5' if arm.endswith('/5') else 'labels', {})
        gains = [value - base[seed][-1] for seed, value in last.items() if seed in base]
        cells = [f'`{arm}`', str(len(last)), mean_and_std(list(last.values()))]
        cells += [', '.join(f'{value:.1f}' for value in last.values())]
        is_base = not gains or arm.removesuffix('/5') == 'labels'
        cells += ['', ''] if is_base else [', '.join(f'{gain:+.1f}' for gain in gains), difference(gains)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    table = '\n'.join(lines)
    (study.out / 'study.md').write_text(table + '\n')
    draw_curves(runs, study.out / 'curves.png')
    return table


def draw_curves(runs, path):
    """Top-1 against the share of the training done: the mean of each arm's seeds, and a band from least to most."""
    try:
        import matplotlib
    except ImportError:
        log('no curves.png: pip install matplotlib')
        return
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout='constrained')
    for arm, of in runs.items():
        curves = np.array(list(of.values()))
        progress = np.arange(1, curves.shape[1] + 1) / curves.shape[1]
        (line,) = axes.plot(progress, curves.mean(axis=0), label=f'{arm} (n = {len(curves)})')
        axes.fill_between(progress, curves.min(axis=0), curves.max(axis=0), color=line.get_color(), alpha=0.12)
    axes.set(xlabel='share of the training done', ylabel='top-1 on the validation photos, %', xlim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right', fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_tokens(study, arms, seed):
    """Validation photos, and what the tokens of each arm say of them, as tokens.png."""
    files = [f'{study.folder(arm, seed)}/checkpoint-latest.pd' for arm in arms if study.accuracies(arm, seed)]
    if not files:
        return
    compare = f'--compare {" ".join(files[1:])}' if len(files) > 1 else ''
    study.command(
        study.out,
        f'tools/visualize.py --model {MODEL} --input_size 64 --nb_classes {study.classes} --count 6 --columns 1 '
        f'--resume {files[0]} {compare} --label_list {study.data}/label_list.txt --input {study.data}/val '
        f'--output {study.out}/tokens.png',
    )


def main(args):
    unknown = [arm for arm in args.arms if arm.removesuffix('/5') not in ARMS]
    if unknown:
        raise UserError(f'--arms {" ".join(unknown)}: unknown; use {", ".join(ARMS)}, with /{PART} behind or without')
    args.out.mkdir(parents=True, exist_ok=True)
    study = Study(
        args.data.resolve(), args.out.resolve(), args.epochs, (args.maps or args.data / 'label_maps').resolve()
    )
    runs = [(arm, seed) for seed in args.seeds for arm in args.arms]
    begin, done, reporting = time.time(), 0, threading.Lock()

    def one(run):
        nonlocal done
        was_done = bool(study.accuracies(*run))
        study.run(*run)
        done += 1
        left = (time.time() - begin) / done * (len(runs) - done)
        eta = '' if was_done else f', about {left / 60:.0f} minutes left'
        log(f'{run[0]}, seed {run[1]}: {study.accuracies(*run)[-1]:.1f} %; {done} of {len(runs)} runs{eta}')
        if not was_done:
            with reporting:  # hours of work, to be looked at on the way
                report(study, args.arms, args.seeds)

    with ThreadPoolExecutor(args.jobs) as pool:
        for result in [pool.submit(one, run) for run in runs]:
            result.result()
    print(report(study, args.arms, args.seeds))
    draw_tokens(study, args.arms, args.seeds[0])


def parser():
    parser = Parser('benchmarks/study.py', description=__doc__.splitlines()[0])
    parser.add_argument('data', metavar='DATA', type=Path, help='data set with label maps')
    parser.add_argument('out', metavar='OUT', type=Path, help='folder for the runs and the table')
    parser.add_argument(
        '--arms', nargs='+', default=FIRST, metavar='ARM', help=f'{" ".join(ARMS)}; with /5 behind or not'
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='a run for each (default: 0 1 2)')
    parser.add_argument('--epochs', type=int, default=14, help='epochs of a run (default: 14)')
    parser.add_argument('--maps', type=Path, metavar='DIR', help="the annotator's maps (default: DATA/label_maps)")
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, of one thread each')
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
