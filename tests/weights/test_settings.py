"""Weights say model, input size, classes and evaluation transform: every script takes them from there, flags win or are
refused (util/weights/settings.py, models.load_model)."""

import argparse
import json
import sys

import numpy as np
import pytest
import safetensors
import yaml
from PIL import Image

import eval as eval_script
import export_model
import generate_label
import main
import models
import predict
import torch_files
from conftest import ROOT, STILL, execute, words
from inference_helpers import random_weights, records
from tools import convert_weight, visualize
from util.deploy import export, inference_yml
from util.errors import UserError
from util.weights import checkpoint, settings, torch_file
from util.weights.load import read

sys.path.insert(0, str(ROOT / 'demo'))
import app
import predictions
from photo import read_photo

pytestmark = pytest.mark.cross_version

SAID = {'model': 'lvvit_nano', 'input_size': 32, 'nb_classes': 10, 'crop_pct': 0.8, 'interpolation': 'bilinear'}
SAID.update(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
FLAGS = words('--model lvvit_nano --input_size 32 --nb_classes 10 --crop_pct 0.8 --interpolation bilinear')
FLAGS += words('--mean 0.5 0.4 0.3 --std 0.2 0.3 0.4')
FITS = '--model lvvit_nano --input_size 32 --nb_classes 10'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """says.pd, a checkpoint with settings; silent.pd, the same without; torch.pth; says.pdparams and says.safetensors,
    converted; photos/a/0.png and photos/a/1.png."""
    folder = tmp_path_factory.mktemp('weights')
    checkpoint.save({'model': random_weights(0), 'args': {**SAID, 'epochs': 3, 'lr': None}}, str(folder / 'says.pd'))
    checkpoint.save({'model': random_weights(0)}, str(folder / 'silent.pd'))
    arrays = torch_file.to_torch(random_weights(0)).items()
    torch_files.save({key: np.array(value, order='C') for key, value in arrays}, str(folder / 'torch.pth'))
    for ending in ('pdparams', 'safetensors'):
        assert execute(convert_weight, folder / 'says.pd', folder / f'says.{ending}') == 0
    (folder / 'photos' / 'a').mkdir(parents=True)
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 256, (6, 8, 3), 'uint8')
        Image.fromarray(noise).resize((48, 40), Image.BICUBIC).save(folder / 'photos' / 'a' / f'{i}.png')
    return folder


# ---- what a file says


def test_a_checkpoint_of_another_project_says_nothing():
    for flags in (None, 'text', {}, {'model': 'mae_vit_base', 'input_size': 224}, {'model': ['lvvit_s']}):
        assert settings.of_file({'args': flags}, 'x.pd', models.FAMILY) == {}
    assert settings.of_file({'args': {'model': 'lvvit_s', 'mean': None}}, 'x.pd', models.FAMILY) == {'model': 'lvvit_s'}


@pytest.mark.parametrize('name, value', [('input_size', 0), ('nb_classes', 'ten'), ('crop_pct', 2), ('mean', 0.5)])
def test_an_impossible_value_is_refused_by_file_and_name(name, value):
    with pytest.raises(UserError, match=f"x.pd: its entry 'args' has the {name} {value}"):
        settings.of_file({'args': {**SAID, name: value}}, 'x.pd', models.FAMILY)


def test_flags_win_over_the_file_and_the_file_over_the_defaults(capfd):
    args = argparse.Namespace(model=None, input_size=48, nb_classes=None, crop_pct=None, mean=[0, 0, 0])
    settings.complete(args, models.FAMILY, {key: SAID[key] for key in ('model', 'nb_classes', 'mean')}, 'x.pd')
    expected = dict(model='lvvit_nano', input_size=48, nb_classes=10, crop_pct=1.0, interpolation='bicubic')
    assert vars(args) == {**expected, 'mean': [0, 0, 0], 'std': list(settings.IMAGENET_STD)}
    assert 'x.pd: lvvit_nano, 10 classes\n' in capfd.readouterr().out, 'what was taken'


def test_a_training_says_its_settings(train, tiny, run, scenes):
    train('--crop_pct 0.7 --mean 0 0 0 --std 1 1 1', STILL)
    found = settings.of_file(train.state(), '', models.FAMILY)
    assert found == {**SAID, 'crop_pct': 0.7, 'interpolation': 'bicubic', 'mean': [0, 0, 0], 'std': [1, 1, 1]}
    given = ['--data_path', scenes, '--num_workers', 0, '--resume', train.path()]
    evaluated = [run(eval_script, *given), run(main, '--eval', *given)]
    trained_acc = f'Accuracy of the network on the 20 test images: {train.log()[-1]["test_acc1"]:.1f}%'
    assert all(trained_acc in result.out for result in evaluated), [result.err for result in evaluated]


# ---- every script takes it


@pytest.mark.parametrize('name', ['says.pd', 'says.pdparams', 'says.safetensors'])
def test_a_prediction_needs_no_flags_and_the_log_says_what_was_taken(run, folder, name):
    photos = ['--infer_imgs', folder / 'photos']
    result = run(predict, '--resume', folder / name, *photos)
    assert records(result) == records(run(predict, '--resume', folder / 'silent.pd', *FLAGS, *photos))
    line = f'{name}: lvvit_nano, 32 px, 10 classes, crop_pct 0.8, bilinear, mean 0.5 0.4 0.3, std 0.2 0.3 0.4\n'
    assert line in result.out


def test_converted_files_hold_what_the_checkpoint_said_and_other_programs_do_not_see_it(folder):
    import paddle

    for ending in ('pdparams', 'safetensors'):
        assert read(str(folder / f'says.{ending}'))['args'] == SAID
    with safetensors.safe_open(str(folder / 'says.safetensors'), framework='numpy') as file:
        assert json.loads(file.metadata()['args']) == SAID and 'args' not in file.keys()
    model = models.build_model('lvvit_nano', img_size=32, num_classes=10)
    model.set_state_dict(paddle.load(str(folder / 'says.pdparams')))
    np.testing.assert_array_equal(model.head.weight.numpy(), random_weights(0)['head.weight'])


def test_an_export_and_the_page_take_it(run, folder, tmp_path, monkeypatch):
    def without_network(model, folder, content, format):
        inference_yml.write_settings(folder, content, [])

    monkeypatch.setattr(export, 'write_export', without_network)
    assert run(export_model, '--resume', folder / 'says.safetensors', '--output_dir', tmp_path).code == 0
    exported = yaml.safe_load((tmp_path / 'inference.yml').read_text())
    assert {name: exported[name] for name in SAID} == SAID
    page = predictions.load(app.parser().parse_args(['--resume', str(folder / 'says.pd')]))
    (record, _) = records(run(predict, '--resume', folder / 'says.pd', '--infer_imgs', folder / 'photos'))
    best = predictions.predict(page, read_photo(record['file_name'])).best
    np.testing.assert_allclose([score for _, score in best], record['scores'], atol=2e-5)


def test_label_maps_are_made_at_the_size_and_with_the_transform_of_the_checkpoint(run, folder, tmp_path):
    result = run(generate_label, folder / 'photos', tmp_path, '--resume', folder / 'says.pd', '--num_workers', 0)
    assert result.code == 0, result.err
    meta = json.loads((tmp_path / 'meta.json').read_text())
    expected = dict(annotator='lvvit_nano', size=32, num_classes=10, interpolation='bilinear')
    expected.update(mean=SAID['mean'], std=SAID['std'])
    assert {key: meta[key] for key in expected} == expected
    result = run(generate_label, folder / 'photos', tmp_path / 'more', '--resume', folder / 'says.pd', '--img_size', 64)
    assert result.code == 0 and 'pos_embed: resized from 4 to 16 tokens' in result.out, result.err


def other_model(path):
    """Write a checkpoint of another size, crop and number of classes."""
    model = models.build_model('lvvit_nano', img_size=48, num_classes=4)
    said = {**SAID, 'input_size': 48, 'nb_classes': 4, 'crop_pct': 1.0}
    checkpoint.save({'model': model.state_dict(), 'args': said}, str(path))


def test_each_checkpoint_of_a_folder_is_evaluated_with_its_own_settings(run, folder, tmp_path):
    other_model(tmp_path / 'a.pd')
    (tmp_path / 'b.pd').write_bytes((folder / 'says.pd').read_bytes())
    (tmp_path / 'list.txt').write_text('a/0.png 0\na/1.png 1\n')
    data = ['--data_path', folder / 'photos', '--cls_label_path_val', tmp_path / 'list.txt', '--num_workers', 0]
    result = run(eval_script, '--resume', tmp_path, *data)
    assert 'input 48, crop_pct 1.0' in result.out and 'input 32, crop_pct 0.8' in result.out, result.err
    alone = run(eval_script, '--resume', folder / 'silent.pd', *FLAGS, *data)
    last = [line for line in alone.out.splitlines() if '* Acc@1' in line]
    assert last[0].split('] ')[1] in result.out
    checkpoint.save({'model': random_weights(1)}, str(tmp_path / 'c.pd'))
    assert (
        f'{tmp_path}/c.pd: does not fit the model of this command; it fits {FITS}'
        in run(eval_script, '--resume', tmp_path, *data).err
    )


def test_checkpoints_of_two_models_are_drawn_side_by_side(run, folder, tmp_path):
    other_model(tmp_path / 'a.pd')
    flags = ['--resume', folder / 'says.pd', '--compare', tmp_path / 'a.pd', '--input', folder / 'photos']
    result = run(visualize, *flags, '--output', tmp_path / 'x.png')
    assert result.code == 0 and 'a.pd: lvvit_nano, 48 px, 4 classes' in result.out, result.err


def test_the_functions_of_paddle_hub_take_it(folder):
    model = models.lvvit_nano(str(folder / 'says.pd'))
    assert (model.img_size, model.num_classes) == (32, 10)
    assert models.lvvit_nano(str(folder / 'says.pd'), img_size=48).grid == 3, 'the position embedding is resized'
    with pytest.raises(UserError, match=f'--model lvvit_s: .*says.pd fits {FITS}; leave --model out'):
        models.lvvit_s(str(folder / 'says.pd'))


# ---- flags that contradict it, and weights that say nothing

CONTRADICTIONS = [
    ('says.pd', '--model lvvit_s', f'--model lvvit_s: PATH fits {FITS}; leave --model out'),
    ('says.pd', '--nb_classes 5 --model lvvit_t', f'fits {FITS}; leave --model and --nb_classes out'),
    ('says.safetensors', '--nb_classes 1000', f'--nb_classes 1000: PATH fits {FITS}'),
    ('silent.pd', '', f'PATH: does not fit the model of this command; it fits {FITS}'),
    ('torch.pth', '--model lvvit_nano', f'PATH: does not fit the model of this command; it fits {FITS}'),
    ('torch.pth', '--model lvvit_nano --nb_classes 5 --input_size 32', f'it fits {FITS}'),
]


@pytest.mark.parametrize('name, flags, says', CONTRADICTIONS)
def test_what_the_weights_fit_is_said_in_one_line(refused, folder, name, flags, says):
    given = ['--resume', folder / name, *words(flags)]
    lines = [refused(predict, *given, '--infer_imgs', folder / 'photos')]
    lines.append(refused(generate_label, folder / 'photos', folder / 'maps', *given))
    if name == 'torch.pth':
        lines.append(refused(generate_label, folder / 'photos', folder / 'maps', *given, '--model', 'resnet18'))
    for line in lines:
        assert says.replace('PATH', str(folder / name)) in line


def test_an_input_size_that_is_given_resizes_the_position_embedding(run, folder):
    for name in ('says.pd', 'torch.pth'):
        flags = ['--resume', folder / name, '--model', 'lvvit_nano', '--nb_classes', 10, '--input_size', 64]
        result = run(predict, *flags, '--infer_imgs', folder / 'photos')
        assert result.code == 0 and 'pos_embed: resized from 4 to 16 tokens' in result.out, result.err


def test_a_training_names_the_model_of_weights_that_do_not_fit_its_own(train, folder):
    for start in ('--finetune', '--resume'):
        line = train.refused('--model lvvit_nano_patch8 --nb_classes 12', start, folder / 'torch.pth')
        assert f'torch.pth: does not fit the model of this command; it fits {FITS}' in line


def test_the_nearest_model_is_named_for_weights_that_fit_none(refused, folder, tmp_path):
    checkpoint.save({**random_weights(0), 'extra': np.ones(2, 'float32')}, str(tmp_path / 'x.pd'))
    line = refused(predict, '--resume', tmp_path / 'x.pd', '--infer_imgs', folder / 'photos')
    assert f'x.pd: fits no LV-ViT; the nearest is {FITS}: unexpected extra' in line


def test_flags_of_a_file_count_as_flags(run, refused, folder, tmp_path):
    (tmp_path / 'flags.yaml').write_text('model: lvvit_nano\ncrop_pct: 0.5\n')
    given = ['-c', tmp_path / 'flags.yaml', '--infer_imgs', folder / 'photos', '--resume', folder / 'says.pd']
    result = run(predict, *given)
    assert 'says.pd: 32 px, 10 classes, bilinear' in result.out, result.err
    (tmp_path / 'flags.yaml').write_text('nb_classes: 5\n')
    assert f'--nb_classes 5: {folder}/says.pd fits {FITS}' in refused(predict, *given)
