"""Draw the figures of the docs: python docs/figures.py (after ./demo/run.sh)."""

import os
import subprocess
import sys
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGES = os.path.join(ROOT, 'docs', 'images')


def visualize(*arguments):
    subprocess.run([sys.executable, os.path.join(ROOT, 'tools', 'visualize.py'), *map(str, arguments)], check=True)


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
        visualize(
            '--model',
            'lvvit_nano',
            '--input_size',
            224,
            '--nb_classes',
            36,
            '--token_label_data',
            folder,
            '--label_list',
            names,
            '--input',
            os.path.join(ROOT, 'demo', 'chelsea.png'),
            '--seed',
            3,
            '--draws',
            4,
            '--output',
            os.path.join(IMAGES, 'geometry.png'),
        )


def demo():
    digits = os.path.join(ROOT, 'demo', 'output', 'digits')
    model = [
        '--model',
        'lvvit_nano',
        '--input_size',
        48,
        '--nb_classes',
        10,
        '--label_list',
        os.path.join(digits, 'label_list.txt'),
        '--resume',
        os.path.join(ROOT, 'demo', 'output', 'train', 'checkpoint-best.pd'),
    ]
    visualize(*model, '--input', os.path.join(digits, 'val'), '--output', os.path.join(IMAGES, 'demo_tokens.png'))
    visualize(
        *model,
        '--input',
        os.path.join(digits, 'train'),
        '--count',
        3,
        '--seed',
        3,
        '--draws',
        4,
        '--token_label_data',
        os.path.join(digits, 'label_maps'),
        '--output',
        os.path.join(IMAGES, 'demo_targets.png'),
    )


if __name__ == '__main__':
    os.makedirs(IMAGES, exist_ok=True)
    geometry()
    demo()
