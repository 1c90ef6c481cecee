"""tools/pack_token_label.py: there and back without a changed bit, through interruptions; what is wrong is noticed."""

import json
import os

import numpy as np
import pytest

from tools import pack_token_label as tool
import torch_files
from util.data.label_maps import ARRAY, META, NAMES, PARTIAL, LabelMaps

NAMES_OF_MAPS = [f'n{c:02d}/image{i}' for c in range(3) for i in range(10)]


def make(folder, dtype='float16', shape=(2, 3, 4, 4), suffix='.npy'):
    rng = np.random.default_rng(0)
    maps = {name: rng.integers(0, 9, shape).astype(dtype) for name in NAMES_OF_MAPS}
    for name, array in maps.items():
        path = folder / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array) if suffix == '.npy' else torch_files.save(array, str(path))
    (folder / META).write_text('{"coverage": "full"}\n')
    return maps


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture
def maps(tmp_path):
    return make(tmp_path / 'maps')


@pytest.fixture
def pack(run, tmp_path, maps):
    """pack(flags…, data=, out=) -> Result of the tool."""
    return lambda *flags, data='maps', out='packed': run(tool, tmp_path / data, tmp_path / out, *flags)


def assert_packed(folder, maps):
    assert sorted(os.listdir(folder)) == sorted([ARRAY, NAMES, META])
    label_maps = LabelMaps(str(folder), 9)
    for name, array in maps.items():
        assert np.array_equal(label_maps.read(name + '.JPEG')[0], array[0].astype('float32'))
    assert np.load(folder / ARRAY).dtype == array.dtype and label_maps.coverage == 'full'


def test_there_and_back(pack, tmp_path, maps):
    assert pack().code == 0
    assert_packed(tmp_path / 'packed', maps)
    assert pack('--unpack', data='packed', out='again').code == 0
    assert files(tmp_path / 'again') == files(tmp_path / 'maps')


@pytest.mark.parametrize('suffix', ['.npy', '.pt'])
@pytest.mark.parametrize('dtype', ['float16', 'float32'])
def test_shape_and_dtype_are_kept_and_pt_files_are_read(pack, tmp_path, dtype, suffix):
    maps = make(tmp_path / 'others', dtype, (2, 1, 7, 7), suffix)
    assert pack(data='others').code == 0
    assert_packed(tmp_path / 'packed', maps)


def test_a_second_run_only_compares(pack, tmp_path):
    pack()
    before = os.stat(tmp_path / 'packed' / ARRAY)
    result = pack()
    assert result.code == 0 and '30 maps are the same' in result.out
    assert os.stat(tmp_path / 'packed' / ARRAY).st_mtime_ns == before.st_mtime_ns


# ---- interruptions


@pytest.fixture
def interrupted(monkeypatch, pack):
    """interrupted(n): a run that ends while it reads map n; afterwards all is well again."""

    def call(n, *flags, error=KeyboardInterrupt, **folders):
        calls = []

        def read(self, name, original=tool.label_maps.FolderSet.read):
            calls.append(name)
            if len(calls) > n + 1:  # the first map is read twice
                raise error
            return original(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(tool.label_maps.FolderSet, 'read', read)
            return pack(*flags, **folders)

    monkeypatch.setattr(tool, 'STRETCH', 4)
    return call


def test_an_interrupted_run_continues(interrupted, pack, tmp_path, maps):
    assert interrupted(10).code == 130
    assert sorted(os.listdir(tmp_path / 'packed')) == sorted([PARTIAL, tool.PROGRESS])
    assert interrupted(10).code == 130  # 8 of them were finished, 8 more will be
    result = pack()
    assert result.code == 0 and '16 of 30 maps were packed before' in result.out
    assert_packed(tmp_path / 'packed', maps)


@pytest.mark.parametrize('lost', [1, 70, 400, 10**6])
@pytest.mark.parametrize('name', [PARTIAL, tool.PROGRESS])
def test_what_a_crash_cuts_off_is_packed_again(interrupted, pack, tmp_path, maps, name, lost):
    interrupted(10)
    path = tmp_path / 'packed' / name
    os.truncate(path, max(0, path.stat().st_size - lost))
    assert pack().code == 0
    assert_packed(tmp_path / 'packed', maps)


@pytest.mark.parametrize('name', [PARTIAL, tool.PROGRESS])
def test_a_lost_file_of_an_interrupted_run_means_to_start_anew(interrupted, pack, tmp_path, maps, name):
    interrupted(10)
    (tmp_path / 'packed' / name).unlink()
    assert pack().code == 0
    assert_packed(tmp_path / 'packed', maps)


def test_a_set_that_has_grown_is_packed_anew(interrupted, pack, tmp_path, maps):
    interrupted(10)
    maps['n00/image00'] = maps['n00/image1']
    np.save(tmp_path / 'maps' / 'n00' / 'image00.npy', maps['n00/image00'])
    result = pack()
    assert result.code == 0 and 'before' not in result.out
    assert_packed(tmp_path / 'packed', maps)


def test_a_full_disk_is_said_and_survived(interrupted, pack, tmp_path, maps, refused):
    result = interrupted(10, error=OSError(28, 'No space left on device'))
    assert result.code == 1 and 'No space left on device' in result.err and 'continues' in result.err
    assert pack().code == 0
    assert_packed(tmp_path / 'packed', maps)


def test_an_interrupted_unpacking_continues(pack, tmp_path, monkeypatch):
    pack()
    calls, replace = [], os.replace

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) > 7:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(tool.os, 'replace', interrupted)
    assert pack('--unpack', data='packed', out='again').code == 130
    calls.clear()
    monkeypatch.setattr(tool.os, 'replace', lambda *paths: calls.append(replace(*paths)))
    assert pack('--unpack', data='packed', out='again').code == 0
    assert len(calls) == 23 and files(tmp_path / 'again') == files(tmp_path / 'maps')


# ---- comparison


def test_a_bit_that_changes_on_its_way_to_the_disk_is_noticed(interrupted, pack, tmp_path, maps):
    interrupted(10)
    path = tmp_path / 'packed' / PARTIAL
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    result = pack()
    assert result.code == 1 and f'{PARTIAL}: n00/image' in result.err and not (tmp_path / 'packed' / ARRAY).exists()
    assert pack().code == 0  # anew
    assert_packed(tmp_path / 'packed', maps)


def test_verify_compares_and_writes_nothing(pack, tmp_path, maps):
    pack()
    pack('--unpack', data='packed', out='again')
    before = files(tmp_path)
    for out in ('packed', 'again'):
        assert '30 maps are the same' in pack('--verify', out=out).out
    assert files(tmp_path) == before
    maps['n01/image3'][1, 2, 3, 3] += 1
    np.save(tmp_path / 'maps' / 'n01' / 'image3.npy', maps['n01/image3'])
    for out in ('packed', 'again'):
        assert 'n01/image3' in pack('--verify', out=out).err
    (tmp_path / 'maps' / 'n01' / 'image3.npy').unlink()
    assert '1 maps are in' in pack('--verify').err and 'n01/image3' in pack('--verify').err


# ---- refusals, one line each


@pytest.mark.parametrize(
    'wrong',
    [np.zeros((2, 5, 4, 4), 'float16'), np.zeros((2, 3, 5, 5), 'float16'), np.zeros((2, 3, 4, 4), 'float32')],
    ids=['K', 'H', 'dtype'],
)
def test_the_first_map_of_another_kind_is_named(refused, tmp_path, maps, wrong):
    for name in ('n01/image5', 'n02/image7'):
        np.save(tmp_path / 'maps' / f'{name}.npy', wrong)
    message = refused(tool, tmp_path / 'maps', tmp_path / 'packed')
    assert str(tmp_path / 'maps' / 'n01' / 'image5.npy') in message and str(list(wrong.shape)) in message
    assert not (tmp_path / 'packed' / ARRAY).exists()


def test_a_damaged_map_is_named(refused, tmp_path, maps):
    path = tmp_path / 'maps' / 'n02' / 'image0.npy'
    path.write_bytes(path.read_bytes()[:-3])
    assert str(path) in refused(tool, tmp_path / 'maps', tmp_path / 'packed')


def test_a_meta_json_that_contradicts_the_maps_is_named(refused, tmp_path, maps):
    (tmp_path / 'maps' / META).write_text(json.dumps({'shape': [2, 5, 18, 18]}))
    assert str(tmp_path / 'maps' / META) in refused(tool, tmp_path / 'maps', tmp_path / 'packed')


def test_folders_that_make_no_sense_are_named(refused, pack, tmp_path):
    pack()
    maps, packed, empty = tmp_path / 'maps', tmp_path / 'packed', tmp_path / 'empty'
    empty.mkdir()
    assert 'no such folder' in refused(tool, tmp_path / 'nowhere', empty)
    assert 'has no label maps' in refused(tool, empty, tmp_path / 'out')
    assert 'both DIR and OUT' in refused(tool, maps, maps)
    assert '--unpack' in refused(tool, packed, tmp_path / 'out')
    assert 'is no packed set' in refused(tool, '--unpack', maps, tmp_path / 'out')
    (tmp_path / 'file').write_text('')
    assert str(tmp_path / 'file') in refused(tool, maps, tmp_path / 'file')


@pytest.mark.parametrize('name', [b'../image', b'n00/../../image', b'/image', b'n00/', b'n00/..'])
def test_names_that_lead_out_of_the_folder_are_refused(pack, refused, tmp_path, name):
    pack()
    lines = (tmp_path / 'packed' / NAMES).read_bytes().splitlines()
    (tmp_path / 'packed' / NAMES).write_bytes(b''.join(line + b'\n' for line in sorted([name] + lines[1:])))
    assert 'no name for a label map' in refused(tool, '--unpack', tmp_path / 'packed', tmp_path / 'again')
    assert not (tmp_path / 'again').exists()
