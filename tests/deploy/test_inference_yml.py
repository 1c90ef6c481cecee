"""inference_yml.py: files that are missing, damaged, swapped or of another export are named before Paddle sees them."""

import os

import pytest
import yaml
from inference_helpers import FORMATS, PADDLE_3, as_exported

import infer

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the exported model."""
    for name in os.listdir(exported):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    return tmp_path


@pytest.fixture
def unrecorded(folder):
    """The copy with the inference.yml that an earlier export wrote, without checksums."""
    settings = yaml.safe_load((folder / 'inference.yml').read_text())
    for name in ('files', 'paddle', 'output', 'precision', 'mean', 'std'):
        del settings[name]
    (folder / 'inference.yml').write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def line(refused, folder, images):
    """line(kind, …) -> the one line with which infer.py turns the copy down."""

    def call(kind='pdmodel', **flags):
        argv = as_exported(folder, kind) + [w for k, v in flags.items() for w in (f'--{k}', v)]
        return refused(infer, *argv, '--input_file', images / 'a.jpg')

    return call


def test_missing_files_are_named(line, folder):
    config = folder / 'inference.yml'
    assert '--model_file /nowhere/m.pdmodel: no such file' in line(model_file='/nowhere/m.pdmodel', config=config)
    assert f'--params_file {folder}: no such file' in line(params_file=folder)
    assert '/nowhere/i.yml: not a readable text file' in line(config='/nowhere/i.yml')


@pytest.mark.parametrize('name', [*(f'model.{kind}' for kind in FORMATS), 'model.pdiparams'])
def test_damage_is_seen_by_the_checksums(line, folder, name):
    path, kind = folder / name, 'json' if name == 'model.json' else 'pdmodel'
    content = path.read_bytes()
    flag = '--params_file' if name == 'model.pdiparams' else '--model_file'
    for damaged in (content[:1000], content[:-1], content + b'x'):
        path.write_bytes(damaged)
        assert f'{flag} {path}: {len(damaged)} bytes, but export_model.py wrote {len(content)}: cut off' in line(kind)
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert f'{flag} {path}: not the file that export_model.py wrote (its SHA-256 differs)' in line(kind)


@pytest.mark.parametrize('content', [b'', b'hello world', bytes(range(256)) * 20, b'[1]'])
@pytest.mark.parametrize('name', [*(f'model.{kind}' for kind in FORMATS), 'model.pdiparams'])
def test_files_of_something_else(line, unrecorded, name, content):
    path, flag = unrecorded / name, '--params_file' if name == 'model.pdiparams' else '--model_file'
    path.write_bytes(content)
    text = line('json' if name == 'model.json' else 'pdmodel')
    assert f'{flag} {path}: not a {path.suffix} file' in text


@pytest.mark.parametrize('kind', FORMATS)
def test_swapped_files_are_seen_without_checksums(line, unrecorded, kind):
    model, params = unrecorded / f'model.{kind}', unrecorded / 'model.pdiparams'
    text = line(model_file=params, params_file=model)
    assert f'--model_file {params}: not a ' in text and 'are --model_file and --params_file swapped?' in text


def test_what_paddle_refuses_is_one_line_that_names_the_files(line, unrecorded):
    for kind in FORMATS:
        (unrecorded / f'model.{kind}').write_bytes((unrecorded / f'model.{kind}').read_bytes()[:2000])
        text = line(kind, engine='paddle')
        assert f'--model_file {unrecorded / f"model.{kind}"}' in text and 'cannot load them with engine paddle' in text


SETTINGS = ['', 'just text', '- 1\n- 2\n', 'input_size: 32\n', '{']


@pytest.mark.parametrize('text', SETTINGS)
def test_settings_that_export_did_not_write_are_named(line, folder, text):
    (folder / 'inference.yml').write_text(text)
    assert f'{folder / "inference.yml"}: not ' in line() and 'export_model.py writes' in line()


@pytest.mark.parametrize(
    'changes, says',
    [
        (dict(nb_classes=12), '10 label_names for 12 classes'),
        (dict(nb_classes=3, label_names={}), 'gives 10 classes, inference.yml says 3'),
        (dict(input_size=48), '3, 48, 48]'),  # which OpenVINO does not notice by itself
        (dict(precision='fp16'), 'exported with --precision fp16'),
        (dict(std=[1, 1, 0]), '--std [1.0, 1.0, 0.0]'),
        (dict(mean='grey'), 'not the inference.yml that'),
    ],
)
def test_settings_that_do_not_fit_the_model_are_named(line, folder, changes, says):
    settings = yaml.safe_load((folder / 'inference.yml').read_text())
    (folder / 'inference.yml').write_text(yaml.safe_dump({**settings, **changes}))
    assert says in line()


@pytest.mark.skipif(PADDLE_3, reason='the format of Paddle 3')
def test_paddle_2_refuses_json(line, folder):
    (folder / 'model.json').write_text('{}')
    assert 'reads .pdmodel only' in line('json') and '--format pdmodel' in line('json')
