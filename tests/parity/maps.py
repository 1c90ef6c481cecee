"""A small set of images and label maps on disk, read by both projects with the same flips and crops."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from util.data import transforms
from util.data.datasets import TrainDataset
from util.data.label_maps import LabelMaps
from util.data.listing import Samples
from util.data.loader import collate
from util.data.transforms import network_input

# Widths and heights. Primes: where a crop is a whole number of map cells, float32 decides in the original whether
# RoIAlign takes that many samples along it or one more (up to 7e-4 in a target), float64 here.
SIZES = [(97, 61), (61, 97), (113, 113), (73, 53), (89, 163), (61, 59)]


class Set:
    """Images of SIZES in class folders, each with a random label map [2, K, side, side] as .npy and as .pt.

    ours(...) and theirs(...) read the same samples: image i flipped if flips[i] and cropped to boxes[i].
    """

    def __init__(self, folder, original, map_side, num_classes, seed=0):
        self.folder, self.original, self.num_classes = folder, original, num_classes
        rng = np.random.default_rng(seed)
        names, labels = [], []
        for i, (width, height) in enumerate(SIZES):
            labels.append(int(rng.integers(num_classes)))
            name = f'class{i % 2}/image{i}'
            path, stem = folder / 'train' / f'{name}.png', folder / 'maps' / name
            for parent in (path.parent, stem.parent):
                parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype='uint8')).save(path)
            self._write_map(rng, stem, map_side)
            names.append(f'{name}.png'.encode())
        self.samples = Samples(str(folder / 'train'), np.array(names), np.array(labels))
        self.flips = [bool(i % 2) for i in range(len(SIZES))]
        self.boxes = [transforms.random_crop_box(*size, rng) for size in SIZES]

    def _write_map(self, rng, stem, side):
        """Scores like those of a classifier: descending from 14, K different classes of a small pool per cell."""
        pool = rng.choice(self.num_classes, min(12, self.num_classes), replace=False)
        ids = np.argsort(rng.random([len(pool), side, side]), axis=0)[:5]
        scores = -np.sort(-rng.uniform(-2, 14, [5, side, side]), axis=0)
        both = np.stack([scores, pool[ids]]).astype('float16')
        np.save(f'{stem}.npy', both)
        self.original.torch.save(self.original.torch.from_numpy(both), f'{stem}.pt')

    def ours(self, monkeypatch, tokens, size):
        """The collated batch of our training set, as numpy arrays."""
        boxes = iter(self.boxes)
        monkeypatch.setattr(transforms, 'random_crop_box', lambda *_: next(boxes))
        flips = iter(self.flips)
        transform = transforms.TrainTransform(size, aa='', jitter=0, reprob=0, geometry='reference')
        dataset = TrainDataset(
            self.samples,
            SimpleNamespace(load=lambda path, rng: transform.load(path, Draws(next(flips)))),
            self.num_classes,
            label_maps=LabelMaps(self.folder / 'maps', self.num_classes, 'full', 'reference'),
            grid=tokens,
        )
        batch = collate([dataset[i] for i in range(len(self.samples))])
        network_input(batch, transform.mean, transform.std)
        return batch

    def theirs(self, monkeypatch, tokens, size):
        """The original's images and targets [B, C, 2 + N], smoothed by 0.1: true label, class token, tokens."""
        torch, factory = self.original.torch, self.original.tlt.data.label_transforms_factory
        boxes = iter([(y, x, h, w) for x, y, w, h in self.boxes])
        crop = factory.RandomResizedCropAndInterpolationWithCoords
        monkeypatch.setattr(crop, 'get_params', staticmethod(lambda *_: next(boxes)))
        flips = iter(self.flips)
        transform = factory.create_token_label_transform(size, color_jitter=None, interpolation='bicubic')
        images, maps = [], []
        for path, label in self.samples:
            flip = next(flips)
            monkeypatch.setattr(torch, 'rand', lambda *_: 0.0 if flip else 1.0)
            stem = path.replace('/train/', '/maps/')[: -len('.png')]
            image, label_map = transform(Image.open(path).convert('RGB'), torch.load(f'{stem}.pt').float())
            label_map[-1, 0, 0, 5] = label  # as the original's DatasetTokenLabel does
            images.append(image)
            maps.append(label_map)
        monkeypatch.undo()
        create, how = self.original.tlt.data.create_token_label_target, dict(smoothing=0.1, device='cpu')
        return torch.stack(images), create(torch.stack(maps), self.num_classes, label_size=tokens, **how)


class Draws:
    """A random number generator that flips or does not; nothing else may be drawn."""

    def __init__(self, flip):
        self.values = iter([0.0 if flip else 1.0])

    def random(self):
        return next(self.values, 1.0)  # 1.0: random erasing does not happen
