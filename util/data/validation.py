"""The validation set, and the class ids of its images."""

import os

import numpy as np

from util.data.listing import UNLABELLED, UNLABELLED_FOLDER, read_folder, read_list, subfolders
from util.errors import UserError
from util.logger import log


def read_validation(data_path, list_path, num_classes, class_names=None, listed=None):
    """Samples of the validation set: of a list file below `data_path`; without one, of the class folders in val/.

    class_names: the names of the model's classes by id; without them the class folders of train/ count, without train/
    those of val/. listed: {class folder: class id} of --class_list, the only classes that the set may have.
    Raises UserError if the number of folders in train/ or val/ shows that their order does not give the ids.
    """
    if list_path:
        samples = read_list(data_path, list_path, num_classes)
        others = np.flatnonzero(~np.isin(samples.labels, list(listed.values()))) if listed else []
        if len(others):
            path, label = samples[others[0]]
            raise UserError(f'{list_path}: {path} has class id {label}, which is not a class of --class_list')
        if class_names:
            warn_of_other_ids(samples, list_path, class_names)
        return samples
    root = os.path.join(data_path, 'val')
    if listed:
        return read_folder(root, num_classes, listed)
    if class_names is None:
        class_names = train_classes(data_path)
        source = 'train' if class_names else 'val'
        class_names = class_names or class_folders(root)
        if len(class_names) != num_classes:
            raise UserError(
                f'{os.path.join(data_path, source)}: has {len(class_names)} class folders, but --nb_classes is '
                f"{num_classes}, and there are no class names in the weights, so the folders' class ids are unknown; "
                'give a list file with the ids (--cls_label_path_val), or name the classes to eval.py (--class_list)'
            )
    return read_folder(root, num_classes, {name: i for i, name in enumerate(class_names)})


def warn_of_other_ids(samples, list_path, class_names):
    """Log the first image of a list whose folder is a class in `class_names`, but with another class id."""
    ids = {name: i for i, name in enumerate(class_names)}
    for path, label in samples:
        folder = os.path.basename(os.path.dirname(path))
        if label != UNLABELLED and ids.get(folder, label) != label:
            log(
                f'warning: {list_path}: {path} has class id {label}, but by the names of the classes {folder} is '
                f'class {ids[folder]}; the ids of the list count, so accuracies are wrong if the list is'
            )
            return


def train_classes(data_path):
    """The sorted names of the class folders in data_path/train; [] if there are none."""
    train = os.path.join(data_path, 'train')
    return class_folders(train) if os.path.isdir(train) else []


def class_folders(root):
    """The sorted names of the class folders in `root`."""
    return [folder for folder in subfolders(root)[0] if folder != UNLABELLED_FOLDER]
