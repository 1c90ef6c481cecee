"""The token-labeling objective and what a step is trained towards."""

from typing import NamedTuple, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from util.data import token_label
from util.train import mixtoken


class Targets(NamedTuple):
    """Distributions to learn: of the class token, and of every patch token (None without token labels)."""

    cls: paddle.Tensor  # [B, C]
    token_targets: Optional[paddle.Tensor]  # [B, N, C]


def hard_targets(label, num_classes, smoothing):
    """Smoothed one-hot rows [B, C] that sum to 1 (arXiv 1512.00567). label: int64 [B]."""
    return F.one_hot(label, num_classes) * (1.0 - smoothing) + smoothing / num_classes


def batch_targets(batch, num_classes, smoothing=0.0, ground_truth=False):
    """Targets of a loader's batch: from its label maps if it has them, else from its labels.

    ground_truth: blend the class token's target with the true label; the map's share is 0.5 where both agree on the
    best class and 0.9 where they do not, as in the original's loss.
    """
    label = batch['label']
    hard = hard_targets(label, num_classes, smoothing)
    if 'ids' not in batch:
        return Targets(hard, None)
    dense = token_label.dense_target(
        batch['ids'], batch['listed'], batch['floor'], num_classes=num_classes, smoothing=smoothing
    )
    cls, token_targets = dense[:, 0], dense[:, 1:]
    if ground_truth:
        agree = (cls.argmax(axis=-1) == label).astype(cls.dtype).unsqueeze(-1)
        share = 0.9 - 0.4 * agree
        cls = cls * share + hard * (1.0 - share)
    if 'mapped' in batch:  # images without a map: their label for the class, nothing for the tokens
        mapped = batch['mapped'].unsqueeze(-1)
        cls = cls * mapped + hard * (1.0 - mapped)
        token_targets = token_targets * mapped.unsqueeze(-1)
    return Targets(cls, token_targets)


def soft_cross_entropy(logits, target):
    """Mean over rows of −Σ_c target_c · log softmax(logits)_c, in float32; rows need not sum to 1 (a row of
    zeros asks for nothing).

    logits, target: [..., C]. Uses Paddle's fused kernel; its gradient takes rows to sum to 1, so each row goes in
    normalised and its sum comes back as a factor.
    """
    mass = target.sum(axis=-1, keepdim=True)
    loss = F.cross_entropy(logits.astype('float32'), target / mass.clip(min=1e-12), soft_label=True, reduction='none')
    return (loss * mass).mean()


class TokenLabelLoss(nn.Layer):
    """cls_weight · CE(cls, target of the class) + dense_weight · CE(aux, targets of the tokens) (arXiv 2104.10858).

    The class target is mixed with the batch reversed by MixToken's lam; tokens need no mixing, the model returns them
    unmixed. Without token targets the dense term is absent.
    """

    def __init__(self, cls_weight=1.0, dense_weight=1.0):
        super().__init__()
        self.cls_weight, self.dense_weight = cls_weight, dense_weight

    def forward(self, outputs, targets):
        """outputs: the model's (cls [B, C], aux [B, N, C] or None, box); targets: Targets. Returns a scalar."""
        cls, aux, box = outputs
        target = targets.cls
        if box != mixtoken.EMPTY_BOX:
            lam = mixtoken.kept_share(box, aux.shape[1])
            target = target * lam + target.flip(0) * (1.0 - lam)
        loss = self.cls_weight * soft_cross_entropy(cls, target)
        if targets.token_targets is not None and aux is not None and self.dense_weight:
            loss = loss + self.dense_weight * soft_cross_entropy(aux, targets.token_targets)
        return loss
