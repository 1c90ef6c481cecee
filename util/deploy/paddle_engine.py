"""Paddle Inference: it runs model.pdmodel or model.json, with one of these engines:

engine            device   computes with
paddle_openvino   CPU      the OpenVINO inside Paddle 3's wheels for x86; reads .pdmodel only
onednn            CPU      oneDNN
paddle            CPU      Paddle's own kernels
gpu               GPU      Paddle's own kernels
tensorrt          GPU      TensorRT; part of wheels that were built with it
"""

import tempfile
import threading

import paddle
from paddle import inference

from util.deploy.inference_yml import kind_of
from util.deploy.network import Network
from util.errors import UserError, one_line
from util.logger import log

CPU_ENGINES = ('paddle_openvino', 'onednn', 'paddle')  # the order in which --engine auto tries them
# with all operators in bfloat16 Paddle 3.3 mixes up dtypes in additions
BF16_OPS = {'fc', 'matmul_v2', 'fused_matmul', 'conv2d', 'fused_conv2d'}


# -- what this machine, this wheel and this model support -------------------------------------------------------------


def has_gpu():
    return paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0


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
    if ir_optim and kind_of(model_file) != 'json' and precision != 'int8' and has_openvino():
        engines.append('paddle_openvino')
    if has_onednn():
        engines.append('onednn')
    if precision != 'bf16':
        engines.append('paddle')
    return engines


def choose(model_file, engine, use_gpu, use_tensorrt, enable_mkldnn, precision, ir_optim):
    """(engine, the flag that decided) for the flags of infer.py. Logs a line if a GPU is asked for and missing."""
    if use_tensorrt:
        return 'tensorrt', '--use_tensorrt True'
    if use_gpu and has_gpu():
        return 'gpu', '--use_gpu True'
    if use_gpu:
        log('--use_gpu True: no GPU, or a build of Paddle for CPUs; running on the CPU')
    if engine == 'openvino':  # its name before .onnx and .xml could be run
        log(f'--engine openvino: for {model_file} it means the OpenVINO inside Paddle, now called paddle_openvino')
        return 'paddle_openvino', '--engine openvino'
    if engine != 'auto':
        return engine, f'--engine {engine}'
    if enable_mkldnn is not None:
        return 'onednn' if enable_mkldnn else 'paddle', f'--enable_mkldnn {enable_mkldnn}'
    engines = cpu_engines(model_file, precision, ir_optim)
    return engines[0] if engines else 'paddle', '--engine auto'


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
    if precision == 'fp16' and engine in CPU_ENGINES:
        raise UserError('--precision fp16 needs a GPU; use fp32 here, or bf16 on processors that have it')
    if precision == 'bf16' and engine not in CPU_ENGINES:
        raise UserError('--precision bf16 is for CPUs; use fp16 on the GPU')
    if engine == 'paddle_openvino' and not ir_optim:
        raise UserError('--ir_optim False: OpenVINO needs the rewritten graph; use --engine onednn or paddle')
    if engine == 'paddle_openvino' and kind_of(model_file) == 'json':
        raise UserError(
            f'--model_file {model_file}: the OpenVINO inside Paddle reads .pdmodel only; export with --format pdmodel'
        )
    if engine in CPU_ENGINES and engine not in cpu_engines(model_file, precision, ir_optim):
        raise UserError(
            f'--engine {engine}: not in this build of Paddle {version}, or not with --precision '
            f'{precision}; use {" or ".join(cpu_engines(model_file, precision, ir_optim))}'
        )


# -- the network -------------------------------------------------------------------------------------------------------


def exported_image_shape(model_file, name):
    """[3, S, S] of the input `name` of a .pdmodel, or None if a side is open."""
    # Paddle 3 has no public function for the shapes in a .pdmodel; this class is what its own loader uses.
    with open(model_file, 'rb') as f:
        program = paddle.base.core.ProgramDesc(f.read())
    shape = program.block(0).find_var(name.encode()).shape()[1:]
    return None if -1 in shape else shape


class PaddleNetwork(Network):
    """An exported model in Paddle Inference, which runs one batch at a time: other threads wait.

    engine: one of those above. precision: fp32; fp16 and int8 where the engine supports them; bf16 on CPUs. Raises
    UserError when Paddle refuses the files.
    """

    library, version = 'Paddle Inference', paddle.__version__

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
        super().__init__(model_file, engine, threads, num_classes)
        self._one_at_a_time = threading.Lock()
        with tempfile.TemporaryDirectory() as cache:
            try:
                self.config = inference.Config(model_file, params_file)
                self.config.disable_glog_info()
                self.config.switch_ir_optim(ir_optim)
                if kind_of(model_file) != 'json':  # Paddle 3.3 raises for .json
                    self.config.enable_memory_optim()
                if engine in CPU_ENGINES:
                    self._set_up_cpu(precision, threads)
                else:
                    self._set_up_gpu(precision, gpu_mem)
                if engine == 'paddle_openvino':  # else OpenVINO writes ./__cache__ and reuses old files from there
                    self.config.set_optim_cache_dir(cache)
                self._predictor = inference.create_predictor(self.config)
                input_name, output_name = self._predictor.get_input_names()[0], self._predictor.get_output_names()[0]
                if engine == 'paddle_openvino':  # for images of another shape it would return its last outputs again
                    self.image_shape = exported_image_shape(model_file, input_name)
            except Exception as error:  # C++ exceptions arrive as RuntimeError, ValueError, IndexError, OSError …
                raise UserError(
                    f'--model_file {model_file} --params_file {params_file}: Paddle {paddle.__version__} cannot load '
                    f'them with engine {engine} ({self.reason(error)})'
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
                if kind_of(self.model_file) != 'json':
                    config.set_bfloat16_op(BF16_OPS)
            if precision == 'int8':
                config.enable_mkldnn_int8()
        elif hasattr(config, 'disable_mkldnn'):
            config.disable_mkldnn()
        if self.engine == 'paddle_openvino':
            kinds = inference.PrecisionType
            config.enable_openvino_engine(kinds.Bfloat16 if precision == 'bf16' else kinds.Float32)

    def _set_up_gpu(self, precision, gpu_mem):  # not run on a GPU so far
        kinds = inference.PrecisionType
        kind = {'fp32': kinds.Float32, 'fp16': kinds.Half, 'int8': kinds.Int8}[precision]
        self.config.enable_use_gpu(gpu_mem, 0, kinds.Half if precision == 'fp16' else kinds.Float32)
        if self.engine == 'tensorrt':
            self.config.enable_tensorrt_engine(workspace_size=1 << 30, precision_mode=kind, use_calib_mode=False)
            self.config.enable_tuned_tensorrt_dynamic_shape()  # without a file of shapes the first run collects them

    @staticmethod
    def reason(error):
        """The message of an exception of Paddle, without its C++ stack."""
        text = str(error).partition('Error Message Summary:')[2] or str(error)
        return one_line(' '.join(text.strip('-\n ').split()))

    def run(self, images):
        with self._one_at_a_time:
            self._image.reshape(images.shape)
            self._image.copy_from_cpu(images)
            self._predictor.run()
            return self._output.copy_to_cpu()


def open_model(model_file, params_file, engine, why, num_classes, **options):
    """The PaddleNetwork of an engine. If `--engine auto` chose an OpenVINO that cannot run the model, oneDNN runs it.

    why: the flag that chose the engine. options: of PaddleNetwork.
    """
    try:
        return PaddleNetwork(model_file, params_file, engine, num_classes=num_classes, **options)
    except UserError as error:
        if engine != 'paddle_openvino' or why != '--engine auto':
            raise
        log(f'{error}; going on with onednn')  # OpenVINO lacks some operators that the port's exports use
        return PaddleNetwork(model_file, params_file, 'onednn', num_classes=num_classes, **options)
