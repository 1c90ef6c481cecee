"""Which engine runs an exported model: by the format of the file, the flags of infer.py, and what is installed here."""

import importlib.util

from util.deploy import paddle_engine
from util.deploy.inference_yml import check_files, find_weights, kind_of
from util.deploy.network import has_bf16, is_quantised
from util.deploy.onnx_engine import OnnxRuntimeNetwork
from util.deploy.openvino_engine import OpenvinoNetwork
from util.errors import UserError
from util.logger import log

PACKAGES = ('onnxruntime', 'openvino')  # the order in which --engine auto tries them
OF_PADDLE = paddle_engine.CPU_ENGINES
READ_BY = {'pdmodel': OF_PADDLE, 'json': OF_PADDLE, 'onnx': PACKAGES, 'xml': ('openvino',)}
CPU_ENGINES = (*OF_PADDLE, *PACKAGES)


def open_network(
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
    threads=1,
):
    """The Network that the flags of infer.py ask for, checked against the files, this machine and what is installed.

    settings: of inference_yml.find_settings. Raises UserError for what the machine, the package or the model lacks.
    """
    weights_file, kind = find_weights(model_file, params_file), kind_of(model_file)
    check_files(model_file, weights_file, settings['files'])
    is_paddle = kind in ('pdmodel', 'json')
    if is_paddle:
        engine, why = paddle_engine.choose(
            model_file, engine, use_gpu, use_tensorrt, enable_mkldnn, precision, ir_optim
        )
    else:
        engine, why = choose_package(kind, engine, use_gpu, use_tensorrt, enable_mkldnn, precision)
    if engine in CPU_ENGINES and engine not in READ_BY[kind]:
        raise UserError(
            f'--engine {engine}: does not read .{kind} files; {", ".join(READ_BY[kind])} do (--model_file {model_file})'
        )
    quantised = is_quantised(model_file)
    check_precision(precision, model_file, quantised)
    if is_paddle:
        paddle_engine.check_engine(engine, precision, model_file, ir_optim)
        if settings['precision'] == 'fp16' and engine in CPU_ENGINES:
            raise UserError(f'--model_file {model_file}: exported with --precision fp16, which needs a GPU')
        options = {'precision': precision, 'ir_optim': ir_optim, 'gpu_mem': gpu_mem}
        network = paddle_engine.open_model(
            model_file, weights_file, engine, why, settings['nb_classes'], threads=threads, **options
        )
    elif engine == 'onnxruntime':
        network = OnnxRuntimeNetwork(model_file, threads, settings['nb_classes'])
    else:
        network = OpenvinoNetwork(model_file, precision, threads, settings['nb_classes'])
    report(network, why, precision, quantised)
    return network


def choose_package(kind, engine, use_gpu, use_tensorrt, enable_mkldnn, precision):
    """(engine, the flag that decided) for a file of kind onnx or xml. Raises UserError if nothing here can run it."""
    if use_tensorrt:
        raise UserError(f'--use_tensorrt: runs .pdmodel and .json files, not .{kind}; leave it out')
    if precision == 'fp16':
        raise UserError(f'--precision fp16 needs a GPU, and .{kind} files run on the CPU; use fp32 or bf16')
    if use_gpu and paddle_engine.has_gpu():
        log(f'--use_gpu True: .{kind} files run on the CPU')
    if enable_mkldnn is not None:
        log(f'--enable_mkldnn {enable_mkldnn}: chooses between engines for .pdmodel and .json; without effect here')
    if engine == 'onnxruntime' and precision == 'bf16':
        raise UserError('--precision bf16: ONNX Runtime calculates in float32 on CPUs; use --engine openvino')
    if engine != 'auto':
        return engine, f'--engine {engine}'
    engines = [name for name in READ_BY[kind] if precision != 'bf16' or name == 'openvino']
    installed = [name for name in engines if importlib.util.find_spec(name)]
    return (installed or engines)[0], '--engine auto'


def check_precision(precision, model_file, quantised):
    """Raise UserError for a precision that this model or this processor does not have."""
    if precision == 'int8' and not quantised:
        raise UserError(
            f'--precision int8: {model_file} is not calibrated (it has no quantisation operators); make a model that '
            'is with tools/quantize.py'
        )
    if precision == 'bf16' and not has_bf16():
        raise UserError('--precision bf16: this processor does not calculate in bfloat16 (no avx512_bf16, no amx_bf16)')


def report(network, why, precision, quantised):
    """Log what runs the model, why, and in which precision."""
    mixed = network.engine in PACKAGES and quantised
    rest = precision if precision == 'bf16' else 'fp32'
    log(
        f'{network.library} {network.version}, {network.engine} ({why}), {f"int8 and {rest}" if mixed else precision}, '
        f'{network.threads} CPU thread(s)'
    )
    if precision == 'bf16' and not quantised:
        log('bf16: outputs differ by about 1 % of the largest; --precision fp32 is exact')
