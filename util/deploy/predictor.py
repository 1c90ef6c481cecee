"""An exported model in Paddle Inference, as a function from images to its outputs, and the choice of the engine.

engine      device   computes with
openvino    CPU      OpenVINO; part of Paddle 3's wheels for x86, reads .pdmodel only
onednn      CPU      oneDNN
paddle      CPU      Paddle's own kernels
gpu         GPU      Paddle's own kernels
tensorrt    GPU      TensorRT; part of wheels that were built with it
"""

import os
import tempfile

import numpy as np
import paddle
from paddle import inference

from util.deploy.inference_yml import check_files, is_json
from util.errors import UserError, one_line
from util.logger import log
from util.paddle_fixes import death_of_worker
from util.runtime import cpu_fields

CPU_ENGINES = ('openvino', 'onednn', 'paddle')  # the order in which --engine auto tries them
# with all operators in bfloat16 Paddle 3.3 mixes up dtypes in additions
BF16_OPS = {'fc', 'matmul_v2', 'fused_matmul', 'conv2d', 'fused_conv2d'}


# -- what this machine, this wheel and this model support -------------------------------------------------------------


def has_gpu():
    return paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0


def has_bf16():
    """Whether this processor calculates in bfloat16. Others would emulate it slowly."""
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(cpu_fields().get('flags', '').split())


def has_openvino():
    if not hasattr(inference.Config, 'enable_openvino_engine'):
        return False
    config = inference.Config()
    config.enable_openvino_engine()  # without OpenVINO in the wheel this logs a line and changes nothing
    return config.openvino_engine_enabled()


def has_onednn():
    config = inference.Config()
    config.enable_mkldnn()
    return config.mkldnn_enabled()


def cpu_engines(model_file, precision='fp32', ir_optim=True):
    """Those of CPU_ENGINES that can run this model in this precision here, in their order."""
    engines = []
    if ir_optim and not is_json(model_file) and precision != 'int8' and has_openvino():
        engines.append('openvino')
    if has_onednn():
        engines.append('onednn')
    if precision != 'bf16':
        engines.append('paddle')
    return engines


def is_quantised(model_file):
    """Whether a model has quantisation operators, which PaddleSlim's calibration inserts."""
    with open(model_file, 'rb') as f:
        data = f.read()
    return b'quantize_linear' in data or b'fake_quantize' in data


def check_engine(engine, precision, model_file, ir_optim=True):
    """Raise UserError for an engine or precision that this machine, this wheel or this model does not support."""
    version = paddle.__version__
    if engine == 'tensorrt' and not has_gpu():
        raise UserError('--use_tensorrt needs a GPU and a Paddle built with TensorRT; leave it out to run on the CPU')
    if engine == 'tensorrt' and not any(inference.get_trt_compile_version()):
        raise UserError(
            f'--use_tensorrt: this Paddle {version} was built without TensorRT; leave it out, or install '
            "a wheel with it from Paddle's own index"
        )
    if precision == 'int8' and not is_quantised(model_file):
        raise UserError(
            f'--precision int8: {model_file} is not calibrated (it has no quantisation operators); '
            'quantise it first, with PaddleSlim for instance'
        )
    if precision == 'fp16' and engine in CPU_ENGINES:
        raise UserError('--precision fp16 needs a GPU; use fp32 here, or bf16 on processors that have it')
    if precision == 'bf16' and engine not in CPU_ENGINES:
        raise UserError('--precision bf16 is for CPUs; use fp16 on the GPU')
    if precision == 'bf16' and not has_bf16():
        raise UserError('--precision bf16: this processor does not calculate in bfloat16 (no avx512_bf16, no amx_bf16)')
    if engine == 'openvino' and not ir_optim:
        raise UserError('--ir_optim False: OpenVINO needs the rewritten graph; use --engine onednn or paddle')
    if engine == 'openvino' and is_json(model_file):
        raise UserError(f'--model_file {model_file}: OpenVINO reads .pdmodel only; export with --format pdmodel')
    if engine in CPU_ENGINES and engine not in cpu_engines(model_file, precision, ir_optim):
        raise UserError(
            f'--engine {engine}: not in this build of Paddle {version}, or not with --precision '
            f'{precision}; use {" or ".join(cpu_engines(model_file, precision, ir_optim))}'
        )


# -- Paddle Inference -------------------------------------------------------------------------------------------------


def reason(error):
    """The message of an exception of Paddle, without its C++ stack."""
    text = str(error).partition('Error Message Summary:')[2] or str(error)
    return one_line(' '.join(text.strip('-\n ').split()))


def exported_image_shape(model_file, name):
    """[3, S, S] of the input `name` of a .pdmodel, or None if a side is open."""
    # Paddle 3 has no public function for the shapes in a .pdmodel; this class is what its own loader uses.
    with open(model_file, 'rb') as f:
        program = paddle.base.core.ProgramDesc(f.read())
    shape = program.block(0).find_var(name.encode()).shape()[1:]
    return None if -1 in shape else shape


class Predictor:
    """predictor(images float32 [B, 3, S, S]) -> float32 [B, C], for any B.

    precision: fp32; fp16 and int8 where the engine supports them; bf16 on CPUs. num_classes: C, if it is known.
    Raises UserError when Paddle refuses the files or the images, or when C is not num_classes.
    """

    def __init__(
        self,
        model_file,
        params_file,
        engine='onednn',
        precision='fp32',
        threads=1,
        ir_optim=True,
        gpu_mem=8000,
        num_classes=None,
    ):
        self.model_file, self.engine, self.num_classes = model_file, engine, num_classes
        self.image_shape = None
        with tempfile.TemporaryDirectory() as cache:
            try:
                self.config = inference.Config(model_file, params_file)
                self.config.disable_glog_info()
                self.config.switch_ir_optim(ir_optim)
                if not is_json(model_file):  # Paddle 3.3 raises for .json
                    self.config.enable_memory_optim()
                if engine in CPU_ENGINES:
                    self._set_up_cpu(precision, threads)
                else:
                    self._set_up_gpu(precision, gpu_mem)
                if engine == 'openvino':  # else OpenVINO writes ./__cache__ and reuses old files from there
                    self.config.set_optim_cache_dir(cache)
                self._predictor = inference.create_predictor(self.config)
                input_name, output_name = self._predictor.get_input_names()[0], self._predictor.get_output_names()[0]
                if engine == 'openvino':
                    self.image_shape = exported_image_shape(model_file, input_name)
            except Exception as error:  # C++ exceptions arrive as RuntimeError, ValueError, IndexError, OSError …
                raise UserError(
                    f'--model_file {model_file} --params_file {params_file}: Paddle {paddle.__version__} cannot load '
                    f'them with engine {engine} ({reason(error)})'
                )
        self._image = self._predictor.get_input_handle(input_name)
        self._output = self._predictor.get_output_handle(output_name)

    def _set_up_cpu(self, precision, threads):
        config = self.config
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        if self.engine == 'onednn':
            config.enable_mkldnn()
            if precision == 'bf16':
                config.enable_mkldnn_bfloat16()
                if not is_json(self.model_file):
                    config.set_bfloat16_op(BF16_OPS)
            if precision == 'int8':
                config.enable_mkldnn_int8()
        elif hasattr(config, 'disable_mkldnn'):
            config.disable_mkldnn()
        if self.engine == 'openvino':
            kinds = inference.PrecisionType
            config.enable_openvino_engine(kinds.Bfloat16 if precision == 'bf16' else kinds.Float32)

    def _set_up_gpu(self, precision, gpu_mem):  # not run on a GPU so far
        kinds = inference.PrecisionType
        kind = {'fp32': kinds.Float32, 'fp16': kinds.Half, 'int8': kinds.Int8}[precision]
        self.config.enable_use_gpu(gpu_mem, 0, kinds.Half if precision == 'fp16' else kinds.Float32)
        if self.engine == 'tensorrt':
            self.config.enable_tensorrt_engine(workspace_size=1 << 30, precision_mode=kind, use_calib_mode=False)
            self.config.enable_tuned_tensorrt_dynamic_shape()  # without a file of shapes the first run collects them

    def __call__(self, images):
        shape = list(images.shape[1:])
        if self.image_shape not in (None, shape):  # OpenVINO would return its last outputs again
            raise UserError(
                f'{self.model_file}: takes images {self.image_shape}, not {shape}; check --input_size or inference.yml'
            )
        try:
            self._image.reshape(images.shape)
            self._image.copy_from_cpu(np.ascontiguousarray(images, 'float32'))
            self._predictor.run()
            outputs = self._output.copy_to_cpu()
        except Exception as error:
            if death_of_worker():  # the loader process has died meanwhile, and util/runtime.py reports that
                raise
            raise UserError(
                f'{self.model_file}: Paddle {paddle.__version__} cannot run it on images '
                f'{list(images.shape)} with engine {self.engine} ({reason(error)}); check --input_size'
            )
        if self.num_classes not in (None, outputs.shape[1]):
            raise UserError(
                f'{self.model_file}: gives {outputs.shape[1]} classes, inference.yml says {self.num_classes}'
            )
        return outputs


# -- infer.py's flags --------------------------------------------------------------------------------------------------


def choose_engine(model_file, engine, use_gpu, use_tensorrt, enable_mkldnn, precision, ir_optim):
    """(engine, the flag that decided) for the flags of infer.py. Logs a line if a GPU is asked for and missing."""
    if use_tensorrt:
        return 'tensorrt', '--use_tensorrt True'
    if use_gpu and has_gpu():
        return 'gpu', '--use_gpu True'
    if use_gpu:
        log('--use_gpu True: no GPU, or a build of Paddle for CPUs; running on the CPU')
    if engine != 'auto':
        return engine, f'--engine {engine}'
    if enable_mkldnn is not None:
        return 'onednn' if enable_mkldnn else 'paddle', f'--enable_mkldnn {enable_mkldnn}'
    engines = cpu_engines(model_file, precision, ir_optim)
    return engines[0] if engines else 'paddle', '--engine auto'


def create(
    model_file,
    params_file,
    settings,
    engine='auto',
    use_gpu=False,
    use_tensorrt=False,
    enable_mkldnn=None,
    precision='fp32',
    ir_optim=True,
    gpu_mem=8000,
    cpu_threads=None,
):
    """The Predictor that the flags of infer.py ask for, checked against the files, this machine and this Paddle.

    settings: of inference_yml.find_settings. Raises UserError for what the machine, the wheel or the model lacks.
    """
    check_files(model_file, params_file, settings['files'])
    engine, why = choose_engine(model_file, engine, use_gpu, use_tensorrt, enable_mkldnn, precision, ir_optim)
    check_engine(engine, precision, model_file, ir_optim)
    if settings['precision'] == 'fp16' and engine in CPU_ENGINES:
        raise UserError(f'--model_file {model_file}: exported with --precision fp16, which needs a GPU')
    options = {
        'precision': precision,
        'threads': cpu_threads or int(os.environ['OMP_NUM_THREADS']),
        'ir_optim': ir_optim,
        'gpu_mem': gpu_mem,
        'num_classes': settings['nb_classes'],
    }
    try:
        predictor = Predictor(model_file, params_file, engine=engine, **options)
    except UserError as error:
        if engine != 'openvino' or why != '--engine auto':
            raise
        log(f'{error}; going on with onednn')  # OpenVINO lacks some operators that the port's exports use
        predictor = Predictor(model_file, params_file, engine='onednn', **options)
    log(
        f'Paddle Inference {paddle.__version__}, {predictor.engine} ({why}), {precision}, '
        f'{options["threads"]} CPU thread(s)'
    )
    if precision == 'bf16':
        log('bf16: outputs differ by about 1 % of the largest; --precision fp32 is exact')
    return predictor
