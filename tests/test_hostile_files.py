"""Hostile and damaged files: each is a plain result or one line that names it, and does nothing. The short form of
tests/hostile/run.py; and that the watched process would notice if it were otherwise."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / 'hostile'))

import corpus
import fuzz
import kinds
import pickles
import run as hostile

pytestmark = pytest.mark.cross_version


@pytest.fixture(scope='module')
def bench():
    with hostile.Bench() as bench:
        yield bench


@pytest.mark.parametrize('kind', kinds.LOADERS)
def test_a_good_file_is_loaded(bench, kind):
    outcome = bench.load(kind, bench.good[kind])
    assert outcome.result == 'loaded' and outcome.faults == []


# What is left to the long form: sealed.pd and pdparams take the way of pd, map.pt that of pth, and all pickles end in
# the same machine.
@pytest.mark.parametrize('kind', [kind for kind in kinds.LOADERS if kind not in ('sealed.pd', 'pdparams', 'map.pt')])
def test_hand_made_hostile_files_are_refused_by_name_and_do_nothing(bench, kind):
    tally = bench.corpus(kind, pickles.large() if kind in ('pth', 'legacy.pth') else ())
    assert tally.faults == [] and tally.refused >= 4


@pytest.mark.parametrize('kind', kinds.LOADERS)
def test_damaged_files_are_refused_or_plain(bench, kind):
    tally = bench.mutate(kind, 120, cut=False)
    assert tally.faults == [] and tally.refused > 20


def test_mutations_are_the_same_every_time_and_differ_from_each_other_and_from_the_file():
    good = bytes(range(256)) * 8
    files = [data for _, data in fuzz.mutations(good, [good[::-1]], 300, 1)]
    assert files == [data for _, data in fuzz.mutations(good, [good[::-1]], 300, 1)]
    assert len(set(files)) > 280 and files.count(good) < 10
    lengths = [len(data) for _, data in fuzz.truncations(good)]
    assert lengths == sorted({*range(2048)})


# ---- the watched process


@pytest.mark.parametrize(
    'demon, says',
    [
        ('executes', 'does os.system'),
        ('evaluates', 'does '),
        ('unpickles', 'does pickle.find_class'),
        ('imports', 'does import'),
        ('writes', 'does open'),
        ('deletes', 'does os.remove'),
        ('prints', 'prints'),
        ('warns', 'prints'),
        ('crashes', 'crashes, exit code -11'),
        ('raises', 'raises KeyError'),
        ('explodes', 'more memory'),
        ('computes', 'takes 5.'),
        ('returns objects', 'not plain'),
        ('says too much', 'not one readable line'),
        ('names nothing', 'does not name the file'),
    ],
)
def test_the_watched_process_notices_a_reader_that(bench, demon, says):
    outcome = bench.probe.load(demon, bench.paths['png'], 100)
    assert any(says in fault for fault in outcome.faults), outcome
    assert bench.load('png', bench.good['png']).faults == [], 'and lives on'


def test_the_watched_process_measures_the_peak_of_each_file_anew(bench):
    assert 150 << 20 < bench.probe.load('fills', bench.paths['png'], 100).memory < 180 << 20
    assert bench.load('png', bench.good['png']).memory < 20 << 20


# ---- through the scripts


def write_images(folder):
    for split in ('train', 'val'):
        (folder / split / 'n01').mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), 'u1')).save(folder / split / 'n01' / 'x.png')


@pytest.mark.parametrize('kind', ['pd', 'legacy.pth', 'pth', 'safetensors'])
def test_eval_turns_a_hostile_checkpoint_down_in_one_line(refused, tmp_path, kind):
    import eval as script

    write_images(tmp_path)
    canary = tmp_path / 'canary'
    files = corpus.files(kind, str(canary))
    names = [
        name
        for name in (
            'os system',
            'lists, 400,000 deep',
            'keys, tuples',
            'tensor, beyond',
            'nested',
            'huge shape',
            'data.pkl twice',
        )
        if name in files
    ]
    for name in names:
        path = tmp_path / 'file'
        path.write_bytes(files[name]())
        assert str(path) in refused(script, '--model', 'lvvit_nano', '--resume', path, '--data_path', tmp_path), name
    assert names and not canary.exists()


def test_training_turns_a_hostile_label_map_down_in_one_line(refused, tmp_path):
    import main

    write_images(tmp_path)
    maps = tmp_path / 'maps'
    (maps / 'n01').mkdir(parents=True)
    for name, make in corpus.files('map.npy', str(tmp_path / 'canary')).items():
        if name in ('header: code', 'header: huge shape', 'data: truncated', 'values: NaN'):
            (maps / 'n01' / 'x.npy').write_bytes(make())
            line = refused(
                main,
                '--model',
                'lvvit_nano',
                '--input_size',
                32,
                '--nb_classes',
                10,
                '--batch_size',
                1,
                '--epochs',
                1,
                '--token_label',
                '--token_label_data',
                maps,
                '--token_label_size',
                2,
                '--data_path',
                tmp_path,
                '--num_workers',
                0,
                '--mixup',
                0,
                '--cutmix',
                0,
                '--output_dir',
                tmp_path / 'out',
            )
            assert str(maps) in line, name
    assert not (tmp_path / 'canary').exists()
