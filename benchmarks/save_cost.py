"""What saving costs: seconds of a save, and its share of an epoch.

    python benchmarks/save_cost.py FOLDER [--epochs 3] [--train 2560] [--repeats 7]

FOLDER must be on the disk that is meant. First the demo's training (demo/run.sh: lvvit_nano at 48 px, AdamW, 2,560
scenes, two processes of one thread, batch 16 each) with --model_ema, whose saves and epochs are timed from within: two
saves an epoch, before and after evaluation, as main.py does. Then saves of a run of lvvit_s (26 M parameters) with the
same parts. Beside both stands the time to write and sync as many bytes and nothing else. Medians; the first epoch, in
which Paddle allocates, is left out where there are more.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

import numpy as np
import paddle

import main as trainer
from models import build_model, count_parameters
from util import dist
from util.train.amp import Amp
from util.train.train_state import TrainState

ROOT = Path(__file__).resolve().parents[1]
DEMO = (
    '--model lvvit_nano --input_size 48 --nb_classes 10 --token_label --token_label_size 3 --warmup_epochs 1 '
    '--cooldown_epochs 0 --batch_size 16 --lr 1e-3 --clip_grad 1 --smoothing 0 --mixup 0 --cutmix 0 --no_mix_token '
    '--aa= --hflip 0 --train_scale 0.8 1 --reprob 0 --num_workers 0 --dist_eval --model_ema'
)


def timed(method, times):
    """The method, noting when each call began and ended."""

    def call(*args):
        begin = time.perf_counter()
        result = method(*args)
        times.append((begin, time.perf_counter()))
        return result

    return call


def one_of_the_processes(task):
    """Train by the flags in the JSON file `task`, which the first process replaces by the times of saves and epochs."""
    saves, ends = [], []
    TrainState.save = timed(TrainState.save, saves)
    TrainState.end_epoch = timed(TrainState.end_epoch, ends)
    runtime.run(trainer.main, trainer.parser(), json.loads(task.read_text()))
    if dist.is_main():
        task.write_text(json.dumps({'saves': saves, 'ends': ends}))


def raw_write(folder, size):
    """Median seconds to write and sync a file of `size` bytes."""
    data, times, path = os.urandom(size), [], Path(folder) / 'raw'
    for _ in range(5):
        begin = time.perf_counter()
        with open(path, 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        times.append(time.perf_counter() - begin)
        path.unlink()
    return float(np.median(times))


def report(name, times, path):
    size, median = path.stat().st_size, float(np.median(times))
    print(
        f'{name}: {median:.3f} s a save (median of {len(times)}, {min(times):.3f} to {max(times):.3f}), '
        f'{size / 1e6:.1f} MB, {size / 1e6 / median:.0f} MB/s; '
        f'writing and syncing so many bytes alone: {raw_write(path.parent, size):.3f} s',
        flush=True,
    )
    return median


def demo(folder, epochs, train):
    data, out, task = folder / 'digits', folder / 'demo', folder / 'task.json'
    scenes = [sys.executable, ROOT / 'demo' / 'digits.py', data, '--size', '48', '--train', str(train), '--fresh']
    subprocess.run(scenes, check=True)
    flags = (
        f'{DEMO} --data_path {data} --cls_label_path_train {data}/train_list.txt --cls_label_path_val '
        f'{data}/val_list.txt --token_label_data {data}/label_maps --epochs {epochs} --output_dir {out}'
    )
    task.write_text(json.dumps(flags.split()))
    launcher = '-m paddle.distributed.launch --nproc_per_node 2 --backend gloo --log_dir'.split()
    command = [sys.executable, *launcher, folder / 'launch', __file__, folder, '--task', task]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    times = json.loads(task.read_text())
    saves = np.array(times['saves'])
    ends = [end for _, end in times['ends']]
    lengths = np.diff(ends) if len(ends) > 1 else np.array([ends[0] - saves[0, 0]])
    seconds = report('demo, lvvit_nano', (saves[:, 1] - saves[:, 0]).tolist(), out / 'checkpoint-latest.pd')
    epoch = float(np.median(lengths))
    print(
        f'demo, an epoch with evaluation: {epoch:.2f} s (median of {len(lengths)}); two saves are '
        f'{200 * seconds / epoch:.2f} % of it (target: below 2 %)',
        flush=True,
    )


class _NoData:
    """What TrainState asks of a loader."""

    def __init__(self):
        self.dataset, self.bad = self, np.zeros(1281167, 'int8')

    def __len__(self):
        return 1251

    def bad_images(self):
        return 0


def large(folder, repeats):
    out, times = folder / 'large', []
    out.mkdir(exist_ok=True)
    args = trainer.parser().parse_args(
        f'--model lvvit_s --token_label --model_ema --lr 1e-3 --output_dir {out}'.split()
    )
    model = build_model('lvvit_s')
    state = TrainState(args, model, _NoData(), Amp())
    state.start()
    paddle.add_n([p.sum() for p in model.parameters() if not p.stop_gradient]).backward()
    state.optimizer.step()  # so that there are moments to save
    TrainState.save = timed(TrainState.save, times)
    for _ in range(repeats):
        state.save()
    name = f'lvvit_s, {count_parameters(model) / 1e6:.1f} M parameters'
    report(name, [end - begin for begin, end in times], out / 'checkpoint-latest.pd')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--train', type=int, default=2560)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--task', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        return one_of_the_processes(args.task)
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    demo(args.folder, args.epochs, args.train)
    large(args.folder, args.repeats)


if __name__ == '__main__':
    main()
