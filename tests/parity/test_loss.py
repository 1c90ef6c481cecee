"""Loss and gradients of every parameter against the original's TokenLabelCrossEntropy and PyTorch's autograd."""

import numpy as np
import paddle
import pytest

from parity.maps import Set
from parity.weights import arrays, difference, in_our_terms, inject_box, pair, to_paddle
from util.train import mixtoken
from util.train.loss import Targets, TokenLabelLoss, batch_targets

CLASSES, TOKENS, BATCH = 40, 4, 6
BOX = (0, 1, 3, 3)  # 6 of 16 tokens


@pytest.mark.parametrize('box, ground_truth', [(mixtoken.EMPTY_BOX, False), (BOX, True)], ids=['maps', 'ground_truth'])
def test_the_loss_and_its_gradients_with_respect_to_the_scores(
    box, ground_truth, original, fidelity, tmp_path, monkeypatch
):
    torch, data = original.torch, Set(tmp_path, original, 18, CLASSES)
    _, target = data.theirs(monkeypatch, TOKENS, 16 * TOKENS)
    best = target[:, :, 1].argmax(-1).tolist()
    labels = [best[0], best[1], *[(b + 1) % CLASSES for b in best[2:]]]
    data.samples.labels[:] = labels
    batch, (_, target) = data.ours(monkeypatch, TOKENS, 16 * TOKENS), data.theirs(monkeypatch, TOKENS, 16 * TOKENS)
    assert (target[:, :, 0].argmax(-1) == target[:, :, 1].argmax(-1)).tolist() == [True, True] + [False] * 4
    batch = {name: paddle.to_tensor(value) for name, value in batch.items()}
    targets = batch_targets(batch, CLASSES, 0.1, ground_truth)

    rng = np.random.default_rng(0)
    scores = [3 * rng.standard_normal([BATCH, *n, CLASSES], dtype='float32') for n in ([], [TOKENS**2])]
    ours, theirs = [to_paddle(x) for x in scores], [torch.from_numpy(x).requires_grad_() for x in scores]
    for tensor in ours:
        tensor.stop_gradient = False
    loss = TokenLabelLoss(0.7, 0.3)((*ours, box), targets)
    weights = dict(cls_weight=0.7, dense_weight=0.3)
    criterion = original.tlt.loss.TokenLabelCrossEntropy(**weights, classes=CLASSES, ground_truth=ground_truth)
    expected = criterion((*theirs, box), target)
    loss.backward(), expected.backward()
    what = 'token labels' + ', blended with the true label, MixToken' * ground_truth
    fidelity('Loss', what, difference(loss, expected), 1e-6, 'relative error')
    error = max(difference(own.grad, their.grad) for own, their in zip(ours, theirs))
    fidelity('Loss', f'{what}: gradient of the scores', error, 1e-5)


def distributions(shape, seed):
    """Random rows that sum to 1 + 0.1/CLASSES, as the smoothed targets of both projects do."""
    weights = np.exp(3 * np.random.default_rng(seed).standard_normal(shape))
    return (weights / weights.sum(-1, keepdims=True) * (0.9 + 0.1 / CLASSES) + 0.1 / CLASSES).astype('float32')


@pytest.mark.parametrize('name, size, depth', [('lvvit_t', 64, 12), ('lvvit_l', 32, 3), ('vit', 64, 3)])
def test_the_gradient_of_every_parameter(name, size, depth, original, fidelity, monkeypatch):
    """The images are such that no activation of the stem is so near 0 that rounding puts it on different sides of ReLU,
    whose derivative jumps there: one such activation changes a gradient by 1e-3."""
    torch, n = original.torch, (size // 16) ** 2
    ours, theirs = pair(original, name, size, CLASSES, seed=5, depth=depth)
    ours.train(), theirs.train()
    x = np.random.default_rng(0).standard_normal([4, 3, size, size], dtype='float32')
    box = (0, 0, 1, 2) if size == 32 else (1, 0, 3, 2)
    inject_box(monkeypatch, original, box)
    cls, tokens = distributions([4, CLASSES], 7), distributions([4, n, CLASSES], 8)
    outputs, expected = ours(to_paddle(x), box), theirs(torch.from_numpy(x))
    loss = TokenLabelLoss()(outputs, Targets(to_paddle(cls), to_paddle(tokens)))
    if ours.return_dense:
        true = np.concatenate([np.zeros([4, 1, CLASSES], 'float32'), cls[:, None], tokens], axis=1).transpose(0, 2, 1)
        true_loss = original.tlt.loss.TokenLabelCrossEntropy(classes=CLASSES)(expected, torch.from_numpy(true.copy()))
    else:
        true_loss = original.tlt.loss.cross_entropy.SoftTargetCrossEntropy()(expected, torch.from_numpy(cls))
    loss.backward(), true_loss.backward()

    got = arrays({key: p.grad for key, p in ours.named_parameters() if not p.stop_gradient})
    wanted = in_our_terms({key: p.grad for key, p in theirs.named_parameters()})
    assert got.keys() == wanted.keys()
    error, what = max(difference(got[key], wanted[key]) for key in got), f'{name} at {size} with {depth} blocks'
    fidelity('Gradients', f'{what}: the worst of {len(got)} tensors', error, 1e-4)
    fidelity('Loss', f'{what}, in training', difference(loss, true_loss), 1e-6, 'relative error')
