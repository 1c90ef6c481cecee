"""ONNX files of tiny networks: a score of each class for each patch of the image, by one convolution."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def patches(classes=10, patch=16, seed=0):
    """The convolution's (weight [C, 3, P, P], bias [C]), float32."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.05, (classes, 3, patch, patch)).astype('float32'), rng.normal(0, 1, classes).astype(
        'float32'
    )


def save(path, weight, bias, output='BCHW', batch='batch', size='S', channels=3, metadata=(), dtype='float32'):
    """Write the network to path; returns it as a string.

    output: BCHW, BHWC, BNC, a class token before BNC (B1NC), softmax (of BCHW), mean (of BCHW, [B, C]),
    or ids (best class, whole numbers). batch, size: of the input, a number or the name of any number.
    """
    floats = TensorProto.FLOAT if dtype == 'float32' else TensorProto.FLOAT16
    constants = {'weight': weight.astype(dtype), 'bias': bias.astype(dtype), 'flat': np.array([0, len(bias), -1])}
    conv = helper.make_node('Conv', ['image', 'weight', 'bias'], ['BCHW'], strides=list(weight.shape[2:]))
    flat = helper.make_node('Reshape', ['BCHW', 'flat'], ['BCN'])
    turn = helper.make_node('Transpose', ['BCN'], ['BNC'], perm=[0, 2, 1])
    mean = helper.make_node('ReduceMean', ['BCN'], ['token'], axes=[2], keepdims=1)
    steps = {
        'BCHW': [conv],
        'BHWC': [conv, helper.make_node('Transpose', ['BCHW'], ['BHWC'], perm=[0, 2, 3, 1])],
        'BNC': [conv, flat, turn],
        'B1NC': [conv, flat, mean, helper.make_node('Concat', ['token', 'BCN'], ['both'], axis=2)]
        + [helper.make_node('Transpose', ['both'], ['B1NC'], perm=[0, 2, 1])],
        'mean': [conv, helper.make_node('ReduceMean', ['BCHW'], ['mean'], axes=[2, 3], keepdims=0)],
        'softmax': [conv, helper.make_node('Softmax', ['BCHW'], ['softmax'], axis=1)],
        'ids': [conv, helper.make_node('ArgMax', ['BCHW'], ['ids'], axis=1)],
    }[output]
    used = {name for step in steps for name in step.input}
    kind = TensorProto.INT64 if output == 'ids' else floats
    graph = helper.make_graph(
        steps,
        'patches',
        [helper.make_tensor_value_info('image', floats, [batch, channels, size, size])],
        [helper.make_tensor_value_info(output, kind, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))
    return str(path)
