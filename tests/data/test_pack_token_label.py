"""tools/pack_token_label.py: there and back without a changed bit, through interruptions; errors are noticed."""

import json
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
from map_files import contents, make_map, save_folders, save_map

from states import same
from tools import pack_token_label as tool
from util.data.label_maps import META, LabelMaps
from util.data.map_sets import ARRAY, NAMES, PARTIAL, FolderSet

MAPS = {f'n{c:02d}/image{i}': make_map(10 * c + i) for c in range(3) for i in range(10)}
DEEP = {name: make_map(i) for i, name in enumerate(('image', 'cat/image', 'cat/old/b', 'cat/old/\udce9', 'cat-x/a'))}


def save_set(folder, maps=MAPS, suffix='.npy'):
    save_folders(folder, maps, suffix)
    (folder / META).write_text('{"coverage": "full"}\n')


@pytest.fixture
def pack(run, tmp_path):
    """pack(flags…, data=, out=) -> Result of the tool."""
    save_set(tmp_path / 'maps')
    return lambda *flags, data='maps', out='packed': run(tool, tmp_path / data, tmp_path / out, *flags)


def assert_packed(folder, maps=MAPS):
    assert sorted(os.listdir(folder)) == sorted([ARRAY, NAMES, META])
    assert same(np.load(folder / ARRAY), np.stack([maps[name] for name in sorted(maps)]))
    assert LabelMaps(str(folder), 9).coverage == 'full'


def test_there_and_back_and_a_second_run_only_compares(pack, tmp_path):
    assert pack().code == 0
    assert_packed(tmp_path / 'packed')
    before = os.stat(tmp_path / 'packed' / ARRAY).st_mtime_ns
    assert '30 maps are the same' in pack().out
    assert os.stat(tmp_path / 'packed' / ARRAY).st_mtime_ns == before
    assert pack('--unpack', data='packed', out='again').code == 0
    assert contents(tmp_path / 'again') == contents(tmp_path / 'maps')


@pytest.mark.parametrize('suffix, dtype', [('.npy', 'float32'), ('.pt', 'float16')])
def test_shape_and_dtype_are_kept_and_pt_files_are_read(pack, tmp_path, dtype, suffix):
    maps = {name: make_map(i, k=1, side=7, dtype=dtype) for i, name in enumerate(MAPS)}
    save_set(tmp_path / 'others', maps, suffix)
    assert pack(data='others').code == 0
    assert_packed(tmp_path / 'packed', maps)


def test_names_of_any_depth_are_packed_and_unpacked(pack, tmp_path):
    save_set(tmp_path / 'deep', DEEP)
    (tmp_path / 'deep/.cache').mkdir()
    (tmp_path / 'deep/.cache/image.npy').write_text('no map')
    assert pack(data='deep').code == 0
    lines = (tmp_path / 'packed' / NAMES).read_bytes().splitlines()
    assert lines == [b'cat-x/a', b'cat/image', b'cat/old/b', b'cat/old/\xe9', b'image']
    assert pack('--unpack', data='packed', out='again').code == 0
    again = contents(tmp_path / 'again')
    assert again == {name: data for name, data in contents(tmp_path / 'deep').items() if '.cache' not in name}


# ---- interruptions


@pytest.fixture
def interrupted(monkeypatch, pack):
    """interrupted(n): a run that ends while it reads map n."""

    def call(n, error=KeyboardInterrupt):
        calls = []

        def read(self, name, original=FolderSet.read):
            calls.append(name)
            if len(calls) > n + 1:  # the first map is read twice
                raise error
            return original(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(FolderSet, 'read', read)
            return pack()

    return call


def test_an_interrupted_run_continues_and_its_set_is_not_used_before(interrupted, pack, refused, tmp_path):
    assert interrupted(10).code == 130
    assert sorted(os.listdir(tmp_path / 'packed')) == sorted([PARTIAL, NAMES])
    assert 'not packed to the end' in refused(tool, tmp_path / 'packed', tmp_path / 'again', '--unpack')
    full = interrupted(6, error=OSError(28, 'No space left on device'))
    assert full.code == 1 and 'No space left on device' in full.err and 'again to continue' in full.err
    result = pack()
    assert result.code == 0 and '16 of 30 maps were packed before' in result.out
    assert_packed(tmp_path / 'packed')


@pytest.mark.parametrize('name, lost', [(PARTIAL, 70), (PARTIAL, 10**6), (NAMES, 1), (NAMES, 70), (NAMES, None)])
def test_what_a_crash_cuts_off_is_packed_again(interrupted, pack, tmp_path, name, lost):
    interrupted(10)
    path = tmp_path / 'packed' / name
    if lost:
        os.truncate(path, max(0, path.stat().st_size - lost))
    else:
        path.unlink()
    assert pack().code == 0
    assert_packed(tmp_path / 'packed')


# ---- comparison


def test_a_bit_that_changes_on_the_disk_is_noticed(interrupted, pack, tmp_path):
    interrupted(10)
    path = tmp_path / 'packed' / PARTIAL
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    result = pack()
    assert result.code == 1 and f'{PARTIAL}, map n00/image' in result.err and not (tmp_path / 'packed' / ARRAY).exists()
    assert pack().code == 0  # from the start
    assert_packed(tmp_path / 'packed')


def test_verify_compares_and_writes_nothing(pack, tmp_path):
    pack()
    pack('--unpack', data='packed', out='again')
    before = contents(tmp_path)
    for out in ('packed', 'again'):
        assert '30 maps are the same' in pack('--verify', out=out).out
    assert contents(tmp_path) == before
    save_map(tmp_path / 'maps' / 'n01' / 'image3.npy', MAPS['n01/image3'] + 1)
    for out in ('packed', 'again'):
        assert 'n01/image3' in pack('--verify', out=out).err
    (tmp_path / 'maps' / 'n01' / 'image3.npy').unlink()
    assert '1 maps are in' in pack('--verify').err and 'n01/image3' in pack('--verify').err


# ---- refusals


@pytest.mark.parametrize('wrong', [make_map(k=5), make_map(side=5), make_map(dtype='float32')], ids=['K', 'H', 'dtype'])
def test_the_first_map_of_another_kind_is_named(refused, pack, tmp_path, wrong):
    for name in ('n01/image5', 'n02/image7'):
        save_map(tmp_path / 'maps' / f'{name}.npy', wrong)
    message = refused(tool, tmp_path / 'maps', tmp_path / 'packed')
    assert str(tmp_path / 'maps' / 'n01' / 'image5.npy') in message and str(list(wrong.shape)) in message
    assert not (tmp_path / 'packed' / ARRAY).exists()


def test_sets_that_cannot_be_packed_are_refused_by_name(refused, pack, tmp_path, monkeypatch):
    pack()
    maps, packed, empty, file = (tmp_path / name for name in ('maps', 'packed', 'empty', 'file'))
    empty.mkdir()
    file.write_text('')
    assert 'no such folder' in refused(tool, tmp_path / 'nowhere', empty)
    assert 'has no label maps' in refused(tool, empty, tmp_path / 'out')
    assert 'both DIR and OUT' in refused(tool, maps, maps)
    assert '--unpack' in refused(tool, packed, tmp_path / 'out')
    assert '--unpack' in refused(tool, '--unpack', maps, tmp_path / 'out')
    shutil.copytree(packed, tmp_path / 'other')
    assert 'holds a packed set' in refused(tool, '--unpack', packed, tmp_path / 'other')
    assert str(file) in refused(tool, maps, file)
    (maps / META).write_text(json.dumps({'shape': [2, 5, 18, 18]}))
    assert str(maps / META) in refused(tool, maps, tmp_path / 'out')
    (maps / META).unlink()
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: namedtuple('Usage', 'free')(2000))
    assert f'{tmp_path / "out" / PARTIAL}: needs ' in refused(tool, maps, tmp_path / 'out')
    assert os.listdir(tmp_path / 'out') == [], 'before anything is written'


@pytest.mark.parametrize('name', [b'../image', b'n00/../../image', b'/image', b'n00/', b'n00/..'])
def test_names_that_lead_out_of_the_folder_are_refused(pack, refused, tmp_path, name):
    pack()
    lines = (tmp_path / 'packed' / NAMES).read_bytes().splitlines()
    (tmp_path / 'packed' / NAMES).write_bytes(b''.join(line + b'\n' for line in sorted([name] + lines[1:])))
    assert repr(os.fsdecode(name)) in refused(tool, '--unpack', tmp_path / 'packed', tmp_path / 'again')
    assert not (tmp_path / 'again').exists()
