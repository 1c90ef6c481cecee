"""predict.py, export_model.py and infer.py: the same records from a checkpoint and from what is exported of it."""
import ast
import contextlib
import io
import json
import os

import numpy as np
import paddle
import pytest
import yaml
from conftest import execute
from PIL import Image

import export_model
import infer
import models
import predict
from util import checkpoint

pytestmark = pytest.mark.cross_version

PADDLE_3 = int(paddle.__version__.split('.')[0]) >= 3
FORMATS = ['pdmodel', 'json'] if PADDLE_3 else ['pdmodel']
MODEL = ['--model', 'lvvit_nano', '--input_size', 32, '--nb_classes', 10]
WORDS = 'zero one two three four five six seven eight nine'.split()


def random_weights(seed, num_classes=10):
    """Weights of lvvit_nano whose predictions differ clearly from image to image."""
    paddle.seed(seed)
    model = models.build_model('lvvit_nano', img_size=32, num_classes=num_classes)
    rng = np.random.default_rng(seed)
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    for name in ('head.weight', 'aux_head.weight'):
        weights[name] = rng.normal(0, 0.1, weights[name].shape).astype('float32')
    for i in (1, 2, 3):
        weights[f'patch_embed.bn{i}._mean'] = rng.normal(0, 0.1, 64).astype('float32')
        weights[f'patch_embed.bn{i}._variance'] = rng.uniform(0.01, 0.1, 64).astype('float32')
    return weights


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    path = str(tmp_path_factory.mktemp('weights') / 'checkpoint.pd')
    checkpoint.save({'model': random_weights(0), 'model_ema': random_weights(1)}, path)
    return path


@pytest.fixture(scope='module')
def label_list(tmp_path_factory):
    path = tmp_path_factory.mktemp('names') / 'label_list.txt'
    path.write_text(''.join(f'{i} {name}\n' for i, name in enumerate(WORDS)))
    return str(path)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """a.jpg, sub/b.PNG, sub/c.bmp, sub/deep/d.webp, sub/E.JPEG of different shapes, and a text file."""
    root = tmp_path_factory.mktemp('images')
    shapes = {'a.jpg': (40, 50), 'sub/b.PNG': (32, 32), 'sub/c.bmp': (70, 33), 'sub/deep/d.webp': (20, 90),
              'sub/E.JPEG': (64, 64)}
    for seed, (name, shape) in enumerate(shapes.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), 'uint8'))
        coarse.resize(shape, Image.BICUBIC).save(root / name)
    (root / 'sub' / 'notes.txt').write_text('no image')
    return root


@pytest.fixture(scope='module')
def exported(tmp_path_factory, ckpt, label_list):
    """Folder with model.pdmodel (and model.json on Paddle 3), model.pdiparams and inference.yml."""
    folder = tmp_path_factory.mktemp('export')
    with contextlib.redirect_stdout(io.StringIO()):
        code = execute(export_model, *MODEL, '--resume', ckpt, '--output_dir', folder, '--label_list', label_list,
                       '--format', 'both' if PADDLE_3 else 'pdmodel', '--crop_pct', 0.8, '--interpolation', 'bilinear')
    assert code == 0
    return folder


def as_exported(folder, kind='pdmodel'):
    return ['--model_file', folder / f'model.{kind}', '--params_file', folder / 'model.pdiparams', '--use_gpu', 'False']


AS_EXPORTED = ['--crop_pct', 0.8, '--interpolation', 'bilinear']


def records(result):
    """The one line of records that a script has printed."""
    assert result.code == 0, result.err
    line, = [line for line in result.out.splitlines() if line.startswith('[{')]
    return ast.literal_eval(line)


def assert_agree(a, b):
    assert [r['file_name'] for r in a] == [r['file_name'] for r in b]
    for x, y in zip(a, b):
        assert x['class_ids'] == y['class_ids'] and x['label_names'] == y['label_names']
        np.testing.assert_allclose(x['scores'], y['scores'], atol=1e-4)


# ---- records

def test_a_record_is_the_softmax_of_the_logits(run, ckpt, images, label_list):
    from util.transforms import EvalTransform
    record, = records(run(predict, *MODEL, '--resume', ckpt, '--infer_imgs', images / 'a.jpg', '--topk', 10,
                          '--label_list', label_list))
    assert list(record) == ['class_ids', 'scores', 'file_name', 'label_names']
    model = models.build_model('lvvit_nano', img_size=32, num_classes=10)
    model.set_state_dict(random_weights(0))
    model.eval()
    x = EvalTransform(32, 1.0)(Image.open(images / 'a.jpg'))
    scores = paddle.nn.functional.softmax(model(paddle.to_tensor(x[None])))[0].numpy()
    order = np.argsort(-scores)
    assert record['class_ids'] == order.tolist() and record['file_name'] == str(images / 'a.jpg')
    assert record['label_names'] == [WORDS[i] for i in order]
    np.testing.assert_allclose(record['scores'], scores[order], atol=1e-5)
    assert sum(record['scores']) == pytest.approx(1, abs=1e-4) and record['scores'][0] > record['scores'][-1] + 0.05


def test_folders_globs_and_files_in_the_order_given_whatever_the_case_of_the_extension(run, ckpt, images):
    found = records(run(predict, *MODEL, '--resume', ckpt, '--infer_imgs', images / 'sub', images / '*.jpg',
                        images / 'sub' / 'b.PNG'))
    names = [os.path.relpath(r['file_name'], images) for r in found]
    assert names == ['sub/E.JPEG', 'sub/b.PNG', 'sub/c.bmp', 'sub/deep/d.webp', 'a.jpg', 'sub/b.PNG']
    assert found[1] == found[5] and len({tuple(r['scores']) for r in found}) == 5


@pytest.mark.parametrize('topk, given', [(1, 1), (3, 3), (10, 10), (50, 10)])
def test_topk(run, ckpt, images, topk, given):
    record, = records(run(predict, *MODEL, '--resume', ckpt, '--infer_imgs', images / 'a.jpg', '--topk', topk))
    assert [len(record[k]) for k in ('class_ids', 'scores', 'label_names')] == [given] * 3
    assert record['label_names'] == [str(i) for i in record['class_ids']], 'without a list an id is its own name'


def test_save_json_holds_what_is_printed(run, ckpt, images, exported, tmp_path):
    for script, flags in ((predict, [*MODEL, '--resume', ckpt]), (infer, as_exported(exported))):
        result = run(script, *flags, '--infer_imgs', images, '--save_json', tmp_path / 'r.json')
        assert json.loads((tmp_path / 'r.json').read_text()) == records(result)


def test_1000_classes_are_imagenets_unless_named(run, images, tmp_path):
    weights = random_weights(0, 1000)
    weights['head.bias'][171], weights['head.bias'][0] = 50, 40
    checkpoint.save(weights, str(tmp_path / 'w.pdparams'))
    record, = records(run(predict, '--model', 'lvvit_nano', '--input_size', 32, '--resume', tmp_path / 'w.pdparams',
                          '--infer_imgs', images / 'a.jpg', '--topk', 2))
    assert record['class_ids'] == [171, 0] and record['label_names'][0] == 'Italian greyhound'
    assert record['label_names'][1].startswith('tench')


def test_ema_selects_the_averaged_weights_and_says_so(run, ckpt, images, tmp_path):
    checkpoint.save(random_weights(1), str(tmp_path / 'ema.pdparams'))
    flags = [*MODEL, '--infer_imgs', images]
    plain, ema = (run(predict, *flags, '--resume', ckpt, *more) for more in ([], ['--ema']))
    only = run(predict, *flags, '--resume', tmp_path / 'ema.pdparams')
    assert 'using trained weights (model)' in plain.out and 'which --ema selects' in plain.out
    assert 'using averaged weights (model_ema)' in ema.out
    assert records(ema) == records(only) != records(plain)


# ---- the exported model

@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('batch_size', [1, 3, 16])
def test_predict_and_infer_agree(run, ckpt, images, exported, label_list, kind, batch_size):
    expected = records(run(predict, *MODEL, *AS_EXPORTED, '--resume', ckpt, '--infer_imgs', images, '--topk', 10,
                           '--label_list', label_list))
    assert_agree(records(run(infer, *as_exported(exported, kind), '--input_file', images, '--topk', 10,
                             '--batch_size', batch_size)), expected)


@pytest.mark.parametrize('flags', [['--enable_mkldnn', 'False'], ['--ir_optim', 'False'], ['--cpu_threads', 1]])
def test_switches_of_the_predictor_do_not_change_the_records(run, images, exported, flags):
    usual = records(run(infer, *as_exported(exported), '--input_file', images))
    assert_agree(records(run(infer, *as_exported(exported), '--input_file', images, *flags)), usual)


def test_batch_size_of_predict_does_not_change_the_records(run, ckpt, images):
    flags = [*MODEL, '--resume', ckpt, '--infer_imgs', images, '--topk', 10]
    for batch_size in (1, 3):
        assert_agree(records(run(predict, *flags, '-b', batch_size)), records(run(predict, *flags)))


@pytest.mark.parametrize('name', models.FAMILY)
def test_every_model_of_the_family_can_be_exported(run, images, tmp_path, tiny, name):
    paddle.seed(0)
    model = models.build_model(name, img_size=32, num_classes=10)
    checkpoint.save(model.state_dict(), str(tmp_path / 'w.pdparams'))
    flags = ['--model', name, '--input_size', 32, '--nb_classes', 10, '--resume', tmp_path / 'w.pdparams']
    assert run(export_model, *flags, '--output', tmp_path).code == 0
    expected = records(run(predict, *flags, '--infer_imgs', images, '--topk', 1))
    got = records(run(infer, *as_exported(tmp_path), '--input_file', images, '--topk', 1))
    np.testing.assert_allclose([r['scores'] for r in got], [r['scores'] for r in expected], atol=1e-4)


def test_export_says_what_it_wrote_and_writes_the_settings(run, ckpt, tmp_path):
    result = run(export_model, *MODEL, '--resume', ckpt, '--output_dir', tmp_path / 'new' / 'out')
    assert result.code == 0 and f"Model is saved in {tmp_path / 'new' / 'out'}." in result.out
    assert {'model.pdmodel', 'model.pdiparams', 'inference.yml'} <= set(os.listdir(tmp_path / 'new' / 'out'))
    settings = yaml.safe_load((tmp_path / 'new' / 'out' / 'inference.yml').read_text())
    assert settings == {'model': 'lvvit_nano', 'input_size': 32, 'nb_classes': 10, 'crop_pct': 1.0,
                        'interpolation': 'bicubic', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225],
                        'label_names': {}}


def test_settings_travel_with_the_model_and_flags_override_them(run, ckpt, images, exported, tmp_path):
    def inferred(*flags):
        return records(run(infer, *as_exported(exported), '--input_file', images, '--topk', 10, *flags))

    def predicted(*flags):
        return records(run(predict, *MODEL, '--resume', ckpt, '--infer_imgs', images, '--topk', 10, *flags))
    assert {tuple(sorted(r['label_names'])) for r in inferred()} == {tuple(sorted(WORDS))}
    flags = ['--crop_pct', 1, '--interpolation', 'nearest']
    other = tmp_path / 'names.txt'
    other.write_text(''.join(f'{i} class {i}\n' for i in range(10)))
    flags += ['--label_list', other]
    assert_agree(inferred(*flags), predicted(*flags))
    assert inferred(*flags)[0]['scores'] != inferred()[0]['scores']
    settings = yaml.safe_load((exported / 'inference.yml').read_text())
    (tmp_path / 'other.yml').write_text(yaml.safe_dump({**settings, 'crop_pct': 1.0, 'interpolation': 'nearest'}))
    moved = inferred('--config', tmp_path / 'other.yml')
    assert [r['scores'] for r in moved] == [r['scores'] for r in inferred(*flags)]


def test_benchmark_report(run, images, exported):
    out = run(infer, *as_exported(exported), '--input_file', images, '--enable_benchmark', 'True', '-b', 2).out
    for words in ('model: lvvit_nano', 'batch_size: 2', 'data_num: 5', 'preprocess_time(ms)', 'inference_time(ms)'):
        assert words in out


def test_a_gpu_that_is_not_there_is_said_once(run, images, exported):
    if paddle.device.is_compiled_with_cuda():
        pytest.skip('a GPU build of Paddle')
    flags = [*as_exported(exported)[:-2], '--input_file', images]
    result = run(infer, *flags)
    assert result.code == 0 and result.out.count('running on the CPU') == 1


# ---- what cannot be

@pytest.fixture
def predict_with(refused, ckpt, images):
    return lambda *flags: refused(predict, *MODEL, '--resume', ckpt, '--infer_imgs', images, *flags)


@pytest.fixture
def infer_with(refused, exported, images):
    return lambda *flags: refused(infer, *as_exported(exported), '--input_file', images, *flags)


@pytest.fixture
def export_with(refused, ckpt, tmp_path):
    return lambda *flags: refused(export_model, *MODEL, '--resume', ckpt, '--output_dir', tmp_path / 'out', *flags)


def test_inputs_that_are_no_images_are_named(predict_with, infer_with, images, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').write_text('no image')
    (tmp_path / 'cut.jpg').write_bytes((images / 'a.jpg').read_bytes()[:300])
    for given in ('empty', 'none.jpg', '*.png'):
        for script, flag in ((predict_with, '--infer_imgs'), (infer_with, '--input_file')):
            assert f'{tmp_path / given}: no such file, or no images there' in script(flag, images, tmp_path / given)
    for given in ('notes.txt', 'cut.jpg'):
        for script, flag in ((predict_with, '--infer_imgs'), (infer_with, '--input_file')):
            assert f'{tmp_path / given}: cannot be decoded' in script(flag, images, tmp_path / given)


def test_label_lists_that_do_not_fit_are_named(predict_with, infer_with, export_with, tmp_path):
    path = tmp_path / 'names.txt'
    for text, says in (('0 zero\n1 one\n', 'has no name for class 2 of 10'), ('0 zero\n\none 1\n', 'line 3'),
                       ('0 zero\n1\n', "line 2: expected 'id name', found '1'"), ('', 'has no name for class 0')):
        path.write_text(text)
        for script in (predict_with, infer_with, export_with):
            line = script('--label_list', path)
            assert str(path) in line and says in line
    path.write_bytes(b'0 \xff\xfe\n')
    for script in (predict_with, infer_with, export_with):
        assert str(path) in script('--label_list', path)
        assert '/nowhere/names.txt' in script('--label_list', '/nowhere/names.txt')


@pytest.mark.parametrize('flags, says', [
    (['--crop_pct', 0], '--crop_pct 0'), (['--crop_pct', 1.1], '--crop_pct 1.1'),
    (['--interpolation', 'cubic'], '--interpolation cubic')])
def test_settings_that_cannot_be_are_refused_by_every_script(predict_with, infer_with, export_with, flags, says):
    for script in (predict_with, infer_with, export_with):
        assert says in script(*flags)


@pytest.mark.parametrize('flags, says', [
    (['--model', 'resnet50'], '--model resnet50: unknown; use vit'), (['--input_size', 40], 'img_size 40'),
    (['--resume', ''], '--resume is missing'), (['--resume', '/nowhere/x.pd'], '/nowhere/x.pd: cannot be read'),
    (['--nb_classes', 12], 'head.weight is [128, 10]'), (['--input_size', 64], 'pos_embed'),
    (['--model', 'lvvit_t'], 'does not fit this model')])
def test_models_and_weights_that_do_not_fit_are_refused(predict_with, export_with, flags, says):
    for script in (predict_with, export_with):
        assert says in script(*flags)


def test_a_checkpoint_without_averaged_weights_has_none_to_give(predict_with, tmp_path):
    checkpoint.save({'model': random_weights(0)}, str(tmp_path / 'x.pd'))
    assert f"{tmp_path / 'x.pd'}: holds no averaged weights" in predict_with('--resume', tmp_path / 'x.pd', '--ema')


def test_an_output_that_cannot_be_written_is_named(predict_with, export_with, refused, ckpt, tmp_path):
    (tmp_path / 'file').touch()
    assert '--save_json' in predict_with('--save_json', tmp_path / 'file' / 'r.json')
    assert '--output_dir' in export_with('--output_dir', tmp_path / 'file' / 'out')
    assert '--output_dir is missing' in refused(export_model, *MODEL, '--resume', ckpt)


def test_exported_files_that_are_missing_are_named(refused, exported, images, tmp_path):
    def line(model, params, *more):
        return refused(infer, '--model_file', model, '--params_file', params, '--input_file', images,
                       '--use_gpu', 'False', *more)
    model, params, config = (exported / name for name in ('model.pdmodel', 'model.pdiparams', 'inference.yml'))
    assert f"{tmp_path / 'inference.yml'}: cannot be read" in line(tmp_path / 'm.pdmodel', params)
    assert '--model_file /nowhere/m.pdmodel: no such file' in line('/nowhere/m.pdmodel', params, '--config', config)
    assert '--params_file /nowhere/p: no such file' in line(model, '/nowhere/p')
    assert 'x.yml' in line(model, params, '--config', tmp_path / 'x.yml')


@pytest.mark.parametrize('text', ['', 'just text', '- 1\n- 2\n', 'input_size: 32\n', '{',
                                  'model: !!python/object/apply:os.system [true]\n'])
def test_settings_that_export_did_not_write_are_named(infer_with, tmp_path, text):
    (tmp_path / 'inference.yml').write_text(text)
    line = infer_with('--config', tmp_path / 'inference.yml')
    assert f"{tmp_path / 'inference.yml'}: not the inference.yml that export_model.py writes" in line


def test_what_this_machine_cannot_do_is_refused(infer_with):
    assert '--precision int8' in infer_with('--precision', 'int8')
    if not paddle.device.is_compiled_with_cuda():
        assert '--use_tensorrt needs a GPU' in infer_with('--use_tensorrt', 'True')


@pytest.mark.skipif(PADDLE_3, reason='the format of Paddle 3')
def test_paddle_2_refuses_json(refused, export_with, exported, images):
    (exported / 'model.json').write_text('{}')
    line = refused(infer, *as_exported(exported, 'json'), '--input_file', images)
    assert 'reads .pdmodel only' in line and '--format pdmodel' in line
    for kind in ('json', 'both'):
        assert f'--format {kind}' in export_with('--format', kind)
