"""The training targets of a batch and the token-labeling loss."""

from typing import NamedTuple, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from util.data import token_label
from util.train import mixtoken


class Targets(NamedTuple):
    """Target distributions: of the class token, and of every patch token (None without token labels)."""

    cls: paddle.Tensor  # [B, C]
    token_targets: Optional[paddle.Tensor]  # [B, N, C]


def hard_targets(label, num_classes, smoothing):
    """Smoothed one-hot rows [B, C] that sum to 1 (arXiv 1512.00567). label: int64 [B], class ids."""
    return F.one_hot(label, num_classes) * (1.0 - smoothing) + smoothing / num_classes


def batch_targets(batch, num_classes, smoothing=0.0, ground_truth=False, gumbel=False, confidence=0.0):
    """Targets of a loader's batch: from its label maps if it has them, else from its labels.

    ground_truth: what the class token learns. False: the map; 'only': the true label; 'blend': both. The map's share of
    the blend is 0.5 if map and label agree on the best class, else 0.9, as in the original's loss. Images without a
    label learn the map in any case.
    gumbel, confidence: for the patch tokens, see chosen_tokens.
    """
    label = batch['label']
    if 'labelled' in batch:
        label = label.clip(min=0)  # one_hot takes class ids only; these rows are not used
    hard = hard_targets(label, num_classes, smoothing)
    if 'ids' not in batch:
        return Targets(hard, None)
    chooses = gumbel or confidence > 0  # chosen_tokens needs the probabilities before smoothing
    dense = token_label.dense_target(
        batch['ids'], batch['listed'], batch['floor'], num_classes=num_classes, smoothing=0.0 if chooses else smoothing
    )
    cls, token_targets = dense[:, 0], dense[:, 1:]
    if chooses:
        cls = token_label.smooth(cls, smoothing, num_classes)
        token_targets = chosen_tokens(token_targets, smoothing, gumbel=gumbel, confidence=confidence)
    from_map = cls
    if ground_truth == 'only':
        cls = hard
    elif ground_truth:
        agree = (cls.argmax(axis=-1) == label).astype(cls.dtype).unsqueeze(-1)
        share = 0.9 - 0.4 * agree
        cls = cls * share + hard * (1.0 - share)
    if ground_truth and 'labelled' in batch:
        labelled = batch['labelled'].unsqueeze(-1)
        cls = cls * labelled + from_map * (1.0 - labelled)
    if 'mapped' in batch:  # images without a map: the class token learns the label, the patch tokens nothing
        mapped = batch['mapped'].unsqueeze(-1)
        cls = cls * mapped + hard * (1.0 - mapped)
        token_targets = token_targets * mapped.unsqueeze(-1)
    return Targets(cls, token_targets)


def chosen_tokens(probabilities, smoothing, gumbel, confidence):
    """Smoothed token targets [B, N, C] from a labeler's class probabilities [B, N, C] (arXiv 2401.03844, section 3.2).

    gumbel: a token learns one class, drawn from its distribution π in every step: argmax_c (log π_c + G_c) with
    G_c ~ Gumbel(0, 1). confidence: a token whose best class has a lower probability learns nothing (its row is zero);
    the paper keeps all tokens.
    """
    confident = (probabilities.max(axis=-1, keepdim=True) >= confidence).astype(probabilities.dtype)
    if gumbel:
        probabilities = F.gumbel_softmax(paddle.log(probabilities.clip(min=1e-30)), hard=True)
    return token_label.smooth(probabilities, smoothing, probabilities.shape[-1]) * confident


def soft_cross_entropy(logits, target):
    """Mean over rows of −Σ_c target_c · log softmax(logits)_c, in float32. logits, target: [..., C].

    Rows of the target need not sum to 1; a row of zeros has no loss. The gradient of Paddle's fused kernel is right
    only for rows that sum to 1, so each row is divided by its sum, and its loss is multiplied by the sum.
    """
    sums = target.sum(axis=-1, keepdim=True)
    loss = F.cross_entropy(logits.astype('float32'), target / sums.clip(min=1e-12), soft_label=True, reduction='none')
    return (loss * sums).mean()


class TokenLabelLoss(nn.Layer):
    """cls_weight · CE(cls, class) + dense_weight · CE(aux, token targets) + pool_weight · CE(mean of aux, class).

    The first two terms are token labeling (arXiv 2104.10858). The third trains the mean of the token logits on the
    class target, so that tokens learn to classify from image labels alone (arXiv 2401.03844, eq. 2).
    In the first term MixToken's lam mixes the class targets of a batch and its reverse; the model returns the tokens
    unmixed, so the others need no mixing. The second term needs token targets and a token classifier, the third a
    token classifier; without them they are left out.
    """

    def __init__(self, cls_weight=1.0, dense_weight=1.0, pool_weight=0.0):
        super().__init__()
        self.cls_weight, self.dense_weight, self.pool_weight = cls_weight, dense_weight, pool_weight

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
        if aux is not None and self.pool_weight:
            loss = loss + self.pool_weight * soft_cross_entropy(aux.mean(axis=1), targets.cls)
        return loss
