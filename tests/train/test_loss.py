"""util/train/loss.py: the objective and its gradient, and what a step is trained towards."""

import numpy as np
import paddle
import pytest

from util.data.token_label import stack_targets, sparse_target
from util.train.loss import Targets, TokenLabelLoss, batch_targets, soft_cross_entropy
from util.train.mixtoken import EMPTY_BOX

pytestmark = pytest.mark.cross_version


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def cross_entropy(logits, target):
    return -(target * log_softmax(logits)).sum(-1).mean()


def rows(rng, *shape):
    """Distributions whose rows do not sum to 1 (smoothing makes them 1 + ε/C)."""
    x = rng.random(shape) ** 4
    return x / x.sum(-1, keepdims=True) * rng.uniform(0.7, 1.3, shape[:-1] + (1,))


def tensor(x):
    return paddle.to_tensor(x.astype('float32'))


@pytest.mark.parametrize('shape', [(5, 7), (3, 4, 50)])
def test_soft_cross_entropy_and_its_gradient_for_rows_that_do_not_sum_to_one(shape):
    rng = np.random.default_rng(0)
    logits, target = rng.normal(0, 3, shape), rows(rng, *shape)
    target[1] = 0  # tokens of an image without a label map: the mean still counts them
    x = tensor(logits)
    x.stop_gradient = False
    loss = soft_cross_entropy(x, tensor(target))
    loss.backward()
    assert loss.item() == pytest.approx(cross_entropy(logits, target), rel=1e-5)
    # d/dx of -Σ t log softmax(x) is Σt · softmax(x) - t
    gradient = (target.sum(-1, keepdims=True) * np.exp(log_softmax(logits)) - target) / np.prod(shape[:-1])
    assert np.abs(x.grad.numpy() - gradient).max() <= 1e-5 * np.abs(gradient).max()


def example(batch=3, tokens=16, classes=6):
    """Class scores, token scores, and a target for each."""
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 2, (batch, classes)), rng.normal(0, 2, (batch, tokens, classes))
    return *scores, rows(rng, batch, classes), rows(rng, batch, tokens, classes)


@pytest.mark.parametrize('box, kept', [(EMPTY_BOX, 1.0), ((1, 0, 3, 3), 1 - 6 / 16)])
def test_a_labeler_learns_the_label_by_the_mean_of_its_tokens_too(box, kept):
    """arXiv 2401.03844, eq. 2. MixToken mixes the class token's target; the tokens come back unmixed."""
    cls, aux, target, _ = example()
    mixed = kept * target + (1 - kept) * target[::-1]
    expected = cross_entropy(cls, mixed) + 0.5 * cross_entropy(aux.mean(1), target)
    criterion = TokenLabelLoss(pool_weight=0.5)
    loss = criterion((tensor(cls), tensor(aux), box), Targets(tensor(target), None))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('cls_weight, dense_weight', [(1.0, 1.0), (0.25, 2.0), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize('box, kept', [(EMPTY_BOX, 1.0), ((1, 0, 3, 3), 1 - 6 / 16), ((0, 0, 4, 4), 0.0)])
def test_the_objective_is_the_weighted_sum_with_the_class_target_mixed_by_the_box(cls_weight, dense_weight, box, kept):
    cls, aux, target_cls, target_tokens = example()
    criterion = TokenLabelLoss(cls_weight, dense_weight)
    mixed = kept * target_cls + (1 - kept) * target_cls[::-1]
    class_term, token_term = cls_weight * cross_entropy(cls, mixed), dense_weight * cross_entropy(aux, target_tokens)
    loss = criterion((tensor(cls), tensor(aux), box), Targets(tensor(target_cls), tensor(target_tokens)))
    assert loss.item() == pytest.approx(class_term + token_term, rel=1e-5)
    # without token targets the class term alone is left, and for a model without token scores, which mixes none
    loss = criterion((tensor(cls), tensor(aux), box), Targets(tensor(target_cls), None))
    assert loss.item() == pytest.approx(class_term, rel=1e-5)
    loss = criterion((tensor(cls), None, EMPTY_BOX), Targets(tensor(target_cls), tensor(target_tokens)))
    assert loss.item() == pytest.approx(cls_weight * cross_entropy(cls, target_cls), rel=1e-5)


# ---- targets of a batch

CLASSES = 6


def labelled_batch(labels, seed=2):
    """A loader's batch with label maps, and its unsmoothed targets softmax(A @ M) in float64 [B, 1+N, C]."""
    rng = np.random.default_rng(seed)
    sparse, dense = [], []
    for _ in labels:
        ids = np.stack([rng.permutation(CLASSES)[:2] for _ in range(9)], axis=1).reshape(2, 3, 3)
        scores = rng.normal(3, 2, (2, 3, 3)).astype('float32')
        sampling = rng.dirichlet(np.ones(9), 5).astype('float32')
        table = np.zeros((9, CLASSES))
        for k in range(2):
            table[np.arange(9), ids[k].ravel()] = scores[k].ravel()
        dense.append(np.exp(log_softmax(sampling.astype('float64') @ table)))
        sparse.append(sparse_target(scores, ids, sampling, CLASSES))
    batch = {'label': np.array(labels, 'int64'), **stack_targets(sparse)._asdict()}
    return {key: paddle.to_tensor(value) for key, value in batch.items()}, np.stack(dense)


def test_without_label_maps_the_labels_are_the_target():
    targets = batch_targets({'label': paddle.to_tensor([1, 3])}, 4, 0.2)
    assert targets.token_targets is None
    assert np.allclose(targets.cls.numpy(), [[0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85]], atol=1e-7)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_row_zero_of_the_map_is_the_class_target_and_the_rest_the_tokens(smoothing):
    batch, dense = labelled_batch([0, 1, 2])
    targets = batch_targets(batch, CLASSES, smoothing)
    smoothed = dense * (1 - smoothing + smoothing / CLASSES) + smoothing / CLASSES
    assert np.allclose(targets.cls.numpy(), smoothed[:, 0], atol=1e-6)
    assert np.allclose(targets.token_targets.numpy(), smoothed[:, 1:], atol=1e-6)


def written_out(labels, mapped, dense, smoothing, ground_truth, confidence):
    """(class targets [B, C], token targets [B, N, C]) in float64, image by image."""
    cls, tokens = [], []
    for label, has_map, (whole, *cells) in zip(labels, mapped, dense):
        from_map, hard = (smooth(whole, smoothing), np.eye(CLASSES)[label] * (1 - smoothing) + smoothing / CLASSES)
        if label == -1 or (has_map and not ground_truth):
            cls.append(from_map)
        elif not has_map or ground_truth == 'only':
            cls.append(hard)
        else:
            share = 0.5 if whole.argmax() == label else 0.9
            cls.append(share * from_map + (1 - share) * hard)
        tokens.append([smooth(cell, smoothing) * (has_map and cell.max() >= confidence) for cell in cells])
    return np.stack(cls), np.stack(tokens)


def smooth(target, smoothing):
    return target * (1 - smoothing + smoothing / CLASSES) + smoothing / CLASSES


@pytest.mark.parametrize('confidence', [0.0, 0.6])
@pytest.mark.parametrize('ground_truth', [False, 'blend', 'only'])
@pytest.mark.parametrize('box', [EMPTY_BOX, (0, 1, 2, 2)])
def test_images_without_a_label_learn_their_map_among_images_without_a_map_and_with_both(ground_truth, confidence, box):
    _, dense = labelled_batch([0] * 6)
    labels = [-1, dense[1, 0].argmax(), (dense[2, 0].argmax() + 1) % CLASSES, 4, -1, 0]
    mapped = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    batch, _ = labelled_batch(labels)
    batch['mapped'] = paddle.to_tensor(mapped)
    batch['labelled'] = paddle.to_tensor([float(label >= 0) for label in labels])
    targets = batch_targets(batch, CLASSES, 0.1, ground_truth=ground_truth, confidence=confidence)
    cls, tokens = written_out(labels, mapped, dense, 0.1, ground_truth, confidence)
    assert np.abs(targets.cls.numpy() - cls).max() < 1e-6
    assert np.abs(targets.token_targets.numpy() - tokens).max() < 1e-6

    rng = np.random.default_rng(3)
    logits, aux = rng.normal(0, 2, (6, CLASSES)), rng.normal(0, 2, (6, 4, CLASSES))
    kept = 1 - (box[2] - box[0]) * (box[3] - box[1]) / 4
    expected = cross_entropy(logits, kept * cls + (1 - kept) * cls[::-1]) + cross_entropy(aux, tokens)
    assert TokenLabelLoss()((tensor(logits), tensor(aux), box), targets).item() == pytest.approx(expected, rel=1e-5)


def test_gumbel_gives_each_token_one_class_as_often_as_its_map_says():
    batch, dense = labelled_batch([0] * 4)
    paddle.seed(0)
    draws = np.stack([batch_targets(batch, CLASSES, gumbel=True).token_targets.numpy() for _ in range(2000)])
    assert set(np.unique(draws)) == {0, 1} and (draws.sum(-1) == 1).all()
    expected = dense[:, 1:]
    deviations = np.sqrt(expected * (1 - expected) / 2000)
    assert (abs(draws.mean(0) - expected) < 4.5 * deviations + 1e-6).all()
    smooth = batch_targets(batch, CLASSES, 0.1, gumbel=True)
    assert np.allclose(np.unique(smooth.token_targets.numpy()), [0.1 / CLASSES, 0.9 + 0.2 / CLASSES], atol=1e-6)
    assert np.allclose(smooth.cls.numpy(), batch_targets(batch, CLASSES, 0.1).cls.numpy())


@pytest.mark.parametrize('gumbel', [False, True])
def test_tokens_that_are_not_sure_enough_learn_nothing(gumbel):
    batch, dense = labelled_batch([0, 1, 2])
    sure = dense[:, 1:].max(-1) >= 0.6
    assert 0 < sure.mean() < 1, 'the example has both kinds'
    tokens = batch_targets(batch, CLASSES, 0.1, gumbel=gumbel, confidence=0.6).token_targets.numpy()
    assert (tokens.any(-1) == sure).all()
    if not gumbel:
        assert np.allclose(tokens[sure], batch_targets(batch, CLASSES, 0.1).token_targets.numpy()[sure], atol=1e-6)
