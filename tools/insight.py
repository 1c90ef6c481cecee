"""What a model computes on the way to its output: token predictions after each block, attention, rollout, relevance.

Everything is read through forward hooks; lv_vit.py needs no code for it.
"""

import numpy as np
import paddle
import paddle.nn.functional as F


def outputs_of(layers, model, images):
    """([output of each of `layers`], output of the model) in a forward pass of the model."""
    found = []
    hooks = [layer.register_forward_post_hook(lambda layer, inputs, output: found.append(output)) for layer in layers]
    try:
        result = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found, result


# -- tokens -----------------------------------------------------------------------------------------------------------


@paddle.no_grad()
def scores_and_tokens(model, image):
    """(class scores float32 [C], token scores float32 [blocks, N, C]), all probabilities, of float32 [3, S, S].

    Token scores of a block: final norm and token classifier applied to its output; for the last block these are the
    model's own. The token scores are None for a model without a trained token classifier.
    """
    features, logits = outputs_of(model.blocks, model, paddle.to_tensor(image[None]))
    scores = F.softmax(logits)[0].numpy()
    if not has_trained_token_classifier(model):
        return scores, None
    tokens = [F.softmax(model.aux_head(model.norm(x[:, 1:])))[0].numpy() for x in features]
    return scores, np.stack(tokens)


def has_trained_token_classifier(model):
    """False if the model has no token classifier, or if training without token labels left it at zero."""
    return model.return_dense and any(p.numpy().any() for p in model.aux_head.parameters())


# -- attention --------------------------------------------------------------------------------------------------------


@paddle.no_grad()
def attention_maps(model, images):
    """The attention of every block, [float32 [B, heads, T, T]]; T = 1 + N tokens, each row sums to 1.

    images: float32 [B, 3, S, S]. The blocks keep no attention: it is computed again from their queries and keys.
    """
    attentions = [block.attn for block in model.blocks]
    outputs, _ = outputs_of([attention.qkv for attention in attentions], model, images)
    return [attention_weights(attention, qkv)[0].numpy() for attention, qkv in zip(attentions, outputs)]


def attention_weights(attention, qkv):
    """(attention [B, heads, T, T], values [B, heads, T, width]) from the output of attention.qkv, [B, T, 3·D]."""
    heads = [0, 0, attention.num_heads, attention.head_dim]
    q, k, v = (part.reshape(heads).transpose([0, 2, 1, 3]) for part in qkv.split(3, axis=-1))
    return F.softmax(q @ k.transpose([0, 1, 3, 2]) * attention.head_dim**-0.5, axis=-1), v


def rollout(maps, branch_scale=1.0):
    """Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): the share of each input token in each output token.

    maps: [float [B, heads, T, T]] from the first block to the last. Returns float64 [B, T, T], rows sum to 1.

        rollout = Â_L · … · Â_1,    Â = (I + s·A) / (1 + s),    A = mean over the heads

    The paper has Â = ½·I + ½·A, for a block that computes x + A·x. The blocks of LV-ViT compute x + s·f(x) with
    s = branch_scale = 1 / skip_lam, so the identity weighs more: s = 1 (lvvit_t) is the paper's ½ and ½, s = ½
    (lvvit_s, lvvit_m) gives ⅔ and ⅓, s = ⅓ (lvvit_l) ¾ and ¼. As in the paper, the sizes of the values, norms and MLPs
    are ignored.
    """
    total = identity = np.eye(maps[0].shape[-1])
    for attention in maps:
        mean = attention.astype('float64').mean(axis=1)
        step = (identity + branch_scale * mean) / (1 + branch_scale)
        step /= step.sum(axis=-1, keepdims=True)  # float32 rows sum to 1 up to 1e-6
        total = step @ total
    return total


def class_rollout(model, image):
    """The share of each patch token in the class token's output, relative to an equal share: float64 [N], mean 1.

    image: float32 [3, S, S]. The class token's share in itself is left out.
    """
    maps = attention_maps(model, paddle.to_tensor(image[None]))
    share = rollout(maps, model.blocks[0].skip_scale)[0, 0, 1:]
    return share / share.mean()


# -- relevance --------------------------------------------------------------------------------------------------------


def class_relevance(model, image, class_id):
    """What each patch token contributed to the class token's score of a class: float64 [N], none negative.

    image: float32 [3, S, S]; class_id: 0 to C−1. Chefer, Gur and Wolf, ICCV 2021 (arXiv 2103.15679), equations 5 to 7,
    for self-attention: R = I; for each block R += E_h[max(0, ∂score/∂A ∘ A)] · R, with E_h the mean over the heads.
    The result is the row of the class token in R without its own entry. The score is the logit of `head`.
    """
    attentions = [block.attn for block in model.blocks]
    attended = []  # A·V of each block, the input of its `proj`: [1, T, D]
    hooks = [
        attention.proj.register_forward_pre_hook(lambda _, inputs: attended.append(inputs[0]))
        for attention in attentions
    ]
    try:
        layers = [attention.qkv for attention in attentions]
        images = paddle.to_tensor(image[None])
        qkvs, features = outputs_of(layers, model.forward_features, images)
    finally:
        for hook in hooks:
            hook.remove()
    score = model.head(features[:, 0])[0, class_id]
    # On CPUs, the gradient of Paddle's LayerNorm is wrong unless that of its weight is asked for as well.
    norms = [p for name, p in model.named_parameters() if 'norm' in name and name.endswith('weight')]
    gradients = paddle.grad(score, attended + norms, allow_unused=True)[: len(attended)]
    relevance = np.eye(qkvs[0].shape[1])
    for attention, qkv, gradient in zip(attentions, qkvs, gradients):
        weights, v = attention_weights(attention, qkv)
        heads = [0, 0, attention.num_heads, attention.head_dim]
        gradient = gradient.reshape(heads).transpose([0, 2, 1, 3])
        # ∂score/∂A = ∂score/∂(A·V) · Vᵀ
        of_attention = (gradient @ v.transpose([0, 1, 3, 2])).numpy()[0].astype('float64')
        step = np.maximum(0, of_attention * weights.numpy()[0]).mean(axis=0)
        relevance += step @ relevance
    return relevance[0, 1:]
