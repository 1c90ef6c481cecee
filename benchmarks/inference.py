"""The speed of Paddle Inference's engines and of ONNX Runtime with the same weights.

    python benchmarks/inference.py [--model lvvit_t] [--batch_size 1 8] [--threads 1 2] [--rounds 9] [--repeat 3]

Exports weights of a fixed seed to model.pdmodel and to ONNX. Each engine runs in a process of its own; in each of
`--rounds` rounds every engine makes one untimed run and `--repeat` timed ones. Prints the median time per image over
all timed runs, quartiles, and the ratio to ONNX Runtime (below 1 is faster). Nothing else should run on the machine.
Needs `pip install paddle2onnx==2.1.0 onnx onnxruntime`.
"""

import argparse
import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util.ranges import count

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

ENGINES = ('paddle', 'onednn', 'paddle_openvino', 'onednn bf16', 'paddle_openvino bf16')
BASELINE = 'onnxruntime'
PAUSE = 0.3  # seconds before each turn: threads of the process that ran before spin for a while


def build(engine, folder, threads):
    """The exported model in an engine, as a function from images to outputs."""
    importlib.import_module('util.runtime')  # sets the environment, so it comes before everything that imports paddle
    from util.deploy.predictor import Predictor

    name, _, precision = engine.partition(' ')
    model_file = os.path.join(folder, 'model.onnx' if engine == BASELINE else 'model.pdmodel')
    return Predictor(model_file, engine=name, precision=precision or 'fp32', threads=threads).network


def serve(engine, folder, threads, side, connection):
    """The process of an engine. Receives (batch size, runs); sends (outputs, seconds of each run), or an error text."""
    os.environ['OMP_NUM_THREADS'] = str(threads)
    try:
        network = build(engine, folder, threads)
        connection.send('')
        while True:
            batch, runs = connection.recv()
            images = np.random.default_rng(batch).standard_normal((batch, 3, side, side), dtype='float32')
            outputs, seconds = network(images), []
            for _ in range(runs):
                start = time.perf_counter()
                network(images)
                seconds.append(time.perf_counter() - start)
            connection.send((outputs, seconds))
    except EOFError:
        pass
    except Exception as error:  # an engine that this wheel or processor does not have
        connection.send(f'{type(error).__name__}: {error}')


def start(engines, folder, threads, side):
    """{engine: connection} of the engines that run on this machine; prints the others."""
    context, found = multiprocessing.get_context('spawn'), {}
    for engine in (BASELINE, *engines):
        here, there = context.Pipe()
        context.Process(target=serve, args=(engine, folder, threads, side, there), daemon=True).start()
        there.close()
        error = here.recv()
        if not error:
            found[engine] = here
        elif engine == BASELINE:
            sys.exit(f'{BASELINE}: {error}')
        else:
            print(f'{engine}: left out, {error}')
    return found


def export(model, input_size, folder):
    """Write weights of a fixed seed as model.pdmodel and model.onnx into a folder."""
    weights, onnx = os.path.join(folder, 'weights.pdparams'), os.path.join(folder, 'model.onnx')
    for command in (
        ['test_tipc/seed_weights.py', '--output', weights],
        ['export_model.py', '--resume', weights, '--output_dir', folder],
        ['tools/export_onnx.py', '--resume', weights, '--output', onnx],
    ):
        command = [sys.executable, *command, '--model', model, '--input_size', str(input_size)]
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit(done.stdout.strip().splitlines()[-1])


def measure(connections, batch, rounds, repeat):
    """{engine: (outputs, seconds of each timed run)}"""
    outputs, seconds = {}, {engine: [] for engine in connections}
    for _ in range(rounds):
        for engine, connection in connections.items():
            time.sleep(PAUSE)
            connection.send((batch, repeat))
            answer = connection.recv()
            if isinstance(answer, str):
                sys.exit(f'{engine}: {answer}')
            outputs[engine] = answer[0]
            seconds[engine] += answer[1]
    return {engine: (outputs[engine], seconds[engine]) for engine in connections}


def parser():
    how = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser('benchmarks/inference.py', description=__doc__, **how)
    parser.add_argument('--model', default='lvvit_t', help='model to export and measure (default: lvvit_t)')
    parser.add_argument('--input_size', default=224, type=count, help='side of the input in pixels (default: 224)')
    parser.add_argument('--batch_size', default=[1, 8], type=count, nargs='+', help='batch sizes (default: 1 8)')
    parser.add_argument('--threads', default=[1, 2], type=count, nargs='+', help='numbers of threads (default: 1 2)')
    parser.add_argument('--engines', default=ENGINES, nargs='+', choices=ENGINES, help='what to measure (default: all)')
    parser.add_argument('--rounds', default=9, type=count, help='rounds of the measurement (default: 9)')
    parser.add_argument('--repeat', default=3, type=count, help='timed runs of an engine in each round (default: 3)')
    return parser


def main(args):
    print(f'{args.model} at {args.input_size} px, n = {args.rounds * args.repeat}\n')
    print('| threads | batch | engine | ms per image: median (quartiles) | ratio to ONNX Runtime | difference |')
    print('|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder:
        export(args.model, args.input_size, folder)
        for threads in args.threads:
            connections = start(args.engines, folder, threads, args.input_size)
            for batch in args.batch_size:
                results = measure(connections, batch, args.rounds, args.repeat)
                expected, base = results[BASELINE]
                for engine, (outputs, seconds) in results.items():
                    low, median, high = 1000 / batch * np.percentile(seconds, [25, 50, 75])
                    ratio = np.median(seconds) / np.median(base)
                    difference = np.abs(outputs - expected).max() / np.abs(expected).max()
                    times = f'{median:.1f} ({low:.1f}–{high:.1f})'
                    print(f'| {threads} | {batch} | {engine} | {times} | {ratio:.2f} | {difference:.1e} |')
            for connection in connections.values():
                connection.close()
            for process in multiprocessing.active_children():
                process.join(5)


if __name__ == '__main__':
    main(parser().parse_args())
