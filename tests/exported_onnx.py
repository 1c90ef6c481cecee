"""A tiny ONNX model, also for OpenVINO and quantised: a score of each of ten classes for an image of 32 pixels."""

import numpy as np
import onnx
import onnx_files
from onnx import helper, numpy_helper

CLASSES, SIZE, PATCH = 10, 32, 16


def save_onnx(path, classes=CLASSES, rename='', **changes):
    """Write the network; returns the path. rename: of the input. changes: of onnx_files.save."""
    weight, bias = onnx_files.patches(classes)
    channels = changes.get('channels', 3)
    onnx_files.save(path, weight[:, :channels], bias, **{'output': 'mean', 'size': SIZE, **changes})
    if rename:
        model = onnx.load(path)
        model.graph.input[0].name = model.graph.node[0].input[0] = rename
        onnx.save(model, path)
    return path


def save_quantised_onnx(path):
    """Write the network with its images quantised to 8 bits; returns the path."""
    model = onnx.load(save_onnx(path))
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(0.03), 'scale'))
    graph.initializer.append(numpy_helper.from_array(np.uint8(128), 'zero'))
    graph.node[0].input[0] = 'levels'
    graph.node.insert(0, helper.make_node('DequantizeLinear', ['quantised', 'scale', 'zero'], ['levels']))
    graph.node.insert(0, helper.make_node('QuantizeLinear', ['image', 'scale', 'zero'], ['quantised']))
    onnx.save(model, path)
    return path


def save_openvino(onnx_path):
    """Write model.xml and model.bin beside an ONNX file; returns the path of model.xml."""
    import openvino

    path = f'{onnx_path.rpartition(".")[0]}.xml'
    openvino.save_model(openvino.Core().read_model(onnx_path), path, compress_to_fp16=False)
    return path


def expected_logits(inputs):
    """What the network computes: inputs float32 [B, 3, S, S] -> [B, 10]."""
    weight, bias = onnx_files.patches(CLASSES)
    side = SIZE // PATCH
    cells = inputs.reshape(len(inputs), 3, side, PATCH, side, PATCH)
    return np.einsum('bcyixj,kcij->bk', cells, weight) / side**2 + bias
