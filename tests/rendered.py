"""Ops and policies carried out by Pillow, and draws by either backend, for tests that look at one of them alone."""

import numpy as np
from PIL import Image

from util.data import images, render_pil

FILL = (124, 116, 104)


def op(policy, name, image, level, rng, fill=FILL):
    """(image, its matrix from new to old pixels) of the op `name` at `level` on all of a PIL image."""
    return carried_out([policy.op(name, level, image.size, rng)], image, fill)


def policy(policy, image, rng, fill=FILL):
    """The same of the ops that a policy draws."""
    return carried_out(policy.draw(image.size, rng), image, fill)


def carried_out(ops, image, fill=FILL):
    matrix = np.eye(3)
    for each in ops:
        if each.matrix is not None:
            matrix = matrix @ each.matrix
    return render_pil.apply_ops(image, ops, (0, 0, *image.size), fill), matrix


def sample(transform, image, rng):
    """(PIL image, matrix) of a draw of a TrainTransform, by its backend."""
    draws = transform.draw(image.size, rng)
    return Image.fromarray(pixels(transform, image, draws)), draws.matrix


def pixels(transform, image, draws):
    """What the backend of a TrainTransform makes of a PIL image: uint8 [S, S, 3]."""
    return transform.render(image if transform.backend == 'pil' else images.DecodedImage(np.asarray(image)), draws)
