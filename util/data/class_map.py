"""Class maps: from the annotator's classes to the user's, e.g. from the 1,000 of ImageNet to ten of one's own.

A class map is a text file with lines `annotator_class_id user_class_id`. Classes of the annotator that it does not
list are left out. If several map to one class of the user, its score is log Σ exp(their scores). The softmax of such
scores is the annotator's probability, on the condition that the class is a listed one.
"""

import hashlib
import re

import paddle

from util import files
from util.errors import UserError, one_line


class MappedClasses:
    """An annotator (see util/data/annotator.py) with the user's classes. groups: what read_class_map returns."""

    def __init__(self, annotate, groups):
        self._annotate, self._groups, self._ids = annotate, groups, [paddle.to_tensor(ids) for ids in groups]
        self.num_classes, self.side = len(groups), annotate.side

    def __call__(self, images):
        """Tensor [B, 3, S, S] -> scores of the user's classes, float32 [B, H·H, num_classes]."""
        scores = self._annotate(images)
        mapped = [paddle.logsumexp(paddle.index_select(scores, ids, axis=-1), axis=-1) for ids in self._ids]
        return paddle.stack(mapped, axis=-1)

    def fingerprint(self):
        return self._annotate.fingerprint()

    def map_fingerprint(self):
        """16 hex digits that identify the content of the class map."""
        return hashlib.sha256(repr(self._groups).encode()).hexdigest()[:16]


def read_class_map(path, num_classes):
    """[[id, …], …]: for each class of the user, in their order, the annotator's class ids in ascending order.

    num_classes: of the annotator. Raises UserError for lines of another form, ids that the annotator does not have or
    that are listed twice, and classes of the user without any line.
    """
    user_class, line_of = {}, {}  # by the annotator's class
    for number, line in files.read_lines(path):
        words = line.split()
        if len(words) != 2 or not all(re.fullmatch('[0-9]{1,9}', word) for word in words):
            raise UserError(
                f"{path}, line {number}: expected 'annotator_class_id user_class_id', found '{one_line(line)}'"
            )
        theirs, own = map(int, words)
        if theirs >= num_classes:
            raise UserError(
                f'{path}, line {number}: the annotator has no class {theirs}; its ids are 0 to {num_classes - 1}'
            )
        if theirs in line_of:
            raise UserError(
                f'{path}, line {number}: class {theirs} of the annotator is in line {line_of[theirs]} already'
            )
        user_class[theirs], line_of[theirs] = own, number
    if not user_class:
        raise UserError(f"{path}: lists no classes; expected lines 'annotator_class_id user_class_id'")
    ours = sorted(set(user_class.values()))
    for expected, found in enumerate(ours):
        if found != expected:
            raise UserError(
                f'{path}: no class of the annotator maps to class {expected}, but one does to class {ours[-1]}; '
                'every class from 0 on needs a line'
            )
    groups = [[] for _ in ours]
    for theirs in sorted(user_class):
        groups[user_class[theirs]].append(theirs)
    return groups
