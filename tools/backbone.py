"""A pretrained network in an ONNX file as a backbone: the features of its cells, and a linear classifier behind them.

Its output, for images [B, 3, S, S], has one of these forms:

    [B, C, H, H]       convolutional networks
    [B, H, H, C]       channels last
    [B, P + H·H, C]    tokens: P of them before the cells (class token, registers), then the cells in row-major order
"""

import os

import numpy as np

from util import files
from util.data.onnx_annotator import CHANNELS_LAST, TOKENS, OnnxNetwork, check_cells, find_cells
from util.errors import UserError

LIMIT = 1.9e9  # bytes that fit into an ONNX file; of a larger one the weights go to FILE.onnx.data


class Backbone:
    """The network of an ONNX file, on images that are prepared as its metadata or the flags say.

    given: {img_size, mean, std, interpolation: value of the flag, or None}. prefix_tokens: see read_layout. Raises
    UserError if the preparation is unknown, if the output has no cells, or if the cells do not tile the image.
    """

    def __init__(self, path, given, prefix_tokens=None):
        self.network = OnnxNetwork(path, 'BACKBONE')
        self.path, self.named = path, self.network.named
        given = {key: value for key, value in given.items() if value is not None}
        self.settings = {'interpolation': 'bicubic', **self.network.settings, **given}
        missing = [f'--{key}' for key in ('img_size', 'mean', 'std') if key not in self.settings]
        if missing:
            raise UserError(
                f'{self.named}: its metadata does not say how images are prepared for it; give {" ".join(missing)} '
                'as in its training'
            )
        size = self.settings['img_size']
        images = np.random.default_rng(0).standard_normal((2, 3, size, size), dtype='float32')
        self.layout = read_layout(self.network.run(images).shape, prefix_tokens, self.named)
        check_cells(size, self.layout.side)

    def settings_text(self):
        """{flag: text} of the settings, as metadata has them."""
        lists = {key: ' '.join(map(str, self.settings[key])) for key in ('mean', 'std')}
        return {**self.settings, 'img_size': str(self.settings['img_size']), **lists}

    def cells(self, images):
        """float32 [B, 3, S, S] -> float32 [B, H·H, C], the features of the cells in row-major order."""
        return self.layout.cells(self.network.run(images))


def read_layout(shape, prefix_tokens, named):
    """The Layout of an output of this shape.

    prefix_tokens: the number of tokens before the cells; None: one or none, whichever makes the others a square. Raises
    UserError, which begins with `named`, if there are no cells.
    """
    found = f'{named}: its output is [{", ".join(["B", *map(str, shape[1:])])}]'
    layout = find_cells(shape, (0, 1) if prefix_tokens is None else (prefix_tokens,))
    if layout:
        return layout
    if len(shape) == 3:
        raise UserError(
            f'{found}; as [B, N, C] its {shape[1]} tokens are no square of cells. --prefix_tokens N leaves out the '
            'first N, class token and registers'
        )
    note = ' (of whole images)' if len(shape) == 2 else ''
    raise UserError(
        f'{found}{note}, which has no cells; it must be [B, C, H, H], [B, H, H, C] or [B, N, C]. Export the network '
        'without its pool and its head, as tools/export_dense_onnx.py --features does'
    )


def write_annotator(backbone, weight, bias, path, metadata):
    """Write the ONNX file `path`: the backbone and a linear classifier of every cell, scores [B, K, H, H].

    weight: [K, C] and bias: [K], of the backbone's features. metadata: {str: str}, added to that of the backbone.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(backbone.path)
    graph, layout = model.graph, backbone.layout
    value = graph.output[0]
    last = value.name

    def constant(name, values):
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), f'annotator.{name}'))
        return f'annotator.{name}'

    def step(kind, *more_inputs, **attributes):
        nonlocal last
        name = f'annotator.{kind.lower()}.{len(graph.node)}'
        graph.node.append(helper.make_node(kind, [last, *more_inputs], [name], name, **attributes))
        last = name

    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        step('Cast', to=TensorProto.FLOAT)
    if layout.form == CHANNELS_LAST:
        step('Transpose', perm=[0, 3, 1, 2])
    elif layout.form == TOKENS:
        to_the_end = np.iinfo('int64').max
        step('Slice', constant('starts', [layout.skipped]), constant('ends', [to_the_end]), constant('axes', [1]))
        step('Transpose', perm=[0, 2, 1])
        step('Reshape', constant('shape', [0, layout.channels, layout.side, layout.side]))  # 0: as it is
    kernel = weight.astype('float32')[:, :, None, None]
    step('Conv', constant('weight', kernel), constant('bias', bias.astype('float32')))
    graph.node[-1].output[0] = 'scores'
    del graph.output[:]
    shape = ['batch', len(bias), None, None]
    graph.output.append(helper.make_tensor_value_info('scores', TensorProto.FLOAT, shape))
    existing = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**existing, **metadata})
    if sum(len(tensor.raw_data) for tensor in graph.initializer) < LIMIT:  # above 2 GB model.ByteSize() fails
        files.write(path, model.SerializeToString())
    else:
        beside = f'{os.path.basename(path)}.data'
        onnx.save(model, path, save_as_external_data=True, location=beside)
