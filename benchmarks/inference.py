"""Engines of Paddle Inference against ONNX Runtime on the same weights, side by side in one run.

    python benchmarks/inference.py [--model lvvit_t] [--batch_size 1 8] [--threads 1 2] [--rounds 9] [--repeat 3]

Exports random weights with export_model.py (.pdmodel) and tools/export_onnx.py, starts one process per engine and
number of threads, and lets them run one after another, `rounds` times, `repeat` runs each time (before them one that
does not count). Prints the median time per image over all counted runs, the quartiles, and the ratio to ONNX Runtime; a
ratio below 1 is faster. Nothing else should run on the machine. Needs
`pip install paddle2onnx==2.1.0 onnx onnxruntime`.
"""

import argparse
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
    if engine == RIVAL:
        import onnxruntime

        from tools.export_onnx import session

        return session(onnxruntime, os.path.join(folder, 'model.onnx'), threads)
    from util.deploy.predictor import Predictor

    name, _, precision = engine.partition(' ')
    files = [os.path.join(folder, name) for name in ('model.pdmodel', 'model.pdiparams')]
    return Predictor(*files, name, precision or 'fp32', threads)


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
    """Random weights of the model as model.pdmodel and model.onnx in a folder."""
    code = (
        'import sys; sys.path.insert(0, sys.argv[1]); from util import runtime; import paddle;'
        'from models import build_model; from util.weights import checkpoint; paddle.seed(0);'
        'model = build_model(sys.argv[2], img_size=int(sys.argv[3]));'
        'checkpoint.save(model.state_dict(), sys.argv[4])'
    )
    weights = os.path.join(folder, 'weights.pdparams')
    flags = ['--model', args.model, '--input_size', str(args.input_size), '--resume', weights]
    for command in (
        ['-c', code, ROOT, args.model, str(args.input_size), weights],
        [os.path.join(ROOT, 'export_model.py'), *flags, '--output_dir', folder],
        [os.path.join(ROOT, 'tools', 'export_onnx.py'), *flags, '--output', os.path.join(folder, 'model.onnx')],
    ):
        done = subprocess.run([sys.executable, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
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
    parser.add_argument('--model', default='lvvit_t')
    parser.add_argument('--input_size', default=224, type=int)
    parser.add_argument('--batch_size', default=[1, 8], type=int, nargs='+')
    parser.add_argument('--threads', default=[1, 2], type=int, nargs='+')
    parser.add_argument('--engines', default=ENGINES, nargs='+', choices=ENGINES)
    parser.add_argument('--rounds', default=9, type=int)
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
    situations = dict.fromkeys((m['threads'], m['batch']) for m in medians)
    best = [
        min((m for m in medians if m['exact'] and (m['threads'], m['batch']) == situation), key=lambda m: m['ratio'])
        for situation in situations
    ]
    print(
        '\nFastest engine without loss of accuracy, for infer.py --engine: '
        + ', '.join(f'{m["engine"]} {m["ratio"]:.2f} (threads {m["threads"]}, batch {m["batch"]})' for m in best)
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
