"""label_maps.py: maps in folders or packed read the same; whatever is wrong with a set is refused by name."""

import json

import numpy as np
import pytest
from map_files import make_map, save_folders, save_map, save_packed

from util.data.label_maps import META, LabelMaps
from util.data.map_sets import ARRAY, NAMES
from util.data.listing import Samples
from util.errors import UserError


MAPS = ['n02/b', 'n01/a.b', 'n01/z', 'n10/µ']


def make_set(**options):
    """{name: map} for MAPS."""
    return {name: make_map(i, **options) for i, name in enumerate(MAPS)}


def save_pt(folder, maps):
    save_folders(folder, maps, '.pt')


KINDS = pytest.mark.parametrize('save_set', [save_folders, save_pt, save_packed], ids=['npy', 'pt', 'packed'])


def refused(folder, name='n01/x', num_classes=10):
    """The one-line message with which a map or its set is refused."""
    with pytest.raises(UserError) as error:
        LabelMaps(str(folder), num_classes).read(name)
    assert '\n' not in str(error.value)
    return str(error.value)


# ---- all kinds


@KINDS
@pytest.mark.parametrize('options', [{}, {'dtype': 'float32', 'k': 1, 'side': 7}])
def test_a_map_is_read_as_float32_scores_and_int64_ids(tmp_path, save_set, options):
    maps = make_set(**options)
    save_set(tmp_path, maps)
    label_maps = LabelMaps(str(tmp_path), 10)
    for name, array in maps.items():
        scores, ids = label_maps.read(name)
        assert scores.dtype == np.float32 and np.array_equal(scores, array[0].astype('float32'))
        assert ids.dtype == np.int64 and np.array_equal(ids, array[1].astype('int64'))


@KINDS
def test_images_without_a_map_are_found_without_reading_one(tmp_path, save_set):
    save_set(tmp_path, make_set())
    label_maps = LabelMaps(str(tmp_path), 10)
    others = ['n01/y', 'n99/z', 'n01/a', 'n00/' + 50 * 'long']
    images = [f'{name}.JPEG'.encode() for name in (MAPS[0], *others, MAPS[3])]
    samples = Samples('train', np.array(images), np.zeros(6, 'int64'))
    found = [MAPS[0].encode(), b'', b'', b'', b'', MAPS[3].encode()]
    assert label_maps.names_for(samples, allow_missing=True).tolist() == found
    with pytest.raises(UserError, match='no label map for train/n01/y.JPEG; 4 of 6 images .* --allow_missing'):
        label_maps.names_for(samples)
    for name in others:
        with pytest.raises(UserError, match='has no label map|No such file'):
            label_maps.read(name)


def test_npy_comes_before_pt(tmp_path):
    npy, pt = (save_map(tmp_path / 'n01' / f'x{suffix}', make_map(i)) for i, suffix in enumerate(('.npy', '.pt')))
    maps = LabelMaps(str(tmp_path), 10)
    for i, path in enumerate((npy, pt)):
        assert np.array_equal(maps.read('n01/x')[0], make_map(i)[0]) and maps.path('n01/x') == str(path)
        path.unlink()
    assert f'{npy}: cannot be read (No such file' in refused(tmp_path)


# ---- one file


@pytest.mark.parametrize('name', ['x.npy', 'x.pt'])
@pytest.mark.parametrize('shape', [(2, 3, 4), (3, 3, 4, 4), (2, 0, 4, 4), (2, 3, 4, 5), (1, 2, 3, 4, 4), ()])
def test_a_map_of_another_shape_is_refused(tmp_path, shape, name):
    path = save_map(tmp_path / 'n01' / name, np.zeros(shape, 'float16'))
    assert f'{path}: a label map has shape [2, K, H, H], this file has {list(shape)}' in refused(tmp_path)


NOT_FINITE = [((plane, 1, 2, 3), value, '') for plane in (0, 1) for value in (np.nan, np.inf, -np.inf)]
NO_CLASS = [((1, 0, 0, 0), *case) for case in ((10, '--nb_classes'), (-1, '--nb_classes'), (0.5, 'whole'))]


@pytest.mark.parametrize('place, value, words', NOT_FINITE + NO_CLASS)
def test_values_that_are_not_finite_and_ids_that_are_no_classes_are_refused(tmp_path, place, value, words):
    array = make_map()
    array[place] = value
    path = save_map(tmp_path / 'n01' / 'x.npy', array)
    assert f'{path}: ' in refused(tmp_path) and words in refused(tmp_path)


def test_ids_that_float16_would_round_are_refused(tmp_path):
    array = make_map(dtype='float32')
    array[1, 0, 0, 0] = 2049  # in float16: 2048
    path = save_map(tmp_path / 'n01' / 'x.npy', array.astype('float16'))
    assert f'{path}: ' in refused(tmp_path, num_classes=3000) and 'another dtype' in refused(tmp_path, num_classes=3000)
    assert LabelMaps(str(tmp_path), 2049).read('n01/x')[1].max() == 2048  # can only be 2048 itself
    save_map(path, array)
    assert LabelMaps(str(tmp_path), 3000).read('n01/x')[1].max() == 2049


LFS_POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n'


def test_files_that_hold_something_else_are_refused(tmp_path):
    npy, pt = tmp_path / 'n01' / 'x.npy', tmp_path / 'n01' / 'x.pt'
    save_map(npy, np.full((2, 3, 4, 4), 'a'))
    assert f'{npy}: a label map holds numbers' in refused(tmp_path)
    with open(npy, 'wb') as f:
        np.savez(f, make_map())
    assert f'{npy}: not a readable .npy array' in refused(tmp_path)
    npy.write_bytes(LFS_POINTER)
    assert f'{npy}: not a .npy array, but a pointer of Git LFS' in refused(tmp_path)
    npy.unlink()
    save_map(pt, {'map': np.zeros(3)})
    assert f'{pt}: a label map is one tensor' in refused(tmp_path)
    pt.write_bytes(LFS_POINTER)
    assert f'{pt}: ' in refused(tmp_path) and 'git lfs pull' in refused(tmp_path)


# ---- packed


def test_an_array_and_names_that_disagree_are_refused(tmp_path):
    save_packed(tmp_path, make_set())
    names = (tmp_path / NAMES).read_bytes()
    lines = names.splitlines(keepends=True)
    cases = [(names[:-1], 'names 3 maps'), (names + b'n11/a\n', 'names 5 maps'), (b'', 'names 0 maps')]
    cases += [(b''.join(lines[::-1]), 'not sorted'), (lines[0] * 2 + lines[2] + lines[3], 'repeats a name')]
    for wrong, words in cases:
        (tmp_path / NAMES).write_bytes(wrong)
        assert f'{tmp_path / NAMES}: ' in refused(tmp_path) and words in refused(tmp_path)
    (tmp_path / NAMES).unlink()
    assert str(tmp_path / NAMES) in refused(tmp_path)


def test_a_packed_file_of_other_arrays_is_refused(tmp_path):
    save_packed(tmp_path, make_set())
    path = tmp_path / ARRAY
    for shape in ((4, 2, 3, 4), (4, 3, 3, 4, 4)):
        np.save(path, np.zeros(shape, 'float16'))
        assert str(path) in refused(tmp_path)


# ---- what the set says of itself


@pytest.mark.parametrize('source, centre', [((500, 375), (62.5, 0, 375, 375)), ((300, 401), (0, 50.5, 300, 300))])
def test_a_map_covers_the_centre_square_or_the_full_image(tmp_path, source, centre):
    assert LabelMaps(str(tmp_path), 10).covered(*source) == centre
    assert LabelMaps(str(tmp_path), 10, 'full').covered(*source) == (0, 0, *source)


COVERAGES = [('center', 'exact', {'coverage': 'full'}, 'full'), ('full', 'exact', {'coverage': 'center'}, 'center')]
COVERAGES += [('full', 'exact', {}, 'full'), ('center', 'reference', {'coverage': 'center'}, 'full')]


@pytest.mark.parametrize('flag, geometry, meta, expected', COVERAGES)
def test_coverage_in_meta_json_wins_over_the_flag_and_reference_geometry_over_both(
    tmp_path, flag, geometry, meta, expected
):
    (tmp_path / META).write_text(json.dumps(meta))
    assert LabelMaps(str(tmp_path), 10, flag, geometry).coverage == expected


@KINDS
def test_a_meta_json_that_contradicts_the_maps_is_refused_and_one_that_agrees_is_fine(tmp_path, save_set):
    save_set(tmp_path, make_set())
    good = {'K': 3, 'label_size': 4, 'shape': [2, 3, 4, 4], 'num_classes': 10, 'coverage': 'full', 'annotator': 'us'}
    (tmp_path / META).write_text(json.dumps(good))
    LabelMaps(str(tmp_path), 10).read(MAPS[0])
    for wrong in ({'K': 5}, {'shape': [2, 5, 4, 4]}, {'label_size': 18}):
        (tmp_path / META).write_text(json.dumps({**good, **wrong}))
        message = refused(tmp_path, 'n01/z')
        assert message.startswith(str(tmp_path / META)) and next(iter(wrong)) in message
        assert str(tmp_path / ARRAY) in message or str(tmp_path / 'n01' / 'z.') in message


@pytest.mark.parametrize('text', ['{', '[1]', '{"coverage": "half"}', '{"num_classes": null}', '{"num_classes": 11}'])
def test_an_unusable_meta_json_and_a_missing_folder_are_refused_by_name(tmp_path, text):
    (tmp_path / META).write_text(text)
    assert str(tmp_path / META) in refused(tmp_path)
    assert f'--token_label_data {tmp_path}/nowhere: no such folder' in refused(tmp_path / 'nowhere')
