"""The features of a classifier of paddle.vision.models as an ONNX file, which tools/fit_annotator.py takes."""

import os
import tempfile

import paddle
from paddle import nn

from tools import export_onnx
from util.data import annotator
from util.weights.settings import IMAGENET_MEAN, IMAGENET_STD
from util.deploy import export as paddle_export
from util.logger import log

SIZE = 288  # side of the images: networks trained at 224 pixels are as good or better at this size


class Features(nn.Layer):
    """[B, 3, S, S] -> [B, C, H, H]: what the global pool of a classifier would get. head: annotator.PooledHead."""

    def __init__(self, head, size):
        super().__init__()
        self.model, self.img_size, self.shape = head.model, size, head.feature_shape
        for layer in self.model.sublayers(include_self=True):
            for name, child in layer.named_children():
                if child is head.pool or child is head.head:
                    setattr(layer, name, nn.Identity())

    def forward(self, images):
        return self.model(images).reshape([-1, *self.shape])  # the classifier has flattened its features


def export(name, weights, path, size=None):
    """Write the ONNX file `path`. weights: file, '' for those that Paddle offers. Raises UserError."""
    paddle2onnx, onnx, _ = export_onnx.libraries()
    size = size or SIZE
    model = annotator.load_classifier(name, 1000, weights, transfer=True)
    features = Features(annotator.PooledHead(model, name, size), size)
    features.eval()
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(prefix='.export-', dir=folder) as work, paddle.no_grad():
        prefix, file = os.path.join(work, 'model'), os.path.join(work, 'model.onnx')
        paddle_export.save_graph(features, prefix, as_json=True)
        export_onnx.convert(paddle2onnx, prefix, file, 17)
        export_onnx.tidy(onnx, file, 'features')
        network = export_onnx.session(file)
        worst = paddle_export.compare(paddle_export.random_outputs(features), network, path)
        model = onnx.load(file)
        numbers = {key: ' '.join(map(str, value)) for key, value in (('mean', IMAGENET_MEAN), ('std', IMAGENET_STD))}
        onnx.helper.set_model_props(model, {'img_size': str(size), 'interpolation': 'bicubic', **numbers})
        onnx.save(model, file)
        os.replace(file, path)
    log(f'{path}: features of {name} for {size} pixels, differs from Paddle by {worst:.1e} of the largest output')
