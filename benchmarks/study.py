"""What do label maps bring when a few photos have labels and many have none?

    python benchmarks/study.py DATA OUT --csv CSV [--backbone FILE.onnx] [--arms labels_few …] [--labels 100] [--jobs 2]

DATA holds photos, train_list.txt and val_list.txt. The first N photos of each class in train_list.txt count as
labelled (--labels N). Every finished run is a row of CSV; runs that are rows already are skipped, and an interrupted
run continues from its last epoch. OUT receives a folder for each run. benchmarks/study_report.py makes tables of CSV.

    arm           photos seen    targets
    labels_few    labelled       their labels
    self_few      labelled       maps of a labeler of the same seed, which learned their labels (arXiv 2401.03844)
    maps_few      labelled       maps of an annotator fitted on the labels; the class token learns the label
    maps_rest     all            the same annotator's maps; the class token learns the label where there is one
    class_rest    all            the same maps on the class token alone (--dense_weight 0)
    labels_all    all            the labels of all
    maps_all      all            maps of an annotator fitted on all labels; the class token learns the label
    labeler_few   labelled       their labels, on the class token and on the mean of the tokens (--token_pool_weight 1)

An annotator is a linear classifier on the features of a pretrained network, --backbone, by tools/fit_annotator.py.
All arms train the model of study_model.py for the same number of steps with the same learning rates: lists repeat the
photos, so that an epoch has as many photos in every arm.
"""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

from benchmarks.study_plan import ARMS, planned, read_rows, write_rows
from util import files
from util.args import Parser
from util.errors import UserError
from util.logger import log
from util.ranges import count, natural

ROOT = Path(__file__).resolve().parents[1]
MODEL, SIDE, BATCH, EPOCHS = 'lvvit_32', 32, 50, 10
RECIPE = (
    f'--model {MODEL} --batch_size {BATCH} --epochs {EPOCHS} --lr 1e-3 --min_lr 1e-5 --warmup_epochs 1 '
    '--cooldown_epochs 0 --clip_grad 1 --mixup 0 --cutmix 0 --no_mix_token --aa= --color_jitter 0 --reprob 0 '
    '--train_scale 0.35 1 --num_workers 0 --print_freq 100'
)


class Study:
    """The runs of a study. data, out, table: folders of photos and results, and the CSV; backbone: ONNX file or ''."""

    def __init__(self, data, out, table, backbone, steps):
        self.data, self.out, self.table, self.backbone, self.steps = data, out, table, backbone, steps
        for name in ('train_list.txt', 'val_list.txt'):
            if not (data / name).exists():
                raise UserError(f'{data / name}: missing; benchmarks/study.py --help describes DATA')
        self.train = [line.rsplit(' ', 1) for line in (data / 'train_list.txt').read_text().splitlines()]
        self.classes = 1 + max(int(label) for _, label in self.train)
        self.all_labels = len(self.train) // self.classes
        self.rows = read_rows(table)
        self.writing, self.annotating = threading.Lock(), threading.Lock()
        self.commit = subprocess.check_output(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, text=True).strip()

    def folder(self, run):
        return self.out / str(run)

    # -- lists of photos

    def photos(self, kind, labels):
        """Lines of a list file. kind: see Arm.photos."""
        if kind == 'all':
            return [f'{path} {label}\n' for path, label in self.train]
        seen, lines = [0] * self.classes, []
        for path, label in self.train:
            seen[int(label)] += 1
            if seen[int(label)] <= labels:
                lines.append(f'{path} {label}\n')
            elif kind == 'rest':
                lines.append(f'{path} -1\n')
        return lines

    def list_file(self, kind, labels, epoch=0):
        """A list file of photos; epoch: repeat them up to so many lines."""
        lines = self.photos(kind, labels)
        if epoch:
            lines = (lines * (1 + epoch // len(lines)))[:epoch]
        path = self.out / f'{kind}-{labels}{"-epoch" if epoch else ""}.txt'
        files.write(str(path), ''.join(lines).encode())
        return path

    # -- steps

    def finish(self, run):
        """Train a run, and what it needs before, and write its row, unless that is done."""
        row = self.rows.get(run)
        if row and (row['image_agrees'] or not self.backbone):
            return
        arm, folder = ARMS[run.arm], self.folder(run)
        flags = arm.flags
        if arm.maps:
            flags += f' --token_label --token_label_data {self.maps(run)}'
        photos = self.list_file(arm.photos, run.labels, epoch=self.steps // EPOCHS * BATCH)
        start = time.time()
        self.command(
            folder,
            f'main.py {RECIPE} {flags} --nb_classes {self.classes} --seed {run.seed} --data_path {self.data} '
            f'--cls_label_path_train {photos} --cls_label_path_val {self.data}/val_list.txt '
            f'--output_dir {folder} --resume auto --keep_checkpoints 1',
        )
        curve = [record['test_acc1'] for record in files.read_log(folder / 'log.txt')]
        if len(curve) < EPOCHS:
            raise UserError(f'{folder}: has {len(curve)} of {EPOCHS} epochs, a signal stopped it; run this again')
        agreement = self.agreement(run) if self.backbone else {}
        row = {
            **run._asdict(),
            'steps': self.steps,
            'top1': f'{curve[-1]:.2f}',
            'tokens_agree': agreement.get('tokens', ''),
            'image_agrees': agreement.get('image', ''),
            'seconds': row['seconds'] if row else round(time.time() - start),
            'commit': row['commit'] if row else self.commit,
            'curve': ' '.join(f'{value:.2f}' for value in curve),
        }
        with self.writing:
            self.rows[run] = row
            write_rows(self.table, self.rows)
        log(f'{run}: {row["top1"]} %')

    def maps(self, run):
        """The folder of the maps that a run learns from."""
        arm = ARMS[run.arm]
        if arm.maps == 'labeler':
            return self.labeler_maps(run._replace(arm='labeler_few'))
        return self.annotate(self.all_labels if arm.maps == 'all' else run.labels, 'train')

    def labeler_maps(self, labeler):
        """The maps of a labeler, at twice its input size."""
        folder = self.folder(labeler)
        if not (folder / 'checkpoint-latest.pd').exists():
            self.rows.pop(labeler, None)  # its row came from another machine
        self.finish(labeler)
        self.command(
            folder,
            f'generate_label.py {self.data} {folder}/maps --model {MODEL} --img_size {2 * SIDE} '
            f'--nb_classes {self.classes} --cls_label_path {self.list_file("few", labeler.labels)} '
            f'--resume {folder}/checkpoint-latest.pd --relative_scores --num_workers 0',
        )
        return folder / 'maps'

    def annotate(self, labels, split):
        """The maps of an annotator fitted on so many labels a class, of the photos of a split: train or val."""
        if not self.backbone:
            raise UserError('--backbone is missing: an ONNX file of features, for the arms with an annotator')
        folder = self.out / f'annotator-{labels}'
        photos = self.data / 'val_list.txt' if split == 'val' else self.list_file('rest', labels)
        with self.annotating:
            if not (folder / 'annotator.onnx').exists():
                self.command(
                    folder,
                    f'tools/fit_annotator.py {self.backbone} {self.data} {folder}/annotator.onnx '
                    f'--cls_label_path {self.list_file("few", labels)}',
                )
            self.command(
                folder,
                f'generate_label.py {self.data} {folder}/{split} --model {folder}/annotator.onnx --relative_scores '
                f'--cls_label_path {photos} --num_workers 0',
            )
        return folder / split

    def agreement(self, run):
        """What study_tokens.py finds, by the maps of the annotator that was fitted on all labels."""
        maps = self.annotate(self.all_labels, 'val')
        result = self.folder(run) / 'agreement.json'
        self.command(
            self.folder(run),
            f'benchmarks/study_tokens.py {self.folder(run)}/checkpoint-latest.pd {self.data} {maps} {result}',
        )
        return json.loads(result.read_text())

    def command(self, folder, words):
        """Run a script of the project on one thread; its output goes to FOLDER/console.log."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / 'console.log', 'a') as console:
            done = subprocess.run(
                [sys.executable, str(ROOT / 'benchmarks/study_model.py'), *words.split()],
                cwd=ROOT,
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            raise UserError(f'{folder}/console.log: a run failed, see its end')


def main(args):
    args.out.mkdir(parents=True, exist_ok=True)
    study = Study(args.data.resolve(), args.out.resolve(), args.csv, args.backbone, args.steps)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(study.finish, planned(args.arms, args.seeds, args.labels, study.all_labels)))


def parser():
    parser = Parser('benchmarks/study.py', description=__doc__)
    add = parser.add_argument
    add('data', metavar='DATA', type=Path, help='see the head of benchmarks/study.py')
    add('out', metavar='OUT', type=Path, help='folder for the runs')
    add('--csv', type=Path, required=True, help='the results; finished runs in it are skipped')
    add('--backbone', default='', metavar='ONNX', help='features of a pretrained network (tools/export_dense_onnx.py)')
    arms = [arm for arm in ARMS if arm != 'labeler_few']
    add(
        '--arms',
        nargs='+',
        default=arms,
        choices=ARMS,
        metavar='ARM',
        help=f'what to train (default: {" ".join(arms)})',
    )
    add('--labels', nargs='+', type=count, default=[100], metavar='N', help='labelled photos a class (default: 100)')
    add('--seeds', nargs='+', type=natural, default=[0, 1, 2], metavar='S', help='a run for each (default: 0 1 2)')
    add('--steps', type=count, default=2000, metavar='N', help='optimizer steps of a run (default: 2000)')
    add('--jobs', type=count, default=2, metavar='N', help='runs at a time, with one thread each (default: 2)')
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
