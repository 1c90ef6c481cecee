"""Time and peak memory of tools/convert_weight.py on random weights of the size of a model.

    python benchmarks/convert_weight.py --model lvvit_l --input_size 512

Each conversion is a process of its own, start of Python and Paddle included; memory is its largest resident set.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime
from util.args import Parser
from util.errors import UserError

import numpy as np

import model_info
from util.weights import checkpoint

ROOT = Path(__file__).resolve().parents[1]
WAYS = [('a.pdparams', 'b.safetensors'), ('b.safetensors', 'c.pdparams'), ('b.safetensors', 'd.safetensors')]


def parser():
    parser = Parser('convert_weight.py', description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='lvvit_l', metavar='NAME')
    parser.add_argument('--input_size', default=512, type=int)
    return parser


def main(args):
    shapes = {key: value.shape for key, value in model_info.build(args.model, args.input_size).state_dict().items()}
    rng = np.random.default_rng(0)
    weights = {key: rng.standard_normal(shape, dtype='float32') for key, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(weights, os.path.join(folder, 'a.pdparams'))
        del weights
        for way in WAYS:
            source, target = (os.path.join(folder, name) for name in way)
            begin = time.time()
            child = subprocess.Popen(
                [sys.executable, str(ROOT / 'tools' / 'convert_weight.py'), source, target], stdout=subprocess.DEVNULL
            )
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                raise UserError(f'{way[0]} -> {way[1]} failed')
            size, peak = os.path.getsize(source) / 1e6, usage.ru_maxrss * 1024 / 1e6  # ru_maxrss: KiB on Linux
            print(
                f'{way[0].split(".")[1]:>11} -> {way[1].split(".")[1]:11}  {time.time() - begin:5.1f} s  '
                f'peak {peak:5.0f} MB = {peak / size:.2f} x the file of {size:.0f} MB',
                flush=True,
            )


if __name__ == '__main__':
    runtime.run(main, parser())
