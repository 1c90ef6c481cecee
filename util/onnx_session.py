"""An ONNX file opened in ONNX Runtime, an optional package; its errors in one line."""

import os
import re

from util import files
from util.errors import UserError, one_line


def open_session(path, flag, threads, gpu):
    """The InferenceSession of a file. flag: that names the file. threads: of the CPU, 0 for all cores.

    gpu: run on the GPU if ONNX Runtime's GPU package is installed. Raises UserError.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f'{flag} FILE.onnx needs ONNX Runtime ({one_line(error)}); `pip install onnxruntime`, for GPUs '
            '`pip install onnxruntime-gpu`'
        )
    if not os.path.isfile(path):
        raise UserError(f'{flag} {path}: no such file')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are in the exceptions
    providers = providers_of(onnxruntime) if gpu else ['CPUExecutionProvider']
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # its exceptions have no common base class
        found = files.other_kind(path)
        why = f'not an ONNX file, but {found}' if found else f'ONNX Runtime cannot open it ({reason(error)})'
        raise UserError(f'{flag} {path}: {why}')


def providers_of(onnxruntime):
    """CUDA on the GPU that Paddle's launcher gave this process, then the CPU, which ONNX Runtime uses if CUDA fails."""
    if 'CUDAExecutionProvider' not in onnxruntime.get_available_providers():
        return ['CPUExecutionProvider']
    gpu = int(os.environ.get('FLAGS_selected_gpus', '0').split(',')[0])
    return [('CUDAExecutionProvider', {'device_id': gpu}), 'CPUExecutionProvider']


def reason(error):
    """An error message of ONNX Runtime without the code in front."""
    return one_line(' '.join(re.sub(r'^\[ONNXRuntimeError\] : \d+ : \w+ : ', '', str(error)).split()))
