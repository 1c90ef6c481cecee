"""A model's predictions for a photo, and the pictures of them that demo/app.py shows. This file does not use Gradio."""

import os
from collections import Counter
from typing import NamedTuple, Optional

import numpy as np
import paddle
from PIL import Image

from models import load_named
from tools import drawing, insight
from util.data.transforms import EvalTransform
from util.deploy import records
from util.deploy.predictor import Predictor
from util.errors import UserError

SIDE = 576  # pixels on the page: side of the square that the model sees


class TokenClasses(NamedTuple):
    """The three best classes of every token after every block, the best first; float32 and int64 [blocks, N, 3]."""

    scores: np.ndarray  # probabilities
    ids: np.ndarray
    num_classes: int

    def after(self, block):
        """drawing.Tokens after a block, counted from 1."""
        return drawing.Tokens(self.ids[block - 1, :, 0], self.scores[block - 1, :, 0], self.num_classes)

    def palette(self):
        """{class id: RGB}; a class has the same colour after all blocks."""
        return drawing.colours([self.after(block) for block in range(1, len(self.ids) + 1)])


class Prediction(NamedTuple):
    """The best classes of a photo, its token predictions, and the photo as the page shows it (drawing.in_context)."""

    name: str  # of the photo's file
    best: list  # [(class id, probability)] of the five best classes, the best first
    tokens: Optional[TokenClasses]  # None without token predictions
    input: np.ndarray  # of the network: float32 [3, S, S]
    faded: Image.Image
    square: Image.Image  # what the model sees
    corner: tuple


class Checkpoint:
    """A model with its weights; gives classes and token predictions. Raises UserError for weights that do not fit."""

    explains = True  # gradients give relevance

    def __init__(self, args):
        self.model, self.names = load_named(args)
        self.transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation, args.mean, args.std)
        self.title, self.labels = f'{args.model}, {args.input_size} px', labels(self.names, args.nb_classes)
        self.grid, self.blocks, self.why_no_tokens = self.model.grid, len(self.model.blocks), ''
        if not insight.has_trained_token_classifier(self.model):
            self.blocks = 0
            self.why_no_tokens = 'This model was trained without token labels, so it has no token predictions.'

    def __call__(self, image):
        """float32 [3, S, S] -> (probabilities [C], TokenClasses or None)."""
        scores, tokens = insight.scores_and_tokens(self.model, image)
        if tokens is None:
            return scores, None
        best, ids = paddle.topk(paddle.to_tensor(tokens), min(3, len(scores)))
        return scores, TokenClasses(best.numpy(), ids.numpy(), len(scores))

    def explain(self, image, class_id):
        """(attention rollout of the class token, relevance of each token to a class): float64 [N] both."""
        return insight.class_rollout(self.model, image), insight.class_relevance(self.model, image, class_id)


class Exported:
    """An exported model, run on the CPU as infer.py runs it; gives classes only."""

    explains, blocks = False, 0
    why_no_tokens = 'An exported model gives classes only; start the page with a checkpoint to see its tokens.'

    def __init__(self, args):
        self.predictor = Predictor(
            args.model_file,
            args.params_file,
            args.config,
            args.label_list,
            model=args.model,
            nb_classes=args.nb_classes,
            input_size=args.input_size,
            crop_pct=args.crop_pct,
            interpolation=args.interpolation,
            mean=args.mean,
            std=args.std,
        )
        self.transform, self.names = self.predictor.transform, self.predictor.settings['label_names']
        self.title = f'{os.path.basename(args.model_file)}, {self.predictor.settings["input_size"]} px'
        self.labels = labels(self.names, self.predictor.settings['nb_classes'])

    def __call__(self, image):
        """float32 [3, S, S] -> (probabilities [C], None)."""
        return self.predictor.scores(image[None])[0], None


def load(args):
    """The network of app.py's flags. Raises UserError for flags that exclude each other, and for unusable files."""
    if not args.model_file:
        return Checkpoint(args)
    for flag in ('resume', 'pretrained', 'ema'):
        if getattr(args, flag):
            raise UserError(f'--model_file and --{flag}: an exported model has its own weights; give one of them')
    return Exported(args)


def labels(names, num_classes):
    """[name of class 0, …] for lists; of classes with the same name, such as ImageNet's two cranes, with their ids."""
    shown = [names.get(i, str(i)) for i in range(num_classes)]
    counts = Counter(shown)
    return [f'{name} (class {i})' if counts[name] > 1 else name for i, name in enumerate(shown)]


def predict(network, photo):
    """The network's Prediction for a Photo. Raises UserError if the network's outputs are not finite."""
    image = network.transform(photo.image)
    scores, tokens = network(image)
    (record,) = records.best_classes([photo.name], scores[None], network.names, topk=5, are_scores=True)
    best = list(zip(record['class_ids'], record['scores']))
    region = network.transform.region(*photo.image.size)
    return Prediction(photo.name, best, tokens, image, *drawing.in_context(photo.image, region, SIDE))


def picture(prediction, block, names, written=True):
    """The photo with the token predictions after a block, counted from 1, over the square that the model sees.

    written: also write names and probabilities into the tokens.
    """
    square, tokens = prediction.square, prediction.tokens
    if tokens:
        square = drawing.overlay(square, tokens.after(block), names, written, tokens.palette())
    result = prediction.faded.copy()
    result.paste(square, prediction.corner)
    return result


def words_fit(prediction, block, names):
    """Whether the picture after a block has words in the tokens."""
    tokens = prediction.tokens.after(block)
    cell = prediction.square.width / len(tokens.ids) ** 0.5
    return drawing.cell_texts(tokens, names, cell) is not None


def heat_maps(network, prediction, class_id):
    """[(title, picture)]: attention rollout, and relevance to a class, of a Checkpoint."""
    rollout, relevance = network.explain(prediction.input, class_id)
    square = prediction.square.resize((drawing.SIDE, drawing.SIDE), Image.BICUBIC)
    return [
        (f'attention rollout: {drawing.spread(rollout)}', drawing.heat(square, rollout)),
        (
            f'relevance to {drawing.short_name(class_id, network.names)}: {drawing.spread(relevance)}',
            drawing.heat(square, relevance),
        ),
    ]
