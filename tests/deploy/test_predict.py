"""predict.py, and the records that it and infer.py print."""

import json
import os

import numpy as np
import paddle
import pytest
from inference_helpers import MODEL, WORDS, as_exported, assert_agree, random_weights, records
from PIL import Image

import export_model
import infer
import models
import predict
from util.weights import checkpoint

pytest_plugins = 'inference_fixtures'
pytestmark = pytest.mark.cross_version


def test_a_record_is_the_softmax_of_the_logits(run, ckpt, images, label_list):
    from util.data.transforms import EvalTransform

    (record,) = records(
        run(
            predict,
            *MODEL,
            '--resume',
            ckpt,
            '--infer_imgs',
            images / 'a.jpg',
            '--topk',
            10,
            '--label_list',
            label_list,
        )
    )
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
    found = records(
        run(
            predict,
            *MODEL,
            '--resume',
            ckpt,
            '--infer_imgs',
            images / 'sub',
            images / '*.jpg',
            images / 'sub' / 'b.PNG',
        )
    )
    names = [os.path.relpath(r['file_name'], images) for r in found]
    assert names == ['sub/E.JPEG', 'sub/b.PNG', 'sub/c.bmp', 'sub/deep/d.webp', 'a.jpg', 'sub/b.PNG']
    assert found[1] == found[5] and len({tuple(r['scores']) for r in found}) == 5


@pytest.mark.parametrize('topk, given', [(1, 1), (3, 3), (10, 10), (50, 10)])
def test_topk(run, ckpt, images, topk, given):
    (record,) = records(run(predict, *MODEL, '--resume', ckpt, '--infer_imgs', images / 'a.jpg', '--topk', topk))
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
    (record,) = records(
        run(
            predict,
            '--model',
            'lvvit_nano',
            '--input_size',
            32,
            '--resume',
            tmp_path / 'w.pdparams',
            '--infer_imgs',
            images / 'a.jpg',
            '--topk',
            2,
        )
    )
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


def test_batch_size_of_predict_does_not_change_the_records(run, ckpt, images):
    flags = [*MODEL, '--resume', ckpt, '--infer_imgs', images, '--topk', 10]
    for batch_size in (1, 3):
        assert_agree(records(run(predict, *flags, '-b', batch_size)), records(run(predict, *flags)))


# ---- images that do not decode


@pytest.fixture
def some_bad(images, tmp_path):
    """a.jpg whole, b.jpg cut off, c.png text."""
    (tmp_path / 'some').mkdir()
    (tmp_path / 'some' / 'a.jpg').write_bytes((images / 'a.jpg').read_bytes())
    (tmp_path / 'some' / 'b.jpg').write_bytes((images / 'a.jpg').read_bytes()[:300])
    (tmp_path / 'some' / 'c.png').write_text('no image')
    return tmp_path / 'some'


@pytest.mark.parametrize('batch_size', [1, 2, 8])
def test_bad_images_are_left_out_listed_and_an_error_at_the_end(run, ckpt, images, exported, some_bad, batch_size):
    for script, flags in ((predict, [*MODEL, '--resume', ckpt]), (infer, as_exported(exported))):
        flags = [*flags, '--infer_imgs', some_bad, images / 'sub' / 'b.PNG', '-b', batch_size]
        result = run(script, *flags)
        assert result.code == 1
        (line,) = result.err.splitlines()
        assert '2 of 4 images left out' in line and '--skip_bad' in line
        assert f'{some_bad / "b.jpg"}: cannot be decoded' in line and f'{some_bad / "c.png"}: cannot be decoded' in line
        assert "'file_name': '" + str(some_bad / 'a.jpg') in result.out, 'results come before the error'
        skipped = run(script, *flags, '--skip_bad')
        assert [r['file_name'] for r in records(skipped)] == [str(some_bad / 'a.jpg'), str(images / 'sub' / 'b.PNG')]


def test_no_image_that_decodes_is_an_error_even_with_skip_bad(refused, ckpt, exported, some_bad):
    for script, flags in ((predict, [*MODEL, '--resume', ckpt]), (infer, as_exported(exported))):
        line = refused(script, *flags, '--infer_imgs', some_bad / 'b.jpg', some_bad / 'c.png', '--skip_bad')
        assert '2 of 2 images left out' in line


def test_inputs_that_are_no_images_are_named(predict_with, infer_with, images, tmp_path):
    (tmp_path / 'empty').mkdir()
    for given in ('empty', 'none.jpg', '*.png'):
        for script, flag in ((predict_with, '--infer_imgs'), (infer_with, '--input_file')):
            assert f'{tmp_path / given}: no such file, or no images there' in script(flag, images, tmp_path / given)


# ---- what cannot be


def test_label_lists_that_do_not_fit_are_named(predict_with, infer_with, export_with, tmp_path):
    path = tmp_path / 'names.txt'
    for text, says in (
        ('0 zero\n1 one\n', 'has no name for class 2 of 10'),
        ('0 zero\n\none 1\n', 'line 3'),
        ('0 zero\n1\n', "line 2: expected 'id name', found '1'"),
        ('', 'has no name for class 0'),
        (''.join(f'{i} class\n' for i in range(11)), 'names 11 classes, but the model has 10'),
    ):
        path.write_text(text)
        for script in (predict_with, infer_with, export_with):
            line = script('--label_list', path)
            assert str(path) in line and says in line
    path.write_bytes(b'0 \xff\xfe\n')
    for script in (predict_with, infer_with, export_with):
        assert str(path) in script('--label_list', path)
        assert '/nowhere/names.txt' in script('--label_list', '/nowhere/names.txt')


@pytest.mark.parametrize(
    'flags, says',
    [
        (['--crop_pct', 0], '--crop_pct 0'),
        (['--crop_pct', 1.1], '--crop_pct 1.1'),
        (['--interpolation', 'cubic'], '--interpolation cubic'),
    ],
)
def test_settings_that_cannot_be_are_refused_by_every_script(predict_with, infer_with, export_with, flags, says):
    for script in (predict_with, infer_with, export_with):
        assert says in script(*flags)


@pytest.mark.parametrize(
    'flags, says',
    [
        (['--model', 'resnet50'], '--model resnet50: unknown; use vit'),
        (['--input_size', 40], 'img_size 40'),
        (['--resume', ''], '--resume is missing'),
        (['--resume', '/nowhere/x.pd'], '/nowhere/x.pd: cannot be read'),
        (['--nb_classes', 12], 'head.weight is [128, 10]'),
        (['--input_size', 64], 'pos_embed'),
        (['--model', 'lvvit_t'], 'does not fit this model'),
    ],
)
def test_models_and_weights_that_do_not_fit_are_refused(predict_with, export_with, flags, says):
    for script in (predict_with, export_with):
        assert says in script(*flags)


def test_a_checkpoint_without_averaged_weights_has_none_to_give(predict_with, tmp_path):
    checkpoint.save({'model': random_weights(0)}, str(tmp_path / 'x.pd'))
    assert f'{tmp_path / "x.pd"}: holds no averaged weights' in predict_with('--resume', tmp_path / 'x.pd', '--ema')


def test_an_output_that_cannot_be_written_is_named(predict_with, export_with, refused, ckpt, tmp_path):
    (tmp_path / 'file').touch()
    assert '--save_json' in predict_with('--save_json', tmp_path / 'file' / 'r.json')
    assert '--output_dir' in export_with('--output_dir', tmp_path / 'file' / 'out')
    assert '--output_dir is missing' in refused(export_model, *MODEL, '--resume', ckpt)
