"""What the tests around prediction share: a tiny model's flags and weights, and how to read and compare records."""

import ast

import numpy as np
import paddle

import models
from util.deploy.inference_yml import PADDLE_3

FORMATS = ['pdmodel', 'json'] if PADDLE_3 else ['pdmodel']
MODEL = ['--model', 'lvvit_nano', '--input_size', 32, '--nb_classes', 10]
AS_EXPORTED = ['--crop_pct', 0.8, '--interpolation', 'bilinear']
WORDS = 'zero one two three four five six seven eight nine'.split()


def random_weights(seed, num_classes=10):
    """Weights of lvvit_nano whose predictions differ clearly from image to image."""
    paddle.seed(seed)
    model = models.build_model('lvvit_nano', img_size=32, num_classes=num_classes)
    rng = np.random.default_rng(seed)
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    for name in ('head.weight', 'aux_head.weight'):
        weights[name] = rng.normal(0, 0.1, weights[name].shape).astype('float32')
    for i in (1, 2, 3):
        weights[f'patch_embed.bn{i}._mean'] = rng.normal(0, 0.1, 64).astype('float32')
        weights[f'patch_embed.bn{i}._variance'] = rng.uniform(0.01, 0.1, 64).astype('float32')
    return weights


def random_model(seed=0):
    """lvvit_nano with random_weights, in evaluation mode."""
    model = models.build_model('lvvit_nano', img_size=32, num_classes=10)
    model.set_state_dict(random_weights(seed))
    model.eval()
    return model


def random_images(batch_size):
    return np.random.default_rng(batch_size).standard_normal((batch_size, 3, 32, 32), dtype='float32')


def as_exported(folder, kind='pdmodel'):
    return ['--model_file', folder / f'model.{kind}', '--params_file', folder / 'model.pdiparams', '--use_gpu', 'False']


def records(result):
    """The one line of records that a script has printed."""
    assert result.code == 0, result.err
    (line,) = [line for line in result.out.splitlines() if line.startswith('[{')]
    return ast.literal_eval(line)


def assert_agree(a, b):
    assert [r['file_name'] for r in a] == [r['file_name'] for r in b]
    for x, y in zip(a, b):
        assert x['class_ids'] == y['class_ids'] and x['label_names'] == y['label_names']
        np.testing.assert_allclose(x['scores'], y['scores'], atol=1e-4)
