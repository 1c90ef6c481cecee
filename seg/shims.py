"""What is broken inside PaddleSeg 2.8.0, by itself or on Paddle 3 and numpy 2, and a mend of each, as small as it goes.

Before Paddle 3 a sum or mean had the shape [1], and now it has none; PaddleSeg relies on the former in two places.
"""

import sys

import numpy as np
import paddle


def apply():
    """Mend what is imported of PaddleSeg. Called twice it does nothing more."""
    train = _module('paddleseg.core.train')
    if hasattr(train, 'float'):
        return
    _mend_training(train)
    _module('paddleseg.utils.metrics').calculate_area = calculate_area
    losses = _module('paddleseg.models.losses.cross_entropy_loss')
    _mend_cross_entropy(losses.CrossEntropyLoss)
    _mend_crop(_module('paddleseg.transforms').RandomPaddingCrop)


def _module(name):
    """A module by its name: `paddleseg.core.train` as an attribute is the function of that name."""
    __import__(name)
    return sys.modules[name]


def _mend_training(train):
    """core/train.py logs `l[0]` of each loss, which a number without a shape refuses; and with a shape, float() of the
    sum refuses it, since numpy 2.4."""
    computed = train.loss_computation
    train.loss_computation = lambda **kw: [loss.reshape([1]) for loss in computed(**kw)]
    train.float = lambda tensor: tensor.item()  # its only call there is float(loss)
    paddle.flops = lambda *args, **kwargs: None  # fails on numpy 2.4 too, after the last step; it only prints a table


def calculate_area(pred, label, num_classes, ignore_index=255):
    """In place of utils.metrics', which concatenates sums that have no shape now. pred, label: class ids of any equal
    size -> pixels of each class that both say, that pred says, that label says: three int64 tensors [num_classes]."""
    if pred.size != label.size:
        raise ValueError(f'prediction {list(pred.shape)} and mask {list(label.shape)} differ in size')
    pred, label = pred.numpy().ravel(), label.numpy().ravel()
    pred, label = pred[label != ignore_index], label[label != ignore_index]
    areas = [np.bincount(ids, minlength=num_classes) for ids in (pred[pred == label], pred, label)]
    return tuple(paddle.to_tensor(area[:num_classes], 'int64') for area in areas)


def _mend_cross_entropy(loss_class):
    """Without class weights it multiplies a float mask by ones of the labels' integer type, which Paddle 3 refuses."""
    original = loss_class._post_process_loss

    def post_process(self, logit, label, semantic_weights, loss):
        if self.weight is None:
            label = label.astype('float32')  # only compared with ignore_index, and the ones made like it
        return original(self, logit, label, semantic_weights, loss)

    loss_class._post_process_loss = post_process


def _mend_crop(crop_class):
    """RandomPaddingCrop with category_max_ratio puts the cut mask in the image's place, or leaves the image uncut."""
    original = crop_class.__call__

    def crop(self, data):
        ratio, self.category_max_ratio = self.category_max_ratio, 1.0
        try:
            if ratio >= 1.0:
                return original(self, data)
            for attempt in range(self.loop_times):
                cut = original(self, dict(data))
                ids, counts = np.unique(cut['label'], return_counts=True)
                counts = counts[ids != self.ignore_index]
                if len(counts) > 1 and counts.max() < ratio * counts.sum():
                    break
            return cut
        finally:
            self.category_max_ratio = ratio

    crop_class.__call__ = crop
