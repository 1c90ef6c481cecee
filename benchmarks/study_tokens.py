"""Does a student say where things are? Compares its tokens with an annotator's label maps of the validation photos.

    python benchmarks/study_tokens.py CHECKPOINT DATA MAPS RESULT

RESULT receives JSON: shares of all tokens, in percent, whose best class in the annotator's map is …

    tokens    the best class of the student's token; null if its token classifier was not trained
    image     the student's prediction for the photo
    label     the photo's label
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

import numpy as np
import paddle

from benchmarks import study_model
from lv_vit import LV_ViT
from util import files
from util.args import Parser
from util.data import listing, loader
from util.data.label_maps import LabelMaps
from util.data.token_label import token_target
from util.data.transforms import EvalTransform
from util.weights.settings import IMAGENET_MEAN, IMAGENET_STD
from util.weights.load import load


def cell_classes(scores, ids, num_classes, grid):
    """int64 [grid²]: the best class of each token in a label map, whose square is the model's whole input."""
    side = float(grid)
    target = token_target(scores, ids, num_classes, np.eye(3), side, grid, (0.0, 0.0, side, side))
    return target.ids[target.listed[:, 1:].argmax(axis=0)]


@paddle.no_grad()
def agreement(model, batches, maps):
    """The shares of the head of this file. batches: of a loader, with the whole centre square of each photo."""
    model.eval()
    names = maps.names_for(batches.dataset.samples)
    equal, count = np.zeros(3), 0
    for batch in batches:
        logits, tokens = model(batch['image']), model.forward_dense(batch['image'])[1]
        image, label = logits.argmax(axis=-1).numpy()[:, None], batch['label'].numpy()[:, None]
        own = [os.fsdecode(names[index]) for index in batch['index'].tolist()]
        cells = np.stack([cell_classes(*maps.read(name), model.num_classes, model.grid) for name in own])
        equal += [(guess == cells).sum() for guess in (tokens.argmax(axis=-1).numpy(), image, label)]
        count += cells.size
    shares = dict(zip(('tokens', 'image', 'label'), (round(share, 2) for share in 100 * equal / count)))
    if not model.aux_head.weight.abs().max().item():
        shares['tokens'] = None
    return shares


def main(args):
    entry = study_model.CONFIG
    samples = listing.read_list(args.data, f'{args.data}/val_list.txt', listing.NO_LIMIT)
    classes = int(samples.labels.max()) + 1
    model = LV_ViT(img_size=entry.input_size, num_classes=classes, **entry.architecture)
    load(model, args.checkpoint)
    transform = EvalTransform(entry.input_size, entry.crop_pct, 'bicubic', IMAGENET_MEAN, IMAGENET_STD)
    batches = loader.build_eval_loader(samples, transform, 50, num_workers=0)
    shares = agreement(model, batches, LabelMaps(args.maps, classes))
    files.write(args.result, (json.dumps(shares) + '\n').encode())


def parser():
    parser = Parser('benchmarks/study_tokens.py', description=__doc__)
    for name in ('checkpoint', 'data', 'maps', 'result'):
        parser.add_argument(name, metavar=name.upper())
    return parser


if __name__ == '__main__':
    runtime.run(main, parser())
