"""Draw the pictures of the README and of docs/ anew, after ./demo/run.sh.

    python docs/figures.py docs/images

Writes geometry.png, demo_tokens.png, rollout.png and demo_targets.png into the folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIGITS = os.path.join(ROOT, 'demo', 'output', 'digits')
CHECKPOINT = os.path.join(ROOT, 'demo', 'output', 'train', 'checkpoint-best.pd')


def visualize(output, *flags):
    """Call tools/visualize.py with these flags; it writes the picture `output`."""
    script = os.path.join(ROOT, 'tools', 'visualize.py')
    subprocess.run([sys.executable, script, *flags, '--output', output], check=True)


def geometry(output):
    """The sample photo with a map whose cells are named by their place, A1 to F6."""
    with tempfile.TemporaryDirectory() as folder:
        row = np.arange(18) // 3
        ids = (row[:, None] * 6 + row[None, :]).astype('float16')  # class 6 * r + c in each block of 3x3 cells
        os.mkdir(os.path.join(folder, 'demo'))
        np.save(os.path.join(folder, 'demo', 'chelsea.npy'), np.stack([np.full((1, 18, 18), 9, 'float16'), ids[None]]))
        names = os.path.join(folder, 'names.txt')
        with open(names, 'w') as f:
            f.writelines(f'{r * 6 + c} {"ABCDEF"[c]}{r + 1}\n' for r in range(6) for c in range(6))
        model = '--model lvvit_nano --input_size 224 --nb_classes 36 --seed 3 --draws 4'.split()
        photo = os.path.join(ROOT, 'demo', 'chelsea.png')
        visualize(output, *model, '--token_label_data', folder, '--label_list', names, '--input', photo)


def demo(folder):
    """What the demo's model says of each token, its attention rollout and relevance, and its training targets."""
    model = ['--label_list', os.path.join(DIGITS, 'label_list.txt'), '--resume', CHECKPOINT]
    train, val = os.path.join(DIGITS, 'train'), os.path.join(DIGITS, 'val')
    visualize(os.path.join(folder, 'demo_tokens.png'), *model, '--input', val)
    scenes = [os.path.join(val, 'digit9', 'val_00069.JPEG'), os.path.join(val, 'digit3', 'val_00013.JPEG')]
    both = ['--rollout', '--relevance', '--columns', '2']
    visualize(os.path.join(folder, 'rollout.png'), *model, *both, '--input', *scenes)
    maps = ['--token_label_data', os.path.join(DIGITS, 'label_maps'), '--seed', '3', '--draws', '4', '--count', '3']
    visualize(os.path.join(folder, 'demo_targets.png'), *model, *maps, '--input', train)


def parser():
    how = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser('docs/figures.py', description=__doc__, **how)
    parser.add_argument('folder', metavar='DIR', help='folder of the pictures')
    return parser


def main(folder):
    os.makedirs(folder, exist_ok=True)
    geometry(os.path.join(folder, 'geometry.png'))
    demo(folder)


if __name__ == '__main__':
    main(parser().parse_args().folder)
