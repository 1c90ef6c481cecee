"""label_maps.py: maps in folders or packed read the same, and whatever is wrong with a set is said by name."""

import json
import os
import pickle

import numpy as np
import pytest

import torch_files
from util.data.label_maps import ARRAY, META, NAMES, PARTIAL, LabelMaps
from util.errors import UserError

pytestmark = pytest.mark.cross_version

IMAGES = [f'data/train/{name}.JPEG' for name in ('n02/b', 'n01/a.b', 'n01/z', 'n10/µ')]


def make_map(seed=0, k=3, side=4, classes=10, dtype='float16'):
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(size=(k, side, side)), rng.integers(0, classes, (k, side, side))]).astype(dtype)


def write(folder, array, name='n01/x.npy'):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith('.npy'):
        np.save(path, array)
    else:
        torch_files.save(array, str(path))
    return path


def write_folders(folder, maps, suffix='.npy'):
    for name, array in maps.items():
        write(folder, array, name + suffix)


def write_packed(folder, maps):
    names = sorted(maps, key=os.fsencode)
    folder.mkdir(exist_ok=True)
    np.save(folder / ARRAY, np.stack([maps[name] for name in names]))
    (folder / NAMES).write_bytes(b''.join(os.fsencode(name) + b'\n' for name in names))


def make_set(**options):
    """{name: map} for IMAGES."""
    return {'/'.join(path.rsplit('.', 1)[0].split('/')[-2:]): make_map(i, **options) for i, path in enumerate(IMAGES)}


KINDS = pytest.mark.parametrize(
    'write_set',
    [write_folders, lambda folder, maps: write_folders(folder, maps, '.pt'), write_packed],
    ids=['npy', 'pt', 'packed'],
)


def refused(folder, name='n01/x', num_classes=10):
    """The message with which reading a map, or the set, is turned down: one line."""
    with pytest.raises(UserError) as error:
        LabelMaps(str(folder), num_classes).read(f'train/{name}.JPEG')
    assert '\n' not in str(error.value)
    return str(error.value)


# ---- both kinds


@KINDS
@pytest.mark.parametrize('options', [{}, {'dtype': 'float32', 'k': 1, 'side': 7}, {'k': 5, 'side': 18}])
def test_a_map_is_read_as_float32_scores_and_int64_ids(tmp_path, write_set, options):
    maps = make_set(**options)
    write_set(tmp_path, maps)
    label_maps = LabelMaps(str(tmp_path), 10)
    for path, array in zip(IMAGES, maps.values()):
        scores, ids = label_maps.read(path)
        assert scores.dtype == np.float32 and np.array_equal(scores, array[0].astype('float32'))
        assert ids.dtype == np.int64 and np.array_equal(ids, array[1].astype('int64'))


@KINDS
def test_images_without_a_map_are_found_without_reading_one(tmp_path, write_set):
    write_set(tmp_path, make_set())
    label_maps = LabelMaps(str(tmp_path), 10)
    others = [
        'train/n01/y.JPEG',
        'train/n99/z.JPEG',
        'train/n01/a.JPEG',
        'train/n01/zz.png',
        f'train/n00/{"long" * 50}.png',
    ]
    assert label_maps.missing(IMAGES) == [] and label_maps.missing([]) == []
    assert label_maps.missing([IMAGES[0], *others, IMAGES[3]]) == others
    label_maps.require(IMAGES)
    with pytest.raises(UserError, match='n01/y.JPEG; 5 of 9 images have none in'):
        label_maps.require(IMAGES + others)
    for path in others:
        with pytest.raises(UserError, match=f'no label map for {path}'):
            label_maps.read(path)


@KINDS
def test_a_set_goes_to_another_process_without_its_data(tmp_path, write_set):
    write_set(tmp_path, make_set())
    label_maps = LabelMaps(str(tmp_path), 10)
    expected = label_maps.read(IMAGES[0])
    copy = pickle.loads(pickle.dumps(label_maps))
    assert all(np.array_equal(a, b) for a, b in zip(copy.read(IMAGES[0]), expected))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        same = all(np.array_equal(a, b) for a, b in zip(label_maps.read(IMAGES[0]), expected))
        os.write(writer, b'y' if same else b'n')
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b'y'
    os.close(reader)
    os.close(writer)


# ---- one file per image


def test_npy_comes_before_pt(tmp_path):
    first, second = make_map(1), make_map(2)
    write(tmp_path, first)
    write(tmp_path, second, 'n01/x.pt')
    maps = LabelMaps(str(tmp_path), 10)
    assert np.array_equal(maps.read('n01/x.png')[0], first[0]) and maps.path('n01/x.png').endswith('x.npy')
    (tmp_path / 'n01' / 'x.npy').unlink()
    assert np.array_equal(maps.read('n01/x.png')[0], second[0]) and maps.path('n01/x.png').endswith('x.pt')
    (tmp_path / 'n01' / 'x.pt').unlink()
    assert maps.path('n01/x.png') == str(tmp_path / 'n01' / 'x.npy')
    assert str(tmp_path / 'n01' / 'x.npy') in refused(tmp_path) and 'train/n01/x.JPEG' in refused(tmp_path)


@pytest.mark.parametrize('name', ['n01/x.npy', 'n01/x.pt'])
def test_a_damaged_file_is_named(tmp_path, name):
    path = write(tmp_path, make_map(), name)
    whole = path.read_bytes()
    for length in [*range(0, 130), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert str(path) in refused(tmp_path)
    for content in (b'not an array', b'\x80\x04N.', b'\x93NUMPY\x01\x00\x10\x00{"descr": (((((', b'PK\x03\x04'):
        path.write_bytes(content)
        assert str(path) in refused(tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 300), 2):
            data[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(data)
        try:
            LabelMaps(str(tmp_path), 10).read('n01/x.JPEG')
        except UserError as error:
            assert str(path) in str(error) and '\n' not in str(error)


@pytest.mark.parametrize('name', ['n01/x.npy', 'n01/x.pt'])
@pytest.mark.parametrize(
    'shape', [(2, 3, 4), (3, 3, 4, 4), (2, 0, 4, 4), (2, 3, 4, 5), (2, 3, 0, 0), (1, 2, 3, 4, 4), ()]
)
def test_a_map_of_another_shape_is_refused(tmp_path, shape, name):
    path = write(tmp_path, np.zeros(shape, 'float16'), name)
    assert f'{path}: a label map has shape [2, K, H, H], this file has {list(shape)}' in refused(tmp_path)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('plane', [0, 1])
def test_values_that_are_not_finite_are_refused(tmp_path, value, plane):
    array = make_map()
    array[plane, 1, 2, 3] = value
    assert str(write(tmp_path, array)) in refused(tmp_path)


@pytest.mark.parametrize(
    'wrong, said', [(10, '--nb_classes'), (999, '--nb_classes'), (-1, '--nb_classes'), (0.5, 'whole')]
)
def test_ids_that_are_no_classes_are_refused(tmp_path, wrong, said):
    array = make_map()
    array[1, 0, 0, 0] = wrong
    path = write(tmp_path, array)
    assert str(path) in refused(tmp_path) and said in refused(tmp_path)


def test_ids_that_float16_would_round_are_refused(tmp_path):
    array = make_map(dtype='float32')
    array[1, 0, 0, 0] = 2049  # in float16: 2048
    path = write(tmp_path, array.astype('float16'))
    assert f'{path}: ' in refused(tmp_path, num_classes=3000) and 'another dtype' in refused(tmp_path, num_classes=3000)
    assert LabelMaps(str(tmp_path), 2049).read('n01/x.JPEG')[1].max() == 2048  # can only be 2048 itself
    write(tmp_path, array)
    assert LabelMaps(str(tmp_path), 3000).read('n01/x.JPEG')[1].max() == 2049


@pytest.mark.parametrize('content', [[np.zeros(3)], {'map': np.zeros(3)}, 'text', None])
def test_a_pt_file_that_holds_something_else_is_refused(tmp_path, content):
    path = write(tmp_path, content, 'n01/x.pt')
    assert f'{path}: a label map is one tensor, this file holds a {type(content).__name__}' in refused(tmp_path)


def test_files_that_ask_for_code_are_refused_and_get_none(tmp_path):
    trace = tmp_path / 'trace'

    class Trap:
        def __reduce__(self):
            return open, (str(trace), 'w')

    path = tmp_path / 'n01' / 'x.npy'
    path.parent.mkdir()
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    assert str(path) in refused(tmp_path)
    path.rename(path.with_suffix('.pt'))
    path.with_suffix('.pt').write_bytes(pickle.dumps(Trap(), 2))
    assert 'open' in refused(tmp_path) and not trace.exists()


def test_arrays_of_text_and_archives_of_arrays_are_refused(tmp_path):
    path = write(tmp_path, np.full((2, 3, 4, 4), 'a'))
    assert str(path) in refused(tmp_path)
    with open(path, 'wb') as f:
        np.savez(f, make_map())
    assert str(path) in refused(tmp_path)


# ---- packed


def test_an_array_and_names_that_disagree_are_refused(tmp_path):
    write_packed(tmp_path, make_set())
    names = (tmp_path / NAMES).read_bytes()
    lines = names.splitlines(keepends=True)
    for wrong, said in (
        (names[:-1], 'names 3 maps'),
        (names + b'n11/a\n', 'names 5 maps'),
        (b'', 'names 0 maps'),
        (b''.join(lines[::-1]), 'not sorted'),
        (lines[0] * 2 + lines[2] + lines[3], 'not sorted'),
    ):
        (tmp_path / NAMES).write_bytes(wrong)
        assert f'{tmp_path / NAMES}: {said}' in refused(tmp_path)
    (tmp_path / NAMES).unlink()
    assert str(tmp_path / NAMES) in refused(tmp_path)


def test_a_packed_array_that_is_none_is_refused(tmp_path):
    write_packed(tmp_path, make_set())
    path = tmp_path / ARRAY
    whole = path.read_bytes()
    for content in (b'', whole[:50], whole[:-1], b'text', pickle.dumps(np.zeros(3))):
        path.write_bytes(content)
        assert str(path) in refused(tmp_path)
    for shape in ((4, 2, 3, 4), (4, 3, 3, 4, 4), (4, 2, 3, 4, 5), (4, 2, 0, 4, 4)):
        np.save(path, np.zeros(shape, 'float16'))
        assert str(path) in refused(tmp_path)


def test_a_bad_map_in_a_packed_set_is_named(tmp_path):
    maps = make_set()
    maps['n01/z'][1, 0, 0, 0] = 11
    write_packed(tmp_path, maps)
    assert f'{tmp_path / ARRAY}, map n01/z: ' in refused(tmp_path, 'n01/z')
    LabelMaps(str(tmp_path), 10).read(IMAGES[0])


def test_a_set_whose_packing_was_not_finished_is_refused(tmp_path):
    (tmp_path / PARTIAL).write_bytes(b'')
    assert 'pack_token_label.py' in refused(tmp_path)


# ---- what the set says of itself


@pytest.mark.parametrize('source, centre', [((500, 375), (62.5, 0, 375, 375)), ((300, 401), (0, 50.5, 300, 300))])
def test_a_map_covers_the_centre_square_or_the_full_image(tmp_path, source, centre):
    assert LabelMaps(str(tmp_path), 10, 'center').covered(*source) == centre
    assert LabelMaps(str(tmp_path), 10, 'full').covered(*source) == (0, 0, *source)


@pytest.mark.parametrize(
    'flag, meta, expected',
    [
        ('center', {'coverage': 'full'}, 'full'),
        ('full', {'coverage': 'center', 'x': 1}, 'center'),
        ('full', {}, 'full'),
    ],
)
def test_coverage_in_meta_json_wins_over_the_flag(tmp_path, flag, meta, expected):
    (tmp_path / META).write_text(json.dumps(meta))
    assert LabelMaps(str(tmp_path), 10, flag).coverage == expected


@KINDS
@pytest.mark.parametrize('meta', [{'K': 5}, {'shape': [2, 5, 4, 4]}, {'shape': [2, 3, 18, 18]}, {'label_size': 18}])
def test_a_meta_json_that_contradicts_the_maps_is_refused_with_the_map(tmp_path, meta, write_set):
    write_set(tmp_path, make_set())
    (tmp_path / META).write_text(json.dumps(meta))
    message = refused(tmp_path, 'n01/z')
    assert message.startswith(str(tmp_path / META)) and next(iter(meta)) in message
    assert str(tmp_path / ARRAY) in message or str(tmp_path / 'n01' / 'z.') in message


@KINDS
def test_a_meta_json_that_agrees_is_fine_whatever_else_it_says(tmp_path, write_set):
    write_set(tmp_path, make_set())
    (tmp_path / META).write_text(
        json.dumps(
            {
                'annotator': 'someone',
                'coverage': 'full',
                'size': 576,
                'K': 3,
                'label_size': 4,
                'shape': [2, 3, 4, 4],
                'dtype': 'float16',
                'num_classes': 10,
            }
        )
    )
    LabelMaps(str(tmp_path), 10).read(IMAGES[0])


def test_maps_of_more_classes_than_the_model_are_refused(tmp_path):
    (tmp_path / META).write_text('{"num_classes": 1000}')
    assert f'{tmp_path / META}: maps of 1000 classes, but --nb_classes is 10' in refused(tmp_path)


@pytest.mark.parametrize(
    'text',
    [
        '{',
        '[1]',
        '{"coverage": "half"}',
        '{"coverage": []}',
        '\x00',
        '[' * 100_000,
        '{"K": "5"}',
        '{"num_classes": null}',
        '{"shape": 3}',
        '\udcff',
    ],
)
def test_an_unusable_meta_json_is_refused_by_name(tmp_path, text):
    (tmp_path / META).write_bytes(text.encode('utf-8', 'surrogateescape'))
    assert str(tmp_path / META) in refused(tmp_path)


def test_a_missing_folder_is_refused_by_its_flag(tmp_path):
    assert f'--token_label_data {tmp_path}/nowhere: no such folder' in refused(tmp_path / 'nowhere')


def test_the_map_of_an_image_has_its_class_folder_and_its_stem(tmp_path):
    maps = LabelMaps(str(tmp_path), 10)
    assert maps.path('/data/train/n01440764/ILSVRC_7.JPEG') == str(tmp_path / 'n01440764' / 'ILSVRC_7.npy')
    assert maps.path('n01440764/a.b.c.png') == str(tmp_path / 'n01440764' / 'a.b.c.npy')


def test_reference_geometry_reads_every_map_as_if_it_covered_the_image(tmp_path):
    (tmp_path / 'meta.json').write_text(json.dumps({'coverage': 'center'}))
    assert LabelMaps(str(tmp_path), 10, 'center', 'reference').coverage == 'full'
