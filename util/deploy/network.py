"""What the engines have in common: a network that is called with images, and its checks before and after it runs."""

import mmap

import numpy as np

from util.errors import UserError, one_line
from util.paddle_fixes import death_of_worker
from util.runtime import cpu_fields

# operators of Paddle, ONNX and OpenVINO
QUANTISED = (b'quantize_linear', b'fake_quantize', b'QuantizeLinear', b'FakeQuantize')


def is_quantised(model_file):
    """Whether a model has quantisation operators, which calibration inserts; its layers then calculate in int8."""
    with open(model_file, 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(operator) >= 0 for operator in QUANTISED)


def has_bf16():
    """Whether this processor calculates in bfloat16. Others would emulate it slowly."""
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(cpu_fields().get('flags', '').split())


class Network:
    """network(images float32 [B, 3, S, S]) -> outputs float32 [B, C], for any B. Several threads may call it at once.

    A subclass opens the file and defines `run`, with the same images and outputs, and these:

    library, version   for the log, 'ONNX Runtime' and '1.32.0'
    image_shape        [3, S, S] that the file takes; None: only running it tells

    engine: its name. threads: of the CPU. num_classes: C, if it is known. Raises UserError for images that do not fit,
    and for outputs that are not [B, C].
    """

    library = version = ''
    image_shape = None

    def __init__(self, model_file, engine, threads, num_classes):
        self.model_file, self.engine, self.threads, self.num_classes = model_file, engine, threads, num_classes

    @staticmethod
    def reason(error):
        """The message of the library's exception in one line."""
        return one_line(error)

    def __call__(self, images):
        shape = list(images.shape)
        if self.image_shape not in (None, shape[1:]):
            raise UserError(
                f'{self.model_file}: takes images {self.image_shape}, not {shape[1:]}; check --input_size or '
                'inference.yml'
            )
        try:
            outputs = self.run(np.ascontiguousarray(images, 'float32'))
        except Exception as error:  # of C++: RuntimeError, ValueError, IndexError, OSError and others
            if death_of_worker():  # the loader process has died meanwhile, and util/runtime.py reports that
                raise
            raise UserError(
                f'{self.model_file}: {self.library} {self.version} cannot run it on images {shape} with engine '
                f'{self.engine} ({self.reason(error)}); check --input_size'
            )
        if outputs.ndim != 2 or len(outputs) != len(images):
            raise UserError(
                f'{self.model_file}: gives {list(outputs.shape)} for a batch of {len(images)}, not a score of each '
                'class for each image'
            )
        if self.num_classes not in (None, outputs.shape[1]):
            raise UserError(
                f'{self.model_file}: gives {outputs.shape[1]} classes, inference.yml says {self.num_classes}'
            )
        return outputs


def check_input(model_file, inputs):
    """[3, S, S] of the images that a file of ONNX or OpenVINO takes, or None if a side is open.

    inputs: [(name, type, shape)] of the file; sides without a number are not int. Raises UserError unless it is what
    tools/export_onnx.py writes: one input `image`, float32 [batch, 3, S, S].
    """
    name, kind, shape = inputs[0] if len(inputs) == 1 else ('', '', [])
    sides = [side if isinstance(side, int) else None for side in shape]
    fits = len(sides) == 4 and sides[1] in (3, None) and (sides[2] == sides[3] or None in sides[2:])
    if name != 'image' or kind != 'float32' or not fits:
        shapes = [', '.join(str(side) if isinstance(side, int) else '?' for side in shape) for _, _, shape in inputs]
        found = ', '.join(f'{one_line(name)} {kind} [{s}]' for (name, kind, _), s in zip(inputs, shapes))
        raise UserError(
            f'--model_file {model_file}: must have one input, image float32 [batch, 3, S, S], as tools/export_onnx.py '
            f'writes it; has {found or "none"}'
        )
    return None if None in sides[2:] else [3, *sides[2:]]
