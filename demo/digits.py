"""A small ImageNet-like data set with token-label maps, made from scikit-learn's handwritten digits.

    python demo/digits.py data/digits                          # 2560 + 400 scenes of 64 px, ids 0-9
    python demo/digits.py data/hard --hard --size 224          # smaller main digits, more clutter

demo/scenes.py draws the scenes, their label maps and their masks.

    OUT/train/digit3/train_00013.JPEG      OUT/val/digit3/val_00013.JPEG
    OUT/train_list.txt, OUT/val_list.txt   "train/digit3/train_00013.JPEG 3"
    OUT/label_list.txt                     "3 three"
    OUT/label_maps/digit3/train_00013.npy  float16 [2, 5, 18, 18], see scenes.label_map()
    OUT/label_maps/meta.json, OUT/digits.json (the options; only a folder with this file is ever replaced)

and with --masks, for segmentation:

    OUT/masks/train/digit3/train_00013.png … 8-bit: 0 for the background, 1 + class for a digit's ink
    OUT/masks_train.txt, OUT/masks_val.txt   "train/digit3/train_00013.JPEG masks/train/digit3/train_00013.png"
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

import scenes

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util.errors import visible
from util.ranges import count, natural, whole

NAMES = 'zero one two three four five six seven eight nine'.split()
VERSION = 1  # increase it when the scenes change: folders of another version are not reused


def fail(message):
    print(f'demo/digits.py: error: {visible(message)}', file=sys.stderr)
    sys.exit(2)


def build(out, options):
    """Write the data set that `options` (the dict kept in digits.json) describes to the folder `out`."""
    size, label_size, class_ids = options['size'], options['label_size'], options['class_ids']
    for c in range(10):
        for folder in (*scenes.SPLITS, 'label_maps'):
            (out / folder / f'digit{c}').mkdir(parents=True)
    done = 0
    for split in scenes.SPLITS:
        lines, pairs = [], []
        for index in range(options[split]):
            image, digits = scenes.scene(index, split, size, seed=options['seed'], hard=options['hard'])
            name = f'digit{index % 10}/{split}_{index:05d}'
            image.save(out / split / f'{name}.JPEG', quality=92)
            lines.append(f'{split}/{name}.JPEG {class_ids[index % 10]}\n')
            if split == 'train':
                np.save(out / 'label_maps' / f'{name}.npy', scenes.label_map(digits, size, label_size, class_ids))
            if 'masks' in options:
                (out / 'masks' / split / f'digit{index % 10}').mkdir(parents=True, exist_ok=True)
                scenes.mask(digits, size).save(out / 'masks' / split / f'{name}.png')
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
        'shape': [2, scenes.TOP_K, label_size, label_size],
        'dtype': 'float16',
        'num_classes': max(class_ids) + 1,
    }
    (out / 'label_maps' / 'meta.json').write_text(json.dumps(meta, indent=1) + '\n')


def show_progress(done, total):
    """Print the percentage at every 50th scene, on a terminal only."""
    if sys.stderr.isatty() and (done % 50 == 0 or done == total):
        print(f'\r{100 * done // total:3d} %', end='\r', file=sys.stderr, flush=True)


def made_by_this_script(folder):
    """True for a folder of this script, False for a missing or empty one. Ends the run for any other folder."""
    if (folder / 'digits.json').is_file():
        return True
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    fail(f'{folder} exists and was not made by this script, pass another folder')


def parser():
    how = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser('demo/digits.py', description=__doc__, **how)
    parser.error = fail  # one line, without the usage text
    add = parser.add_argument
    add('out', metavar='OUT', type=Path, help='folder to make')
    add('--train', type=whole(at_least=10), default=2560, help='training scenes (2560)')
    add('--val', type=whole(at_least=10), default=400, help='validation scenes (400)')
    add('--size', type=whole(at_least=32, at_most=1024), default=64, help='side of a scene, px (64)')
    add('--seed', type=natural, default=0, help='another seed gives other scenes of the same digits (0)')
    add('--hard', action='store_true', help='smaller main digits, more clutter, less contrast')
    add('--label_size', type=count, default=18, help='cells along a side of a label map (18)')
    ids = 'ids to write for the digits 0-9, ascending (0 1 ... 9)'
    exact = whole(at_least=0, at_most=2048)  # float16 maps hold these exactly
    add('--class_ids', type=exact, nargs=10, default=list(range(10)), metavar='ID', help=ids)
    add('--masks', action='store_true', help='also write masks for segmentation: the class of each pixel')
    add('--fresh', action='store_true', help='make OUT again, if this script made it')
    return parser


def check(args):
    """End the run with one line about a wrong flag."""
    ids = args.class_ids
    if args.label_size > args.size:
        fail('--label_size must be at most --size')
    if ids != sorted(set(ids)):
        fail('--class_ids must be ascending, so that sorted folders and ids agree')


def main(argv=None):
    args = parser().parse_args(argv)
    check(args)
    options = vars(args)
    out, fresh = options.pop('out').resolve(), options.pop('fresh')
    if not options['masks']:  # older digits.json have no such key
        del options['masks']
    partial = out.with_name(out.name + '.partial')
    text = json.dumps({**options, 'version': VERSION}) + '\n'
    start = time.time()
    try:
        if made_by_this_script(out) and not fresh:
            if (out / 'digits.json').read_text() != text:
                fail(f'{out} was made with other options, pass another folder or --fresh')
            print(f'{out} is complete, reusing it')
            return
        if made_by_this_script(partial):  # left by an interrupted run
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        (partial / 'digits.json').write_text(text)
        build(partial, options)
        if made_by_this_script(out):  # only now that the new one is complete
            shutil.rmtree(out)
        os.replace(partial, out)
    except ImportError as error:
        fail(f'the handwritten digits are part of scikit-learn: pip install scikit-learn ({error})')
    except OSError as error:
        fail(f'cannot write {out}: {error}')
    except KeyboardInterrupt:
        sys.exit(130)  # the next run clears the partial folder
    what = f'{options["train"]} + {options["val"]} scenes of {options["size"]} px'
    print(f'wrote {what} to {out} in {time.time() - start:.1f} s')


if __name__ == '__main__':
    main()
