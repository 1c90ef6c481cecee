"""An exported model in Paddle Inference, as a function from images to the output of its last layer."""

import os
import tempfile

import numpy as np
import paddle
from paddle import inference

from util.deploy.engines import check_engine, choose_engine, on_cpu
from util.deploy.inference_yml import check_files, is_json
from util.errors import UserError, one_line
from util.logger import log
from util.paddle_fixes import death_of_worker

# with all operators in bfloat16 Paddle 3.3 mixes up dtypes in additions
BF16_OPS = {'fc', 'matmul_v2', 'fused_matmul', 'conv2d', 'fused_conv2d'}


def reason(error):
    """The sentence in an exception of Paddle, without its C++ stack."""
    text = str(error).partition('Error Message Summary:')[2] or str(error)
    return one_line(text.strip('-\n '))


def input_shape(model_file):
    """Shape [3, S, S] of the images that a .pdmodel takes, or None if it leaves a side open; read by Paddle itself."""
    with open(model_file, 'rb') as f:
        data = f.read()
    program = paddle.base.core.ProgramDesc(data)  # to be kept alive: its block only points into it
    block = program.block(0)
    operators = [block.op(i) for i in range(block.op_size())]
    (feed,) = [operator for operator in operators if operator.type() == 'feed']
    shape = block.find_var(feed.output('Out')[0].encode()).shape()[1:]
    return None if -1 in shape else shape


class Predictor:
    """predictor(images float32 [B, 3, S, S]) -> float32 [B, C], for any B.

    precision: fp32; fp16 and int8 as the engine takes them; bf16 for CPU engines. num_classes: C, if it is known.
    Raises UserError when Paddle refuses the files or the images, or the output has another number of classes.
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
                if on_cpu(engine):
                    self._set_up_cpu(precision, threads)
                else:
                    self._set_up_gpu(precision, gpu_mem)
                if engine == 'openvino':
                    self.image_shape = input_shape(model_file)
                    # else it leaves its compiled model in ./__cache__, and believes what lies there
                    self.config.set_optim_cache_dir(cache)
                self._predictor = inference.create_predictor(self.config)
            except Exception as error:  # C++ exceptions come as RuntimeError, ValueError, IndexError, OSError …
                raise UserError(
                    f'--model_file {model_file} --params_file {params_file}: Paddle {paddle.__version__} cannot load '
                    f'them with engine {engine} ({reason(error)})'
                )
        self._image = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

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

    def _set_up_gpu(self, precision, gpu_mem):  # written for GPUs but not run on one so far
        kinds = inference.PrecisionType
        kind = {'fp32': kinds.Float32, 'fp16': kinds.Half, 'int8': kinds.Int8}[precision]
        self.config.enable_use_gpu(gpu_mem, 0, kinds.Half if precision == 'fp16' else kinds.Float32)
        if self.engine == 'tensorrt':
            self.config.enable_tensorrt_engine(workspace_size=1 << 30, precision_mode=kind, use_calib_mode=False)
            self.config.enable_tuned_tensorrt_dynamic_shape()  # no file: shapes are collected in the first run

    def __call__(self, images):
        given = list(images.shape[1:])
        if self.image_shape not in (None, given):  # OpenVINO would give the outputs of the run before
            raise UserError(
                f'{self.model_file}: takes images {self.image_shape}, not {given}; check --input_size or inference.yml'
            )
        try:
            self._image.reshape(images.shape)
            self._image.copy_from_cpu(np.ascontiguousarray(images, 'float32'))
            self._predictor.run()
            outputs = self._output.copy_to_cpu()
        except Exception as error:
            if death_of_worker():  # the process that decodes has died meanwhile: util/runtime.py says so
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


def create(args, settings):
    """The Predictor that the flags ask for, checked against the files, this machine and this Paddle.

    settings: of inference_yml.find_settings. Raises UserError for what cannot be.
    """
    check_files(args.model_file, args.params_file, settings['files'])
    engine, why = choose_engine(args)
    check_engine(engine, args.precision, args.model_file, args.ir_optim)
    if settings['precision'] == 'fp16' and on_cpu(engine):
        raise UserError(f'--model_file {args.model_file}: exported with --precision fp16, which needs a GPU')
    threads = args.cpu_threads or int(os.environ['OMP_NUM_THREADS'])

    def load(engine):
        return Predictor(
            args.model_file,
            args.params_file,
            engine=engine,
            precision=args.precision,
            threads=threads,
            ir_optim=args.ir_optim,
            gpu_mem=args.gpu_mem,
            num_classes=settings['nb_classes'],
        )

    try:
        predictor = load(engine)
    except UserError as error:
        if engine != 'openvino' or why != '--engine auto':
            raise
        log(f'{error}; going on with onednn')  # OpenVINO does not know every operator: not those of the port's exports
        predictor = load('onednn')
    log(f'Paddle Inference {paddle.__version__}, {predictor.engine} ({why}), {args.precision}, {threads} CPU thread(s)')
    if args.precision == 'bf16':
        log('bf16: outputs differ by about 1 % of the largest; --precision fp32 is exact')
    return predictor
