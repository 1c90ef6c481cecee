"""Which CPU engine is the fastest for a model on this machine: measured once, then remembered beside the model."""

import json
import os
import time

import numpy as np
import paddle

from util.deploy.predictor import Predictor, cpu_engines
from util.errors import UserError
from util.files import read_json, write
from util.runtime import cpu_fields

MEMORY = 'inference.engines.json'
TOLERANCE = {'fp32': 1e-3, 'bf16': 0.1}  # largest difference between engines, of the largest output
SECONDS = 0.5  # per engine, after one run that does not count
RUNS = 7


def stamp(*paths):
    """Text that changes when one of the files is written anew."""
    return ' '.join(f'{os.path.basename(p)}:{os.stat(p).st_size}:{os.stat(p).st_mtime_ns}' for p in paths)


def situation(precision, threads, batch_size):
    """Text that names what else the choice depends on."""
    processor = cpu_fields().get('model name', 'unknown processor')
    return f'{processor}, {threads} thread(s), batch {batch_size}, {precision}, Paddle {paddle.__version__}'


def _read(path):
    """The memory file, {model file: {'files': stamp, 'ms': {situation: {engine: ms}}}}; empty where it is of no use."""
    try:
        return {
            name: {
                'files': str(entry['files']),
                'ms': {key: {engine: float(ms) for engine, ms in times.items()} for key, times in entry['ms'].items()},
            }
            for name, entry in read_json(path).items()
        }
    except (FileNotFoundError, UserError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}


def _write(path, memory):
    """Write the memory file; returns whether that was possible. A folder that cannot be written to is no error."""
    try:
        write(path, json.dumps(memory, indent=1).encode())
    except UserError:
        return False
    return True


def measure(make, engines, images, tolerance):
    """{engine: median ms} of those engines that run and agree with the first that does, and {engine: why not}.

    make(engine) gives a Predictor. An engine that takes twice as long as the best so far gets no further runs.
    """
    times, refused, reference = {}, {}, None
    for engine in engines:
        try:
            predictor = make(engine)
            output = predictor(images)
        except UserError as error:
            refused[engine] = str(error)
            continue
        reference = output if reference is None else reference
        difference = np.abs(output - reference).max() / np.abs(reference).max()
        if not difference <= tolerance:
            refused[engine] = f'differs by {difference:.1e} of the largest output'
            continue
        taken, begin = [], time.perf_counter()
        while len(taken) < RUNS and time.perf_counter() - begin < SECONDS:
            start = time.perf_counter()
            predictor(images)
            taken.append(time.perf_counter() - start)
            if times and 1000 * taken[0] > 2 * min(times.values()):
                break
        times[engine] = round(1000 * float(np.median(taken)), 2)
    return times, refused


def best_engine(model_file, params_file, precision, threads, shape):
    """(engine, line that says why): the fastest of the CPU engines for images of this shape [B, 3, S, S].

    Raises UserError if no engine can run the model.
    """
    engines = cpu_engines(model_file, precision)
    path = os.path.join(os.path.dirname(os.path.abspath(model_file)), MEMORY)
    model, files = os.path.basename(model_file), stamp(model_file, params_file)
    key = situation(precision, threads, shape[0])

    def known():
        entry = _read(path).get(model, {})
        return entry['ms'] if entry.get('files') == files else {}

    times = {name: ms for name, ms in known().get(key, {}).items() if name in engines}
    if times:
        source = f'as measured before ({MEMORY})'
    else:
        images = np.random.default_rng(0).standard_normal(shape, dtype='float32')
        times, refused = measure(
            lambda engine: Predictor(model_file, params_file, engine, precision, threads),
            engines,
            images,
            TOLERANCE[precision],
        )
        if not times:
            raise UserError(next(iter(refused.values())))
        kept = _write(path, {**_read(path), model: {'files': files, 'ms': {**known(), key: times}}})
        source = f'measured now, remembered in {MEMORY}' if kept else 'measured now'
    best = min(times, key=times.get)
    return (
        best,
        f'{", ".join(f"{name} {ms:g} ms" for name, ms in sorted(times.items(), key=lambda t: t[1]))} '
        f'for a batch of {shape[0]}, {source}',
    )
