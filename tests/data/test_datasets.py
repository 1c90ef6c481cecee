"""datasets.py, loader.py: lists, folders and odd images; bad data is named; samples depend on their index."""

import os
import struct
import subprocess
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

import main
from util import options
from util.data import label_maps
from util.data.datasets import EvalDataset, TrainDataset, read_folder, read_list
from util.data.images import open_rgb
from util.data.loader import EvalSampler, TrainSampler, build_eval_loader, build_train_loader, sweep_shared_memory
from util.data.transforms import EvalTransform, TrainTransform
from util.errors import UserError
from util.train.loss import batch_targets


def said(call, *args, **kwargs):
    """The message with which a call turns its input down."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    """root/a/1.png, root/a/2.JPG, root/b/3.webp, and things that are no images."""
    root = tmp_path / 'root'
    for name in ('a/2.JPG', 'a/1.png', 'b/3.webp'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 6), (10, 200, 30)).save(root / name)
    (root / 'a' / 'notes.txt').write_text('no image')
    (root / 'readme.md').write_text('no class')
    return root


# ---- folders


def test_a_folders_classes_are_its_sorted_folders_and_its_images_are_sorted(folder):
    assert read_folder(str(folder), 2) == [
        (str(folder / 'a/1.png'), 0),
        (str(folder / 'a/2.JPG'), 0),
        (str(folder / 'b/3.webp'), 1),
    ]


def test_a_missing_folder_an_empty_one_and_one_of_too_many_classes_are_named(folder, tmp_path):
    assert str(tmp_path / 'none') in said(read_folder, str(tmp_path / 'none'), 2)
    (tmp_path / 'empty' / 'a').mkdir(parents=True)
    assert 'no images' in said(read_folder, str(tmp_path / 'empty'), 2)
    message = said(read_folder, str(folder), 1)
    assert str(folder) in message and '2 class folders' in message and '--nb_classes is 1' in message


# ---- lists


@pytest.fixture
def listing(folder, tmp_path):
    """listing(text) -> samples of that list file; listing.path is the file."""

    def call(text, num_classes=10):
        (tmp_path / 'list.txt').write_text(text, encoding='utf-8')
        return read_list(str(folder), call.path, num_classes)

    call.path = str(tmp_path / 'list.txt')
    return call


def test_a_list_keeps_its_order_its_ids_and_names_with_spaces(listing, folder):
    Image.new('RGB', (8, 8)).save(folder / 'a' / 'two words.png')
    assert listing('b/3.webp 7\n\na/two words.png 0\r\na/1.png 9\n') == [
        (str(folder / 'b/3.webp'), 7),
        (str(folder / 'a/two words.png'), 0),
        (str(folder / 'a/1.png'), 9),
    ]


@pytest.mark.parametrize(
    'line, says',
    [
        ('a/2.JPG', "expected 'path class_id', found 'a/2.JPG'"),
        ('a/2.JPG x', 'expected'),
        ('a/2.JPG -1', 'expected'),
        ('a/2.JPG 1.5', 'expected'),
        ('7', 'expected'),
        ('a/2.JPG,3', 'expected'),
        ('a/2.JPG 10', 'class id 10, but --nb_classes is 10'),
        ('a/none.png 3', 'does not exist; check --data_path'),
        ('c/1.png 3', 'does not exist'),
        ('a/2.jpg 3', 'does not exist'),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(listing, line, says):
    message = said(listing, f'a/1.png 0\n\n{line}\n')
    assert message.startswith(f'{listing.path}, line 3: ') and says in message


def test_an_empty_list_a_missing_one_and_one_that_is_no_text_are_named(listing, folder, tmp_path):
    assert said(listing, '\n \n') == f'{listing.path}: lists no images'
    assert '/nowhere/list.txt' in said(read_list, str(folder), '/nowhere/list.txt', 10)
    assert 'a/1.png' in said(read_list, str(folder), str(folder / 'a/1.png'), 10)
    assert str(folder / 'a') in said(read_list, str(folder), str(folder / 'a'), 10)
    assert '--data_path /nowhere' in said(read_list, '/nowhere', listing.path, 10)


# ---- image files

RAMP = np.tile(np.arange(0, 240, 10, dtype='uint8'), (16, 1))  # 24 x 16, darker on the left


PNG = b'\x89PNG\r\n\x1a\n'


def png_chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png_16_bit(path, array):
    """A 16-bit grey PNG, written by hand."""
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in array)
    header = struct.pack('>IIBBBBB', *array.shape[::-1], 16, 0, 0, 0, 0)
    path.write_bytes(
        PNG + png_chunk(b'IHDR', header) + png_chunk(b'IDAT', zlib.compress(rows)) + png_chunk(b'IEND', b'')
    )


def decode(path):
    image = open_rgb(str(path))
    array = np.asarray(image)
    assert image.mode == 'RGB' and array.dtype == np.uint8
    return array


@pytest.mark.parametrize(
    'mode, extension',
    [
        ('L', 'png'),
        ('L', 'jpg'),
        ('LA', 'png'),
        ('P', 'png'),
        ('RGBA', 'png'),
        ('RGBA', 'webp'),
        ('CMYK', 'jpg'),
        ('1', 'png'),
        ('RGB', 'bmp'),
    ],
)
def test_every_kind_of_image_file_becomes_rgb(tmp_path, mode, extension):
    path = tmp_path / f'image.{extension}'
    Image.fromarray(RAMP).convert('RGB').convert(mode).save(path)
    array = decode(path)
    assert array.shape == (16, 24, 3)
    if mode != '1':
        np.testing.assert_allclose(array[..., 0].mean(axis=0), RAMP[0], atol=30 if mode == 'P' else 12)  # dithered


def test_16_bit_greys_are_scaled_to_8_bits(tmp_path):
    png_16_bit(tmp_path / 'deep.png', RAMP.astype('uint16') * 256 + 200)
    array = decode(tmp_path / 'deep.png')
    for channel in range(3):
        np.testing.assert_array_equal(array[..., channel], RAMP)


def test_an_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    Image.fromarray(RAMP).save(tmp_path / 'turned.jpg', exif=exif)
    assert decode(tmp_path / 'turned.jpg').shape == (16, 24, 3)


# ---- images that cannot be decoded


def truncate(path):
    os.truncate(path, os.path.getsize(path) * 2 // 3)


@pytest.fixture
def photos(tmp_path):
    """12 JPEGs of noise in one class folder, of which `broken` has cut the named ones short."""
    root = tmp_path / 'photos'
    for split in ('train', 'val'):
        (root / split / 'a').mkdir(parents=True)
        for i in range(12):
            noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), 'uint8')
            Image.fromarray(noise).save(root / split / 'a' / f'{i:02d}.jpg')
    return root


def arguments(root, *flags):
    args = main.parser().parse_args(
        ['--data_path', str(root), '--input_size', '32', '--nb_classes', '10', '--batch_size', '4', *map(str, flags)]
    )
    options.check_recipe(args)
    return args


def train_loader(root, *flags):
    return build_train_loader(arguments(root, *flags))


def eval_loader(root, *flags):
    return build_eval_loader(arguments(root, *flags), 1.0)


def test_training_skips_a_truncated_image_with_one_warning_that_names_it_and_counts_it(photos, capfd, time_limit):
    bad = photos / 'train' / 'a' / '05.jpg'
    truncate(bad)
    with time_limit(30):
        loader = train_loader(photos, '--num_workers', 2)
        for epoch in range(2):
            loader.set_epoch(epoch)
            assert sum(batch['image'].shape[0] for batch in loader) == 12
    err = capfd.readouterr().err
    assert err.count('warning: ') == 1 and f'{bad}: cannot be decoded, skipped' in err
    assert loader.dataset.bad_images() == 1, 'counted across the loader processes, once'


def test_a_skipped_image_is_replaced_by_the_next_with_its_own_label(photos):
    samples = [(str(photos / 'train/a' / f'{i:02d}.jpg'), i) for i in range(12)]
    dataset = TrainDataset(samples, TrainTransform(32), 12)
    truncate(samples[11][0])
    assert dataset[11]['label'] == 0, 'around the end'
    truncate(samples[0][0])
    assert dataset[11]['label'] == 1 and dataset[5]['label'] == 5


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'not an image',
        b'\x89PNG\r\n\x1a\n' + b'\0' * 50,
        b'BM' + b'\0' * 60,
        b'\xff\xd8\xff\xe0' + b'\0' * 30,
        b'RIFF\x10\0\0\0WEBPVP8 ',
        b'GIF89a',
    ],
)
def test_any_damaged_file_is_skipped(photos, content):
    samples = [(str(photos / 'train/a' / f'{i:02d}.jpg'), i) for i in range(2)]
    (photos / 'train/a/00.jpg').write_bytes(content)
    assert TrainDataset(samples, TrainTransform(32), 2)[0]['label'] == 1


def test_an_image_of_a_billion_pixels_is_skipped_and_not_unpacked(photos):
    samples = [(str(photos / 'train/a' / f'{i:02d}.jpg'), i) for i in range(2)]
    header = struct.pack('>IIBBBBB', 40000, 40000, 8, 2, 0, 0, 0)
    (photos / 'train/a/00.jpg').write_bytes(
        PNG + png_chunk(b'IHDR', header) + png_chunk(b'IDAT', zlib.compress(b'\0' * 9)) + png_chunk(b'IEND', b'')
    )
    assert TrainDataset(samples, TrainTransform(32), 2)[0]['label'] == 1


@pytest.mark.parametrize('workers', [0, 2])
def test_too_many_bad_images_stop_the_run_without_a_hang(photos, capfd, time_limit, workers):
    for i in range(3):
        truncate(photos / 'train' / 'a' / f'{i:02d}.jpg')
    with time_limit(30):
        assert len(list(train_loader(photos, '--num_workers', workers, '--max_bad_images', 3))) == 3
        message = said(list, train_loader(photos, '--num_workers', workers, '--max_bad_images', 2))
    assert '--max_bad_images 2' in message and str(photos / 'train' / 'a') in message


def test_a_set_of_which_nothing_can_be_decoded_ends(photos, capfd, time_limit):
    for path in (photos / 'train' / 'a').iterdir():
        path.write_bytes(b'')
    with time_limit(30):
        assert 'not one image' in said(list, train_loader(photos, '--num_workers', 0))


@pytest.mark.parametrize('workers', [0, 2])
def test_evaluation_stops_at_a_bad_image_and_names_it(photos, time_limit, workers):
    truncate(photos / 'val' / 'a' / '07.jpg')
    with time_limit(30):
        message = said(list, eval_loader(photos, '--num_workers', workers))
    assert message.startswith(f'{photos / "val" / "a" / "07.jpg"}: cannot be decoded')


# ---- label maps


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    'spoil, says',
    [
        (lambda path: path.unlink(), 'no label map for'),
        (lambda path: np.save(path, np.zeros((2, 5, 3, 4), 'float16')), 'has [2, 5, 3, 4]'),
        (lambda path: np.save(path, np.zeros((5, 3, 3), 'float16')), 'has [5, 3, 3]'),
        (lambda path: np.save(path, np.full((2, 5, 3, 3), 10, 'float16')), 'class ids outside 0…9'),
        (lambda path: np.save(path, np.full((2, 5, 3, 3), -1, 'float16')), 'class ids outside 0…9'),
        (lambda path: np.save(path, np.full((2, 5, 3, 3), np.nan, 'float16')), 'not finite'),
        (lambda path: np.save(path, np.array([{}], dtype=object)), 'not a readable .npy'),
        (lambda path: os.truncate(path, 200), 'not a readable .npy'),
        (lambda path: path.write_bytes(b''), 'not a readable .npy'),
    ],
    ids=['missing', 'oblong', 'no ids', 'large id', 'negative id', 'nan', 'pickle', 'truncated', 'empty'],
)
def test_a_bad_label_map_is_one_clear_error(photos, tmp_path, time_limit, workers, spoil, says):
    maps = tmp_path / 'maps' / 'a'
    maps.mkdir(parents=True)
    for i in range(12):
        np.save(maps / f'{i:02d}.npy', np.ones((2, 5, 3, 3), 'float16'))
    flags = ['--num_workers', workers, '--token_label', '--token_label_data', maps.parent, '--token_label_size', 2]
    with time_limit(30):
        assert sum(batch['ids'].shape[0] for batch in train_loader(photos, *flags)) == 12
        spoil(maps / '06.npy')
        message = said(lambda: list(train_loader(photos, *flags)))
    assert message.startswith(f'{maps / "06.npy"}: ') and says in message


def test_images_without_a_map_can_be_let_in_with_their_label_alone(photos, tmp_path):
    maps = tmp_path / 'maps' / 'a'
    maps.mkdir(parents=True)
    for i in range(1, 12):
        np.save(maps / f'{i:02d}.npy', np.ones((2, 5, 3, 3), 'float16'))
    flags = ['--token_label', '--token_label_data', maps.parent, '--token_label_size', 2, '--num_workers', 0]
    assert '1 of 12 images have none' in said(train_loader, photos, *flags)
    loader = train_loader(photos, *flags, '--allow_missing_token_label')
    assert [os.path.basename(path) for path in loader.dataset.unmapped] == ['00.jpg']
    batches = list(loader)
    assert sum(float(1 - batch['mapped'].numpy().mean()) * len(batch['label']) for batch in batches) == pytest.approx(1)
    for batch in batches:
        targets = batch_targets(batch, 10, smoothing=0.1)
        for i, mapped in enumerate(batch['mapped'].tolist()):
            hard = np.full(10, 0.01) + 0.9 * (np.arange(10) == batch['label'][i].item())
            assert np.allclose(targets.cls[i].numpy(), hard, atol=1e-6) == (not mapped)
            assert bool((targets.tokens[i].numpy() == 0).all()) == (not mapped)


def test_a_folder_without_maps_is_named_before_the_first_epoch(photos, tmp_path):
    flags = ['--token_label', '--token_label_size', 2, '--token_label_data']
    assert '--token_label_data /nowhere' in said(train_loader, photos, *flags, '/nowhere')
    (tmp_path / 'maps').mkdir()
    assert '00.npy: no label map for' in said(train_loader, photos, *flags, tmp_path / 'maps')


# ---- determinism


def test_a_sample_is_a_function_of_seed_epoch_and_index(scenes):
    samples = read_list(str(scenes), str(scenes / 'train_list.txt'), 10)
    maps = label_maps.LabelMaps(str(scenes / 'label_maps'), 10)

    def sample(seed, epoch, index, first=()):
        dataset = TrainDataset(samples, TrainTransform(32), 10, seed, maps, 2)
        dataset.set_epoch(epoch)
        for i in first:
            dataset[i]
        result = dataset[index]
        return b''.join(np.asarray(v).tobytes() for v in (result['image'], result['label'], *result['target']))

    assert sample(0, 1, 7) == sample(0, 1, 7, first=[3, 7, 0])
    assert len({sample(0, 1, 7), sample(1, 1, 7), sample(0, 2, 7), sample(0, 1, 8)}) == 4


@pytest.mark.parametrize('workers', [1, 2])
def test_batches_do_not_depend_on_the_number_of_processes(photos, workers):
    def batches(n):
        loader = train_loader(photos, '--num_workers', n)
        loader.set_epoch(3)
        return [batch['image'].numpy().tobytes() for batch in loader]

    assert batches(workers) == batches(0)


# ---- samplers


@pytest.mark.parametrize('world', [1, 2, 3])
def test_processes_share_the_global_batches_of_a_single_one(world):
    together = TrainSampler(50, 4 * world, seed=5)
    parts = [TrainSampler(50, 4, rank, world, seed=5) for rank in range(world)]
    for epoch in range(2):
        for sampler in (together, *parts):
            sampler.set_epoch(epoch)
        assert [sum(step, []) for step in zip(*parts)] == list(together)


def test_an_epoch_is_a_shuffle_without_repeats_of_full_batches():
    sampler = TrainSampler(50, 8)
    first = list(sampler)
    assert len(first) == len(sampler) == 6 and all(len(batch) == 8 for batch in first)
    flat = sum(first, [])
    assert len(set(flat)) == 48 and set(flat) < set(range(50)) and flat != sorted(flat)
    assert list(sampler) == first, 'a function of seed and epoch'
    sampler.set_epoch(1)
    assert list(sampler) != first and list(TrainSampler(50, 8, seed=1)) != first


def test_a_batch_larger_than_the_set_is_refused():
    assert '--batch_size 8' in said(TrainSampler, 15, 8, 0, 2)
    assert len(TrainSampler(16, 8, 0, 2)) == 1


@pytest.mark.parametrize('world', [1, 2, 3])
@pytest.mark.parametrize('batch', [1, 3, 7, 64])
@pytest.mark.parametrize('length', [1, 2, 20, 21])
def test_evaluation_sees_every_image_exactly_once(length, batch, world):
    seen = []
    for rank in range(world):
        sampler = EvalSampler(length, batch, rank, world)
        batches = list(sampler)
        assert len(batches) == len(sampler) and all(0 < len(b) <= batch for b in batches)
        seen += sum(batches, [])
    assert sorted(seen) == list(range(length))


def test_an_evaluation_sample_is_the_transform_of_its_file(photos):
    path, transform = str(photos / 'val/a/03.jpg'), EvalTransform(32, 0.9)
    sample = EvalDataset([(path, 4)], transform)[0]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        np.testing.assert_array_equal(sample['image'], transform(Image.open(path).convert('RGB')))
    assert sample['label'] == 4


def test_shared_memory_of_killed_loaders_is_swept_and_no_other(tmp_path):
    gone = subprocess.Popen(['true'])
    gone.wait()
    names = [
        f'paddle_{gone.pid}_1_2',
        f'paddle_{gone.pid}_2_9',
        f'paddle_{os.getpid()}_1_2',
        'paddle_x_1',
        f'other_{gone.pid}_1',
    ]
    for name in names:
        (tmp_path / name).write_bytes(b'batch')
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / names[1])  # young
    sweep_shared_memory(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])
