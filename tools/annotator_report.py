"""What tools/fit_annotator.py says of an annotator: its accuracy in cross-validation, its cells, twelve of its maps."""

import numpy as np

from tools import drawing, linear_classifier
from util.data.datasets import EvalDataset
from util.data.images import open_rgb
from util.data.loader import Loader
from util.deploy import records
from util.logger import log, progress

WEAKEST = 10  # classes that are listed, at most
COMPARED = 500  # photos whose cells are compared with their label, at most
DRAWN = 12  # photos


def log_accuracy(fitted, labels, names):
    """Log the accuracy in cross-validation, of all photos and of the weakest classes.

    fitted: linear_classifier.Fitted; labels: int64 [n]; names: of the classes by id.
    """
    right = fitted.guesses == labels
    share = linear_classifier.accuracy(right.sum(), len(right))
    log(
        f'annotator: {share} of {len(right)} photos right, each by a classifier that was fitted without it '
        f'({linear_classifier.FOLDS} folds, C {fitted.strength:g}; 95 % interval in brackets)'
    )
    shares = [right[labels == i].mean() for i in range(len(names))]
    for i in np.argsort(shares, kind='stable')[:WEAKEST]:
        own = labels == i
        log(f'  {names[i]}: {linear_classifier.accuracy(right[own].sum(), own.sum())} of {own.sum()}')


def compare_cells(head, transform, samples, names, path):
    """Log in which share of the cells the annotator agrees with the photo's label; write a picture of DRAWN photos.

    head: onnx_annotator.OnnxHead; samples: the photos from which it has learned; path: of the picture.
    """
    chosen = spread(samples.labels, COMPARED)
    batches = [chosen[start : start + 32].tolist() for start in range(0, len(chosen), 32)]
    agreeing, drawn = [], []
    for batch in progress(Loader(EvalDataset(samples, transform), batches, 32, 0), 'batches of maps'):
        scores = head(batch['image']).numpy()
        agreeing.append((scores.argmax(axis=2) == batch['label'].numpy()[:, None]).mean(axis=1))
        drawn += list(scores[: max(0, DRAWN - len(drawn))])
    share = np.concatenate(agreeing).mean()
    log(f'cells: {100 * share:.1f} % agree with the label of their photo ({len(chosen)} of the photos it learned from)')
    draw(samples, chosen[:DRAWN], drawn, transform, dict(enumerate(names)), path)
    log(f'{path}: {len(drawn)} photos and their maps')


def spread(labels, count):
    """int64 [up to count]: numbers of photos, from all classes in turn, the same ones every time."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn, seen = np.empty(len(labels), int), np.zeros(labels.max() + 1, int)
    for number in order:
        turn[number] = seen[labels[number]]  # 0 for the first photo of a class, then 1, …
        seen[labels[number]] += 1
    return order[np.argsort(turn[order], kind='stable')][:count]


def draw(samples, chosen, scores, transform, names, path):
    """Write a picture of photos, each beside its map. scores: float [H·H, K] of each; names: {class id: name}."""
    tiles = []
    for number, cells in zip(chosen, scores):
        square = transform.crop(open_rgb(samples.paths[number]))
        whole = records.softmax(cells.mean(axis=0, keepdims=True))[0]
        guess = int(whole.argmax())
        title = f'annotator: {whole[guess]:.0%} {drawing.drawn_name(guess, names)}'
        tiles.append(drawing.Tile(square, drawing.drawn_name(samples.labels[number], names)))
        tiles.append(drawing.Tile(square, title, drawing.Tokens.of(records.softmax(cells)), names))
    (tiles,) = drawing.draw_tiles([tiles])
    drawing.save(drawing.arrange(tiles, 6, drawing.GAP, drawing.MARGIN), path)
