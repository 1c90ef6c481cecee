"""OpenVINO, the package: it runs model.xml with its model.bin, and model.onnx, on the CPU."""

import threading

from util.deploy.network import Network, check_input
from util.errors import UserError, one_line

PRECISIONS = {'fp32': 'f32', 'int8': 'f32', 'bf16': 'bf16'}  # of what the file has not quantised


class OpenvinoNetwork(Network):
    """A file in OpenVINO; several threads run it at the same time. Raises UserError for an unfit file.

    precision: of the layers that the file has not quantised; int8 is fp32 for them.
    """

    library = 'OpenVINO'

    def __init__(self, model_file, precision='fp32', threads=1, num_classes=None):
        super().__init__(model_file, 'openvino', threads, num_classes)
        try:
            import openvino
            from openvino.frontend import FrontEndManager
        except ImportError as error:
            raise UserError(f'--model_file {model_file} needs OpenVINO ({one_line(error)}); `pip install openvino`')
        self.version = openvino.__version__.partition('-')[0]
        properties = {
            'INFERENCE_NUM_THREADS': threads,
            'INFERENCE_PRECISION_HINT': PRECISIONS[precision],
            'PERFORMANCE_HINT': 'LATENCY',
            'ENABLE_CPU_PINNING': False,  # several processes of a service would be pinned to the same cores
        }
        try:
            # Core.read_model tries every format it knows on a file that is none of them, and prints what each one says
            reader = FrontEndManager().load_by_framework('ir' if model_file.endswith('.xml') else 'onnx')
            model = reader.convert(reader.load(model_file))
            self._model, self._compile = model, lambda model: openvino.Core().compile_model(model, 'CPU', properties)
            self._compiled = {None: self._compile(model)}  # {batch size: network}; None: for any
        except Exception as error:
            raise UserError(f'--model_file {model_file}: OpenVINO {self.version} cannot load it ({self.reason(error)})')
        inputs = []
        for value in model.inputs:
            shape = [side.get_length() if side.is_static else str(side) for side in value.partial_shape]
            inputs.append((value.any_name, value.element_type.to_dtype().name, shape))
        self.image_shape = check_input(model_file, inputs)
        self._thread = threading.local()  # a request holds the inputs and outputs of one run
        self._compiling = threading.Lock()

    @staticmethod
    def reason(error):
        """The last line of OpenVINO's message; the others name places in its source."""
        return one_line(str(error).strip().split('\n')[-1])

    def _size_of(self, batch):
        """The key of `_compiled` for a batch of this size. The first size that comes gets a network of its own.

        It saves OpenVINO the bookkeeping of open shapes: 5 to 10 % of the time.
        """
        with self._compiling:
            if len(self._compiled) == 1 and self.image_shape:
                model = self._model.clone()
                model.reshape([batch, *self.image_shape])
                self._compiled[batch] = self._compile(model)
        return batch if batch in self._compiled else None

    def run(self, images):
        if not hasattr(self._thread, 'requests'):
            self._thread.requests = {}
        requests, size = self._thread.requests, self._size_of(len(images))
        if size not in requests:
            requests[size] = self._compiled[size].create_infer_request()
        return requests[size].infer({0: images}, share_inputs=True)[0]
