"""From a model to the files that Paddle Inference loads, each compared with the model before it is kept."""

import os
import tempfile

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import inference, nn

from util.deploy.inference_yml import PADDLE_3, write_settings
from util.deploy.paddle_engine import PaddleNetwork, has_gpu, has_onednn
from util.errors import UserError
from util.logger import log

LIMIT = 5e-5  # largest difference to the model, as a share of the model's largest output
LIMIT_FP16 = 2e-2
CHECKED_BATCHES = (1, 2, 5)


class WithSoftmax(nn.Layer):
    """A classifier and its softmax: [B, 3, S, S] -> scores [B, C]."""

    def __init__(self, model):
        super().__init__()
        self.model, self.img_size = model, model.img_size

    def forward(self, x):
        return F.softmax(self.model(x), axis=-1)


def save_graph(model, prefix, as_json):
    """Write <prefix>.json or <prefix>.pdmodel, and <prefix>.pdiparams, for batches of any size."""
    spec = [paddle.static.InputSpec([None, 3, model.img_size, model.img_size], 'float32', name='image')]

    def save():
        static = paddle.jit.to_static(model, input_spec=spec, full_graph=True)
        paddle.jit.save(static, prefix)

    if PADDLE_3 and not as_json:
        with paddle.pir_utils.OldIrGuard():  # the old graph format, which .pdmodel stores
            save()
    else:
        save()


def to_float16(prefix):
    """Turn <prefix>.pdmodel and its parameters into float16 for GPUs; images and outputs stay float32.

    Raises UserError if Paddle leaves them unchanged, as builds for CPUs do without reporting an error.
    """
    model_file, params_file = f'{prefix}.pdmodel', f'{prefix}.pdiparams'
    size = os.path.getsize(params_file)
    inference.convert_to_mixed_precision(
        model_file,
        params_file,
        f'{prefix}-fp16.pdmodel',
        f'{prefix}-fp16.pdiparams',
        inference.PrecisionType.Half,
        inference.PlaceType.GPU,
        keep_io_types=True,
    )
    os.replace(f'{prefix}-fp16.pdmodel', model_file)
    os.replace(f'{prefix}-fp16.pdiparams', params_file)
    if os.path.getsize(params_file) > 0.6 * size:
        raise UserError(
            f'--precision fp16: this Paddle {paddle.__version__} converted nothing; it needs a build for GPUs'
        )


# -- comparison with the model -----------------------------------------------------------------------------------------


@paddle.no_grad()
def random_outputs(model):
    """[(images, outputs of the model)] for batches of several sizes; the images are normally distributed noise."""
    rng = np.random.default_rng(0)
    pairs = []
    for batch_size in CHECKED_BATCHES:
        images = rng.standard_normal((batch_size, 3, model.img_size, model.img_size), dtype='float32')
        outputs = model(paddle.to_tensor(images)).numpy()
        if not np.isfinite(outputs).all():
            raise UserError(
                'the outputs of the model are not finite (NaN or infinite); check the weights; nothing is exported'
            )
        pairs.append((images, outputs))
    return pairs


def compare(pairs, network, name, limit=LIMIT):
    """The largest difference between network(images) and the outputs of `random_outputs`, over their largest value.

    Raises UserError that names the file `name` if the difference is NaN or above the limit.
    """
    worst = 0.0
    for images, expected in pairs:
        got, batch_size = network(images), len(images)
        if got.shape != expected.shape:
            raise UserError(
                f'{name}: gives {list(got.shape)} for a batch of {batch_size}, the model '
                f'{list(expected.shape)}; nothing is exported'
            )
        difference = float(np.abs(got - expected).max() / np.abs(expected).max())
        if not difference <= limit:  # also for NaN
            raise UserError(
                f'{name}: differs from the model by {difference:.1e} of the largest output at batch '
                f'{batch_size}, more than {limit:.0e}; nothing is exported'
            )
        worst = max(worst, difference)
    return worst


# -- export_model.py ---------------------------------------------------------------------------------------------------


def check_flags(format, precision, output_dir):
    """Raise UserError for flags of export_model.py that this Paddle cannot carry out."""
    if format != 'pdmodel' and not PADDLE_3:
        raise UserError(f'--format {format}: model.json needs Paddle 3, this is {paddle.__version__}')
    if precision == 'fp16' and format != 'pdmodel':
        raise UserError(f'--precision fp16: Paddle converts .pdmodel only; leave out --format {format}')
    if precision == 'fp16' and not paddle.device.is_compiled_with_cuda():
        raise UserError('--precision fp16 needs a build of Paddle for GPUs; others cannot convert the weights')
    if not output_dir:
        raise UserError('--output_dir is missing: the folder for the exported files')


def write_checked(model, folder, kinds, precision):
    """Write model.* into a folder, each of `kinds` (json, pdmodel) compared with the model itself."""
    prefix, pairs = os.path.join(folder, 'model'), random_outputs(model)
    params_file, threads = f'{prefix}.pdiparams', int(os.environ['OMP_NUM_THREADS'])
    for kind in kinds:
        save_graph(model, prefix, as_json=kind == 'json')
        engine = 'onednn' if has_onednn() else 'paddle'
        worst = compare(pairs, PaddleNetwork(f'{prefix}.{kind}', params_file, engine, threads=threads), f'model.{kind}')
        log(
            f'model.{kind}: differs from the model by at most {worst:.1e} of the largest output '
            f'(batches of {", ".join(map(str, CHECKED_BATCHES))})'
        )
    if precision == 'fp16':
        to_float16(prefix)
        if has_gpu():
            network = PaddleNetwork(f'{prefix}.pdmodel', params_file, 'gpu', 'fp16')
            worst = compare(pairs, network, 'model.pdmodel in float16', LIMIT_FP16)
            log(f'float16: differs by at most {worst:.1e}')
        else:
            log('float16: not run, there is no GPU here')


def write_export(model, output_dir, settings, format):
    """Write the files of a model in evaluation mode into a folder: all of them or, on UserError, none.

    settings: the content of inference.yml. format: pdmodel, json or both.
    """
    kinds = ('json', 'pdmodel') if format == 'both' else (format,)
    with tempfile.TemporaryDirectory(prefix='.export-', dir=output_dir) as folder:
        write_checked(model, folder, kinds, settings['precision'])
        files = sorted(os.listdir(folder))
        write_settings(folder, settings, [name for name in files if not name.endswith('.info')])
        for name in (*files, 'inference.yml'):
            os.replace(os.path.join(folder, name), os.path.join(output_dir, name))
    log(f'Model is saved in {output_dir}.')
