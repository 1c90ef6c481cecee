"""From a model to the files that Paddle Inference loads, and the check that they compute the same."""

import os
import tempfile

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import inference, nn

from util.deploy.engines import gpu_is_there, onednn_is_there
from util.deploy.inference_yml import PADDLE_3, write_settings
from util.deploy.predictor import Predictor
from util.errors import UserError
from util.logger import log

LIMIT = 5e-5  # largest difference to the model itself, of its largest output
LIMIT_FP16 = 2e-2
CHECKED_BATCHES = (1, 2, 5)


class WithSoftmax(nn.Layer):
    """[B, 3, S, S] -> scores [B, C]: a classifier and its softmax."""

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
        with paddle.pir_utils.OldIrGuard():  # the intermediate representation that .pdmodel belongs to
            save()
    else:
        save()


def to_float16(prefix):
    """Turn <prefix>.pdmodel and its parameters into float16 for GPUs; images and outputs stay float32.

    Raises UserError if Paddle leaves them as they are, which builds for CPUs do without an error.
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
    """[(images, outputs)]: random images, as normalised ones are, in batches of several sizes, and what the model
    itself makes of them."""
    rng = np.random.default_rng(0)
    pairs = []
    for batch_size in CHECKED_BATCHES:
        images = rng.standard_normal((batch_size, 3, model.img_size, model.img_size), dtype='float32')
        pairs.append((images, model(paddle.to_tensor(images)).numpy()))
    return pairs


def compare(pairs, network, what, limit=LIMIT):
    """The largest difference between network(images) and the outputs of `random_outputs`, over their largest value.

    Raises UserError if it is above the limit, or no number. what: the file, for the message.
    """
    worst = 0.0
    for images, expected in pairs:
        got, batch_size = network(images), len(images)
        if got.shape != expected.shape:
            raise UserError(
                f'{what}: gives {list(got.shape)} for a batch of {batch_size}, the model '
                f'{list(expected.shape)}; nothing is exported'
            )
        difference = float(np.abs(got - expected).max() / np.abs(expected).max())
        if not difference <= limit:
            raise UserError(
                f'{what}: differs from the model by {difference:.1e} of the largest output at batch '
                f'{batch_size}, more than {limit:.0e}; nothing is exported'
            )
        worst = max(worst, difference)
    return worst


def compare_files(pairs, prefix, kind):
    """`compare` for exported files, run by oneDNN, or by Paddle's own kernels where there is none."""
    model_file = f'{prefix}.{kind}'
    network = Predictor(
        model_file,
        f'{prefix}.pdiparams',
        engine='onednn' if onednn_is_there() else 'paddle',
        threads=int(os.environ['OMP_NUM_THREADS']),
    )
    return compare(pairs, network, f'model.{kind}')


# -- export_model.py ---------------------------------------------------------------------------------------------------


def check_flags(args):
    """Raises UserError for what this Paddle cannot write."""
    if args.format != 'pdmodel' and not PADDLE_3:
        raise UserError(f'--format {args.format}: model.json needs Paddle 3, this is {paddle.__version__}')
    if args.precision == 'fp16' and args.format != 'pdmodel':
        raise UserError(f'--precision fp16: Paddle converts .pdmodel only; leave out --format {args.format}')
    if args.precision == 'fp16' and not paddle.device.is_compiled_with_cuda():
        raise UserError('--precision fp16 needs a build of Paddle for GPUs, which alone can convert the weights')
    if not args.output_dir:
        raise UserError('--output_dir is missing: the folder for the exported files')


def write_checked(model, args, folder):
    """Write model.* into a folder, each format compared with the model itself."""
    prefix, pairs = os.path.join(folder, 'model'), random_outputs(model)
    for kind in ('json', 'pdmodel') if args.format == 'both' else (args.format,):
        save_graph(model, prefix, as_json=kind == 'json')
        worst = compare_files(pairs, prefix, kind)
        log(
            f'model.{kind}: differs from the model by at most {worst:.1e} of the largest output '
            f'(batches of {", ".join(map(str, CHECKED_BATCHES))})'
        )
    if args.precision == 'fp16':
        to_float16(prefix)
        if gpu_is_there():
            network = Predictor(f'{prefix}.pdmodel', f'{prefix}.pdiparams', 'gpu', 'fp16')
            worst = compare(pairs, network, 'model.pdmodel in float16', LIMIT_FP16)
            log(f'float16: differs by at most {worst:.1e}')
        else:
            log('float16: not run, there is no GPU here')


def write_export(model, args, names):
    """Write the files of a model in evaluation mode into --output_dir: all of them or, on UserError, none.

    names: {class id: name}; args: of export_model.py.
    """
    settings = {
        'model': args.model,
        'input_size': args.input_size,
        'nb_classes': args.nb_classes,
        'crop_pct': args.crop_pct,
        'interpolation': args.interpolation,
        'mean': list(args.mean),
        'std': list(args.std),
        'output': 'scores' if args.fuse_softmax else 'logits',
        'precision': args.precision,
        'label_names': names,
    }
    with tempfile.TemporaryDirectory(prefix='.export-', dir=args.output_dir) as folder:
        write_checked(model, args, folder)
        files = sorted(os.listdir(folder))
        write_settings(folder, settings, [name for name in files if not name.endswith('.info')])
        for name in (*files, 'inference.yml'):
            os.replace(os.path.join(folder, name), os.path.join(args.output_dir, name))
    log(f'Model is saved in {args.output_dir}.')
