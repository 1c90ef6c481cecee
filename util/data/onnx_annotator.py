"""An annotator in an ONNX file, run by ONNX Runtime: any network with one image input and one dense output.

    input    [B, 3, S, S], float32 or float16, normalised
    output   logits [B, C, H, H], or [B, N, C] in row-major order with N = H·H cells; if N = 1 + H·H, the first is a
             class token, which is left out

Metadata properties of the file may describe the input, under the names of generate_label.py's flags. Flags override
them:

    img_size        576
    mean, std       0.485 0.456 0.406: three numbers in 0-1, between spaces or commas
    interpolation   bicubic

tools/fit_annotator.py also writes class_names, a JSON list, and backbone_sha256, the fingerprint of its BACKBONE.
"""

import hashlib
import json
import math
import os
import re
from typing import NamedTuple

import numpy as np
import paddle

from util.class_names import KEY
from util.errors import UserError, one_line
from util.onnx_session import open_session, reason

DTYPES = {'tensor(float)': 'float32', 'tensor(float16)': 'float16'}
CELLS = (1, 2, 4, 8, 14, 16, 32, 64)  # pixels along the side of a cell in common networks; 14: some ViTs
EXTERNAL = ('.data', '_data')  # endings of the files in which exporters store weights outside of FILE.onnx
PAGE = 'docs/token_labels.md, "Making maps", shows how to export one'


class OnnxNetwork:
    """A network opened in ONNX Runtime; it runs on a GPU if ONNX Runtime's GPU package is installed.

    flag: that names the file, for messages. metadata: {str: str}. settings: {flag: value} of the metadata, and of a
    fixed image size. class_names: by class id, from the metadata, or None. Raises UserError if the file is not a
    network with one image input and one output.
    """

    def __init__(self, path, flag='--model'):
        self.path, self.named = path, f'{flag} {path}'
        session = open_session(path, flag, int(os.environ.get('OMP_NUM_THREADS') or 0), gpu=True)
        self._session = session
        self.provider = session.get_providers()[0]
        self._check_input()
        outputs = session.get_outputs()
        if len(outputs) != 1:
            names = ', '.join(one_line(output.name) for output in outputs)
            raise UserError(
                f'{self.named}: must have one output, has {len(outputs)} ({names}); export the dense output'
            )
        self._output = outputs[0].name
        self.metadata = session.get_modelmeta().custom_metadata_map
        self.settings = self._read_settings(self.metadata)
        try:
            self.class_names = json.loads(self.metadata.get(KEY, 'null'))
        except ValueError:
            raise UserError(f"{path}: its metadata property '{KEY}' is not a list in JSON; correct it in the file")

    def _check_input(self):
        inputs = self._session.get_inputs()
        shapes = [f'{one_line(value.name)} {_shape(value.shape)}' for value in inputs]
        fits = len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].type in DTYPES
        if fits:
            batch, channels, height, width = [side if isinstance(side, int) else None for side in inputs[0].shape]
            fits = channels in (None, 3) and (height == width or None in (height, width))
        if not fits:
            raise UserError(
                f'{self.named}: must have one input of floats [B, 3, S, S], has {", ".join(shapes) or "none"}'
            )
        self._input, self._dtype = inputs[0].name, DTYPES[inputs[0].type]
        self.batch = batch or None  # the number of images that a run takes; None: any
        self.fixed_size = height or width

    def _read_settings(self, properties):
        settings = {'img_size': self.fixed_size} if self.fixed_size else {}
        for key, read in (('img_size', _whole), ('mean', _three), ('std', _three), ('interpolation', str.strip)):
            if key in properties:
                try:
                    settings[key] = read(properties[key])
                except ValueError:
                    raise UserError(
                        f"{self.path}: its metadata property '{key}' is '{one_line(properties[key])}', which is not "
                        f'a value of --{key}; correct it in the file (see generate_label.py --help)'
                    )
        return settings

    def run(self, images):
        """numpy float32 [B, 3, S, S] -> the network's output, float32. Raises UserError if the network fails."""
        images = images.astype(self._dtype)
        if self.batch is None:
            return self._run(images)
        outputs = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            padding = np.zeros([self.batch - len(part), *images.shape[1:]], self._dtype)
            outputs.append(self._run(np.concatenate([part, padding]))[: len(part)])
        return np.concatenate(outputs)

    def _run(self, images):
        try:
            output = self._session.run([self._output], {self._input: images})[0]
        except Exception as error:
            raise UserError(f'{self.named}: fails on images {_shape(images.shape)} ({reason(error)})')
        if not isinstance(output, np.ndarray) or output.dtype.kind != 'f':
            raise UserError(f'{self.named}: its output must be scores, floating point numbers')
        if output.shape[:1] != images.shape[:1]:
            raise UserError(
                f'{self.named}: its output for {len(images)} images is {_shape(output.shape)}; the first '
                'dimension must be the number of images'
            )
        return output.astype('float32')

    def fingerprint(self):
        """16 hex digits that identify the file, with its external weights."""
        digest = hashlib.sha256()
        for path in [self.path, *(self.path + ending for ending in EXTERNAL)]:
            if os.path.isfile(path):
                with open(path, 'rb') as f:
                    for block in iter(lambda: f.read(1 << 24), b''):
                        digest.update(block)
        return digest.hexdigest()[:16]


FIRST, CHANNELS_LAST, TOKENS = '[B, C, H, H]', '[B, H, H, C]', '[B, N, C]'


class Layout(NamedTuple):
    """Where the cells are in a dense output."""

    form: str  # FIRST, CHANNELS_LAST or TOKENS
    skipped: int  # tokens before the cells
    side: int  # cells a side, H
    channels: int  # C

    def cells(self, output):
        """An output -> float32 [B, H·H, C], the cells in row-major order."""
        if self.form == FIRST:
            output = output.reshape(*output.shape[:2], -1).transpose(0, 2, 1)
        elif self.form == CHANNELS_LAST:
            output = output.reshape(len(output), -1, self.channels)
        return output[:, self.skipped :]


def find_cells(shape, prefix_tokens=(0, 1)):
    """The Layout of an output of this shape; None if it has no square of cells.

    prefix_tokens: how many tokens may come before the cells; the first number after which the others are a square.
    """
    if len(shape) == 4 and shape[2] == shape[3]:
        return Layout(FIRST, 0, shape[2], shape[1])
    if len(shape) == 4 and shape[1] == shape[2]:
        return Layout(CHANNELS_LAST, 0, shape[1], shape[3])
    if len(shape) == 3:
        for skipped in prefix_tokens:
            side = math.isqrt(max(shape[1] - skipped, 0))
            if side and side * side == shape[1] - skipped:
                return Layout(TOKENS, skipped, side, shape[2])
    return None


class OnnxHead:
    """The annotator of an OnnxNetwork, on images of size x size pixels.

    num_classes: the number that it must have; None: any. Raises UserError if the output is not a map of logits, or if
    its axes are ambiguous.
    """

    def __init__(self, network, size, num_classes=None):
        self._network = network
        self.backbone = network.metadata.get('backbone_sha256')
        named = network.named
        if network.fixed_size not in (None, size):
            raise UserError(
                f'{named}: takes images of {network.fixed_size} pixels, but --img_size (or its metadata) says {size}'
            )
        images = np.random.default_rng(0).standard_normal((2, 3, size, size), dtype='float32')
        output = network.run(images)
        self._layout = check_shape(output.shape, num_classes, named)
        self.side, self.num_classes = self._layout.side, self._layout.channels
        scores = self._layout.cells(output)
        if np.isfinite(scores).all() and (scores >= 0).all() and np.abs(scores.sum(axis=-1) - 1).max() < 1e-3:
            raise UserError(
                f'{named}: the scores of a cell are probabilities (their sum is 1), but a map holds logits; '
                'export the network without its softmax'
            )
        check_cells(size, self.side)

    def __call__(self, images):
        """Tensor [B, 3, S, S] -> tensor float32 [B, H·H, C]."""
        cells = self._layout.cells(self._network.run(images.numpy()))
        return paddle.to_tensor(np.ascontiguousarray(cells))

    def fingerprint(self):
        return self._network.fingerprint()


def check_shape(shape, num_classes, named):
    """The Layout of an annotator's output of this shape.

    num_classes: the number that it must have; None: any. Raises UserError, which begins with `named`, for another shape
    or number of classes, and for an ambiguous shape: if num_classes is None, [B, N, C] may also be [B, C, N].
    """
    found = f'its output is {_shape(["B", *shape[1:]])}'
    layout = find_cells(shape)
    if layout is None or layout.form == CHANNELS_LAST:
        note = ', the scores of whole images' if len(shape) == 2 else ''
        raise UserError(
            f'{named}: {found}{note}; must be dense, [B, C, H, H] or [B, N, C] with N = H·H cells or a class token '
            f'and H·H cells. {PAGE}'
        )
    classes = layout.channels
    if layout.form == TOKENS and num_classes is None and find_cells([1, classes, shape[1]]):
        raise UserError(
            f'{named}: {found}; as [B, N, C] it has {classes} classes, as [B, C, N] {shape[1]}. '
            f'If it is [B, N, C], add --nb_classes {classes}; if not, export it transposed'
        )
    if num_classes not in (None, classes):
        hint = '; if it is [B, C, N], export it transposed' if shape[1] == num_classes else ''
        raise UserError(f'{named}: {found}, so it has {classes} classes, not --nb_classes {num_classes}{hint}')
    return layout


def check_cells(size, side):
    """Raise UserError if side x side cells do not tile an image of size x size pixels."""
    cell = size / side
    if cell not in CELLS:
        raise UserError(
            f'--img_size {size}: {side}x{side} cells of {cell:g} pixels do not tile the image, so labels would not lie '
            'on their pixels; use a multiple of the stride, 32 for most networks'
        )


def _shape(shape):
    """A shape as text, such as [1, 3, S, S]; a dimension without name and number is ?."""
    return f'[{", ".join(one_line(side) if side not in (None, "") else "?" for side in shape)}]'


def _whole(text):
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _three(text):
    """'0.5, 0.5, 0.5' -> (0.5, 0.5, 0.5); brackets may surround it."""
    numbers = tuple(float(word) for word in re.split(r'[\s,]+', text.strip(' ()[]')))
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError(text)
    return numbers
