"""A data set of PaddleSeg whose masks are checked: ids outside the classes would be counted or trained as garbage."""

import os

import numpy as np
import paddle

from util.errors import UserError


class Checked(paddle.io.Dataset):
    """`dataset`, with a UserError that names the file for an image or mask that cannot be read, or a wrong mask."""

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset
        self.num_classes, self.ignore_index = dataset.num_classes, dataset.ignore_index

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, mask = self.dataset.file_list[index]
        for path in (image, mask):
            if not os.path.isfile(path):
                raise UserError(f'{path}: missing; it is on the list of the data set')
        try:
            sample = self.dataset[index]
        except Exception as error:
            raise UserError(f'{image} with {mask}: cannot be used ({type(error).__name__}: {error})')
        self.check(np.asarray(sample['label']), mask)
        return sample

    def check(self, ids, path):
        """Raise UserError if a mask has ids that are no class and not the one to ignore."""
        wrong = np.unique(ids[((ids < 0) | (ids >= self.num_classes)) & (ids != self.ignore_index)])
        if len(wrong):
            more = ' …' if len(wrong) > 5 else ''
            raise UserError(
                f'{path}: has the ids {", ".join(map(str, wrong[:5].tolist()))}{more}, outside the {self.num_classes} '
                f'classes (0 to {self.num_classes - 1}; {self.ignore_index} is ignored); set num_classes in the config '
                'or renumber the masks'
            )
