"""Lists of the photos of a folder, for tools/self_label.py: for training, with a label, for validation; the classes.

Every photo is decoded once. Those that cannot be decoded are named and left out.
"""

import os
import sys
from multiprocessing.pool import ThreadPool

import numpy as np

from util import class_names, files
from util.data import listing
from util.data.images import BadImage, open_rgb
from util.data.map_names import check_distinct, map_names
from util.errors import UserError
from util.logger import log, progress


def write_lists(photos, out, val_share, max_bad_images):
    """Write train_list.txt, labelled_list.txt, val_list.txt and label_list.txt; returns the number of classes.

    Photos that cannot be decoded are left out. Raises UserError for more than `max_bad_images` of them, and for two
    training photos that would have one label map.
    """
    train, val = os.path.join(photos, 'train'), os.path.join(photos, 'val')
    if os.path.isdir(val) and not os.path.isdir(train):
        raise UserError(f'{photos}: has val/, but no train/; put the class folders for training into train/')
    samples = listing.read_photos(photos)
    root, names = samples.paths.root, samples.class_names
    if len(names) < 2:
        raise UserError(f'{root}: photos of one class only ({", ".join(names)}); it needs one folder per class')
    check_distinct(map_names(samples), samples.paths, 'rename one of the two')
    class_ids = {name: i for i, name in enumerate(names)}
    held_out = listing.read_folder(val, len(names), class_ids) if os.path.isdir(val) else []
    bad = undecodable([path for path, _ in [*samples, *held_out]])
    if len(bad) > max_bad_images:
        raise UserError(
            f'{photos}: {len(bad)} photos cannot be read or decoded (named above), but --max_bad_images is '
            f'{max_bad_images}; repair or remove them'
        )
    if bad:
        log(f'{photos}: left out {len(bad)} photos that cannot be read or decoded (named above)')
    samples = [sample for sample in samples if sample[0] not in bad]
    empty = set(range(len(names))) - {label for _, label in samples}
    if empty:
        raise UserError(f'{os.path.join(root, names[min(empty)])}: no photo can be decoded; repair them')
    if held_out:
        held_out = [sample for sample in held_out if sample[0] not in bad]
    else:
        samples, held_out = hold_out(samples, names, val_share)
    if not held_out:
        raise UserError(f'{val}: no photo can be decoded; repair them')
    labelled = [sample for sample in samples if sample[1] != listing.UNLABELLED]
    for name, part in (('train_list.txt', samples), ('labelled_list.txt', labelled), ('val_list.txt', held_out)):
        lines = [f'{os.path.relpath(path, photos)} {label}\n' for path, label in part]
        files.write(os.path.join(out, name), os.fsencode(''.join(lines)))
    class_names.write_label_list(out, names)
    log(f'{photos}: {len(names)} classes, {len(samples)} training photos, {len(held_out)} validation photos')
    return len(names)


def undecodable(paths):
    """Decode every photo; returns the set of those that cannot be decoded, and names each on stderr."""
    bad = set()
    with ThreadPool() as pool:  # Pillow decodes without the interpreter lock
        errors = pool.imap(decoding_error, paths)
        for path, error in progress(zip(paths, errors), 'decode all photos', len(paths)):
            if error:
                print(f'warning: {error}; left out', file=sys.stderr, flush=True)
                bad.add(path)
    return bad


def decoding_error(path):
    """Why a photo cannot be decoded, '' if it can be."""
    try:
        open_rgb(path)
    except BadImage as error:
        return str(error)
    return ''


def hold_out(samples, names, share):
    """(training samples, validation samples): the same share of each class, the same photos every time.

    Photos without a label are for training.
    """
    chosen, of_class = set(), [[] for _ in names]
    for i, (_, label) in enumerate(samples):
        if label != listing.UNLABELLED:
            of_class[label].append(i)
    for label, (name, members) in enumerate(zip(names, of_class)):
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise UserError(f'class folder {name} has {len(members)} photo(s): too few for training and validation')
        chosen.update(np.random.default_rng(label).permutation(members)[:count].tolist())
    return [s for i, s in enumerate(samples) if i not in chosen], [s for i, s in enumerate(samples) if i in chosen]
