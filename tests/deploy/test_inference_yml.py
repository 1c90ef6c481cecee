"""inference_yml.py: files that are missing, damaged, swapped or of another model are named before Paddle sees them."""

import os
import re

import numpy as np
import pytest
import yaml
from inference_helpers import FORMATS, PADDLE_3, as_exported

import infer
from util.deploy import inference_yml as files

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version


@pytest.fixture(params=['recorded', 'unrecorded'])
def folder(request, exported, tmp_path):
    """A copy of the exported model; unrecorded: its inference.yml holds no fingerprints, as earlier exports did not."""
    for name in os.listdir(exported):
        if name.startswith('model.'):
            (tmp_path / name).write_bytes((exported / name).read_bytes())
    settings = yaml.safe_load((exported / 'inference.yml').read_text())
    if request.param == 'unrecorded':
        del settings['files'], settings['paddle'], settings['output'], settings['precision']
    (tmp_path / 'inference.yml').write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.fixture
def line(refused, folder, images):
    """line(kind, …) -> the one line with which infer.py turns the copy down."""

    def call(kind='pdmodel', **flags):
        argv = as_exported(folder, kind) + [w for k, v in flags.items() for w in (f'--{k}', v)]
        return refused(infer, *argv, '--input_file', images / 'a.jpg')

    return call


@pytest.mark.parametrize('kind', FORMATS)
def test_a_whole_model_passes(run, folder, images, kind):
    assert run(infer, *as_exported(folder, kind), '--input_file', images / 'a.jpg').code == 0


def test_missing_files_are_named(line, folder):
    assert '--model_file /nowhere/m.pdmodel: no such file' in line(
        model_file='/nowhere/m.pdmodel', config=folder / 'inference.yml'
    )
    assert '--params_file /nowhere/p: no such file' in line(params_file='/nowhere/p')
    assert f'--params_file {folder}: no such file' in line(params_file=folder)
    (folder / 'inference.yml').unlink()
    assert f'{folder / "inference.yml"}: no such file' in line()


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('keep', [0, 1, 1000, -100, -1])
def test_a_model_that_is_cut_off(line, folder, kind, keep):
    path = folder / f'model.{kind}'
    path.write_bytes(path.read_bytes()[:keep])
    assert re.search(rf'--model_file {path}: (.* cut off|not a model that Paddle)', line(kind))


@pytest.mark.parametrize('keep', [0, 1, 40, 10_000, -4, -1])
def test_parameters_that_are_cut_off(line, folder, keep):
    path = folder / 'model.pdiparams'
    path.write_bytes(path.read_bytes()[:keep])
    assert re.search(rf'--params_file {path}: (.* cut off|not a whole file of Paddle parameters)', line())


@pytest.mark.parametrize('content', [b'hello world', bytes(range(256)) * 20, b'{}', b'[1]'])
def test_files_of_something_else(line, folder, content):
    for kind in FORMATS:
        kept = (folder / f'model.{kind}').read_bytes()
        (folder / f'model.{kind}').write_bytes(content)
        assert f'--model_file {folder / f"model.{kind}"}: ' in line(kind)
        (folder / f'model.{kind}').write_bytes(kept)
    (folder / 'model.pdiparams').write_bytes(content)
    assert f'--params_file {folder / "model.pdiparams"}: ' in line()


def test_parameters_with_something_appended(line, folder):
    with open(folder / 'model.pdiparams', 'ab') as f:
        f.write(b'x' * 100)
    assert f'--params_file {folder / "model.pdiparams"}: ' in line()


@pytest.mark.parametrize('kind', FORMATS)
def test_swapped_files(line, folder, kind):
    model, params = folder / f'model.{kind}', folder / 'model.pdiparams'
    assert f'--model_file {params}: holds parameters, not a model' in line(model_file=params, params_file=model)
    if kind == 'pdmodel':  # the ending tells how to read the other file
        assert 'are --model_file and --params_file swapped?' in line(model_file=params, params_file=model)


def test_one_changed_byte_is_seen_where_it_was_recorded(refused, exported, images, tmp_path):
    for name in os.listdir(exported):
        if not name.endswith('.engines.json'):
            (tmp_path / name).write_bytes((exported / name).read_bytes())
    path = tmp_path / 'model.pdiparams'
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    line = refused(infer, *as_exported(tmp_path), '--input_file', images)
    assert f'--params_file {path}: not the file that export_model.py wrote (its SHA-256 differs)' in line


def test_parameters_of_another_model(line, folder):
    import paddle

    import models
    from util.deploy import export

    other = models.build_model('lvvit_nano', img_size=32, num_classes=11)
    other.eval()
    (folder / 'other').mkdir()
    export.save_graph(other, str(folder / 'other' / 'model'), as_json=False)
    assert paddle.in_dynamic_mode()
    text = line(params_file=folder / 'other' / 'model.pdiparams')
    assert 'belongs to another model' in text or 'of another export' in text


@pytest.mark.skipif(not PADDLE_3, reason='the format of Paddle 3')
def test_a_model_under_the_ending_of_the_other_format(line, folder):
    (folder / 'model.json').write_bytes((folder / 'model.pdmodel').read_bytes())
    assert '--model_file' in line('json')


def test_shapes_are_those_of_the_network(exported):
    import models

    own = [list(p.shape) for p in models.build_model('lvvit_nano', img_size=32, num_classes=10).state_dict().values()]
    assert sorted(files.parameter_shapes(str(exported / 'model.pdiparams'))) == sorted(own)
    for kind in FORMATS:
        image, parameters = files.model_shapes(str(exported / f'model.{kind}'))
        assert image == [-1, 3, 32, 32] and sorted(map(list, parameters)) == sorted(own)


def test_random_damage_never_passes_unseen_or_crashes(exported, tmp_path):
    """Headers of the parameters file: whatever a changed byte makes of them, the answer is shapes or a ValueError."""
    content = (exported / 'model.pdiparams').read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[int(rng.integers(0, 64))] = int(rng.integers(0, 256))
        (tmp_path / 'p').write_bytes(damaged)
        try:
            assert all(isinstance(shape, list) for shape in files.parameter_shapes(str(tmp_path / 'p')))
        except ValueError:
            pass
