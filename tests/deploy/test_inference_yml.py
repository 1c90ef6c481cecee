"""infer.py names files that are missing, damaged, swapped or of another export, and settings that do not fit."""

import os

import pytest
import yaml
from inference_helpers import FORMATS, PADDLE_3, as_exported

import infer
from util.deploy import inference_yml
from util.errors import UserError

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the exported model."""
    for name in os.listdir(exported):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    return tmp_path


def change_settings(folder, remove=(), **values):
    settings = yaml.safe_load((folder / 'inference.yml').read_text())
    settings = {name: value for name, value in {**settings, **values}.items() if name not in remove}
    (folder / 'inference.yml').write_text(yaml.safe_dump(settings))


@pytest.fixture
def unrecorded(folder):
    """The copy with an inference.yml that does not identify the files."""
    change_settings(folder, remove=('files',))
    return folder


@pytest.fixture
def line(refused, folder, images):
    """line(kind, …) -> the one line with which infer.py refuses the copy."""

    def call(kind='pdmodel', **flags):
        argv = as_exported(folder, kind) + [w for k, v in flags.items() for w in (f'--{k}', v)]
        return refused(infer, *argv, '--input_file', images / 'a.jpg')

    return call


def test_missing_files_are_named(line, folder):
    config = folder / 'inference.yml'
    assert '--model_file /nowhere/m.pdmodel' in line(model_file='/nowhere/m.pdmodel', config=config)
    assert f'--params_file {folder}' in line(params_file=folder)
    assert '/nowhere/i.yml' in line(config='/nowhere/i.yml')


@pytest.mark.parametrize('name', [*(f'model.{kind}' for kind in FORMATS), 'model.pdiparams'])
def test_a_file_of_another_size_or_another_beginning_is_refused(line, folder, name):
    path, kind = folder / name, 'json' if name == 'model.json' else 'pdmodel'
    content, flag = path.read_bytes(), '--params_file' if name == 'model.pdiparams' else '--model_file'
    for damaged in (content[:1000], content[:-1], content + b'x', content[:999] + b'?' + content[1000:]):
        path.write_bytes(damaged)
        assert f'{flag} {path}' in line(kind) and 'of another export' in line(kind)


@pytest.mark.parametrize('name', [*(f'model.{kind}' for kind in FORMATS), 'model.pdiparams'])
def test_files_of_something_else(line, unrecorded, name):
    path, flag = unrecorded / name, '--params_file' if name == 'model.pdiparams' else '--model_file'
    path.write_bytes(b'hello world')
    text = line('json' if name == 'model.json' else 'pdmodel')
    assert f'{flag} {path}: not a {path.suffix} file' in text
    path.write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n')
    assert path.suffix == '.json' or 'git lfs pull' in line()


def test_a_folder_or_a_checkpoint_is_not_a_model_file(tmp_path):
    with pytest.raises(UserError, match='a folder; name the model file in it'):
        inference_yml.check_files(str(tmp_path), '', {})
    checkpoint = tmp_path / 'checkpoint-best.pd'
    checkpoint.write_bytes(b'weights')
    with pytest.raises(UserError, match='export_model.py'):
        inference_yml.check_files(str(checkpoint), '', {})


def test_what_paddle_refuses_is_one_line_that_names_the_files(line, unrecorded):
    for kind in FORMATS:
        (unrecorded / f'model.{kind}').write_bytes((unrecorded / f'model.{kind}').read_bytes()[:2000])
        text = line(kind, engine='paddle')
        assert f'--model_file {unrecorded / f"model.{kind}"}' in text and 'engine paddle' in text


@pytest.mark.parametrize('text', ['', 'just text', '- 1\n- 2\n', 'input_size: 32\n', '{'])
def test_settings_that_export_did_not_write_are_named(line, folder, text):
    (folder / 'inference.yml').write_text(text)
    assert f'{folder / "inference.yml"}: not ' in line() and 'export' in line()


@pytest.mark.parametrize(
    'values, says',
    [
        (dict(nb_classes=9), 'label_names has class 9, but there are 9 classes'),
        (dict(nb_classes=3, label_names={}), 'gives 10 classes, inference.yml says 3'),
        (dict(input_size=48), '3, 48, 48]'),  # OpenVINO would not notice
        (dict(precision='fp16'), '--precision fp16'),
        (dict(std=[1, 1, 0]), '--std [1.0, 1.0, 0.0]'),
        (dict(output='colours'), 'inference.yml: not '),
    ],
)
def test_settings_that_do_not_fit_the_model_are_named(line, folder, values, says):
    change_settings(folder, **values)
    assert says in line()


@pytest.mark.skipif(PADDLE_3, reason='the format of Paddle 3')
def test_paddle_2_refuses_json(line, folder):
    (folder / 'model.json').write_text('{}')
    assert '--format pdmodel' in line('json')
