"""An exported model with its preprocessing, for programs of one's own:

    from util.deploy.predictor import Predictor

    predictor = Predictor('export/model.xml')
    scores = predictor(['cat.jpg', image])          float32 [2, C]
    predictor.best(scores, topk=3)                  [{'class_ids': […], 'scores': […], 'label_names': […]}, …]

infer.py, demo/app.py and benchmarks/inference.py run exported models through it too.
"""

import os
from collections.abc import Sequence

from util import runtime  # noqa: F401 (sets what Paddle reads when it is imported)

import numpy as np
from PIL import Image

from util.data.images import open_rgb, to_rgb
from util.data.transforms import EvalTransform
from util.deploy import engines, inference_yml, records
from util.errors import UserError

MOST = 16  # images that run together; a longer list would need memory for all of them


class Predictor:
    """predictor(images) -> scores float32 [n, C], each row with the sum 1. Several threads may call it at once.

    ONNX Runtime and OpenVINO run the calls of several threads side by side, Paddle Inference one after the other; the
    scores are the same as from one thread.

    model_file: .pdmodel or .json of export_model.py, .onnx, or .xml. params_file: the .pdiparams (default: beside the
    model). config: inference.yml (default: beside the model). label_list: file of class names instead of its names.
    engine: of infer.py's --engine. precision: fp32, bf16 or int8, see infer.py; fp16 on GPUs. threads: of the CPU
    (default: OMP_NUM_THREADS, or all cores). model, nb_classes: if given, they must be those of the export. The other
    arguments are flags of infer.py.

    Raises UserError for files, settings or an engine that do not fit, and for outputs that are not finite.

    settings    of inference.yml, with 'label_names' {class id: name}, 'input_size', 'nb_classes'
    transform   EvalTransform, from a file or an RGB PIL image to the network's input
    network     float32 [B, 3, S, S], normalised -> the network's outputs float32 [B, C], logits or scores
    """

    def __init__(
        self,
        model_file,
        params_file=None,
        config=None,
        label_list=None,
        engine='auto',
        precision='fp32',
        threads=None,
        input_size=None,
        crop_pct=None,
        interpolation=None,
        mean=None,
        std=None,
        model=None,
        nb_classes=None,
        **flags,
    ):
        model_file = os.fspath(model_file)
        self.settings = settings = inference_yml.find_settings(
            model_file,
            config,
            label_list,
            input_size=input_size,
            crop_pct=crop_pct,
            interpolation=interpolation,
            mean=mean,
            std=std,
            model=model,
            nb_classes=nb_classes,
        )
        size = settings['input_size']
        self.transform = EvalTransform(
            size, settings['crop_pct'], settings['interpolation'], mean=settings['mean'], std=settings['std']
        )
        threads = threads or int(os.environ['OMP_NUM_THREADS'])
        self.network = engines.open_network(
            model_file, params_file, settings, engine=engine, precision=precision, threads=threads, **flags
        )
        outputs = self.network(np.zeros([1, 3, size, size], 'float32'))  # a model that does not fit is an error now
        if settings['nb_classes'] is None:  # no inference.yml
            inference_yml.assume_classes(settings, outputs, label_list)
        self.are_scores = settings['output'] == 'scores'

    def __call__(self, images):
        """Scores float32 [n, C] of n images: one image or several.

        An image is the path of a file, a PIL image, or an array uint8 [H, W, 3] in the order R, G, B; several are a
        sequence of them, or an array uint8 [n, H, W, 3]. Images may differ in size. Raises images.BadImage for a file
        that cannot be read or decoded, and UserError for anything else that is not an image.
        """
        is_sequence = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
        if not is_sequence and getattr(images, 'ndim', None) not in (1, 4):  # 1: an array of paths
            images = [images]
        scores = [np.empty([0, self.settings['nb_classes']], 'float32')]
        for start in range(0, len(images), MOST):
            inputs = [self.preprocess(image) for image in images[start : start + MOST]]
            scores.append(self.scores(np.stack(inputs)))
        return np.concatenate(scores)

    def preprocess(self, image):
        """The network's input float32 [3, S, S] of one image, as `__call__` takes it."""
        if isinstance(image, (str, os.PathLike)):
            return self.transform(open_rgb(os.fspath(image)))
        if isinstance(image, Image.Image):
            return self.transform(to_rgb(image))
        if not (isinstance(image, np.ndarray) and image.dtype == 'uint8' and image.ndim == 3 and image.shape[2] == 3):
            found = f'{image.dtype} {list(image.shape)}' if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f'an image must be a path, a PIL image, or an array uint8 [H, W, 3] in RGB, not {found}')
        return self.transform(Image.fromarray(image))

    def scores(self, inputs):
        """Scores float32 [B, C] of inputs float32 [B, 3, S, S] that `preprocess` has made."""
        outputs = self.network(inputs)
        if not np.isfinite(outputs).all():
            raise UserError(
                f'{self.network.model_file}: gives outputs that are not finite (NaN or infinite); check the weights, '
                'mean and std, and the precision'
            )
        return outputs if self.are_scores else records.softmax(outputs).astype('float32')

    def best(self, scores, topk=5):
        """For each row of scores [n, C] a dict of its best classes: class_ids, scores and label_names, best first."""
        scores = np.atleast_2d(scores)
        found = records.best_classes(range(len(scores)), scores, self.settings['label_names'], topk, are_scores=True)
        return [{key: record[key] for key in ('class_ids', 'scores', 'label_names')} for record in found]
