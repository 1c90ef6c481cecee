"""util/data/annotator.py: from scores to maps. What generate_label.py makes of it: test_generate_label.py."""

import numpy as np
import paddle
import pytest

from util.data import annotator
from util.data.label_maps import check_map
from util.data.token_label import sparse_target

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
