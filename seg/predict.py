"""Predict the class of each pixel with PaddleSeg: writes coloured masks, alone and over the images with a legend."""

import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from util import runtime

import paddle

from seg import common, pictures
from util import class_names, files
from util.args import Parser
from util.data.datasets import unexpected
from util.data.folders import find_images
from util.data.images import BadImage, is_image, open_rgb
from util.deploy import records
from util.errors import UserError
from util.logger import log, progress


def parser():
    parser = Parser('seg/predict.py', description=__doc__)
    common.add_config(parser)
    common.add_model_path(parser)
    common.add_inference(parser)
    add = parser.add_argument
    add('--image_path', required=True, metavar='PATH', help='an image, a folder, or a list of images')
    add('--label_list', metavar='FILE', help="names of the classes for the legend, lines 'id name' (default: the ids)")
    add('--save_dir', default='output/seg_predict', metavar='DIR', help='folder of the masks and pictures')
    add('--skip_bad', action='store_true', help='list images that cannot be read or decoded, but do not fail')
    return parser


def main(args):
    common.load_paddleseg()
    from paddleseg.transforms import Compose

    paths, folder = find(args.image_path)
    files.check_folder(args.save_dir, f'--save_dir {args.save_dir}')
    built = common.builder(args)
    how = common.inference(args, built.config)
    num_classes = built.config.dic['model']['num_classes']
    names = class_names.to_show(args.label_list, None, num_classes) if args.label_list else {}
    model = common.trained_model(args, built)
    transforms = Compose(built.val_transforms)
    targets = dict(zip(paths, target_names(paths, folder)))
    share = paths[paddle.distributed.get_rank() :: paddle.distributed.get_world_size()]
    predicted = 0
    for path in progress(share, 'predict'):
        try:
            image, ids = open_rgb(path), class_ids(model, path, transforms, args.aug_eval, how)
        except BadImage as error:
            print(f'warning: {error}; skipped', file=sys.stderr, flush=True)
            continue
        save(pictures.mask(ids), os.path.join(args.save_dir, 'pseudo_color_prediction', targets[path]))
        picture = pictures.over_image(image, ids, names)
        save(picture, os.path.join(args.save_dir, 'added_prediction', targets[path]))
        predicted += 1
    log(f'{args.save_dir}: {predicted} masks in pseudo_color_prediction, pictures with a legend in added_prediction')
    records.check_undecoded(len(share), predicted, args.skip_bad)


def find(path):
    """(paths of the images that --image_path names, folder that their names in --save_dir are relative to).

    A text file is a list: the first word of each line is an image, relative to the list. Raises UserError.
    """
    if os.path.isdir(path):
        return find_images([path]), path
    if not os.path.isfile(path):
        raise UserError(f'--image_path {path}: no such image, folder or list')
    folder = os.path.dirname(path)
    if is_image(os.path.basename(path)):
        return [path], folder
    try:
        lines = files.read_lines(path)
    except UserError:  # no text
        return [path], folder
    if not lines:
        raise UserError(f'--image_path {path}: the list is empty')
    return [os.path.join(folder, line.split()[0]) for _, line in lines], folder


def target_names(paths, folder):
    """Names of the PNG files of images, relative to --save_dir: a.png for a.jpg, a.jpg.png if there is an a.png too."""
    names = [os.path.relpath(path, folder or '.') for path in paths]
    names = [os.path.basename(name) if name.startswith('..') else name for name in names]
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(stems)
    return [f'{stem if counts[stem] == 1 else name}.png' for stem, name in zip(stems, names)]


@paddle.no_grad()
def class_ids(model, path, transforms, aug_eval, how):
    """Class ids of the pixels of an image file, uint8 [H, W]. Raises BadImage, and UserError for every other error."""
    from paddleseg.core import infer

    try:
        data = transforms({'img': path})
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise UserError(unexpected(error, path))
    predict = infer.aug_inference if aug_eval else infer.inference
    if not aug_eval:
        how = {name: how[name] for name in ('is_slide', 'crop_size', 'stride') if name in how}
    ids, _ = predict(model, paddle.to_tensor(data['img'][None]), trans_info=data['trans_info'], **how)
    return ids[0, 0].numpy().astype('uint8')


def save(picture, path):
    """Write a PNG. Raises UserError."""
    with files.replacing(path, sync=False) as file:
        picture.save(file, 'PNG')


if __name__ == '__main__':
    runtime.run(main, parser())
