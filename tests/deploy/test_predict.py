"""predict.py, and the records that it and infer.py print."""

import csv
import json
import multiprocessing
import os

import numpy as np
import paddle
import pytest
from conftest import words
from inference_helpers import MODEL, WORDS, as_exported, random_model, random_weights, records
from PIL import Image

import export_model
import infer
import predict
from util.data.datasets import UNDECODABLE
from util.data.loader import build_predict_loader
from util.data.transforms import EvalTransform
from util.class_names import read_label_list
from util.weights import checkpoint

pytest_plugins = 'inference_fixtures'


@pytest.fixture
def predicted(run, ckpt):
    """predicted(image, …, flag, …) -> records."""
    return lambda *argv: records(run(predict, *MODEL, '--resume', ckpt, '--infer_imgs', *argv))


def test_a_record_is_the_softmax_of_the_logits(predicted, images, label_list):
    (record,) = predicted(images / 'a.jpg', '--topk', 10, '--label_list', label_list)
    assert list(record) == ['class_ids', 'scores', 'file_name', 'label_names']
    x = EvalTransform(32, 1.0)(Image.open(images / 'a.jpg'))
    scores = paddle.nn.functional.softmax(random_model()(paddle.to_tensor(x[None])))[0].numpy()
    order = np.argsort(-scores)
    assert record['class_ids'] == order.tolist() and record['file_name'] == str(images / 'a.jpg')
    assert record['label_names'] == [WORDS[i] for i in order]
    np.testing.assert_allclose(record['scores'], scores[order], atol=1e-5)
    assert record['scores'] == [round(score, 5) for score in record['scores']]
    assert record['scores'][0] > record['scores'][-1] + 0.05


def test_folders_globs_and_files_in_the_order_given_whatever_the_case_of_the_extension(predicted, images):
    found = predicted(images / 'sub', images / '*.jpg', images / 'sub' / 'b.PNG')
    names = [os.path.relpath(r['file_name'], images) for r in found]
    assert names == ['sub/E.JPEG', 'sub/b.PNG', 'sub/c.bmp', 'sub/deep/d.webp', 'a.jpg', 'sub/b.PNG']
    assert found[1] == found[5] and len({tuple(r['scores']) for r in found}) == 5


@pytest.mark.cross_version
def test_weights_or_outputs_that_are_not_finite_are_an_error_and_nothing_is_saved(refused, images, tmp_path):
    path, saved = tmp_path / 'x.pd', tmp_path / 'records.json'
    for value, named in (np.nan, path), (3e38, images / 'a.jpg'):  # finite weights, whose products are not
        checkpoint.save({**random_weights(0), 'head.weight': np.full([128, 10], value, 'float32')}, str(path))
        flags = ['--resume', path, '--infer_imgs', images / 'a.jpg', '--save_json', saved]
        line = refused(predict, *MODEL, *flags)
        assert str(named) in line and 'not finite' in line and not saved.exists()


def test_a_row_of_the_csv_file_has_an_image_and_its_classes_from_the_best_on(run, either, images, label_list, tmp_path):
    script, flags = either
    flags = [*flags, '--infer_imgs', images, '--topk', 2, '--label_list', label_list]
    found = records(run(script, *flags, '--save_csv', tmp_path / 'r.csv'))
    with open(tmp_path / 'r.csv', newline='', encoding='utf-8') as f:
        header, *rows = csv.reader(f)
    assert header == 'file_name class_id_1 label_name_1 score_1 class_id_2 label_name_2 score_2'.split()
    assert len(rows) == len(found) == 5
    for row, record in zip(rows, found):
        first, second = zip(record['class_ids'], record['label_names'], record['scores'])
        assert row == [record['file_name'], *map(str, first), *map(str, second)]


def test_topk_and_without_a_list_an_id_is_its_own_name(predicted, images):
    assert len(predicted(images / 'a.jpg')[0]['class_ids']) == 5, 'the default'
    for topk, given in ((1, 1), (50, 10)):
        (record,) = predicted(images / 'a.jpg', '--topk', topk)
        assert [len(record[k]) for k in ('class_ids', 'scores', 'label_names')] == [given] * 3
        assert record['label_names'] == [str(i) for i in record['class_ids']]


def test_1000_classes_are_imagenets_unless_named(run, images, tmp_path):
    weights = random_weights(0, 1000)
    weights['head.bias'][171], weights['head.bias'][0] = 50, 40
    checkpoint.save(weights, str(tmp_path / 'w.pdparams'))
    flags = ['--resume', tmp_path / 'w.pdparams', '--infer_imgs', images / 'a.jpg', '--topk', 2]
    (record,) = records(run(predict, '--model', 'lvvit_nano', '--input_size', 32, *flags))
    assert record['class_ids'] == [171, 0] and record['label_names'] == ['Italian greyhound', 'tench, Tinca tinca']


# ---- batches, and images that cannot be decoded


@pytest.fixture
def some_bad(images, tmp_path):
    """a.jpg whole, b.jpg cut off, c.png text."""
    (tmp_path / 'some').mkdir()
    (tmp_path / 'some' / 'a.jpg').write_bytes((images / 'a.jpg').read_bytes())
    (tmp_path / 'some' / 'b.jpg').write_bytes((images / 'a.jpg').read_bytes()[:300])
    (tmp_path / 'some' / 'c.png').write_text('no image')
    return tmp_path / 'some'


@pytest.fixture(params=['predict', 'infer'])
def either(request, ckpt, exported):
    """(script, flags) of predict.py and of infer.py."""
    return (predict, [*MODEL, '--resume', ckpt]) if request.param == 'predict' else (infer, as_exported(exported))


@pytest.mark.parametrize('batch_size', [1, 8])
def test_bad_images_are_left_out_and_named_and_an_error_at_the_end(run, images, either, some_bad, tmp_path, batch_size):
    script, flags = either
    flags = [*flags, '--infer_imgs', some_bad, images / 'sub' / 'b.PNG', '-b', batch_size]
    result = run(script, *flags, '--save_json', tmp_path / 'r.json')
    *named, line = result.err.splitlines()
    assert result.code == 1 and '2 of 4 images' in line and '--skip_bad' in line
    assert len(named) == 2 and str(some_bad / 'b.jpg') in named[0] and str(some_bad / 'c.png') in named[1]
    skipped = records(run(script, *flags, '--skip_bad'))
    assert [r['file_name'] for r in skipped] == [str(some_bad / 'a.jpg'), str(images / 'sub' / 'b.PNG')]
    assert json.loads((tmp_path / 'r.json').read_text()) == skipped, 'results come before the error'
    assert multiprocessing.active_children() == []


def test_no_image_that_can_be_decoded_is_an_error_even_with_skip_bad(run, either, some_bad):
    script, flags = either
    result = run(script, *flags, '--infer_imgs', some_bad / 'b.jpg', some_bad / 'c.png', '--skip_bad')
    assert result.code == 1 and '2 of 2 images' in result.err.splitlines()[-1]


@pytest.mark.parametrize('batch_size, ahead, processes', [(1, True, 1), (2, True, 1), (2, False, 0), (8, True, 0)])
def test_batches_keep_the_order_and_mark_damaged_files(images, some_bad, batch_size, ahead, processes):
    files = [str(images / 'sub' / 'b.PNG'), *map(str, sorted(some_bad.iterdir()))]
    transform, labels, arrays = EvalTransform(32, 1.0), [], []
    for batch in build_predict_loader(files, transform, batch_size, ahead):
        assert len(multiprocessing.active_children()) <= processes
        labels += np.asarray(batch['label']).tolist()
        arrays += list(np.asarray(batch['image']))
    black = transform(Image.new('RGB', (32, 32)))
    assert labels == [0, 0, UNDECODABLE, UNDECODABLE] and all(np.array_equal(array, black) for array in arrays[2:])
    for path, array in zip(files[:2], arrays):
        np.testing.assert_array_equal(array, transform(Image.open(path)))


# ---- refusals


def test_inputs_that_are_no_images_are_named(predict_with, infer_with, images, tmp_path):
    (tmp_path / 'empty').mkdir()
    for name in ('empty', 'none.jpg', '*.png'):
        assert str(tmp_path / name) in predict_with('--infer_imgs', images, tmp_path / name)
        assert str(tmp_path / name) in infer_with('--input_file', images, tmp_path / name)


LABEL_LISTS = {
    b'0 zero\n1 one\n': 'no name for class 2 of 10',
    b'0 zero\n\none 1\n': 'line 3',
    b'0 zero\n1\n': 'line 2',
    b'0 zero\n1 one\n0 nought\n': 'line 3',
    b''.join(b'%d class\n' % i for i in range(11)): 'names 11 classes',
    b'0 \xff\xfe\n': 'not a readable text file',
    '0 zero\n1\xa0one\n'.encode(): r"line 2: expected 'id name', found '1\xa0one'",
}


def test_a_label_list_may_have_tabs_and_names_with_blanks(tmp_path):
    (tmp_path / 'names.txt').write_text('0\tzero, nought\n 1 \t one\ttwo 猫\n2   two\n', encoding='utf-8')
    expected = {0: 'zero, nought', 1: 'one\ttwo 猫', 2: 'two'}
    assert read_label_list(str(tmp_path / 'names.txt')) == expected


def test_label_lists_that_do_not_fit_are_named(predict_with, infer_with, export_with, tmp_path):
    path = tmp_path / 'names.txt'
    for content, says in LABEL_LISTS.items():
        path.write_bytes(content)
        line = predict_with('--label_list', path)
        assert str(path) in line and says in line
    for script in (predict_with, infer_with, export_with):
        assert str(path) in script('--label_list', path)


@pytest.mark.parametrize(
    'flags', ['--crop_pct 0', '--crop_pct 1.1', '--interpolation cubic', '--std 1 0 1', '--label_list /nowhere.txt']
)
def test_settings_are_checked_by_every_script(predict_with, infer_with, export_with, flags):
    for script in (predict_with, infer_with, export_with):
        assert flags.split()[0] in script(*words(flags)) or '/nowhere.txt' in script(*words(flags))


@pytest.mark.parametrize(
    'flags, says',
    [
        ('--model resnet50', "'resnet50'"),
        ('--input_size 40', 'img_size 40'),
        ('--resume ""', '--resume is missing'),
        ('--resume /nowhere/x.pd', '/nowhere/x.pd'),
        ('--nb_classes 12', 'it fits --model lvvit_nano --input_size 32 --nb_classes 10'),
        ('--model lvvit_s', 'it fits --model lvvit_nano --input_size 32 --nb_classes 10'),
    ],
)
def test_models_and_weights_that_do_not_fit_are_refused(predict_with, export_with, flags, says):
    for script in (predict_with, export_with):
        assert says in script(*words(flags))


def test_a_file_name_that_is_not_utf_8_is_an_escape_in_saved_files(run, either, images, tmp_path):
    script, flags = either
    folder = os.fsencode(tmp_path / 'caf') + b'\xe9'
    os.mkdir(folder)
    image = os.fsdecode(os.path.join(folder, '猫.jpg'.encode()))
    os.link(images / 'a.jpg', image)
    result = run(
        script, *flags, '--infer_imgs', image, '--save_json', tmp_path / 'r.json', '--save_csv', tmp_path / 'r.csv'
    )
    assert result.code == 0, result.err
    assert r'caf\udce9/猫.jpg,' in (tmp_path / 'r.csv').read_text(encoding='utf-8')
    text = (tmp_path / 'r.json').read_text(encoding='utf-8')
    assert r'caf\udce9/猫.jpg' in text and json.loads(text)[0]['file_name'] == image


@pytest.mark.parametrize('flag', ['--save_json', '--save_csv'])
def test_a_saved_file_is_tried_before_the_work_and_kept_if_the_work_fails(run, either, images, tmp_path, flag):
    script, flags = either
    kept = tmp_path / 'kept'
    kept.write_text('[]')
    assert run(script, *flags, '--infer_imgs', '/nowhere.jpg', flag, kept).code == 1
    assert kept.read_text() == '[]'
    result = run(script, *flags, '--infer_imgs', images, flag, tmp_path)
    assert result.code == 1 and flag in result.err and result.out == ''


def test_an_output_that_cannot_be_written_is_named(predict_with, export_with, refused, ckpt, tmp_path):
    (tmp_path / 'file').touch()
    assert '--save_json' in predict_with('--save_json', tmp_path / 'file' / 'r.json')
    assert '--output_dir' in export_with('--output_dir', tmp_path / 'file' / 'out')
    assert '--output_dir' in refused(export_model, *MODEL, '--resume', ckpt)
