"""OpenVINO, the package: it runs model.xml with its model.bin, and model.onnx, on the CPU."""

import functools
import threading

from util.deploy.network import Network, check_input
from util.errors import UserError, one_line

FIXED_SIZES = 2  # batch sizes; infer.py has as many, the last batch is smaller
PRECISIONS = {'fp32': 'f32', 'int8': 'f32', 'bf16': 'bf16'}  # of what the file has not quantised


@functools.lru_cache(maxsize=None)
def core():
    """The one openvino.Core of this process.

    Each Core gives the thread a stack for signal handlers. When several are deleted in another order than they came,
    the stack of a deleted one stays in use, and the next signal (Ctrl-C, the end of a child) is a segmentation fault.
    """
    import openvino

    return openvino.Core()


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
        except Exception as error:
            raise UserError(f'--model_file {model_file}: OpenVINO {self.version} cannot load it ({self.reason(error)})')
        inputs = []
        for value in model.inputs:
            shape = [side.get_length() if side.is_static else str(side) for side in value.partial_shape]
            inputs.append((value.any_name, value.element_type.to_dtype().name, shape))
        self.image_shape = check_input(model_file, inputs)
        self._model, self._compile = model, lambda model: core().compile_model(model, 'CPU', properties)
        self._compiled, self._compiling = {}, threading.Lock()  # {batch size: network}; None: for any
        self._thread = threading.local()  # a request holds the inputs and outputs of one run

    @staticmethod
    def reason(error):
        """The last line of OpenVINO's message; the others name places in its source."""
        return one_line(str(error).strip().split('\n')[-1])

    def _size_of(self, batch):
        """The key of `_compiled` for a batch of this size; compiles the network if it is new.

        The first sizes have a network each: without open shapes it is 4 to 10 % faster. All others share one.
        """
        with self._compiling:
            fixed = [size for size in self._compiled if size]
            size = batch if self.image_shape and (batch in fixed or len(fixed) < FIXED_SIZES) else None
            if size not in self._compiled:
                model = self._model.clone()
                if size:
                    model.reshape([size, *self.image_shape])
                self._compiled[size] = self._compile(model)
        return size

    def run(self, images):
        if not hasattr(self._thread, 'requests'):
            self._thread.requests = {}
        requests, size = self._thread.requests, self._size_of(len(images))
        if size not in requests:
            requests[size] = self._compiled[size].create_infer_request()
        return requests[size].infer({0: images}, share_inputs=True)[0]
