"""The engines of Paddle Inference: which of them there are here, and which one infer.py's flags ask for.

engine      on    what runs the network
openvino    CPU   OpenVINO; in Paddle 3's wheels for x86, takes .pdmodel only
onednn      CPU   oneDNN
paddle      CPU   Paddle's own kernels
gpu         GPU   Paddle's own kernels
tensorrt    GPU   TensorRT; in wheels that were built with it
"""

import paddle
from paddle import inference

from util.deploy.inference_yml import is_json
from util.errors import UserError
from util.logger import log
from util.runtime import cpu_fields

CPU_ENGINES = ('openvino', 'onednn', 'paddle')  # the order in which --engine auto takes them


def on_cpu(engine):
    return engine in CPU_ENGINES


def gpu_is_there():
    return paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0


def bf16_is_there():
    """Whether this processor calculates in bfloat16; elsewhere it would be emulated, slowly."""
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(cpu_fields().get('flags', '').split())


def openvino_is_there():
    if not hasattr(inference.Config, 'enable_openvino_engine'):
        return False
    config = inference.Config()
    config.enable_openvino_engine()  # a wheel without it logs that and stays as it was
    return config.openvino_engine_enabled()


def onednn_is_there():
    config = inference.Config()
    config.enable_mkldnn()
    return config.mkldnn_enabled()


def cpu_engines(model_file, precision='fp32', ir_optim=True):
    """Those of CPU_ENGINES that this wheel has and that take this model in this precision, in their order."""
    engines = []
    if ir_optim and not is_json(model_file) and precision != 'int8' and openvino_is_there():
        engines.append('openvino')
    if onednn_is_there():
        engines.append('onednn')
    if precision != 'bf16':
        engines.append('paddle')
    return engines


def is_quantised(model_file):
    """Whether a model carries quantisation operators, such as PaddleSlim's calibration leaves in it."""
    with open(model_file, 'rb') as f:
        data = f.read()
    return b'quantize_linear' in data or b'fake_quantize' in data


def check_engine(engine, precision, model_file, ir_optim=True):
    """Raises UserError for an engine or precision that this machine, this wheel or this model does not have."""
    version = paddle.__version__
    if engine == 'tensorrt' and not gpu_is_there():
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
    if precision == 'fp16' and on_cpu(engine):
        raise UserError('--precision fp16 needs a GPU; use fp32 here, or bf16 on processors that have it')
    if precision == 'bf16' and not on_cpu(engine):
        raise UserError('--precision bf16 is for CPUs; use fp16 on the GPU')
    if precision == 'bf16' and not bf16_is_there():
        raise UserError('--precision bf16: this processor does not calculate in bfloat16 (no avx512_bf16, no amx_bf16)')
    if engine == 'openvino' and not ir_optim:
        raise UserError('--ir_optim False: OpenVINO needs the rewritten graph; take --engine onednn or paddle')
    if engine == 'openvino' and is_json(model_file):
        raise UserError(f'--model_file {model_file}: OpenVINO takes .pdmodel only; export with --format pdmodel')
    if on_cpu(engine) and engine not in cpu_engines(model_file, precision, ir_optim):
        raise UserError(
            f'--engine {engine}: not in this build of Paddle {version}, or not with --precision '
            f'{precision}; use {" or ".join(cpu_engines(model_file, precision, ir_optim))}'
        )


def choose_engine(args):
    """(engine, why) that the flags ask for; that a GPU is missing is one line in the log."""
    if args.use_tensorrt:
        return 'tensorrt', '--use_tensorrt True'
    if args.use_gpu and gpu_is_there():
        return 'gpu', '--use_gpu True'
    if args.use_gpu:
        log('--use_gpu True: no GPU, or a build of Paddle for CPUs; running on the CPU')
    if args.engine != 'auto':
        return args.engine, f'--engine {args.engine}'
    if args.use_openvino:
        return 'openvino', '--use_openvino True'
    if args.enable_mkldnn is not None:
        return 'onednn' if args.enable_mkldnn else 'paddle', f'--enable_mkldnn {args.enable_mkldnn}'
    engines = cpu_engines(args.model_file, args.precision, args.ir_optim)
    return engines[0] if engines else 'paddle', '--engine auto'
