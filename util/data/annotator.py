"""Annotators, which give class scores for every cell of an image, and label maps made of these scores.

An annotator is called with images [B, 3, S, S] and returns float32 [B, H·H, C], the cells in row-major order. Its
attributes are `side` (H) and `num_classes` (C); `fingerprint()` identifies its weights.

    TokenHead    LV-ViT: the classifier of its patch tokens
    PooledHead   a network that ends in a global average pool and one linear layer, such as ResNet: this layer, applied
                 to each cell of the features before the pool as a 1x1 convolution
    OnnxHead     a network in an ONNX file (onnx_annotator.py)
    MappedClasses   another annotator, with its classes mapped to the user's (class_map.py)
"""

import hashlib
import math

import numpy as np
import paddle
from paddle import nn
from paddle.vision import models as zoo

from util.data.label_maps import FLOAT16_EXACT
from util.data.onnx_annotator import check_cells
from util.errors import UserError, one_line
from util.logger import log
from util.weights.fit import without_prefix
from util.weights.load import choose, load_state, read

CLASSIFIERS = [name for name in zoo.__all__ if name.islower()]  # the functions; names of classes are capitalised


class TokenHead:
    """The aux_head of an LV-ViT. Raises UserError if the model has none, or if it was never trained (all zeros)."""

    def __init__(self, model, name):
        if not model.return_dense:
            raise UserError(f'--model {name}: has no classifier of the tokens (aux_head), so it cannot make label maps')
        if not any(p.numpy().any() for p in model.aux_head.parameters()):
            raise UserError(
                f'--model {name}: its aux_head is all zeros, because it was trained without token labels; train it '
                'with --token_pool_weight 1, or let tools/self_label.py train it, make the maps and train with them'
            )
        model.eval()
        self.model, self.num_classes, self.side = model, model.num_classes, model.grid

    def __call__(self, images):
        return self.model.forward_dense(images)[1]

    def fingerprint(self):
        return fingerprint(self.model)


class PooledHead:
    """The last linear layer of a classifier, applied to every cell before its global average pool.

    One forward pass shows which layers these are. A linear layer commutes with averaging, so the mean over the cells
    must equal the model's logits. Raises UserError if they differ, or if the cells do not tile the image.
    """

    def __init__(self, model, name, size):
        model.eval()
        self.model = model
        self._features = None  # what went into the pool in the last forward pass
        image = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 3, size, size), dtype='float32'))
        try:
            inputs, logits = _inputs_of_layers(model, image)
        except (ValueError, RuntimeError) as error:  # Paddle: the shapes do not fit
            raise UserError(f'--model {name}: does not take images of {size} pixels ({one_line(error)})')
        self.pool, features = _last(inputs, nn.AdaptiveAvgPool2D)
        self.head, pooled = _last(inputs, nn.Linear)
        fits = self.pool and self.head and isinstance(logits, paddle.Tensor) and features.shape[1] == pooled.shape[-1]
        if fits:
            self.num_classes = self.head.weight.shape[1]
            self.side = features.shape[-1]
            self.feature_shape = features.shape[1:]  # [C, H, H]
            self.pool.register_forward_pre_hook(self._keep)
            mean, logits = self(image).mean(axis=1).numpy(), logits.numpy()
            if not np.isfinite(logits).all():
                raise UserError(f'--model {name}: its outputs are not finite (NaN or infinite); check the weights')
            fits = mean.shape == logits.shape and np.abs(mean - logits).max() <= 1e-3 * np.abs(logits).max()
        if not fits:
            raise UserError(
                f'--model {name}: does not end in a global average pool and one linear layer; '
                'use resnet, resnext, wide_resnet, densenet, mobilenet_v1/v2 or shufflenet_v2'
            )
        check_cells(size, self.side)

    def _keep(self, _, inputs):
        self._features = inputs[0]

    def __call__(self, images):
        self.model(images)
        features, self._features = self._features, None
        return self.head(features.flatten(2).transpose([0, 2, 1]))

    def fingerprint(self):
        return fingerprint(self.model)


def _inputs_of_layers(model, image):
    """([(layer, its input)] of the average pools and linear layers, in the order in which they ran; model(image))."""
    found = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: found.append((layer, inputs[0])))
        for layer in model.sublayers()
        if isinstance(layer, (nn.AdaptiveAvgPool2D, nn.Linear))
    ]
    try:
        output = model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found, output


def _last(inputs, kind):
    """The last (layer, its input) of _inputs_of_layers with a layer of class `kind`; (None, None) if there is none."""
    for layer, value in reversed(inputs):
        if isinstance(layer, kind):
            return layer, value
    return None, None


def head_classes(weights, head, path):
    """The number of classes in saved weights: the columns of the linear layer `head`. Raises UserError."""
    name = f'{head}.weight'
    weight = without_prefix(weights, path, [name]).get(name)
    if np.ndim(weight) != 2:
        raise UserError(f"{path}: has no matrix '{name}', so --transfer cannot tell how many classes there are")
    return weight.shape[1]


def load_classifier(name, num_classes, path='', ema=False, transfer=False):
    """The classifier `name` of paddle.vision.models with the weights of a file.

    Without a path, Paddle downloads weights. transfer: take the number of classes from the file's head.
    Raises UserError for an unknown name, weights that do not fit, or a failed download.
    """
    if name not in CLASSIFIERS:
        raise UserError(f'--model {name}: neither an LV-ViT nor one of paddle.vision.models ({", ".join(CLASSIFIERS)})')
    build = getattr(zoo, name)
    if not path:
        if num_classes != 1000:
            raise UserError(
                f'--nb_classes {num_classes}: the weights that Paddle offers for {name} have 1000 classes; '
                'give your own with --resume'
            )
        try:
            model = build(pretrained=True)
        except Exception as error:  # no network, no such file, a full disk
            raise UserError(
                f'--model {name}: its weights could not be downloaded ({one_line(error)}); '
                'give a local file (.pdparams, .pth, .safetensors) with --resume'
            )
        log(f'using the weights that Paddle offers for {name}')
        return model
    state = read(path)
    if transfer:
        heads = [key for key, layer in build(num_classes=1).named_sublayers() if isinstance(layer, nn.Linear)]
        num_classes = head_classes(choose(state, path, ema)[0], heads[-1] if heads else 'head', path)
    model = build(num_classes=num_classes)
    load_state(model, state, path, ema)
    return model


def fingerprint(model):
    """16 hex digits that identify a model's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(value.numpy()))
    return digest.hexdigest()[:16]


def chance_warning(correct, images, num_classes):
    """A warning if an annotator with `correct` right answers is not clearly better than guessing, else ''.

    The accuracy of guessing on n images has mean p = 1 / num_classes and standard deviation √(p (1 − p) / n). The
    annotator must be more than two standard deviations above p. If 100 % is not above that, there is no warning.
    """
    if not images:
        return ''
    chance = 1 / num_classes
    limit = chance + 2 * math.sqrt(chance * (1 - chance) / images)
    if correct / images > limit or limit >= 1:
        return ''
    return (
        f'top-1 {100 * correct / images:.1f} % on {images} images is not clearly above guessing '
        f'({100 * chance:.1f} %, by chance up to {100 * limit:.1f} %): these maps are probably useless; check the '
        'weights and the class ids'
    )


def map_dtype(num_classes):
    """'float16', or 'float32' if float16 would round some ids."""
    return 'float16' if num_classes <= FLOAT16_EXACT else 'float32'


def top_maps(scores, topk, dtype, relative=False):
    """Label maps [B, 2, K, H, H], a numpy array, with K = topk: the best classes of each cell, best first.

    [:, 0] are scores and [:, 1] class ids. scores: float32 [B, H·H, C]; relative: see relative_scores.
    """
    best, ids = paddle.topk(scores, topk, axis=-1)
    if relative:
        best = relative_scores(scores, best, ids)
    side = round(scores.shape[1] ** 0.5)
    with np.errstate(over='ignore'):  # a score beyond float16 becomes infinite, which the caller refuses
        maps = np.stack([best.numpy(), ids.numpy()], axis=1).astype(dtype)  # [B, 2, H·H, K]
    return np.ascontiguousarray(maps.transpose(0, 1, 3, 2)).reshape(len(maps), 2, topk, side, side)


def relative_scores(scores, best, ids):
    """best − log(mean of exp over the classes that are not among the K best): relative scores [..., K].

    scores: [..., C], of all classes; best, ids: [..., K], the K best and their ids. Training gives the classes that a
    map does not list score 0. With relative scores, softmax then gives the annotator's own probability for each listed
    class, and the others share the rest equally. Raw scores do not ensure that: adding a constant to them does not
    change the annotator's probabilities, but it changes the targets. If K = C, the mean is over all classes.
    """
    others, count = scores, scores.shape[-1]
    if count > best.shape[-1]:
        others = paddle.put_along_axis(scores, ids, paddle.to_tensor(-math.inf), axis=-1)
        count -= best.shape[-1]
    return best - (paddle.logsumexp(others, axis=-1, keepdim=True) - math.log(count))
