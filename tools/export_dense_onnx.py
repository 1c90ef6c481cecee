"""Export a classifier of timm as the dense annotator that `generate_label.py --model FILE.onnx` takes.

    python tools/export_dense_onnx.py dm_nfnet_f6 dm_nfnet_f6.onnx --img_size 576

The annotator is the classifier without its global pool, with its last layer as a 1x1 convolution: it gives scores
[batch, C, H, H] of the cells, whose mean is the classifier's output (checked here). Size, mean, deviation and
interpolation go into the file's metadata. Needs `pip install timm torch onnx onnxruntime`, but no Paddle.
"""

import argparse
import os
import sys
import tempfile
import warnings

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from util.errors import UserError, one_line
from util.ranges import count

LIMIT = 1.9e9  # bytes of weights that fit into an ONNX file; larger weights go to FILE.onnx.data
TOLERANCE = 1e-3  # of the largest score: float32 sums in another order differ, as in PooledHead


def parser():
    parser = argparse.ArgumentParser('export_dense_onnx.py', description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('model', metavar='NAME', help='a classifier of timm')
    add('output', metavar='FILE.onnx', help='the ONNX file to write')
    add('--img_size', type=count, metavar='S', help="side of the input (default: timm's for testing the model)")
    add('--checkpoint', default='', metavar='FILE', help='weights (default: those that timm fetches)')
    add('--nb_classes', type=count, metavar='N', help='classes of the checkpoint (default: 1000)')
    return parser


def dense(classifier, size):
    """A network [B, 3, size, size] -> scores [B, C, H, H], whose mean over the cells is the classifier's output.

    Raises UserError for a classifier that does not end in a global average pool and one linear layer.
    """
    import torch

    class Dense(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.classifier, self.head = classifier, head

        def forward(self, images):
            return self.head(self.classifier.forward_features(images))

    images = torch.from_numpy(random_images(1, size))
    try:
        network = Dense(as_convolution(classifier.get_classifier())).eval()
        with torch.no_grad():
            mean, logits = network(images).mean(dim=(2, 3)), classifier(images)
    except (AttributeError, AssertionError, IndexError, RuntimeError) as error:
        raise UserError(f'has no dense form for images of {size} pixels ({one_line(error)})')
    if mean.shape != logits.shape or (mean - logits).abs().max() > TOLERANCE * logits.abs().max():
        raise UserError('does not end in a global average pool and one linear layer, so its cells have no scores')
    return network


def as_convolution(layer):
    """A linear layer as a 1x1 convolution. A convolution is returned unchanged."""
    import torch

    if not isinstance(layer, torch.nn.Linear):
        return layer
    convolution = torch.nn.Conv2d(layer.in_features, layer.out_features, kernel_size=1, bias=layer.bias is not None)
    with torch.no_grad():
        convolution.weight.copy_(layer.weight[:, :, None, None])
        if layer.bias is not None:
            convolution.bias.copy_(layer.bias)
    return convolution


def export(classifier, path, size, properties):
    """Write the dense form of a classifier for images of size² pixels, in batches of any size, to `path`.

    properties: metadata, {str: str} (see util/data/onnx_annotator.py). Returns by how much ONNX Runtime differs from
    PyTorch, over the largest score. Raises UserError, and writes nothing, for a classifier that has no dense form.
    """
    import onnx
    import onnxruntime
    import torch

    network = dense(classifier, size)
    images = random_images(2, size)
    with tempfile.TemporaryDirectory(prefix='.export-', dir=os.path.dirname(os.path.abspath(path))) as folder:
        file = os.path.join(folder, os.path.basename(path))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of the deprecated exporter, and of the image size that becomes a constant
            torch.onnx.export(
                network,
                (torch.from_numpy(images),),
                file,
                input_names=['image'],
                output_names=['scores'],
                dynamic_axes={'image': {0: 'batch'}, 'scores': {0: 'batch'}},
                opset_version=17,
                do_constant_folding=False,  # it would double the weights of NFNets, which are standardised at run time
                dynamo=False,  # the tracing exporter, which needs only onnx
            )
        model = onnx.load(file)
        onnx.helper.set_model_props(model, {'img_size': str(size), **properties})
        size_in_bytes = sum(p.numel() * p.element_size() for p in network.parameters())
        beside = os.path.basename(path) + '.data' if size_in_bytes > LIMIT else None
        onnx.save(model, file, save_as_external_data=bool(beside), location=beside)
        session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        difference = np.abs(session.run(None, {'image': images})[0] - expected).max() / np.abs(expected).max()
        if not difference <= TOLERANCE:
            raise UserError(f'differs in ONNX Runtime by {difference:.1e} of the largest score')
        if beside:
            os.replace(f'{file}.data', f'{path}.data')
        os.replace(file, path)
    return difference


def random_images(count, size):
    return np.random.default_rng(0).standard_normal((count, 3, size, size), dtype='float32')


def load(name, checkpoint, num_classes):
    """The classifier `name` of timm in evaluation mode. Raises UserError."""
    import timm

    chosen = {'num_classes': num_classes} if num_classes else {}
    try:
        classifier = timm.create_model(name, pretrained=not checkpoint, **chosen)
        if checkpoint:
            timm.models.load_checkpoint(classifier, checkpoint)
    except Exception as error:  # an unknown name, no network, weights of another model
        raise UserError(f'timm cannot build it ({one_line(error)})')
    return classifier.eval()


def metadata(classifier):
    """(side of timm's test images, properties) of a classifier."""
    from timm.data import resolve_data_config

    config = resolve_data_config({}, model=classifier)
    size = classifier.default_cfg.get('test_input_size') or config['input_size']
    properties = {key: ' '.join(f'{value:g}' for value in config[key]) for key in ('mean', 'std')}
    return size[-1], {**properties, 'interpolation': config['interpolation']}


def main(args):
    folder = os.path.dirname(os.path.abspath(args.output))
    if not os.access(folder, os.W_OK):
        raise UserError(f'{args.output}: cannot be written to; is there a folder {folder}?')
    try:
        classifier = load(args.model, args.checkpoint, args.nb_classes)
        size, properties = metadata(classifier)
        size = args.img_size or size
        difference = export(classifier, args.output, size, properties)
    except ImportError as error:
        raise UserError(
            f'needs timm, torch, onnx and onnxruntime ({one_line(error)}); pip install timm torch onnx onnxruntime'
        )
    except UserError as error:
        raise UserError(f'{args.model}: {error}')
    settings = ', '.join(f'{key} {value}' for key, value in properties.items())
    print(f'{args.output}: {size} pixels, {settings}; differs from PyTorch by {difference:.1e} of the largest score')


if __name__ == '__main__':
    try:
        main(parser().parse_args())
    except UserError as error:
        sys.exit(f'export_dense_onnx.py: error: {error}')
