"""What a model says of a photo, and the picture of it that demo/app.py shows; nothing here knows of the page."""

import os
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

import infer
from models import FAMILY, build_model, published_weights
from util.args import complete_model, weights_file
from util.data.images import FORMATS, BadImage, open_rgb
from util.data.transforms import EvalTransform
from util.deploy import drawing, inference_yml, insight, predictor, records
from util.errors import UserError
from util.weights.load import load as load_weights

SIDE = 576  # pixels of the page, of the square that the model sees
MAX_PIXELS = 64_000_000  # of a photo: 0.2 GB decoded


class Answer(NamedTuple):
    """What a model says of a photo, and the photo as the page shows it (drawing.in_context)."""

    best: dict  # {name: probability} of the five best classes, the best first
    tokens: Optional[list]  # [drawing.Tokens] after each block; None if there are no token scores
    faded: Image.Image
    square: Image.Image  # what the model sees
    corner: tuple


class Checkpoint:
    """A model with its weights, which can be looked into. Raises UserError for weights that do not fit."""

    def __init__(self, args):
        complete_model(args, FAMILY[args.model])
        self.names = records.class_names(args.label_list, args.nb_classes)
        self.transform = EvalTransform(args.input_size, args.crop_pct, args.interpolation or 'bicubic')
        self.model = build_model(args.model, img_size=args.input_size, num_classes=args.nb_classes)
        load_weights(self.model, weights_file(args, published_weights), args.ema)
        self.model.eval()
        self.title = f'{args.model}, {args.input_size} px'
        self.blocks, self.silent = len(self.model.blocks), ''
        if not insight.says_something(self.model):
            self.blocks, self.silent = 0, 'This model was trained without token labels: its tokens say nothing.'

    def __call__(self, image):
        """float32 [3, S, S] -> (probabilities [C], [drawing.Tokens] after each block or None)."""
        scores, tokens = insight.scores_and_tokens(self.model, image)
        return scores, None if tokens is None else [drawing.Tokens.of(block) for block in tokens]


class Exported:
    """An exported model, run as infer.py runs it on the CPU: classes only."""

    blocks, silent = 0, 'An exported model gives classes only; start the page with a checkpoint to see its tokens.'

    def __init__(self, args):
        params = args.params_file or os.path.splitext(args.model_file)[0] + '.pdiparams'
        words = ['--model_file', args.model_file, '--params_file', params, '--use_gpu', 'False', '--input_file', '-']
        for flag in ('config', 'input_size', 'crop_pct', 'interpolation', 'label_list'):
            value = getattr(args, flag)
            if value is not None:
                words += [f'--{flag}', str(value)]
        given = infer.parser().parse_args(words)
        settings = inference_yml.find_settings(given)
        size = settings['input_size']
        self.transform = EvalTransform(
            size, settings['crop_pct'], settings['interpolation'], mean=settings['mean'], std=settings['std']
        )
        self.network = predictor.create(given, settings)
        outputs = self.network(np.zeros([1, 3, size, size], 'float32'))
        if settings['nb_classes'] is None:  # no inference.yml
            inference_yml.complete(settings, outputs, args.label_list)
        self.names, self.are_scores = settings['label_names'], settings['output'] == 'scores'
        self.title = f'{os.path.basename(args.model_file)}, {size} px'

    def __call__(self, image):
        """float32 [3, S, S] -> (probabilities [C], None)."""
        outputs = self.network(image[None])[0].astype('float64')
        if self.are_scores:
            return outputs, None
        powers = np.exp(outputs - outputs.max())
        return powers / powers.sum(), None


def load(args):
    """The network of the flags. Raises UserError for flags that do not go together, and for what cannot be loaded."""
    if not args.model_file:
        return Checkpoint(args)
    for flag in ('resume', 'pretrained', 'ema'):
        if getattr(args, flag):
            raise UserError(f'--model_file and --{flag}: an exported model has its own weights; give one')
    return Exported(args)


def read_photo(path):
    """An RGB image, its pixels as the model takes them: an EXIF orientation is ignored.

    Raises BadImage, which names the file without its folder, for what is no image, is damaged, or is too large.
    """
    name = os.path.basename(path)
    try:
        with Image.open(path, formats=FORMATS) as image:  # reads the header only
            width, height = image.size
    except Exception:
        width = height = 0  # open_rgb says what is wrong
    if width * height > MAX_PIXELS:
        raise BadImage(f'{name}: {width} x {height} pixels; this page takes {MAX_PIXELS // 10**6} million at most')
    try:
        return open_rgb(path)
    except (BadImage, UserError) as error:
        raise BadImage(str(error).replace(path, name))


def ask(network, path):
    """The network's Answer about a file. Raises BadImage, one line, for what is no photo."""
    photo = read_photo(path)
    scores, tokens = network(network.transform(photo))
    (record,) = records.best_classes([path], scores[None], network.names, topk=5, are_scores=True)
    best = {}
    for class_id, name, score in zip(record['class_ids'], record['label_names'], record['scores']):
        best[f'{name} (class {class_id})' if name in best else name] = score  # ImageNet has two cranes
    return Answer(best, tokens, *drawing.in_context(photo, network.transform.region(*photo.size), SIDE))


def picture(answer, block, names, written=True):
    """The photo with what its tokens say after a block, counted from 1, over the square that the model sees.

    written: whether names and probabilities are written into the tokens.
    """
    square = answer.square
    if answer.tokens:
        square = drawing.overlay(square, answer.tokens[block - 1], names, written)
    result = answer.faded.copy()
    result.paste(square, answer.corner)
    return result


def summary(answer, block, names):
    """A sentence about the tokens after a block, in Markdown; the commonest classes with their colours."""
    tokens = answer.tokens[block - 1]
    known = int(tokens.know.sum())
    if not known:
        return f'After block {block} of {len(answer.tokens)} no token prefers a class.'
    common = [
        f'<span style="color: rgb{drawing.colour(i)}">■</span> {drawing.short_name(i, names)}'
        for i in drawing.common_classes(tokens)[:5]
    ]
    sure = tokens.scores[tokens.know].mean()
    return (
        f'After block {block} of {len(answer.tokens)}, {known} of {len(tokens.ids)} tokens prefer a class '
        f'(on average with {sure:.0%}): {", ".join(common)}.'
    )
