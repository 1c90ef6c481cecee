"""The engines of infer.py side by side, in each of their precisions, with the same weights.

    python benchmarks/inference.py [--model lvvit_t lvvit_s] [--batch_size 1 8] [--threads 1 2] [--png FILE]

Exports weights of a fixed seed to .pdmodel, to ONNX and, quantised, to OpenVINO. Each engine runs in a process of its
own; in each of `--rounds` rounds every engine makes an untimed run and `--repeat` timed ones. The table has the median
and the 95th percentile over all timed runs, the ratio of the median to that of ONNX Runtime (below 1 is faster), the
memory that the engine has needed so far at most (without Python and Paddle's libraries, which every process loads), and
the largest difference to ONNX Runtime's outputs. Nothing else should run on the machine.

Needs `pip install -r requirements-deploy.txt`; engines that are not installed are left out.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from benchmarks import inference_report
from util.ranges import count

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

BASELINE = 'onnxruntime fp32'
ENGINES = {  # {engine of infer.py and what calculates: (file, --precision)}
    BASELINE: ('model.onnx', 'fp32'),
    'paddle fp32': ('model.pdmodel', 'fp32'),
    'onednn fp32': ('model.pdmodel', 'fp32'),
    'paddle_openvino fp32': ('model.pdmodel', 'fp32'),
    'openvino fp32': ('model.onnx', 'fp32'),
    'onednn bf16': ('model.pdmodel', 'bf16'),
    'paddle_openvino bf16': ('model.pdmodel', 'bf16'),
    'openvino bf16': ('model.onnx', 'bf16'),
    'openvino int8, fp32': ('int8/model.xml', 'int8'),
    'openvino int8, bf16': ('int8/model.xml', 'bf16'),
}
PAUSE = 0.3  # seconds before each turn: threads of the process that ran before spin for a while
NOISE = 32  # images that the quantisation is calibrated with


# -- the process of an engine ------------------------------------------------------------------------------------------


def memory(field):
    """MB of this process: VmRSS now, or VmHWM at most so far."""
    with open('/proc/self/status') as f:
        (line,) = [line for line in f if line.startswith(field)]
    return int(line.split()[1]) / 1024


def serve(engine, folder, threads, connection):
    """Receives (batch size, runs); sends (outputs, seconds of each run, MB of memory), or an error text."""
    os.environ['OMP_NUM_THREADS'] = str(threads)
    try:
        with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):  # its log
            Predictor = importlib.import_module('util.deploy.predictor').Predictor
            file, precision = ENGINES[engine]
            before = memory('VmRSS')
            predictor = Predictor(
                os.path.join(folder, file), engine=engine.split()[0], precision=precision, threads=threads
            )
        network, side = predictor.network, predictor.settings['input_size']
        connection.send('')
        while True:
            batch, runs = connection.recv()
            images = np.random.default_rng(batch).standard_normal((batch, 3, side, side), dtype='float32')
            outputs, seconds = network(images), []
            for _ in range(runs):
                start = time.perf_counter()
                network(images)
                seconds.append(time.perf_counter() - start)
            connection.send((outputs, seconds, memory('VmHWM') - before))
    except EOFError:
        pass
    except Exception as error:  # an engine that this machine does not have
        connection.send(f'{type(error).__name__}: {error}')


def start(engines, folder, threads):
    """{engine: connection} of the engines that run on this machine; prints the others."""
    context, found = multiprocessing.get_context('spawn'), {}
    for engine in (BASELINE, *(engine for engine in engines if engine != BASELINE)):
        here, there = context.Pipe()
        context.Process(target=serve, args=(engine, folder, threads, there), daemon=True).start()
        there.close()
        error = here.recv()
        if not error:
            found[engine] = here
        elif engine == BASELINE:
            sys.exit(f'{BASELINE}: {error}')
        else:
            print(f'{engine}: left out, {error}', file=sys.stderr)
    return found


# -- the measurement ---------------------------------------------------------------------------------------------------


def write_noise(folder, side):
    """Images for the calibration: weights of a seed have no photos that they know."""
    from PIL import Image

    os.makedirs(folder)
    for seed in range(NOISE):
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), 'uint8')
        Image.fromarray(pixels).save(os.path.join(folder, f'{seed}.png'))


def export(model, input_size, folder):
    """Write weights of a fixed seed as model.pdmodel, model.onnx and int8/model.xml into a folder."""
    weights, onnx, noise = (os.path.join(folder, name) for name in ('weights.pdparams', 'model.onnx', 'noise'))
    write_noise(noise, input_size)
    flags = ['--model', model, '--input_size', str(input_size)]
    int8 = ['--onnx', onnx, '--images', noise, '--num_images', str(NOISE), '--output_dir', os.path.join(folder, 'int8')]
    for command in (
        ['test_tipc/seed_weights.py', '--output', weights, *flags],
        ['export_model.py', '--resume', weights, '--output_dir', folder, *flags],
        ['tools/export_onnx.py', '--resume', weights, '--output', onnx, *flags],
        ['tools/quantize.py', *int8],
    ):
        command = [sys.executable, *command]
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            last = done.stdout.strip().splitlines()[-1]
            if 'quantize' not in command[1]:
                sys.exit(last)
            print(f'int8: left out, {last}', file=sys.stderr)


def measure(connections, batch, rounds, repeat):
    """{engine: (outputs, seconds of each timed run, MB)}"""
    answers, seconds = {}, {engine: [] for engine in connections}
    for _ in range(rounds):
        for engine, connection in connections.items():
            time.sleep(PAUSE)
            connection.send((batch, repeat))
            answers[engine] = connection.recv()
            if isinstance(answers[engine], str):
                sys.exit(f'{engine}: {answers[engine]}')
            seconds[engine] += answers[engine][1]
    return {engine: (outputs, seconds[engine], used) for engine, (outputs, _, used) in answers.items()}


def rows_of(results, batch, **place):
    """The rows of a table: a dict for each engine. place: what they have in common."""
    expected, base, _ = results[BASELINE]
    rows = []
    for engine, (outputs, seconds, used) in results.items():
        p50, p95 = 1000 / batch * np.percentile(seconds, [50, 95])
        difference = float(np.abs(outputs - expected).max() / np.abs(expected).max())
        rows.append(
            {
                **place,
                'batch': batch,
                'engine': engine,
                'p50': p50,
                'p95': p95,
                'ratio': float(np.median(seconds) / np.median(base)),
                'memory': used,
                'difference': difference,
                'n': len(seconds),
            }
        )
    return rows


def parser():
    how = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser('benchmarks/inference.py', description=__doc__, **how)
    add = parser.add_argument
    add('--model', default=['lvvit_t', 'lvvit_s'], nargs='+', help='models (default: lvvit_t lvvit_s)')
    add('--input_size', default=224, type=count, help='side of the input in pixels (default: 224)')
    add('--batch_size', default=[1, 8], type=count, nargs='+', help='batch sizes (default: 1 8)')
    add('--threads', default=[1, 2], type=count, nargs='+', help='numbers of threads (default: 1 2)')
    add('--engines', default=list(ENGINES), nargs='+', choices=ENGINES, help='what to measure (default: all)')
    add('--rounds', default=7, type=count, help='rounds of the measurement (default: 7)')
    add('--repeat', default=3, type=count, help='timed runs of an engine in each round (default: 3)')
    help = 'folder of the exported models, which a second run takes from there (default: a temporary one)'
    add('--exports', metavar='DIR', help=help)
    help = 'keep what is measured in this file; a second run adds its models and threads, and prints and draws all'
    add('--json', metavar='FILE', help=help)
    add('--png', metavar='FILE', help='draw the ratios with one thread as bars (needs matplotlib)')
    return parser


def main(args):
    rows = []
    if args.json and os.path.exists(args.json):
        with open(args.json) as f:
            rows = [row for row in json.load(f) if row['model'] not in args.model or row['threads'] not in args.threads]
    with tempfile.TemporaryDirectory() as temporary:
        for model in args.model:
            folder = os.path.join(args.exports or temporary, model)
            if not os.path.exists(os.path.join(folder, 'model.onnx')):
                os.makedirs(folder)
                export(model, args.input_size, folder)
            for threads in args.threads:
                connections = start(args.engines, folder, threads)
                for batch in args.batch_size:
                    results = measure(connections, batch, args.rounds, args.repeat)
                    rows += rows_of(results, batch, model=model, threads=threads)
                for connection in connections.values():
                    connection.close()
                for process in multiprocessing.active_children():
                    process.join(5)
    if args.json:
        with open(args.json, 'w') as f:
            json.dump(rows, f, indent=1)
    print(inference_report.table(rows))
    if args.png:
        inference_report.draw(rows, args.png)


if __name__ == '__main__':
    main(parser().parse_args())
