"""Engines of Paddle Inference against ONNX Runtime on the same weights, side by side in one run.

    python benchmarks/inference.py [--model lvvit_t] [--batch_size 1 8] [--threads 1 2] [--rounds 9] [--repeat 3]

Exports weights of a fixed seed with export_model.py (.pdmodel) and tools/export_onnx.py, starts one process per engine
and number of threads, and lets them run one after another, `rounds` times, `repeat` runs each time (before them one
that does not count). Prints the median time per image over all counted runs, the quartiles, and the ratio to ONNX
Runtime (below 1 is faster), and which --engine of infer.py is the fastest. Nothing else should run on the machine.
Needs `pip install paddle2onnx==2.1.0 onnx onnxruntime`.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

ENGINES = ('paddle', 'onednn', 'openvino', 'onednn bf16', 'openvino bf16')
RIVAL = 'onnxruntime'
PAUSE = 0.3  # seconds: threads of the process before stop waiting actively


def make(engine, folder, threads):
    """A function from images to outputs."""
    importlib.import_module('util.runtime')  # sets the environment, before anything imports paddle
    if engine == RIVAL:
        from tools import export_onnx

        return export_onnx.session(export_onnx.libraries()[2], os.path.join(folder, 'model.onnx'), threads)
    from util.deploy.predictor import Predictor

    name, _, precision = engine.partition(' ')
    model_file, params_file = os.path.join(folder, 'model.pdmodel'), os.path.join(folder, 'model.pdiparams')
    return Predictor(model_file, params_file, engine=name, precision=precision or 'fp32', threads=threads)


def serve(engine, folder, threads, side, connection):
    """The process of one engine: answers (batch, runs) with the seconds of each run, and (batch, 0) with outputs."""
    os.environ['OMP_NUM_THREADS'] = str(threads)
    images = {}
    try:
        run = make(engine, folder, threads)
        connection.send(None)
        while True:
            batch, runs = connection.recv()
            if batch not in images:
                images[batch] = np.random.default_rng(batch).standard_normal((batch, 3, side, side), dtype='float32')
            outputs = run(images[batch])
            times = []
            for _ in range(runs):
                start = time.perf_counter()
                run(images[batch])
                times.append(time.perf_counter() - start)
            connection.send(times if runs else outputs)
    except EOFError:
        pass
    except Exception as error:  # an engine that this wheel or processor does not have
        connection.send(f'{type(error).__name__}: {error}')


def export(args, folder):
    """Weights of a fixed seed as model.pdmodel and model.onnx in a folder."""
    weights, onnx = os.path.join(folder, 'weights.pdparams'), os.path.join(folder, 'model.onnx')
    model = ['--model', args.model, '--input_size', str(args.input_size)]
    for script, *flags in (
        ['test_tipc/seed_weights.py', '--output', weights],
        ['export_model.py', '--resume', weights, '--output_dir', folder],
        ['tools/export_onnx.py', '--resume', weights, '--output', onnx],
    ):
        command = [sys.executable, os.path.join(ROOT, script), *model, *flags]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit(done.stdout.strip().splitlines()[-1])


def start(args, folder):
    """{(engine, threads): connection} of the engines that run here; the others are named."""
    context, found = multiprocessing.get_context('spawn'), {}
    for threads in args.threads:
        for engine in (RIVAL, *args.engines):
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(engine, folder, threads, args.input_size, theirs), daemon=True).start()
            theirs.close()
            problem = ours.recv()
            if problem is None:
                found[engine, threads] = ours
            elif engine == RIVAL:
                sys.exit(f'{RIVAL}: {problem}')
            elif threads == args.threads[0]:
                print(f'{engine}: left out, {problem}')
    return found


def ask(connections, key, batch, runs):
    connections[key].send((batch, runs))
    answer = connections[key].recv()
    if isinstance(answer, str):
        sys.exit(f'{key[0]}: {answer}')
    return answer


def processor():
    from util.runtime import cpu_fields

    return f'{cpu_fields().get("model name", "unknown processor")}, {os.cpu_count()} cores'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='lvvit_t', help='model to export and measure (default: lvvit_t)')
    parser.add_argument('--input_size', default=224, type=int, help='side of the input in pixels (default: 224)')
    parser.add_argument('--batch_size', default=[1, 8], type=int, nargs='+', help='batch sizes (default: 1 8)')
    parser.add_argument('--threads', default=[1, 2], type=int, nargs='+', help='numbers of threads (default: 1 2)')
    parser.add_argument(
        '--engines', default=ENGINES, nargs='+', choices=ENGINES, help='engines to measure (default: all)'
    )
    parser.add_argument('--rounds', default=9, type=int, help='rounds of the measurement (default: 9)')
    parser.add_argument('--repeat', default=3, type=int, help='runs of an engine in a row, after one not counted')
    parser.add_argument('--json', default='', metavar='FILE', help='write the medians to a file as well')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        export(args, folder)
        connections = start(args, folder)
        print(f'{args.model} at {args.input_size}, {processor()}, n = {args.rounds * args.repeat}\n')
        print('| threads | batch | engine | ms per image: median (quartiles) | ratio to ONNX Runtime | difference |')
        print('|---|---|---|---|---|---|')
        medians = []
        for threads in args.threads:
            for batch in args.batch_size:
                keys = [key for key in connections if key[1] == threads]
                outputs = {key: ask(connections, key, batch, 0) for key in keys}
                times = {key: [] for key in keys}
                for _ in range(args.rounds):
                    for key in keys:
                        time.sleep(PAUSE)
                        times[key] += ask(connections, key, batch, args.repeat)
                medians += report(threads, batch, times, outputs)
        for connection in connections.values():
            connection.close()
        for process in multiprocessing.active_children():
            process.join(5)
    print()
    for threads in args.threads:
        for batch in args.batch_size:
            exact = [m for m in medians if m['exact'] and (m['threads'], m['batch']) == (threads, batch)]
            if exact:
                best = min(exact, key=lambda figures: figures['ms'])
                print(
                    f'Fastest without loss of accuracy, {threads} thread(s), batch {batch}: '
                    f'--engine {best["engine"]}, {best["ms"]:.1f} ms an image'
                )
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as f:
            json.dump(medians, f, indent=1)


def report(threads, batch, times, outputs):
    """Print the lines of one situation; returns their figures without the rival's."""
    rival, figures = (RIVAL, threads), []
    base = np.median(times[rival])
    for key, seconds in times.items():
        low, median, high = 1000 / batch * np.percentile(seconds, [25, 50, 75])
        ratio = np.median(seconds) / base
        difference = np.abs(outputs[key] - outputs[rival]).max() / np.abs(outputs[rival]).max()
        print(
            f'| {threads} | {batch} | {key[0]} | {median:.1f} ({low:.1f}–{high:.1f}) | {ratio:.2f} | {difference:.1e} |'
        )
        if key != rival:
            figures.append(
                {
                    'threads': threads,
                    'batch': batch,
                    'engine': key[0],
                    'ms': round(float(median), 2),
                    'ratio': round(float(ratio), 3),
                    'exact': 'bf16' not in key[0],
                }
            )
    return figures


if __name__ == '__main__':
    main()
