"""The annotator's classes into the user's, e.g. the 1,000 of ImageNet into ten of one's own.

A class map is a text file, a line `annotator_class_id user_class_id` for each class of the annotator that counts. Of
the others nothing is taken. Several may stand for one of the user's: their unnormalised probabilities add up, so its
score is log Σ exp(score). Softmax over such scores is the annotator's own answer, given that it is a listed class.
"""

import hashlib
import re

import paddle

from util import files
from util.errors import UserError, one_line


class MappedClasses:
    """An annotator (see util/data/annotator.py) whose classes are the user's, by a class map.

    groups: for each class of the user the list of the annotator's, as read_class_map gives them.
    """

    def __init__(self, annotate, groups):
        self._annotate, self._groups = annotate, [paddle.to_tensor(ids) for ids in groups]
        self.num_classes, self.side = len(groups), annotate.side
        self._digest = hashlib.sha256(repr([list(ids) for ids in groups]).encode()).hexdigest()[:16]

    def __call__(self, images):
        """Tensor [B, 3, S, S] -> scores of the user's classes, float32 [B, H·H, num_classes]."""
        scores = self._annotate(images)
        return paddle.stack(
            [paddle.logsumexp(paddle.index_select(scores, ids, axis=-1), axis=-1) for ids in self._groups], axis=-1
        )

    def fingerprint(self):
        return self._annotate.fingerprint()

    def map_fingerprint(self):
        """16 hex digits that stand for what the class map says."""
        return self._digest


def read_class_map(path, num_classes):
    """[[ids of the annotator, ascending] for each class of the user, 0 to the highest named].

    num_classes: of the annotator. Raises UserError for lines that say nothing, ids that the annotator does not have,
    one that is listed twice, and a class of the user that nothing maps to.
    """
    user_class, line_of = {}, {}
    for number, line in files.read_lines(path):
        words = line.split()
        if len(words) != 2 or not all(re.fullmatch('[0-9]{1,9}', word) for word in words):
            raise UserError(
                f"{path}, line {number}: expected 'annotator_class_id user_class_id', found '{one_line(line)}'"
            )
        theirs, ours = map(int, words)
        if theirs >= num_classes:
            raise UserError(
                f'{path}, line {number}: the annotator has no class {theirs}; its ids are 0 to {num_classes - 1}'
            )
        if theirs in line_of:
            raise UserError(
                f'{path}, line {number}: class {theirs} of the annotator is in line {line_of[theirs]} already'
            )
        user_class[theirs], line_of[theirs] = ours, number
    if not user_class:
        raise UserError(f"{path}: lists no classes; expected lines 'annotator_class_id user_class_id'")
    count = max(user_class.values()) + 1
    missing = min(set(range(min(count, len(user_class) + 1))) - set(user_class.values()), default=None)
    if missing is not None:
        raise UserError(
            f'{path}: no class of the annotator maps to class {missing}, but one does to class {count - 1}; '
            'every class from 0 on needs a line'
        )
    groups = [[] for _ in range(count)]
    for theirs in sorted(user_class):
        groups[user_class[theirs]].append(theirs)
    return groups
