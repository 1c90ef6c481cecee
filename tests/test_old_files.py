"""Files that commit 260439a wrote (tests/data_260439a, made by make.py there) load, and runs go on from them.

On the machine that made them the results are the same bit for bit. Other processors and Paddle 2.6.2 round
differently, so the tests allow for that: 1e-6 in weights, the last digit that is printed in scores.
"""

import json
import os
import shutil
import sys

import numpy as np
import pytest

import eval
import generate_label
import infer
import main
import models
import predict
from conftest import ROOT
from inference_helpers import FORMATS, assert_agree, records
from util.weights import pretrained

sys.path.insert(0, str(ROOT / 'tools'))
sys.path.insert(0, str(ROOT / 'demo'))
sys.path.insert(0, str(ROOT / 'tests' / 'data_260439a'))
import digits
import make
import pack_token_label

pytestmark = pytest.mark.cross_version


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """The images that the files belong to: demo/digits.py makes the same ones every time."""
    pytest.importorskip('sklearn')
    out = tmp_path_factory.mktemp('scenes') / 'digits'
    digits.main([str(out), *make.DIGITS[1:]])
    return out


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, scenes):
    """The working folder: a copy of the old files beside the images, with the model they are of."""
    shutil.copytree(ROOT / 'tests' / 'data_260439a', tmp_path, dirs_exist_ok=True)
    os.symlink(scenes, tmp_path / 'digits')
    monkeypatch.chdir(tmp_path)
    entry = models.FAMILY['lvvit_nano']._replace(architecture=make.TINY, crop_pct=1.0)
    monkeypatch.setitem(models.FAMILY, 'lvvit_nano', entry)
    return tmp_path


def assert_close(new, old, where=''):
    """Two nested states hold the same numbers, but for rounding."""
    if isinstance(old, dict):
        assert new.keys() == old.keys(), where
        for key in old:
            assert_close(new[key], old[key], f'{where}/{key}')
    else:
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-6, err_msg=where)


def assert_same_end(new, old):
    """Two checkpoints hold the same weights, averages, moments of the optimizer and best accuracies."""
    new, old = pretrained.read(str(new)), pretrained.read(str(old))
    results = [key for key in old if key in ('model', 'model_ema', 'optimizer', 'epoch', 'step') or 'best' in key]
    assert_close({key: new[key] for key in results}, {key: old[key] for key in results})


def log_of(folder):
    with open(f'{folder}/log.txt') as f:
        return [json.loads(line) for line in f]


def assert_same_log(new, old):
    new, old = log_of(new), log_of(old)
    assert [line.keys() for line in new] == [line.keys() for line in old]
    for a, b in zip(new, old):
        assert a == pytest.approx(b, abs=1e-5)


# ---- training


@pytest.mark.parametrize('damaged', [False, True])
def test_a_run_that_was_stopped_within_an_epoch_ends_as_if_it_had_not_been(run, damaged):
    if damaged:  # the newest checkpoint: the run goes back to the one before
        os.truncate('stopped/checkpoint-latest.pd', 1000)
    result = run(main, *make.TRAIN, *make.TOKEN_LABEL, '--output_dir', 'stopped', '--resume', 'auto')
    assert result.code == 0, result.err
    step = make.STOP - 5 - (2 if damaged else 0)
    assert f'from epoch 1, step {step}' in result.out and 'flags that differ' not in result.out
    assert_same_end('stopped/checkpoint-2.pd', 'ended/checkpoint-2.pd')
    assert_same_log('stopped', 'ended')


def test_a_run_goes_on_from_the_end_of_an_epoch(run):
    result = run(main, *make.TRAIN, *make.MOMENTUM, '--output_dir', 'out', '--resume', 'momentum/epoch-0.pd')
    assert result.code == 0, result.err
    assert_same_end('out/checkpoint-1.pd', 'momentum/checkpoint-1.pd')


# ---- weights


@pytest.mark.parametrize(
    'name', ['ended/checkpoint-2.pd', 'weights.pdparams', 'weights.pth', 'weights.safetensors', 'port.pd']
)
def test_weights_give_the_predictions_of_old(run, name):
    flags = ['--label_list', 'digits/label_list.txt', '--infer_imgs', 'digits/val']
    said = records(run(predict, *make.MODEL, '--resume', name, *flags))
    with open('predict.json') as f:
        assert_agree(said, json.load(f))


def test_a_checkpoint_with_a_namespace_is_evaluated_and_fine_tuned(run):
    result = run(eval, *make.MODEL, *make.DATA, '--num_workers', 0, '--resume', 'port.pd', '--ema')
    accuracy = log_of('ended')[-1]['test_acc1_ema']
    assert result.code == 0 and f'* Acc@1 {accuracy:.3f}' in result.out, result.err
    result = run(main, *make.TRAIN, *make.MOMENTUM, '--finetune', 'port.pd', '--eval')
    assert result.code == 0 and 'fine-tuning from trained weights (model) of port.pd' in result.out, result.err


# ---- exports


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('settings', ['inference.yml', 'inference-older.yml'])
def test_exports_give_the_predictions_of_old(run, kind, settings):
    os.replace(f'export/{settings}', 'export/inference.yml')
    files = ['--model_file', f'export/model.{kind}', '--params_file', 'export/model.pdiparams']
    said = records(run(infer, *files, '--input_file', 'digits/val', '--use_gpu', 'False'))
    with open(f'infer-{kind}.json') as f:
        assert_agree(said, json.load(f))


# ---- label maps


def test_sets_of_label_maps_hold_what_they_held(run):
    for one, other in (('maps', 'maps_packed'), ('maps', 'digits/label_maps')):
        result = run(pack_token_label, one, other, '--verify')
        assert result.code == 0 and '20 maps are the same' in result.out, result.err
    for name in ('maps', 'maps_packed', 'digits/label_maps'):  # the last two flags override make.TOKEN_LABEL's
        flags = ['--output_dir', f'with/{name}', '--epochs', 1, '--cooldown_epochs', 0, '--token_label_data', name]
        result = run(main, *make.TRAIN, *make.TOKEN_LABEL, *flags)
        assert result.code == 0, result.err
    assert log_of('with/maps') == log_of('with/maps_packed') == log_of('with/digits/label_maps')


def test_a_set_that_was_begun_is_completed(run, folder):
    written = {path: path.read_bytes() for path in (folder / 'begun').rglob('*.npy')}
    assert 0 < len(written) < 20
    result = run(generate_label, 'digits', 'begun', *make.ANNOTATOR)
    assert result.code == 0 and f'20 images, {len(written)} of them labelled before' in result.out, result.err
    assert all(path.read_bytes() == data for path, data in written.items())
    with open('begun/meta.json') as new, open('complete/meta.json') as old:
        assert json.load(new) == json.load(old)
    with open('complete/names.txt') as f:
        names = f.read().split()
    for name, (scores, ids) in zip(names, np.load('complete/label_maps.npy')):
        new_scores, new_ids = np.load(f'begun/{name}.npy')
        np.testing.assert_allclose(new_scores, scores, atol=2e-3)
        assert np.array_equal(new_ids, ids)
