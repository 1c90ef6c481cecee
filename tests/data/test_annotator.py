"""util/data/annotator.py: from scores to maps. What generate_label.py makes of it: test_generate_label.py."""

import numpy as np
import paddle
import pytest

from util.data import annotator
from util.data.label_maps import check_map
from util.data.token_label import sampling_matrix, sparse_target

pytestmark = pytest.mark.cross_version
CLASSES = 12


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def learned(array, cells):
    """What training makes of a map [2, K, H, H] for its cells as they are: probabilities [H·H, C]."""
    scores, ids = check_map(array, CLASSES, 'map')
    sparse = sparse_target(scores, ids, np.eye(cells, dtype='float32'), CLASSES)
    dense = np.repeat(sparse.floor[:, None], CLASSES, axis=1)
    dense[:, sparse.ids] = sparse.listed.T
    return dense


@pytest.mark.parametrize('topk', [1, 5, 11, 12])
@pytest.mark.parametrize('offset, spread', [(0, 1), (-7, 2), (30, 0.01), (0, 8)])
def test_of_relative_scores_training_makes_the_annotators_own_probabilities(topk, offset, spread):
    logits = offset + spread * np.random.default_rng(topk).standard_normal((2, 9, CLASSES))
    maps = annotator.top_maps(paddle.to_tensor(logits.astype('float32')), topk, 'float32', relative=True)
    for array, own in zip(maps, softmax(logits)):
        got = learned(array, cells=9)
        kept = np.argsort(-own, axis=-1)[:, :topk]
        assert np.allclose(np.take_along_axis(got, kept, -1), np.take_along_axis(own, kept, -1), atol=2e-6)
        assert np.allclose(got.sum(-1), 1, atol=1e-5)


def test_raw_scores_below_zero_would_favour_the_classes_that_the_map_leaves_out():
    """Which is what relative scores are for: an unsure labeler's map must not say the opposite."""
    logits = np.full((1, 1, CLASSES), -9.0, 'float32')
    logits[..., 3] = -6.0
    for relative, best in (False, 'another'), (True, 3):
        (array,) = annotator.top_maps(paddle.to_tensor(logits), 5, 'float16', relative=relative)
        assert (learned(array, cells=1)[0].argmax() == 3) == (best == 3)


def test_the_surest_cell_stays_finite_in_float16():
    logits = np.zeros((1, 4, CLASSES), 'float32')
    logits[0, 1, 5] = 1e4
    (array,) = annotator.top_maps(paddle.to_tensor(logits), 3, 'float16', relative=True)
    assert np.isfinite(array).all() and learned(array, cells=4)[1, 5] > 0.999
    uniform = learned(array, cells=4)[0]
    assert np.allclose(uniform, 1 / CLASSES, atol=1e-3)


def test_what_lies_outside_the_photo_stays_unknown():
    """Score 0 there is no class's own: a token half outside is half as sure, not sure of a class that is left out."""
    logits = np.full((1, 4, CLASSES), -9.0, 'float32')
    logits[..., 3] = -3.0
    (array,) = annotator.top_maps(paddle.to_tensor(logits), 5, 'float32', relative=True)
    scores, ids = check_map(array, CLASSES, 'map')
    half_outside = np.array([[1.0, 0, -24], [0, 1, 0], [0, 0, 1]])
    sampling = sampling_matrix(half_outside, 32, 1, covered=(0, 0, 32, 32), map_shape=(2, 2))
    target = sparse_target(scores, ids, sampling, CLASSES)
    place = list(target.ids).index(3)
    assert (
        1 / CLASSES < target.listed[place, 1] < softmax(logits)[0, 0, 3] and target.listed[place, 1] > target.floor[1]
    )
