"""Paddle Inference and its engines: an exported model as a function from images to the output of its last layer.

engine      on    what runs the network
paddle      CPU   Paddle's own kernels
onednn      CPU   oneDNN
openvino    CPU   OpenVINO; in Paddle 3's wheels for x86, takes .pdmodel only
gpu         GPU   Paddle's own kernels
tensorrt    GPU   TensorRT; in wheels that were built with it
"""

import tempfile

import numpy as np
import paddle
from paddle import inference

from util.deploy import inference_yml
from util.errors import UserError, one_line
from util.runtime import cpu_fields

CPU_ENGINES = ('openvino', 'onednn', 'paddle')  # the likely order of their speed
BF16_OPS = {'fc', 'matmul_v2', 'fused_matmul', 'conv2d', 'fused_conv2d'}


def on_cpu(engine):
    return engine in CPU_ENGINES


def gpu_is_there():
    return paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0


def bf16_is_there():
    """Whether this processor calculates in bfloat16; elsewhere it would be emulated, slowly."""
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(cpu_fields().get('flags', '').split())


def cpu_engines(model_file, precision='fp32', ir_optim=True):
    """The engines of CPU_ENGINES that this wheel has and that take this model in this precision."""
    found = []
    if ir_optim and not inference_yml.is_json(model_file) and hasattr(inference.Config, 'enable_openvino_engine'):
        config = inference.Config()
        config.enable_openvino_engine()  # a wheel without it logs that and stays as it was
        found += ['openvino'] if config.openvino_engine_enabled() else []
    config = inference.Config()
    config.enable_mkldnn()
    found += ['onednn'] if config.mkldnn_enabled() else []
    return found if precision == 'bf16' else found + ['paddle']


def check_asked(engine, precision, model_file, ir_optim=True):
    """Raises UserError for an engine or precision that this machine, this wheel or this model does not have."""
    version = paddle.__version__
    if engine == 'tensorrt' and not gpu_is_there():
        raise UserError('--use_tensorrt needs a GPU and a Paddle built with TensorRT; leave it out to run on the CPU')
    if engine == 'tensorrt' and not any(inference.get_trt_compile_version()):
        raise UserError(
            f'--use_tensorrt: this Paddle {version} was built without TensorRT; leave it out, or install '
            "a wheel with it from Paddle's own index"
        )
    if precision == 'int8' and not inference_yml.is_quantised(model_file):
        raise UserError(
            f'--precision int8: {model_file} is not calibrated (it has no quantisation operators); '
            'quantise it first, with PaddleSlim for instance'
        )
    if precision == 'fp16' and on_cpu(engine):
        raise UserError('--precision fp16 needs a GPU; use fp32 here, or bf16 on processors that have it')
    if precision == 'bf16' and not on_cpu(engine):
        raise UserError('--precision bf16 is for CPUs; use fp16 on the GPU')
    if precision == 'bf16' and not bf16_is_there():
        raise UserError('--precision bf16: this processor does not calculate in bfloat16 (no avx512_bf16, no amx_bf16)')
    if engine == 'openvino' and not ir_optim:
        raise UserError('--ir_optim False: OpenVINO needs the rewritten graph; take --engine onednn or paddle')
    if engine == 'openvino' and inference_yml.is_json(model_file):
        raise UserError(f'--model_file {model_file}: OpenVINO takes .pdmodel only; export with --format pdmodel')
    if on_cpu(engine) and engine not in cpu_engines(model_file, precision, ir_optim):
        raise UserError(
            f'--engine {engine}: not in this build of Paddle {version}, or not with --precision '
            f'{precision}; use {" or ".join(cpu_engines(model_file, precision, ir_optim))}'
        )


def reason(error):
    """The sentence in an exception of Paddle, without its C++ stack."""
    text = str(error).partition('Error Message Summary:')[2] or str(error)
    return one_line(text.strip('-\n '))


class Predictor:
    """predictor(images float32 [B, 3, S, S]) -> float32 [B, C], for any B.

    precision: fp32; fp16 and int8 as the engine takes them; bf16 for CPU engines. Raises UserError when Paddle refuses
    the files or the images.
    """

    def __init__(
        self, model_file, params_file, engine='onednn', precision='fp32', threads=1, ir_optim=True, gpu_mem=8000
    ):
        self.model_file, self.engine = model_file, engine
        self.image_shape = inference_yml.model_shapes(model_file)[0][1:]
        self.config = config = inference.Config(model_file, params_file)
        config.disable_glog_info()
        config.switch_ir_optim(ir_optim)
        if not inference_yml.is_json(model_file):  # Paddle 3.3 raises for .json
            config.enable_memory_optim()
        if on_cpu(engine):
            self._set_up_cpu(config, precision, threads)
        else:
            self._set_up_gpu(config, precision, gpu_mem)
        with tempfile.TemporaryDirectory() as cache:
            if engine == 'openvino':  # else it leaves its compiled model in ./__cache__, and believes what lies there
                config.set_optim_cache_dir(cache)
            try:
                self._predictor = inference.create_predictor(config)
            except Exception as error:  # C++ exceptions come as RuntimeError, ValueError, IndexError, OSError …
                raise UserError(
                    f'{model_file}: Paddle {paddle.__version__} cannot load it with engine {engine} ({reason(error)})'
                )
        self._image = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def _set_up_cpu(self, config, precision, threads):
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        if self.engine == 'onednn':
            config.enable_mkldnn()
            if precision == 'bf16':
                config.enable_mkldnn_bfloat16()
                if not inference_yml.is_json(
                    self.model_file
                ):  # with all operators Paddle 3.3 mixes up dtypes in additions
                    config.set_bfloat16_op(BF16_OPS)
            if precision == 'int8':
                config.enable_mkldnn_int8()
        elif hasattr(config, 'disable_mkldnn'):
            config.disable_mkldnn()
        if self.engine == 'openvino':
            kinds = inference.PrecisionType
            config.enable_openvino_engine(kinds.Bfloat16 if precision == 'bf16' else kinds.Float32)

    def _set_up_gpu(self, config, precision, gpu_mem):  # written for GPUs but not run on one so far
        kinds = inference.PrecisionType
        kind = {'fp32': kinds.Float32, 'fp16': kinds.Half, 'int8': kinds.Int8}[precision]
        config.enable_use_gpu(gpu_mem, 0, kinds.Half if precision == 'fp16' else kinds.Float32)
        if self.engine == 'tensorrt':
            config.enable_tensorrt_engine(workspace_size=1 << 30, precision_mode=kind, use_calib_mode=False)
            config.enable_tuned_tensorrt_dynamic_shape()  # no file: shapes are collected in the first run

    def __call__(self, images):
        if list(images.shape[1:]) != self.image_shape:  # OpenVINO would give the outputs of the run before
            raise UserError(f'{self.model_file}: takes images {self.image_shape}, not {list(images.shape[1:])}')
        try:
            self._image.reshape(images.shape)
            self._image.copy_from_cpu(np.ascontiguousarray(images, 'float32'))
            self._predictor.run()
            return self._output.copy_to_cpu()
        except Exception as error:
            raise UserError(
                f'{self.model_file}: Paddle {paddle.__version__} cannot run it on images '
                f'{list(images.shape)} with engine {self.engine} ({reason(error)})'
            )
