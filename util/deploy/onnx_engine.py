"""ONNX Runtime: it runs model.onnx on the CPU, in float32, and in int8 where the file is quantised."""

import numpy as np

from util.deploy.network import Network, check_input
from util.onnx_session import open_session, reason

TYPES = {'tensor(float)': 'float32', 'tensor(float16)': 'float16'}


class OnnxRuntimeNetwork(Network):
    """An ONNX file in ONNX Runtime; several threads run it at the same time. Raises UserError for an unfit file."""

    library = 'ONNX Runtime'
    reason = staticmethod(reason)

    def __init__(self, model_file, threads=1, num_classes=None):
        super().__init__(model_file, 'onnxruntime', threads, num_classes)
        self._session = open_session(model_file, '--model_file', threads, gpu=False)
        import onnxruntime

        self.version = onnxruntime.__version__
        inputs = [(value.name, TYPES.get(value.type, value.type), value.shape) for value in self._session.get_inputs()]
        self.image_shape = check_input(model_file, inputs)

    def run(self, images):
        return np.asarray(self._session.run(None, {'image': images})[0])
