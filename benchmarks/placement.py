"""Does it matter where token labels lie? `exact` against `reference` geometry on scenes where it can show.

    python benchmarks/placement.py OUT [--seeds 0 1 2] [--epochs 16]       all runs, two at a time, and a table
    python benchmarks/placement.py OUT --only exact 0                      one run

Scenes: 48x72 or 72x48 pixels, one main digit (20-24 px, in the centre square, the class) among two or three digits of
nearly its size (15-18 px); maps of the centre square, 18x18, from the known layout. Model: lvvit_nano_patch8
on 48 px, so 6x6 tokens. Reported: top-1, and the accuracy of the tokens' own predictions on tokens of the evaluation
crop that one digit covers by more than half. Everything but the geometry is the same in both arms of a seed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'demo'))
from util import runtime

import digits
import numpy as np
import paddle
from PIL import Image
from study import mean_and_std

import main as trainer
from engine import evaluate, train_one_epoch
from models import build_model
from util.args import Parser
from util.data import loader
from util.data.transforms import EvalTransform
from util.train.amp import Amp
from util.train.loss import TokenLabelLoss
from util.train.train_state import TrainState

LONG, SIDE, GRID = 72, 48, 6
TRAIN, VAL = 2560, 400
RECIPE = (
    '--nb_classes 10 --token_label --warmup_epochs 1 --lr 1e-3 --batch_size 32 --clip_grad 1 --smoothing 0 --aa= '
    f'--hflip 0 --train_scale 0.35 1 --reprob 0 --num_workers 0 --print_freq 80 --input_size {SIDE} '
    f'--token_label_size {GRID}'
)


def scene(index, split, seed):
    """(PIL image, class, class of every pixel int64 [H, W] with -1 for ground)."""
    rng = np.random.default_rng([seed, digits.SPLITS.index(split), index])
    width, height = (LONG, SIDE) if rng.random() < 0.5 else (SIDE, LONG)
    main = index % 10
    others = rng.permutation([c for c in range(10) if c != main])[: rng.integers(2, 4)]
    level = rng.uniform(40, 110)
    image, owner = digits.ground(rng, level, (width, height)), np.full((height, width), -1)
    for c in [*others, main]:
        row = int(rng.choice(digits.sources(split)[c]))
        if c == main:  # wholly in the square that evaluation sees
            w, h = digits.extent(row, rng.uniform(20, 24))
            left, top = (width - SIDE) // 2, (height - SIDE) // 2
            right, bottom = left + SIDE, top + SIDE
        else:
            w, h = digits.extent(row, rng.uniform(15, 18))
            left, top, right, bottom = 0, 0, width, height
        x, y = int(rng.integers(left, right - w + 1)), int(rng.integers(top, bottom - h + 1))
        digits.paint(image, rng, row, box=(x, y, x + w, y + h), level=level + rng.uniform(80, 115))
        owner[y : y + h, x : x + w] = c
    noisy = np.asarray(image, 'float32') + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype('uint8')), main, owner


def shares(owner, cells):
    """Share of each class in each of cells x cells cells of the centre square, [10, cells, cells]."""
    top, left = (owner.shape[0] - SIDE) // 2, (owner.shape[1] - SIDE) // 2
    centre = owner[top : top + SIDE, left : left + SIDE]
    edges, pixel = np.linspace(0, SIDE, cells + 1), np.arange(SIDE)
    cover = np.clip(np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None]), 0, 1) / (SIDE / cells)
    one_hot = (centre[..., None] == np.arange(10)).astype('float64')
    return np.einsum('ry,cx,yxk->krc', cover, cover, one_hot)


def build(out, seed):
    """Write the scenes of a seed as images and maps in the layout that main.py reads; returns the folder."""
    folder = out / f'data{seed}'
    if (folder / 'complete').exists():
        return folder
    for c in range(10):
        for name in ('train', 'val', 'maps'):
            (folder / name / f'digit{c}').mkdir(parents=True, exist_ok=True)
    for split, count in (('train', TRAIN), ('val', VAL)):
        lines = []
        for index in range(count):
            image, main, owner = scene(index, split, seed)
            name = f'digit{main}/{split}_{index:05d}'
            image.save(folder / split / f'{name}.png')
            if split == 'train':  # a class's score is 10 times its share of the cell
                np.save(folder / 'maps' / f'{name}.npy', digits.strongest(digits.PEAK * shares(owner, 18)))
            lines.append(f'{split}/{name}.png {main}\n')
        (folder / f'{split}_list.txt').write_text(''.join(lines))
    (folder / 'maps' / 'meta.json').write_text(json.dumps({'annotator': 'known layout', 'coverage': 'center'}))
    (folder / 'complete').touch()
    return folder


def one_run(out, geometry, seed, epochs):
    """Train one arm; writes and returns {'top1', 'tokens', …}."""
    folder = build(out, seed)
    data = f'--data_path {folder} --cls_label_path_train {folder}/train_list.txt '
    data += f'--cls_label_path_val {folder}/val_list.txt --token_label_data {folder}/maps'
    chosen = f'--token_label_geometry {geometry} --seed {seed} --epochs {epochs}'
    args = trainer.parser().parse_args(f'{RECIPE} {data} {chosen}'.split())
    train, val = loader.build_train_loader(args), loader.build_eval_loader(args, 1.0)
    paddle.seed(seed)
    model = build_model('lvvit_nano_patch8', img_size=SIDE, num_classes=10, mix_token=False)
    state = TrainState(args, model, train, Amp())
    state.start()
    for _ in range(epochs):
        train_one_epoch(state, model, TokenLabelLoss())
        state.end_epoch({}, [])
    result = {'geometry': geometry, 'seed': seed, 'epochs': epochs, 'top1': evaluate(model, val)['acc1']}
    result['tokens'], result['tokens_judged'] = judge_tokens(model, seed)
    (out / f'{geometry}-{seed}.json').write_text(json.dumps(result))
    return result


@paddle.no_grad()
def judge_tokens(model, seed):
    """(percent right, count) of the tokens of the validation scenes that one digit covers by more than half."""
    right = total = 0
    view = EvalTransform(SIDE, 1.0)  # the scenes' short side is SIDE: this only cuts the centre
    for start in range(0, VAL, 50):
        scenes = [scene(i, 'val', seed) for i in range(start, start + 50)]
        _, aux = model.forward_dense(paddle.to_tensor(np.stack([view(image) for image, _, _ in scenes])))
        share = np.stack([shares(owner, GRID).reshape(10, GRID * GRID).T for _, _, owner in scenes])
        clear = share.max(-1) > 0.5
        right += int(((aux.numpy().argmax(-1) == share.argmax(-1)) & clear).sum())
        total += int(clear.sum())
    return 100 * right / total, total


def table(out, seeds):
    print('| geometry | n | top-1, mean ± std | tokens, mean ± std | each seed (top-1 / tokens) |')
    print('|---|---|---|---|---|')
    for geometry in ('exact', 'reference'):
        runs = [json.loads((out / f'{geometry}-{seed}.json').read_text()) for seed in seeds]
        top1, tokens = (mean_and_std([run[key] for run in runs]) for key in ('top1', 'tokens'))
        each = ', '.join(f'{run["top1"]:.1f} / {run["tokens"]:.1f}' for run in runs)
        print(f'| {geometry} | {len(runs)} | {top1} | {tokens} | {each} |')


def main(args):
    if args.only:
        geometry, seed = args.only
        print(one_run(args.out, geometry, int(seed), args.epochs))
        return
    for seed in args.seeds:
        build(args.out, seed)
        arms = []
        for geometry in ('exact', 'reference'):
            words = [__file__, args.out, '--epochs', str(args.epochs), '--only', geometry, str(seed)]
            arms.append(subprocess.Popen([sys.executable, *words], env={**os.environ, 'OMP_NUM_THREADS': '1'}))
        codes = [arm.wait() for arm in arms]
        if any(codes):
            sys.exit('a run failed')
    table(args.out, args.seeds)


def parser():
    parser = Parser('placement.py', description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=16)
    parser.add_argument('--only', nargs=2, metavar=('GEOMETRY', 'SEED'))
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
