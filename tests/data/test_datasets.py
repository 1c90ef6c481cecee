"""datasets.py and images.py: files of every kind become RGB; bad data is named; a sample depends on its index alone."""

import os

import numpy as np
import pytest
from map_files import save_map
from PIL import Image

import eval as eval_script
import main
import models
from util.training_args import complete_training
from util.data import label_maps
from util.data.datasets import UNDECODABLE, EvalDataset, TrainDataset
from util.data.listing import Samples, read_list
from util.data.loader import build_predict_loader
from util.data.transforms import EvalTransform, TrainTransform, to_input
from util.errors import UserError
from util.train.loss import batch_targets
from util.weights import settings


def refused(call, *args, **kwargs):
    """The one-line message of a call's UserError."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


# ---- image files


# ---- images that cannot be decoded


def truncate(path):
    os.truncate(path, os.path.getsize(path) * 2 // 3)


@pytest.fixture
def photos(tmp_path):
    """12 JPEGs of noise in one class folder of train/ and of val/."""
    root = tmp_path / 'photos'
    for split in ('train', 'val'):
        (root / split / 'a').mkdir(parents=True)
        for i in range(12):
            noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), 'uint8')
            Image.fromarray(noise).save(root / split / 'a' / f'{i:02d}.jpg')
    return root


SMALL = ['--input_size', 32, '--nb_classes', 10, '--batch_size', 4]


def train_loader(root, *flags):
    args = main.parser().parse_args([str(word) for word in ['--data_path', root, *SMALL, *flags]])
    complete_training(args, grid=2, total_batch=1)
    return main.new_train_loader(args)


def eval_loader(root, *flags):
    words = ['--data_path', root, *SMALL, '--nb_classes', 1, '--crop_pct', 1, *flags]
    args = eval_script.parser().parse_args([str(word) for word in words])
    settings.complete(args, models.FAMILY)
    return eval_script.new_eval_loader(args, backend=args.image_backend)


def numbered(root, count=12):
    """Samples of the training photos, with their positions as class ids."""
    return Samples(str(root / 'train/a'), np.array([b'%02d.jpg' % i for i in range(count)]), np.arange(count))


def test_training_skips_a_truncated_image_with_one_warning_and_counts_it_once(photos, backend, capfd, time_limit):
    bad = photos / 'train' / 'a' / '05.jpg'
    truncate(bad)
    with time_limit(30):
        loader = train_loader(photos, '--num_workers', 2, '--image_backend', backend)
        for epoch in range(2):
            loader.set_epoch(epoch)
            assert sum(batch['image'].shape[0] for batch in loader) == 12
    (line,) = [line for line in capfd.readouterr().err.splitlines() if 'warning: ' in line]
    assert line.startswith(f'warning: {bad}: cannot be decoded')
    assert loader.dataset.bad_images() == 1, 'counted across the loader processes'


def test_a_skipped_image_is_replaced_by_the_next_with_its_own_label(photos, backend):
    samples, transform = numbered(photos), TrainTransform(32, backend=backend)
    dataset = TrainDataset(samples, transform, 12, seed=5)
    truncate(samples[11][0])
    assert dataset[11]['label'] == dataset[11]['index'] == 0, 'around the end'
    expected, *_ = transform.load(samples[0][0], np.random.default_rng([5, 0, 11]))
    assert np.array_equal(dataset[11]['image'], expected), 'with the draws of index 11'
    truncate(samples[0][0])
    assert dataset[11]['label'] == 1 and dataset[5]['label'] == 5


def test_unreadable_entries_of_the_file_system_are_bad_images(photos, backend, capfd, time_limit):
    """A dangling link, a folder and a link to itself, in training with loader processes, evaluation and prediction."""
    bad = []
    for split in ('train', 'val'):
        for name, target in (('20.jpg', 'gone.jpg'), ('21.jpg', '.'), ('22.jpg', '22.jpg')):
            bad.append(photos / split / 'a' / name)
            bad[-1].symlink_to(target)
    with time_limit(30):
        loader = train_loader(photos, '--num_workers', 2, '--image_backend', backend, '--batch_size', 5)
        assert sum(batch['image'].shape[0] for batch in loader) == 15 and loader.dataset.bad_images() == 3
        message = refused(list, train_loader(photos, '--num_workers', 0, '--max_bad_images', 2))
        assert '--max_bad_images 2' in message
        message = refused(list, eval_loader(photos, '--num_workers', 2, '--image_backend', backend))
        assert message.startswith(f'{bad[3]}: cannot be read')
        files = [str(path) for path in bad[3:]] + [str(photos / 'val' / 'a' / '00.jpg')]
        batches = list(build_predict_loader(files, EvalTransform(32, 1.0, backend=backend), 2))
    assert [batch['label'].tolist() for batch in batches] == [[UNDECODABLE, UNDECODABLE], [UNDECODABLE, 0]]
    lines = capfd.readouterr().err
    assert all(f'warning: {path}: cannot be read' in lines for path in bad)


@pytest.mark.parametrize('workers', [0, 2])
def test_too_many_bad_images_stop_the_run_without_a_hang(photos, time_limit, workers):
    for path, _ in numbered(photos, 3):
        truncate(path)
    with time_limit(30):
        assert len(list(train_loader(photos, '--num_workers', workers, '--max_bad_images', 3))) == 3
        message = refused(list, train_loader(photos, '--num_workers', workers, '--max_bad_images', 2))
        assert '--max_bad_images 2' in message and str(photos / 'train' / 'a') in message
        for path, _ in numbered(photos):
            os.truncate(path, 0)
        assert 'no image' in refused(list, train_loader(photos, '--num_workers', workers))


def test_an_evaluation_sample_is_the_transform_of_its_file(photos):
    path, transform = str(photos / 'val/a/03.jpg'), EvalTransform(32, 0.9)
    sample = EvalDataset([('x', 0), (path, 4)], transform)[1]
    np.testing.assert_array_equal(to_input(sample['image']), transform(Image.open(path).convert('RGB')))
    assert sample['label'] == 4 and sample['index'] == 1


# ---- label maps


@pytest.fixture
def maps(tmp_path):
    """The folder of a label map for each training photo."""
    for i in range(12):
        save_map(tmp_path / 'maps' / 'a' / f'{i:02d}.npy', np.ones((2, 5, 3, 3), 'float16'))
    return tmp_path / 'maps' / 'a'


def with_maps(folder):
    return ['--token_label', '--token_label_size', 2, '--token_label_data', folder]


def test_images_without_a_map_train_with_their_label_alone_if_a_flag_allows_it(photos, maps):
    (maps / '00.npy').unlink()
    flags = [*with_maps(maps.parent), '--num_workers', 0]
    assert '1 of 12 images have none' in refused(train_loader, photos, *flags)
    loader = train_loader(photos, *flags, '--allow_missing_token_label')
    names = loader.dataset.map_names.tolist()
    assert [name == b'' for name in names] == [True] + [False] * 11 and loader.dataset.unmapped_images == 1
    unmapped = 0
    for batch in loader:
        targets = batch_targets(batch, 10, smoothing=0.1)
        for i, mapped in enumerate(batch['mapped'].tolist()):
            hard = np.full(10, 0.01) + 0.9 * (np.arange(10) == batch['label'][i].item())
            assert np.allclose(targets.cls[i].numpy(), hard, atol=1e-6) == (not mapped)
            assert bool((targets.token_targets[i].numpy() == 0).all()) == (not mapped)
            unmapped += not mapped
    assert unmapped == 1
    assert '--token_label_data /nowhere' in refused(train_loader, photos, *with_maps('/nowhere'))


def test_a_sample_is_a_function_of_seed_epoch_and_index(scenes, backend):
    samples = read_list(str(scenes), str(scenes / 'train_list.txt'), 10)
    maps = label_maps.LabelMaps(str(scenes / 'label_maps'), 10)

    def sample(seed, epoch, index, first=()):
        transform = TrainTransform(32, backend=backend)
        dataset = TrainDataset(samples, transform, 10, seed, label_maps=maps, grid=2)
        dataset.set_epoch(epoch)
        for i in first:
            dataset[i]
        result = dataset[index]
        return b''.join(np.asarray(v).tobytes() for v in (result['image'], result['label'], *result['target']))

    assert sample(0, 1, 7) == sample(0, 1, 7, first=[3, 7, 0])
    assert len({sample(0, 1, 7), sample(1, 1, 7), sample(0, 2, 7), sample(0, 1, 8)}) == 4
