"""Draw the figures of the docs: python docs/figures.py (after ./demo/run.sh)."""

import os
import subprocess
import sys
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGES, DIGITS = 'docs/images', 'demo/output/digits'  # below ROOT


def visualize(flags):
    subprocess.run([sys.executable, 'tools/visualize.py', *flags.split()], cwd=ROOT, check=True)


def geometry():
    """The sample photo with a map whose cells name their own place: labels must stick to the cat in every draw."""
    with tempfile.TemporaryDirectory() as folder:
        place = np.arange(18) // 3
        ids = (place[:, None] * 6 + place[None, :]).astype('float16')
        os.makedirs(os.path.join(folder, 'demo'))
        np.save(os.path.join(folder, 'demo', 'chelsea.npy'), np.stack([np.full((1, 18, 18), 9, 'float16'), ids[None]]))
        names = os.path.join(folder, 'names.txt')
        with open(names, 'w') as f:
            f.writelines(f'{r * 6 + c} {"ABCDEF"[c]}{r + 1}\n' for r in range(6) for c in range(6))
        model = '--model lvvit_nano --input_size 224 --nb_classes 36'
        maps = f'--token_label_data {folder} --label_list {names} --seed 3 --draws 4'
        visualize(f'{model} {maps} --input demo/chelsea.png --output {IMAGES}/geometry.png')


def demo():
    model = f'--model lvvit_nano --input_size 48 --nb_classes 10 --label_list {DIGITS}/label_list.txt'
    model += ' --resume demo/output/train/checkpoint-best.pd'
    visualize(f'{model} --input {DIGITS}/val --output {IMAGES}/demo_tokens.png')
    files = f'{DIGITS}/val/digit9/val_00069.JPEG {DIGITS}/val/digit3/val_00013.JPEG'
    visualize(f'{model} --rollout --input {files} --columns 2 --output {IMAGES}/rollout.png')
    maps = f'--token_label_data {DIGITS}/label_maps --seed 3 --draws 4'
    visualize(f'{model} {maps} --input {DIGITS}/train --count 3 --output {IMAGES}/demo_targets.png')


if __name__ == '__main__':
    geometry()
    demo()
