"""Repairs of PaddleSeg 2.8.0: of its own errors, and of those that Paddle 3 and numpy 2 cause.

Paddle 2 gave sums and means the shape [1]; Paddle 3 gives them the shape []. PaddleSeg relies on [1] in two places.
"""

import sys

import numpy as np
import paddle

from util.data import images
from util.errors import UserError


def apply():
    """Repair the imported PaddleSeg. A second call does nothing."""
    train = _module('paddleseg.core.train')
    if hasattr(train, 'float'):
        return
    _repair_training(train)
    _module('paddleseg.utils.metrics').calculate_area = calculate_area
    _repair_cross_entropy(_module('paddleseg.models.losses.cross_entropy_loss').CrossEntropyLoss)
    transforms = _module('paddleseg.transforms')
    _repair_crop(transforms.RandomPaddingCrop)
    _repair_reading(transforms.Compose)


def _module(name):
    """A module by its name; the attribute `paddleseg.core.train` is the function of that name."""
    __import__(name)
    return sys.modules[name]


def _repair_training(train):
    """core/train.py fails at `loss[0]` on Paddle 3, at `float(loss)` of shape [1] with numpy 2.4, and at paddle.flops,
    which prints a table after the last step, with numpy 2.4."""
    loss_computation = train.loss_computation
    train.loss_computation = lambda **kw: [loss.reshape([1]) for loss in loss_computation(**kw)]
    train.float = lambda tensor: tensor.item()
    paddle.flops = lambda *args, **kwargs: None


def calculate_area(pred, label, num_classes, ignore_index=255):
    """utils/metrics.py fails on Paddle 3, where it concatenates sums of shape []; this function replaces its own.

    pred, label: class ids, int [B, 1, H, W] or [B, H, W]. Returns three int64 tensors [num_classes]: the pixels of each
    class in both, in pred, in label. Pixels with label ignore_index do not count. Raises UserError if H or W differ.
    """
    if pred.shape[-2:] != label.shape[-2:] or pred.size != label.size:
        raise UserError(
            f'a mask has the shape {list(label.shape)}, but its prediction {list(pred.shape)}; without --no_check the '
            'script names the file'
        )
    pred, label = pred.numpy().ravel(), label.numpy().ravel()
    pred, label = pred[label != ignore_index], label[label != ignore_index]
    areas = [np.bincount(ids, minlength=num_classes) for ids in (pred[pred == label], pred, label)]
    return tuple(paddle.to_tensor(area[:num_classes], 'int64') for area in areas)


def _repair_cross_entropy(loss_class):
    """CrossEntropyLoss without class weights fails on Paddle 3: it multiplies float32 by the labels' integer type."""
    post_process_loss = loss_class._post_process_loss

    def repaired(self, logit, label, semantic_weights, loss):
        if self.weight is None:
            label = label.astype('float32')  # used for `label != ignore_index` and ones_like(label) only
        return post_process_loss(self, logit, label, semantic_weights, loss)

    loss_class._post_process_loss = repaired


def _repair_crop(crop_class):
    """RandomPaddingCrop with category_max_ratio < 1 returns the mask as the image, or an image that is not cropped."""
    crop_once = crop_class.__call__

    def repaired(self, data):
        ratio, self.category_max_ratio = self.category_max_ratio, 1.0
        try:
            if ratio >= 1.0:
                return crop_once(self, data)
            for attempt in range(self.loop_times):
                crop = crop_once(self, dict(data))
                ids, counts = np.unique(crop['label'], return_counts=True)
                counts = counts[ids != self.ignore_index]
                if len(counts) > 1 and counts.max() < ratio * counts.sum():
                    break
            return crop
        finally:
            self.category_max_ratio = ratio

    crop_class.__call__ = repaired


def _repair_reading(compose_class):
    """Compose reads images by OpenCV, which turns them by their EXIF orientation although masks are not turned, fills
    the missing part of a truncated JPEG with grey, and returns None for a file that it cannot read. Images are read as
    in all scripts (util/data/images.py)."""
    transform = compose_class.__call__

    def repaired(self, data):
        if isinstance(data['img'], str):
            image = images.open_rgb(data['img'])
            pixels = np.asarray(image.convert('L')) if self.img_channels == 1 else np.asarray(image)[..., ::-1]
            data = {**data, 'img': pixels.astype('float32')}  # Compose expects OpenCV's blue, green, red
        return transform(self, data)

    compose_class.__call__ = repaired
