"""A small ImageNet-like data set with token-label maps, made from scikit-learn's handwritten digits.

    python demo/digits.py data/digits                          # 2560 + 400 scenes of 64 px, ids 0-9
    python demo/digits.py data/hard --hard --size 224          # smaller main digits, more clutter

A scene is one large digit (its class) among small digits of other classes on a coloured ground. Since
the layout is known, so is what each part of the picture shows: the label maps need no annotator network.

    OUT/train/digit3/train_00013.JPEG      OUT/val/digit3/val_00013.JPEG
    OUT/train_list.txt, OUT/val_list.txt   "train/digit3/train_00013.JPEG 3"
    OUT/label_list.txt                     "3 three"
    OUT/label_maps/digit3/train_00013.npy  float16 [2, 5, 18, 18], see label_map()
    OUT/label_maps/meta.json, OUT/digits.json (the options; its presence marks a folder as ours)

and with --masks, for segmentation:

    OUT/masks/train/digit3/train_00013.png … 8-bit: 0 for the ground, 1 + its class for each pixel of a digit's ink
    OUT/masks_train.txt, OUT/masks_val.txt   "train/digit3/train_00013.JPEG masks/train/digit3/train_00013.png"
"""

import argparse
import json
import os
import shutil
import sys
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = 'zero one two three four five six seven eight nine'.split()
SPLITS = ('train', 'val')
TRAIN_DIGITS = 1400  # of the 1,797 handwritten digits; the other 397 appear in validation scenes only
TOP_K = 5  # classes kept per cell of a label map
PEAK = 10.0  # logit of a fully covered cell: 96 % after a softmax over even 1000 classes
FEATHER = 0.05  # width of a label's soft edge, as a share of the canvas (about one cell of 18)
VERSION = 1  # raise it when the scenes change, so that older folders are not reused

# Digit heights are in px of a 64 px canvas; ground, contrast and noise (standard deviation) in grey levels of 255.
# Ink is lighter than a dark ground and darker than a light one: the easy scenes have dark grounds only.
# others: how many small digits there may be.
EASY = dict(main=(48, 62), small=(10, 16), others=[1], ground=(40, 110), contrast=(80, 115), noise=6)
HARD = dict(main=(32, 46), small=(14, 20), others=[1, 2], ground=(50, 205), contrast=(45, 70), noise=20)


def fail(message):
    print(f'digits.py: {message}', file=sys.stderr)
    sys.exit(2)


@lru_cache(maxsize=None)
def handwriting():
    """(images float64 [1797, 8, 8] with ink 0-16, classes int64 [1797])"""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        fail('needs scikit-learn, where the handwritten digits come from: pip install scikit-learn')
    data = load_digits()
    return data.images, data.target


@lru_cache(maxsize=None)
def sources(split):
    """Ten int arrays: for each class the rows of handwriting() that scenes of `split` may use."""
    classes = handwriting()[1]
    order = np.random.default_rng(0).permutation(len(classes))  # fixed: the split never depends on --seed
    rows = order[:TRAIN_DIGITS] if split == 'train' else order[TRAIN_DIGITS:]
    return [rows[classes[rows] == c] for c in range(10)]


@lru_cache(maxsize=None)
def glyph(row):
    """One digit as an alpha mask, 8-bit, cropped to its ink, up to 160 px a side."""
    ink = np.pad(handwriting()[0][row] / 16, 1).astype(np.float32)  # a margin, so no stroke is cut off
    smooth = np.asarray(Image.fromarray(ink).resize((160, 160), Image.BICUBIC))
    crisp = np.clip((smooth - 0.35) * 4, 0, 1)  # turns the upscaling blur into pen strokes
    mask = Image.fromarray((crisp * 255).astype(np.uint8))
    return mask.crop(mask.getbbox())


def colour(rng, level):
    """RGB float [3] of mean brightness `level` (0-255), tinted at random."""
    tint = rng.uniform(-45, 45, 3)
    return level + tint - tint.mean()


def overlap(a, b):
    """Area two boxes (x0, y0, x1, y1) share, px."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def extent(row, side):
    """(width, height) in px of a digit whose longer side is to be `side` px."""
    width, height = glyph(row).size
    longer = max(width, height)
    return max(round(side * width / longer), 1), max(round(side * height / longer), 1)


def ground(rng, level, size):
    """RGB image of `size` (width, height): a gradient between a few colours of mean brightness `level`."""
    knots = colour(rng, level) + rng.normal(0, 14, (3, 3, 3))
    return Image.fromarray(np.clip(knots, 0, 255).astype(np.uint8)).resize(size, Image.BICUBIC)


def paint(image, rng, row, box, level):
    """Paint a digit into a box of the image, in a colour of mean brightness `level`."""
    ink = tuple(int(v) for v in np.clip(colour(rng, level), 0, 255))
    x0, y0, x1, y1 = box
    image.paste(ink, box, glyph(row).resize((x1 - x0, y1 - y0), Image.BICUBIC))


def layout(rng, index, split, size, look):
    """Which digits a scene has and where: [(class, box, row)] from the bottom to the top of the pile, see scene().

    The main digit takes its place first; each small one tries a few places and keeps the emptiest.
    """
    main = index % 10
    others = rng.permutation([c for c in range(10) if c != main]).tolist()
    count = rng.choice(look['others'])
    placed = []
    for c in [main, *others[:count]]:
        heights, tries = (look['small'], 12) if placed else (look['main'], 1)
        row = int(rng.choice(sources(split)[c]))
        w, h = extent(row, rng.uniform(*heights) * size / 64)
        corners = (rng.random((tries, 2)) * (size - w + 1, size - h + 1)).astype(int).tolist()
        boxes = [(x, y, x + w, y + h) for x, y in corners]
        hidden = [sum(overlap(box, other) for _, other, _ in placed) for box in boxes]
        placed.append((c, boxes[int(np.argmin(hidden))], row))
    return placed[::-1]


def scene(index, split, size=64, seed=0, hard=False):
    """Scene number `index` of `split` ("train" or "val"): (image, digits).

    image is an RGB PIL image of size x size px. digits lists (class, box, row) from the bottom to the
    top of the pile, so the main digit, of class index % 10, is the last; box = (x0, y0, x1, y1) in px
    bounds its ink, row is its place in handwriting().
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    look = HARD if hard else EASY
    digits = layout(rng, index, split, size=size, look=look)
    level = rng.uniform(*look['ground'])
    image = ground(rng, level, (size, size))
    for _, box, row in digits:
        contrast = rng.uniform(*look['contrast'])
        paint(image, rng, row, box, level=level + contrast if level < 128 else level - contrast)
    # The grain scales with the canvas like everything else, so a scene is equally hard at any size.
    grain = np.clip(128 + rng.normal(0, look['noise'], (64, 64, 3)), 0, 255).astype(np.uint8)
    grain = np.asarray(Image.fromarray(grain).resize((size, size), Image.BICUBIC), np.int16) - 128
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)), digits


def cover(start, stop, cells):
    """Share of each of `cells` equal cells of [0, 1] under a soft-edged bar from start to stop: [cells].

    The bar is one ramp, FEATHER wide, minus another; a ramp's integral is known, so the shares are exact.
    """

    def integral(edge):
        t = (np.linspace(0, 1, cells + 1) - edge) / FEATHER + 0.5
        return FEATHER * (np.clip(t, 0, 1) ** 2 / 2 + np.maximum(t - 1, 0))

    return np.diff(integral(start) - integral(stop)) * cells


def label_map(digits, size, label_size=18, class_ids=range(10)):
    """Label map of a scene's `digits` on a canvas of `size` px: float16 [2, 5, label_size, label_size].

    [0] holds the 5 highest logits of each cell (row = y, column = x), best first, [1] their class ids.
    A class's logit is PEAK times the share of the cell inside the soft box of that class's digit; a
    digit hides what lies below it. All other classes, and all of them on bare ground, have logit 0.
    """
    logits, free = np.zeros((10, label_size, label_size)), 1.0
    for c, box, _ in reversed(digits):  # from the top of the pile down
        x0, y0, x1, y1 = (v / size for v in box)
        share = np.outer(cover(y0, y1, label_size), cover(x0, x1, label_size))
        logits[c] += PEAK * share * free
        free = free * (1 - share)
    return strongest(logits, class_ids)


def mask(digits, size):
    """What each pixel of a scene shows, an 8-bit PIL image: 0 is the ground, 1 + class a digit's ink.

    A pixel belongs to the uppermost digit whose ink covers at least half of it.
    """
    image = Image.new('L', (size, size))
    for c, box, row in digits:
        x0, y0, x1, y1 = box
        ink = glyph(row).resize((x1 - x0, y1 - y0), Image.BICUBIC)
        image.paste(c + 1, box, ink.point([0] * 128 + [255] * 128))
    return image


def strongest(logits, class_ids=range(10)):
    """A label map, float16 [2, 5, H, W], of the logits [10, H, W] of the ten digits."""
    best = np.argsort(-logits, axis=0, kind='stable')[:TOP_K]
    scores = np.take_along_axis(logits, best, 0)
    return np.stack([scores, np.asarray(class_ids)[best]]).astype(np.float16)


def build(out, options):
    """Write the data set that `options` (the dict kept in digits.json) describes to the folder `out`."""
    size, label_size, class_ids = options['size'], options['label_size'], options['class_ids']
    for c in range(10):
        for folder in (*SPLITS, 'label_maps'):
            (out / folder / f'digit{c}').mkdir(parents=True)
    done = 0
    for split in SPLITS:
        lines, pairs = [], []
        for index in range(options[split]):
            image, digits = scene(index, split, size, seed=options['seed'], hard=options['hard'])
            name = f'digit{index % 10}/{split}_{index:05d}'
            image.save(out / split / f'{name}.JPEG', quality=92)
            lines.append(f'{split}/{name}.JPEG {class_ids[index % 10]}\n')
            if split == 'train':
                np.save(out / 'label_maps' / f'{name}.npy', label_map(digits, size, label_size, class_ids))
            if 'masks' in options:
                (out / 'masks' / split / f'digit{index % 10}').mkdir(parents=True, exist_ok=True)
                mask(digits, size).save(out / 'masks' / split / f'{name}.png')
                pairs.append(f'{split}/{name}.JPEG masks/{split}/{name}.png\n')
            done += 1
            show_progress(done, options['train'] + options['val'])
        (out / f'{split}_list.txt').write_text(''.join(lines))
        if 'masks' in options:
            (out / f'masks_{split}.txt').write_text(''.join(pairs))
    (out / 'label_list.txt').write_text(''.join(f'{i} {name}\n' for i, name in zip(class_ids, NAMES)))
    meta = {
        'annotator': 'known layout (demo/digits.py)',
        'coverage': 'full',
        'size': size,
        'shape': [2, TOP_K, label_size, label_size],
        'dtype': 'float16',
        'num_classes': max(class_ids) + 1,
    }
    (out / 'label_maps' / 'meta.json').write_text(json.dumps(meta, indent=1) + '\n')


def show_progress(done, total):
    """Now and then, on a terminal alone."""
    if sys.stderr.isatty() and (done % 50 == 0 or done == total):
        print(f'\r{100 * done // total:3d} %', end='\r', file=sys.stderr, flush=True)


def ours(folder):
    """Whether this script made `folder`. A foreign one ends the run, so that it can never be deleted."""
    if (folder / 'digits.json').is_file():
        return True
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):  # nothing there to lose
        return False
    fail(f'{folder} exists and was not made by this script, pass another folder')


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = fail  # one line, without the usage text
    add = parser.add_argument
    add('out', metavar='OUT', type=Path, help='folder to make')
    add('--train', type=int, default=2560, help='training scenes (2560)')
    add('--val', type=int, default=400, help='validation scenes (400)')
    add('--size', type=int, default=64, help='side of a scene, px (64)')
    add('--seed', type=int, default=0, help='another seed gives other scenes of the same digits (0)')
    add('--hard', action='store_true', help='smaller main digits, more clutter, less contrast')
    add('--label_size', type=int, default=18, help='cells along a side of a label map (18)')
    ids = 'ids to write for the digits 0-9, ascending (0 1 ... 9)'
    add('--class_ids', type=int, nargs=10, default=list(range(10)), metavar='ID', help=ids)
    add('--masks', action='store_true', help='write masks for segmentation too: what each pixel shows')
    add('--fresh', action='store_true', help='rebuild OUT if this script made it')
    args = parser.parse_args(argv)
    check(args)
    return args


def check(args):
    """End the run with a line about a flag that cannot be."""
    ids = args.class_ids
    if args.train < 10 or args.val < 10:
        fail('--train and --val must be at least 10, one scene for each class')
    if not 32 <= args.size <= 1024:
        fail('--size must be 32 to 1024 px')
    if not 1 <= args.label_size <= args.size:
        fail('--label_size must be 1 to --size cells')
    if args.seed < 0:
        fail('--seed must not be negative')
    if ids != sorted(set(ids)):
        fail('--class_ids must be ascending, so that sorted folders and ids agree')
    if ids[0] < 0 or ids[-1] > 2048:
        fail('--class_ids must be 0 to 2048: float16 maps hold these exactly')


def main(argv=None):
    options = vars(parse(argv))
    out, fresh = options.pop('out').resolve(), options.pop('fresh')
    if not options['masks']:  # sets without masks are described as they were before there were any
        del options['masks']
    partial = out.with_name(out.name + '.partial')
    text = json.dumps({**options, 'version': VERSION}) + '\n'
    start = time.time()
    try:
        if ours(out) and not fresh:
            if (out / 'digits.json').read_text() != text:
                fail(f'{out} was made with other options, pass another folder or --fresh')
            print(f'{out} is complete, reusing it')
            return
        if ours(partial):  # left by an interrupted run
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        (partial / 'digits.json').write_text(text)
        build(partial, options)
        if ours(out):  # only now that its successor is complete
            shutil.rmtree(out)
        os.replace(partial, out)
    except OSError as error:
        fail(f'cannot write {out}: {error}')
    except KeyboardInterrupt:
        sys.exit(130)  # the next run clears the partial folder
    what = f'{options["train"]} + {options["val"]} scenes of {options["size"]} px'
    print(f'wrote {what} to {out} in {time.time() - start:.1f} s')


if __name__ == '__main__':
    main()
