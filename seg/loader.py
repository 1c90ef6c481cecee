"""The loader of PaddleSeg's training and evaluation. An error of a sample ends the run with a line that names the file.

Paddle's own loader waits for ever after an exception in a sample, and signals have no effect meanwhile.
"""

import contextlib

import paddle
from paddle.io.dataloader.collate import default_collate_fn

from util.data import loader
from util.data.datasets import unexpected
from util.data.images import BadImage
from util.errors import UserError


class Pairs(paddle.io.Dataset):
    """Samples of a PaddleSeg data set, with the key `path` of the image.

    Any exception becomes the sample {'error': message}, as in util/data/datasets.py.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def sample_bytes(self):
        """Bytes of the first sample."""
        sample = self[0]
        return sum(sample[name].nbytes for name in ('img', 'label') if name in sample)

    def __getitem__(self, index):
        path, mask = self.dataset.file_list[index]
        try:
            sample = self.dataset[index]
            if self.dataset.mode == 'train' and sample['label'].shape != sample['img'].shape[1:]:
                shapes = f'{list(sample["label"].shape)}, the image {list(sample["img"].shape[1:])}'
                raise UserError(f'{mask}: after the transforms the mask has the shape {shapes}')
            return {**sample, 'path': path}
        except (BadImage, UserError) as error:
            return {'error': str(error)}
        except Exception as error:
            return {'error': unexpected(error, f'{path} with {mask}')}


class PairLoader(loader.Loader):
    """Takes the place of paddle.io.DataLoader in PaddleSeg.

    PaddleSeg's worker_init_fn is not used: it seeds numpy alike in all loader processes.
    """

    def __init__(self, dataset, batch_sampler, num_workers=0, return_list=True, worker_init_fn=None):
        super().__init__(Pairs(dataset), batch_sampler, batch_sampler.batch_size, num_workers)

    @staticmethod
    def stack(samples):
        first = samples[0]
        for sample in samples:
            if sample['img'].shape != first['img'].shape:
                sizes = ['×'.join(map(str, s['img'].shape[:0:-1])) for s in (first, sample)]
                raise UserError(
                    f'{first["path"]} has {sizes[0]} pixels after the transforms of the data set and {sample["path"]} '
                    f'{sizes[1]}; a batch needs one size: add RandomPaddingCrop or Resize to the transforms'
                )
        batch = default_collate_fn(samples)
        # PaddleSeg knows the name of a step by its type, a list, which Paddle's loader makes of the tuple
        batch['trans_info'] = [[list(name), size] for name, size in batch['trans_info']]
        return batch

    def prepare(self, batch):
        """PaddleSeg's transforms have normalised the images."""


@contextlib.contextmanager
def in_paddleseg():
    """Inside this block PaddleSeg makes its loaders of PairLoader."""
    original, paddle.io.DataLoader = paddle.io.DataLoader, PairLoader
    try:
        yield
    finally:
        paddle.io.DataLoader = original
