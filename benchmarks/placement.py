"""Does it matter where token labels lie? `exact` against `reference` geometry on scenes where it can show.

    python benchmarks/placement.py OUT [--seeds 0 1 2] [--epochs 16]       all runs, two at a time, and a table
    python benchmarks/placement.py OUT --only exact 0                      one run

Scenes: 48x72 or 72x48 pixels, one main digit (20-24 px, in the centre square, the class) among two or three digits of
nearly its size (15-18 px); maps of the centre square, 18x18, from the known layout. Model: lvvit_nano with patches of 8
on 48 px, so 6x6 tokens. Reported: top-1, and the accuracy of the tokens' own predictions on tokens of the evaluation
crop that one digit covers by more than half. Everything but the geometry is the same in both arms of a seed.
"""

import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'demo')]

LONG, SIDE, GRID = 72, 48, 6
TRAIN, VAL = 2560, 400


def scene(index, split, seed):
    """(PIL image, class, class of every pixel int64 [H, W] with -1 for ground)."""
    import numpy as np
    from digits import SPLITS, colour, glyph, handwriting, sources
    from PIL import Image

    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    width, height = (LONG, SIDE) if rng.random() < 0.5 else (SIDE, LONG)
    main = index % 10
    others = rng.permutation([c for c in range(10) if c != main])[: rng.integers(2, 4)]
    level = rng.uniform(40, 110)
    ground = np.clip(colour(rng, level) + rng.normal(0, 14, (3, 3, 3)), 0, 255).astype('uint8')
    image = Image.fromarray(ground).resize((width, height), Image.BICUBIC)
    owner = np.full((height, width), -1)
    for c in [*others, main]:
        row = int(rng.choice(sources(split)[c]))
        assert handwriting()[1][row] == c
        tall = rng.uniform(20, 24) if c == main else rng.uniform(15, 18)
        w, h = (max(round(tall * s / max(glyph(row).size)), 1) for s in glyph(row).size)
        left, top, right, bottom = 0, 0, width, height
        if c == main:  # wholly in the square that evaluation sees
            left, top = (width - SIDE) // 2, (height - SIDE) // 2
            right, bottom = left + SIDE, top + SIDE
        x, y = int(rng.integers(left, right - w + 1)), int(rng.integers(top, bottom - h + 1))
        ink = tuple(int(v) for v in np.clip(colour(rng, level + rng.uniform(80, 115)), 0, 255))
        image.paste(ink, (x, y, x + w, y + h), glyph(row).resize((w, h), Image.BICUBIC))
        owner[y : y + h, x : x + w] = c
    noisy = np.asarray(image, 'float32') + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype('uint8')), main, owner


def centre(owner):
    top, left = (owner.shape[0] - SIDE) // 2, (owner.shape[1] - SIDE) // 2
    return owner[top : top + SIDE, left : left + SIDE]


def shares(owner, cells):
    """Share of each class in each of cells² cells of a square of pixels, [cells, cells, 10]."""
    import numpy as np

    edges = np.linspace(0, SIDE, cells + 1)
    pixel = np.arange(SIDE)
    cover = np.clip(np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None]), 0, 1) / (SIDE / cells)
    one_hot = (owner[..., None] == np.arange(10)).astype('float64')
    return np.einsum('ry,cx,yxk->rck', cover, cover, one_hot)


def label_map(owner):
    """float16 [2, 5, 18, 18] of the centre square: a class's score is 10 times its share of the cell."""
    import numpy as np

    share = shares(centre(owner), 18).transpose(2, 0, 1)
    ids = np.argsort(-share, axis=0, kind='stable')[:5]
    return np.stack([10 * np.take_along_axis(share, ids, 0), ids]).astype('float16')


def build(out, seed):
    """Write the scenes of a seed as images and maps in the layout that main.py reads; returns the folder."""
    import numpy as np

    folder = os.path.join(out, f'data{seed}')
    if os.path.exists(os.path.join(folder, 'complete')):
        return folder
    for split, count in (('train', TRAIN), ('val', VAL)):
        lines = []
        for index in range(count):
            image, main, owner = scene(index, split, seed)
            stem = f'digit{main}/{split}_{index:05d}'
            for base, write in (
                (split, lambda p: image.save(p + '.png')),
                ('maps', lambda p: np.save(p, label_map(owner))),
            ):
                path = os.path.join(folder, base, stem)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if base == split or split == 'train':
                    write(path)
            lines.append(f'{split}/{stem}.png {main}\n')
        with open(os.path.join(folder, f'{split}_list.txt'), 'w') as f:
            f.writelines(lines)
    with open(os.path.join(folder, 'maps', 'meta.json'), 'w') as f:
        json.dump({'annotator': 'known layout', 'coverage': 'center'}, f)
    open(os.path.join(folder, 'complete'), 'w').close()
    return folder


def one_run(out, geometry, seed, epochs):
    """Train one arm; writes and returns {'top1', 'tokens', …}."""
    from util import runtime

    runtime.prepare()
    import numpy as np
    import paddle

    import main as training
    from engine import evaluate, train_one_epoch
    from models import build_model
    from util.data import loader
    from util.train.amp import Amp
    from util.train.loss import TokenLabelLoss
    from util.train.optim import build_optimizer
    from util.data.transforms import EvalTransform

    folder = build(out, seed)
    args = training.parser().parse_args(
        [
            '--input_size',
            str(SIDE),
            '--nb_classes',
            '10',
            '--data_path',
            folder,
            '--epochs',
            str(epochs),
            '--cls_label_path_train',
            f'{folder}/train_list.txt',
            '--cls_label_path_val',
            f'{folder}/val_list.txt',
            '--token_label',
            '--token_label_data',
            f'{folder}/maps',
            '--token_label_size',
            str(GRID),
            '--token_label_geometry',
            geometry,
            '--warmup_epochs',
            '1',
            '--lr',
            '1e-3',
            '--batch_size',
            '32',
            '--clip_grad',
            '1',
            '--smoothing',
            '0',
            '--aa',
            '',
            '--hflip',
            '0',
            '--train_scale',
            '0.35',
            '1',
            '--reprob',
            '0',
            '--num_workers',
            '0',
            '--seed',
            str(seed),
            '--print_freq',
            '80',
        ]
    )
    train, val = loader.build_train_loader(args), loader.build_eval_loader(args, 1.0)
    paddle.seed(seed)
    model = build_model('lvvit_nano', img_size=SIDE, patch_size=8, num_classes=10, mix_token=False)
    optimizer = build_optimizer(model, lr=args.lr, weight_decay=args.weight_decay, clip_grad=args.clip_grad)
    for epoch in range(epochs):
        train_one_epoch(model, TokenLabelLoss(), train, optimizer, epoch, args, Amp())
    top1 = evaluate(model, val)['acc1']

    right = total = 0
    view = EvalTransform(SIDE, 1.0)  # the scenes' short side is SIDE: this only cuts the centre
    with paddle.no_grad():
        for start in range(0, VAL, 50):
            scenes = [scene(i, 'val', seed) for i in range(start, start + 50)]
            _, aux = model.forward_dense(paddle.to_tensor(np.stack([view(image) for image, _, _ in scenes])))
            share = np.stack([shares(centre(owner), GRID).reshape(GRID * GRID, 10) for _, _, owner in scenes])
            clear = share.max(-1) > 0.5
            right += int(((aux.numpy().argmax(-1) == share.argmax(-1)) & clear).sum())
            total += int(clear.sum())
    result = {
        'geometry': geometry,
        'seed': seed,
        'epochs': epochs,
        'top1': top1,
        'tokens': 100 * right / total,
        'tokens_judged': total,
    }
    with open(os.path.join(out, f'{geometry}-{seed}.json'), 'w') as f:
        json.dump(result, f)
    return result


def table(out, seeds):
    import numpy as np

    print('| geometry | n | top-1, mean ± std | tokens, mean ± std | each seed (top-1 / tokens) |')
    print('|---|---|---|---|---|')
    for geometry in ('exact', 'reference'):
        runs = [json.load(open(os.path.join(out, f'{geometry}-{seed}.json'))) for seed in seeds]
        cell = {
            k: f'{np.mean(v):.1f} ± {np.std(v, ddof=1):.1f}' if len(v) > 1 else f'{v[0]:.1f}'
            for k in ('top1', 'tokens')
            for v in [[run[k] for run in runs]]
        }
        each = ', '.join(f'{run["top1"]:.1f} / {run["tokens"]:.1f}' for run in runs)
        print(f'| {geometry} | {len(runs)} | {cell["top1"]} | {cell["tokens"]} | {each} |')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=16)
    parser.add_argument('--only', nargs=2, metavar=('GEOMETRY', 'SEED'))
    args = parser.parse_args()
    if args.only:
        print(one_run(args.out, args.only[0], int(args.only[1]), args.epochs))
        return
    for seed in args.seeds:
        build(args.out, seed)
        arms = [
            subprocess.Popen(
                [sys.executable, __file__, args.out, '--epochs', str(args.epochs), '--only', arm, str(seed)],
                env={**os.environ, 'OMP_NUM_THREADS': '1'},
            )
            for arm in ('exact', 'reference')
        ]
        if any([arm.wait() for arm in arms]):
            sys.exit('a run failed')
    table(args.out, args.seeds)


if __name__ == '__main__':
    main()
