"""Loss and gradients of every parameter against the original's TokenLabelCrossEntropy and PyTorch's autograd."""

import numpy as np
import paddle
import pytest

from parity.maps import Set
from parity.weights import arrays, difference, in_our_terms, inject_box, pair, to_paddle
from util.train import mixtoken
from util.train.loss import Targets, TokenLabelLoss, batch_targets, hard_targets, soft_cross_entropy

CLASSES, TOKENS, BATCH = 40, 4, 6
BOX = (0, 1, 3, 3)  # 6 of 16 tokens


@pytest.fixture
def labelled(original, tmp_path, monkeypatch):
    """labelled(labels=None) -> (our collated batch, the original's (images, smoothed targets)) of a small set."""

    def make(labels=None):
        data = Set(tmp_path, original, 18, CLASSES, labels=labels)
        return data.ours(monkeypatch, TOKENS, 16 * TOKENS), data.theirs(monkeypatch, TOKENS, 16 * TOKENS, smoothing=0.1)

    return make


def as_tensors(batch):
    return {name: paddle.to_tensor(value) for name, value in batch.items()}


def logits(seed=0):
    rng = np.random.default_rng(seed)
    return (
        3 * rng.standard_normal([BATCH, CLASSES], dtype='float32'),
        3 * rng.standard_normal([BATCH, TOKENS**2, CLASSES], dtype='float32'),
    )


@pytest.mark.parametrize('box', [mixtoken.EMPTY_BOX, BOX], ids=['unmixed', 'mixed'])
@pytest.mark.parametrize('ground_truth', [False, True], ids=['maps', 'ground_truth'])
def test_the_loss_and_its_gradients_with_respect_to_the_scores(box, ground_truth, original, fidelity, labelled):
    torch = original.torch
    batch, (_, target) = labelled()
    best = target[:, :, 1].argmax(-1).tolist()
    batch, (_, target) = labelled([best[0], best[1], *[(b + 1) % CLASSES for b in best[2:]]])
    assert (target[:, :, 0].argmax(-1) == target[:, :, 1].argmax(-1)).tolist() == [True, True] + [False] * 4
    targets = batch_targets(as_tensors(batch), CLASSES, 0.1, ground_truth)
    what = 'token labels' + ', blended with the true label' * ground_truth + ', MixToken' * (box == BOX)
    for cls_weight, dense_weight in ((1.0, 1.0), (0.7, 0.3), (1.0, 0.0)):
        ours, theirs = [to_paddle(x) for x in logits()], [torch.from_numpy(x).requires_grad_() for x in logits()]
        for tensor in ours:
            tensor.stop_gradient = False
        loss = TokenLabelLoss(cls_weight, dense_weight)((*ours, box), targets)
        weights = dict(dense_weight=dense_weight, cls_weight=cls_weight)
        criterion = original.tlt.loss.TokenLabelCrossEntropy(**weights, classes=CLASSES, ground_truth=ground_truth)
        expected = criterion((*theirs, box), target)
        loss.backward(), expected.backward()
        fidelity('Loss', what, difference(loss, expected), 1e-6, 'relative error', note='weights 1:1, 0.7:0.3 and 1:0')
        errors = [difference(ours[0].grad, theirs[0].grad)]
        if dense_weight:
            errors.append(difference(ours[1].grad, theirs[1].grad))
        else:
            assert ours[1].grad is None and not theirs[1].grad.any()
        fidelity('Loss', f'{what}: gradient of the scores', max(errors), 1e-5)


def test_the_loss_of_labels_alone(original, fidelity):
    label, (cls, _) = np.array([0, 3, 39, 3, 7, 7]), logits(1)
    target, torch = hard_targets(paddle.to_tensor(label), CLASSES, 0.1), original.torch
    create = original.tlt.data.create_token_label_target
    true = create(torch.from_numpy(label), CLASSES, smoothing=0.1, device='cpu')
    expected = original.tlt.loss.cross_entropy.SoftTargetCrossEntropy()(torch.from_numpy(cls), true)
    error = difference(soft_cross_entropy(to_paddle(cls), target), expected)
    fidelity('Loss', 'labels alone, smoothing 0.1', error, 1e-6, 'relative error')
    loss = TokenLabelLoss()((to_paddle(cls), None, mixtoken.EMPTY_BOX), Targets(target, None))
    assert float(loss) == float(soft_cross_entropy(to_paddle(cls), target))


def distributions(shape, seed):
    """Random rows that sum to 1 + 0.1/CLASSES, as the smoothed targets of both projects do."""
    weights = np.exp(3 * np.random.default_rng(seed).standard_normal(shape))
    return (weights / weights.sum(-1, keepdims=True) * (0.9 + 0.1 / CLASSES) + 0.1 / CLASSES).astype('float32')


def same_side_of_every_relu(ours, theirs, torch, shape):
    """Random images for which no activation of the stem is so near 0 that rounding puts it on different sides of ReLU.

    ReLU's derivative jumps there: one such activation among millions changes a gradient by 1e-3 and says nothing about
    either implementation. A draw of four images at 224 px has one or none of them.
    """
    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal(shape, dtype='float32')
        sides = [], []
        for model, seen, batch in ((ours, sides[0], to_paddle(x)), (theirs, sides[1], torch.from_numpy(x))):
            stem = model.patch_embed
            norms = [getattr(stem, name) for name in ('bn1', 'bn2', 'bn3') if hasattr(stem, name)]
            register = 'register_forward_post_hook' if model is ours else 'register_forward_hook'

            def see(layer, inputs, output, seen=seen):
                seen.append(np.array(output.detach() > 0))

            hooks = [getattr(norm, register)(see) for norm in norms]
            with paddle.no_grad(), torch.no_grad():
                stem(batch)
            for hook in hooks:
                hook.remove()
        if all((a == b).all() for a, b in zip(*sides)):
            return x
    raise AssertionError('activations on different sides of ReLU in 20 draws of images')


CASES = [('lvvit_t', 224, {}), ('lvvit_s', 64, {})]
CASES += [(*case, {'depth': 3}) for case in (('lvvit_l', 32), ('lvvit', 64), ('vit', 64))]


@pytest.mark.parametrize('name, size, changes', CASES)
def test_the_gradient_of_every_parameter(name, size, changes, original, fidelity, monkeypatch):
    torch, n = original.torch, (size // 16) ** 2
    ours, theirs = pair(original, name, size, CLASSES, seed=5, **changes)
    ours.train(), theirs.train()
    x = same_side_of_every_relu(ours, theirs, torch, [4, 3, size, size])
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
    errors = {key: difference(got[key], wanted[key]) for key in got}
    depth = f' with {changes["depth"]} blocks' if changes else ''
    fidelity('Gradients', f'{name} at {size}{depth}: the worst of {len(got)} tensors', max(errors.values()), 1e-4)
    fidelity('Loss', f'{name} at {size}{depth}, in training', difference(loss, true_loss), 1e-6, 'relative error')
