"""Dense class scores from a model that classifies images, and the label maps that are made of them.

An annotator takes images [B, 3, S, S] and returns the scores of every cell, float32 [B, H·H, C], row by row:

    TokenHead    LV-ViT: the classifier of its patch tokens
    PooledHead   a network that ends in a global average pool and one linear layer, such as ResNet: this layer on each
                 cell of the features before the pool, that is, as a 1x1 convolution

Networks in ONNX files: util/data/onnx_annotator.py; annotators of other classes: util/data/class_map.py.
"""

import hashlib
import math

import numpy as np
import paddle
from paddle import nn
from paddle.vision import models as zoo

from util.errors import UserError
from util.weights import pretrained

CLASSIFIERS = [name for name in zoo.__all__ if name.islower()]  # constructors; the classes are capitalised
EXACT_FLOAT16 = 2048  # ids up to here are exact in float16


class TokenHead:
    """The aux_head of an LV-ViT. Raises UserError for a model without one, or with one that was never trained."""

    def __init__(self, model, name):
        if not model.return_dense:
            raise UserError(f'--model {name}: has no classifier of the tokens (aux_head), so it cannot make label maps')
        if not any(p.numpy().any() for p in model.aux_head.parameters()):
            raise UserError(
                f'--model {name}: its aux_head is all zeros; it was trained without token labels. For a labeler train '
                'it with --token_pool_weight 1, or let tools/self_label.py do that, make the maps and train with them'
            )
        model.eval()
        self.model, self.num_classes, self.side = model, model.num_classes, model.grid

    def __call__(self, images):
        return self.model.forward_dense(images)[1]

    def fingerprint(self):
        return fingerprint(self.model)


class PooledHead:
    """The last linear layer of a classifier on every cell before its global average pool.

    The pool and the layer are found by watching one forward pass. A linear layer commutes with averaging, so the mean
    over the cells must be the model's own logits: raises UserError if it is not, or if the cells do not tile the image.
    """

    def __init__(self, model, name, size):
        model.eval()
        self.model = model
        self._features = None  # what went into the pool in the last forward pass
        image = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 3, size, size), dtype='float32'))
        try:
            seen, logits = _watch(model, image)
        except (ValueError, RuntimeError) as error:  # sides that do not fit, says Paddle
            raise UserError(f'--model {name}: does not take images of {size} pixels ({_first_line(error)})')
        pool, features = _last(seen, nn.AdaptiveAvgPool2D)
        self.head, pooled = _last(seen, nn.Linear)
        fits = pool and self.head and isinstance(logits, paddle.Tensor) and features.shape[1] == pooled.shape[-1]
        if fits:
            self.num_classes = self.head.weight.shape[1]
            self.side = features.shape[-1]
            pool.register_forward_pre_hook(self._keep)
            mean, logits = self(image).mean(axis=1).numpy(), logits.numpy()
            fits = mean.shape == logits.shape and np.abs(mean - logits).max() <= 1e-3 * np.abs(logits).max()
        if not fits:
            raise UserError(
                f'--model {name}: does not end in a global average pool and one linear layer, as it must; '
                'resnet, resnext, wide_resnet, densenet, mobilenet_v1/v2 and shufflenet_v2 do'
            )
        cell = size / self.side
        if cell not in (8, 16, 32, 64):  # the sides of a network of strides 2 whose cells tile the image
            raise UserError(
                f'--img_size {size}: the {self.side}x{self.side} cells of {name} do not tile the image, so '
                'labels would lie beside their pixels; use a multiple of 32'
            )

    def _keep(self, _, inputs):
        self._features = inputs[0]

    def __call__(self, images):
        self.model(images)
        features, self._features = self._features, None
        return self.head(features.flatten(2).transpose([0, 2, 1]))

    def fingerprint(self):
        return fingerprint(self.model)


def _watch(model, image):
    """([(layer, its input)] of the pools and linear layers in the order in which they ran, the model's output)."""
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append((layer, inputs[0])))
        for layer in model.sublayers()
        if isinstance(layer, (nn.AdaptiveAvgPool2D, nn.Linear))
    ]
    try:
        output = model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return seen, output


def _last(seen, kind):
    """(layer, its input) of the last layer of a kind, of what _watch has seen; (None, None) if there is none."""
    for layer, value in reversed(seen):
        if isinstance(layer, kind):
            return layer, value
    return None, None


def _first_line(error):
    return str(error).strip().split('\n')[0]


def head_classes(weights, head, path):
    """How many classes saved weights tell apart: the columns of the linear layer `head`. Raises UserError."""
    weight = weights.get(f'{head}.weight')
    if np.ndim(weight) != 2:
        raise UserError(f"{path}: has no matrix '{head}.weight', so --transfer cannot tell how many classes there are")
    return weight.shape[1]


def load_classifier(name, num_classes, path='', ema=False, transfer=False):
    """(model, line for the log): the classifier `name` of paddle.vision.models with the weights of a file.

    Without a path: the weights that Paddle downloads. transfer: as many classes as the file's head has.
    Raises UserError for an unknown name, weights that do not fit, or a download that fails.
    """
    if name not in CLASSIFIERS:
        raise UserError(f'--model {name}: neither an LV-ViT nor one of paddle.vision.models ({", ".join(CLASSIFIERS)})')
    build = getattr(zoo, name)
    if not path:
        if num_classes != 1000:
            raise UserError(
                f'--nb_classes {num_classes}: the weights that Paddle offers for {name} have 1000 classes; '
                'give your own with --pretrained_weights'
            )
        try:
            return build(pretrained=True), f'using the weights that Paddle offers for {name}'
        except Exception as error:  # no network, no such file there, no room for it
            raise UserError(
                f'--model {name}: its weights could not be downloaded ({_first_line(error)}); '
                'give a local file (.pdparams, .pth, .safetensors) with --pretrained_weights'
            )
    weights, source = pretrained.read_weights(path, ema)
    if transfer:
        heads = [key for key, layer in build(num_classes=1).named_sublayers() if isinstance(layer, nn.Linear)]
        num_classes = head_classes(weights, heads[-1] if heads else 'head', path)
    model = build(num_classes=num_classes)
    pretrained.set_weights(model, weights, path)
    return model, f'using {source}'


def fingerprint(model):
    """16 hex digits that stand for a model's weights: another checkpoint of the same name has others."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(value.numpy()))
    return digest.hexdigest()[:16]


def chance_warning(correct, judged, num_classes):
    """A sentence if an annotator that was right on `correct` of `judged` images may as well have guessed, else ''.

    Guessing is right with probability p = 1 / num_classes each time, so on n images in a share p with the standard
    deviation √(p (1 − p) / n); an annotator must be above p by more than two of them. No verdict where the images are
    so few that not even all of them right would be.
    """
    if not judged:
        return ''
    chance = 1 / num_classes
    limit = chance + 2 * math.sqrt(chance * (1 - chance) / judged)
    if correct / judged > limit or limit >= 1:
        return ''
    return (
        f'top-1 {100 * correct / judged:.1f} % on {judged} images is not clearly above guessing ({100 * chance:.1f} %; '
        f'up to {100 * limit:.1f} % is luck): these maps carry nothing, as far as the labels of the images can tell'
    )


def map_dtype(num_classes):
    """'float16', or 'float32' for ids that float16 would round."""
    return 'float16' if num_classes <= EXACT_FLOAT16 else 'float32'


def top_maps(scores, topk, dtype, relative=False):
    """Label maps [B, 2, K, H, H] as numpy arrays of the `topk` best classes of each cell, best first.

    scores: float32 [B, H·H, C]; [:, 0] are scores, [:, 1] class ids. relative: see relative_scores.
    """
    best, ids = paddle.topk(scores, topk, axis=-1)
    if relative:
        best = relative_scores(scores, best, ids)
    side = round(scores.shape[1] ** 0.5)
    with np.errstate(over='ignore'):  # beyond float16 is infinite, which the caller refuses
        maps = np.stack([best.numpy(), ids.numpy()], axis=1).astype(dtype)  # [B, 2, H·H, K]
    return np.ascontiguousarray(maps.transpose(0, 1, 3, 2)).reshape(len(maps), 2, topk, side, side)


def relative_scores(scores, best, ids):
    """The scores `best` [..., K] of the K best of C classes, less the log of the other classes' mean exponential.

    scores: [..., C]; ids: of the K classes. Training takes the classes that a map does not list to score 0. From
    relative scores it thus gets the annotator's own probability for each listed class, and the others share equally
    what is left. Raw scores do not promise that: to them any constant could be added without changing the annotator's
    answer. With K = C there are no others, and the mean is over all.
    """
    others, count = scores, scores.shape[-1]
    if count > best.shape[-1]:
        others = paddle.put_along_axis(scores, ids, paddle.to_tensor(-math.inf), axis=-1)
        count -= best.shape[-1]
    return best - (paddle.logsumexp(others, axis=-1, keepdim=True) - math.log(count))
