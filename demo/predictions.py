"""A model's predictions for a photo, and the picture of them that demo/app.py shows. This file does not use Gradio."""

import os
from typing import NamedTuple, Optional

from PIL import Image

from models import load_named
from tools import drawing, insight
from util.data.images import FORMATS, BadImage, open_rgb
from util.data.transforms import EvalTransform
from util.deploy import records
from util.deploy.predictor import Predictor
from util.errors import UserError

SIDE = 576  # pixels on the page: side of the square that the model sees
MAX_PIXELS = 64_000_000  # of a photo: 0.2 GB decoded


class Prediction(NamedTuple):
    """The best classes of a photo, its token predictions, and the photo as the page shows it (drawing.in_context)."""

    best: dict  # {name: probability} of the five best classes, the best first
    tokens: Optional[list]  # [drawing.Tokens] after each block; None without token predictions
    faded: Image.Image
    square: Image.Image  # what the model sees
    corner: tuple


class Checkpoint:
    """A model with its weights; gives classes and token predictions. Raises UserError for weights that do not fit."""

    def __init__(self, args):
        self.model, self.names = load_named(args)
        self.transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation, args.mean, args.std)
        self.title = f'{args.model}, {args.input_size} px'
        self.blocks, self.why_no_tokens = len(self.model.blocks), ''
        if not insight.has_trained_token_classifier(self.model):
            self.blocks = 0
            self.why_no_tokens = 'This model was trained without token labels, so it has no token predictions.'

    def __call__(self, image):
        """float32 [3, S, S] -> (probabilities [C], [drawing.Tokens] after each block or None)."""
        scores, tokens = insight.scores_and_tokens(self.model, image)
        return scores, None if tokens is None else [drawing.Tokens.of(block) for block in tokens]


class Exported:
    """An exported model, run on the CPU as infer.py runs it; gives classes only."""

    blocks = 0
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


def read_photo(path):
    """An RGB image with the pixels that the model sees; an EXIF orientation is ignored, as in training.

    Raises BadImage, which names the file without its folder, for a file that is not an image, damaged, or too large.
    """
    name = os.path.basename(path)
    try:
        with Image.open(path, formats=FORMATS) as image:  # reads the header only
            width, height = image.size
    except Exception:
        width = height = 0  # open_rgb raises the error
    if width * height > MAX_PIXELS:
        raise BadImage(f'{name}: {width} x {height} pixels; this page takes {MAX_PIXELS // 10**6} million at most')
    try:
        return open_rgb(path)
    except BadImage as error:
        raise BadImage(str(error).replace(path, name))


def predict(network, path):
    """The network's Prediction for a file. Raises BadImage if it is not a photo."""
    photo = read_photo(path)
    scores, tokens = network(network.transform(photo))
    (record,) = records.best_classes([path], scores[None], network.names, topk=5, are_scores=True)
    best = {}
    for class_id, name, score in zip(record['class_ids'], record['label_names'], record['scores']):
        best[f'{name} (class {class_id})' if name in best else name] = score  # ImageNet has two cranes
    return Prediction(best, tokens, *drawing.in_context(photo, network.transform.region(*photo.size), SIDE))


def picture(prediction, block, names, written=True):
    """The photo with the token predictions after a block, counted from 1, over the square that the model sees.

    written: also write names and probabilities into the tokens.
    """
    square = prediction.square
    if prediction.tokens:
        palette = drawing.colours(prediction.tokens)
        square = drawing.overlay(square, prediction.tokens[block - 1], names, written, palette)
    result = prediction.faded.copy()
    result.paste(square, prediction.corner)
    return result


def summary(prediction, block, names):
    """A sentence in Markdown about the tokens after a block: how many prefer a class, and the most frequent classes."""
    tokens, blocks = prediction.tokens[block - 1], len(prediction.tokens)
    decided = int(tokens.decided.sum())
    if not decided:
        return f'After block {block} of {blocks} no token prefers a class.'
    palette = drawing.colours(prediction.tokens)
    common = [
        f'<span style="color: rgb{palette[i]}">■</span> {drawing.short_name(i, names)}'
        for i in drawing.common_classes([tokens])[:5]
    ]
    mean = tokens.scores[tokens.decided].mean()
    return (
        f'After block {block} of {blocks}, {decided} of {len(tokens.ids)} tokens prefer a class '
        f'(mean probability {mean:.0%}): {", ".join(common)}.'
    )
