"""From a model to the files that Paddle Inference loads, and the check that they compute the same."""

import os

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import inference, nn

from util.deploy import inference_yml
from util.deploy.predictor import Predictor, cpu_engines, gpu_is_there
from util.errors import UserError

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

    if inference_yml.PADDLE_3 and not as_json:
        with paddle.pir_utils.OldIrGuard():  # the intermediate representation that .pdmodel belongs to
            save()
    else:
        save()


def halve(prefix):
    """Turn <prefix>.pdmodel and its parameters into float16 for GPUs; images and outputs stay float32.

    Raises UserError where Paddle leaves them as they are, which builds for CPUs do without a word.
    """
    source = [f'{prefix}.pdmodel', f'{prefix}.pdiparams']
    halved = [f'{prefix}-fp16.pdmodel', f'{prefix}-fp16.pdiparams']
    before = os.path.getsize(source[1])
    inference.convert_to_mixed_precision(
        *source, *halved, inference.PrecisionType.Half, inference.PlaceType.GPU, keep_io_types=True
    )
    for old, new in zip(source, halved):
        os.replace(new, old)
    if os.path.getsize(source[1]) > 0.6 * before:
        raise UserError(
            f'--precision fp16: this Paddle {paddle.__version__} converted nothing; it needs a build for GPUs'
        )


@paddle.no_grad()
def references(model, seed=0):
    """[(images, outputs)]: random images, as normalised ones are, in batches of several sizes, and what the model
    itself makes of them."""
    rng, pairs = np.random.default_rng(seed), []
    for batch in CHECKED_BATCHES:
        images = rng.standard_normal((batch, 3, model.img_size, model.img_size), dtype='float32')
        pairs.append((images, model(paddle.to_tensor(images)).numpy()))
    return pairs


def check(pairs, run, what, limit=LIMIT):
    """The largest difference between run(images) and the outputs of `references`, of their largest value.

    Raises UserError if it is above the limit, or no number. what: the file, for the message.
    """
    worst = 0.0
    for images, expected in pairs:
        got, batch = run(images), len(images)
        if got.shape != expected.shape:
            raise UserError(
                f'{what}: gives {list(got.shape)} for a batch of {batch}, the model '
                f'{list(expected.shape)}; nothing is exported'
            )
        difference = float(np.abs(got - expected).max() / np.abs(expected).max())
        if not difference <= limit:
            raise UserError(
                f'{what}: differs from the model by {difference:.1e} of the largest output at batch '
                f'{batch}, more than {limit:.0e}; nothing is exported'
            )
        worst = max(worst, difference)
    return worst


def check_files(pairs, prefix, kind):
    """`check` of exported files with the engine that every build for its processor has."""
    files, threads = (f'{prefix}.{kind}', f'{prefix}.pdiparams'), int(os.environ.get('OMP_NUM_THREADS', 1))
    engine = next(name for name in ('onednn', 'paddle') if name in cpu_engines(files[0]))
    return check(pairs, Predictor(*files, engine, threads=threads), f'model.{kind}')


def check_fp16(pairs, prefix):
    """`check` of float16 files on the GPU, or None where there is no GPU that could run them."""
    if not gpu_is_there():
        return None
    run = Predictor(f'{prefix}.pdmodel', f'{prefix}.pdiparams', 'gpu', 'fp16')
    return check(pairs, run, 'model.pdmodel in float16', LIMIT_FP16)
