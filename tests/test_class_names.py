"""Names of classes: the checkpoint keeps them, ids of class folders come from them, records and tables show them."""

import csv
import json
import shutil

import numpy as np
import paddle
import pytest
from PIL import Image

import eval as eval_script
import export_model
import generate_label
import models
import predict
from conftest import STILL
from inference_helpers import MODEL, random_weights, records
from tools import convert_weight, visualize
from util import class_names
from util.data.label_maps import LabelMaps
from util.data.listing import read_samples
from util.data.transforms import EvalTransform
from util.data.validation import read_validation
from util.deploy import export, inference_yml
from util.errors import UserError
from util.weights import checkpoint
from util.weights.load import read


NAMES = ['cat', 'dog', 'fox']
THREE = [*MODEL, '--nb_classes', 3]
TRAIN = f'--nb_classes 3 --batch_size 2 {STILL}'


def photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), 'uint8')).save(path)


@pytest.fixture
def data(tmp_path):
    """A folder with train/ and val/, and in each cat/, dog/ and fox/ with two images."""
    for split in ('train', 'val'):
        for i, name in enumerate(NAMES):
            for k in range(2):
                photo(tmp_path / 'data' / split / name / f'{k}.png', 2 * i + k)
    return tmp_path / 'data'


@pytest.fixture
def weights(tmp_path):
    """weights(names, classes=3) -> the file of a checkpoint with these class names; None: without names."""

    def call(names, classes=3):
        path = tmp_path / 'weights' / f'{len(list((tmp_path / "weights").glob("*")))}.pd'
        entry = {'class_names': names} if names else {}
        model = random_weights(0, num_classes=classes)
        checkpoint.save({'model': model, 'number': path.stem, **entry}, str(path))  # no two files have the same content
        return path

    (tmp_path / 'weights').mkdir()
    return call


@pytest.fixture
def evaluate(run, tmp_path):
    """evaluate(data, *flags) -> (Result, rows of --save_predictions as {folder/name: [label, loss, top1, …]})."""

    def call(data, *flags):
        table = tmp_path / 'predictions.csv'
        table.unlink(missing_ok=True)
        flags = ['--data_path', data, '--num_workers', 0, '--save_predictions', table, *flags]
        result = run(eval_script, *THREE, *flags)
        if result.code:
            return result, {}
        with open(table, newline='', errors='surrogateescape') as f:
            rows = list(csv.reader(f))[1:]
        return result, {'/'.join(row[0].split('/')[-2:]): [float(word) for word in row[1:]] for row in rows}

    return call


# ---- training keeps them


@pytest.fixture
def trained(train, data):
    """train on `data`, after a first epoch in the folder run."""
    train.scenes = data
    result = train(TRAIN)
    assert result.code == 0, result.err
    train.result = result
    return train


def test_a_training_logs_and_keeps_the_names_of_its_class_folders(trained, data, run):
    assert f'{data}/train: 6 images of 3 classes, 0: cat, 1: dog, 2: fox' in trained.result.out
    assert trained.state()['class_names'] == NAMES
    assert (trained.folder / 'run' / 'label_list.txt').read_text() == '0 cat\n1 dog\n2 fox\n'
    shutil.rmtree(data / 'val' / 'cat')
    shutil.rmtree(data / 'train' / 'dog')
    result = trained(TRAIN, '--eval --resume', trained.path(), out='')
    assert (
        'val: 4 images of 2 classes, 1: dog, 2: fox' in result.out
        and 'no folder for 1 of the 3 classes: cat' in result.out
    )


def test_a_resumed_run_refuses_other_class_folders_and_keeps_the_names_with_a_list(trained, data):
    (data / 'train.txt').write_text(''.join(f'train/{name}/0.png {i}\n' for i, name in enumerate(NAMES)))
    lists = ['--cls_label_path_train', data / 'train.txt', '--batch_size 1']
    assert trained(TRAIN, *lists, '--epochs 2 --resume', trained.path(), out='more').code == 0
    assert trained.state('more')['class_names'] == NAMES
    assert trained(TRAIN, *lists, out='new').code == 0
    assert 'class_names' not in trained.state('new') and not (trained.folder / 'new' / 'label_list.txt').exists()
    for split in ('train', 'val'):
        (data / split / 'cat').rename(data / split / 'zebra')
    line = trained.refused(TRAIN, '--epochs 2 --resume auto')
    assert 'class 0 is cat there, but dog by the class folders' in line and f'--data_path {data}' in line
    tuned = trained(TRAIN, '--finetune', trained.path(), out='zebras')
    assert trained.state('zebras')['class_names'] == ['dog', 'fox', 'zebra']
    assert '(class 0 is cat there and dog here); its heads are kept, --remove_head' in tuned.out, 'as timm does'
    assert 'heads are kept' not in trained(TRAIN, '--finetune', trained.path('zebras'), out='again').out


def test_a_training_by_a_list_keeps_the_names_of_its_label_list(train, data):
    lines = [f'train/{name}/0.png {i}' for i, name in enumerate(['fox', 'cat', 'dog'])]
    (data / 'train.txt').write_text('\n'.join(lines))
    (data / 'names.txt').write_text('0 fox\n1 cat\n2 dog\n')
    (data / 'twice.txt').write_text('0 fox\n1 cat\n2 cat\n')
    train.scenes = data
    by_list = f'--batch_size 1 --cls_label_path_train {data}/train.txt'
    result = train(TRAIN, by_list, f'--label_list {data}/names.txt')
    assert result.code == 0 and 'val: 6 images of 3 classes, 1: cat, 2: dog, 0: fox' in result.out, result.err
    assert train.state()['class_names'] == ['fox', 'cat', 'dog']
    assert '--cls_label_path_train' in train.refused(TRAIN, f'--label_list {data}/names.txt')
    line = train.refused(TRAIN, by_list, f'--label_list {data}/twice.txt')
    assert 'twice.txt: classes 1 and 2 are both called cat' in line


# ---- evaluation assigns ids by name


@pytest.mark.parametrize('kept', [NAMES, ['fox', 'cat', 'dog'], None], ids=['kept', 'another order', 'of train'])
def test_ids_come_from_the_checkpoints_names_or_else_from_train(evaluate, weights, data, kept):
    shutil.rmtree(data / 'val' / 'cat')
    result, rows = evaluate(data, '--resume', weights(kept))
    assert result.code == 0, result.err
    expected = kept or NAMES
    assert {name: row[0] for name, row in rows.items()} == {
        f'{name}/{k}.png': expected.index(name) for name in ('dog', 'fox') for k in range(2)
    }


@pytest.mark.parametrize('split', ['train', 'val'])
def test_without_names_another_number_of_folders_is_refused(evaluate, weights, data, split):
    shutil.rmtree(data / split / 'cat')
    if split == 'val':
        shutil.rmtree(data / 'train')
    result, _ = evaluate(data, '--resume', weights(None))
    assert result.code == 1 and f'{data}/{split}: has 2 class folders, but --nb_classes is 3' in result.err
    assert '--cls_label_path_val' in result.err and '--class_list' in result.err
    if split == 'val':
        photo(data / 'val' / 'ant' / '0.png')
        assert [row[0] for row in evaluate(data, '--resume', weights(None))[1].values()] == [0, 1, 1, 2, 2]


def test_a_list_with_other_ids_than_the_class_folders_is_said(evaluate, train, weights, data):
    lines = [f'val/{name}/0.png {i}' for i, name in enumerate(NAMES)]
    (data / 'right.txt').write_text('\n'.join(lines))
    (data / 'wrong.txt').write_text('\n'.join([lines[0], 'val/fox/0.png 1', 'val/dog/0.png 2']))
    path = weights(NAMES)
    assert 'warning' not in evaluate(data, '--resume', path, '--cls_label_path_val', data / 'right.txt')[0].out
    result, rows = evaluate(data, '--resume', path, '--cls_label_path_val', data / 'wrong.txt')
    assert 'wrong.txt' in result.out and 'has class id 1, but by the names of the classes fox is' in result.out
    assert rows['fox/0.png'][0] == 1, 'the ids of the list count'
    train.scenes = data
    result = train(TRAIN, '--batch_size 1 --cls_label_path_train', data / 'wrong.txt', out='')
    assert result.code == 0 and 'the classes fox is class 2' in result.out, result.err


def test_a_folder_that_is_no_class_is_named(evaluate, weights, data):
    photo(data / 'val' / 'wolf' / '0.png')
    result, _ = evaluate(data, '--resume', weights(NAMES))
    assert result.code == 1 and f'{data}/val: the folder wolf is none of the 3 classes (cat, dog, fox)' in result.err


def test_each_checkpoint_of_a_folder_is_evaluated_with_its_own_names(run, weights, data, tmp_path):
    paths = [weights(['dog', 'fox', 'cat']), weights(NAMES), weights(NAMES)]
    flags = [*THREE, '--data_path', data, '--num_workers', 0, '--results_file', tmp_path / 'x.csv', '--resume']
    alone = [run(eval_script, *flags, path).out.split('* Acc@1')[1].split('\n')[0] for path in paths]
    assert alone[0] != alone[1], 'so that the test can tell them apart'
    result = run(eval_script, *flags, tmp_path / 'weights')
    assert [part.split('\n')[0] for part in result.out.split('* Acc@1')[1:]] == alone
    assert result.out.count('images of 3 classes') == 2, 'one listing for equal names'


@pytest.mark.parametrize('names', ['cat', ['cat', 1, 2], ['cat', 'cat'], [*NAMES, 'ant']], ids=str)
def test_names_that_do_not_fit_are_refused(evaluate, weights, data, names):
    path = weights(names)
    assert f"{path}: its entry 'class_names'" in evaluate(data, '--resume', path)[0].err


# ---- --class_list


def class_list(folder, content):
    path = folder / 'list.txt'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


CLASS_LISTS = [
    ('fox\ncat\n', NAMES, 3, {'fox': 2, 'cat': 0}),
    ('10\n2\n\n', None, 1000, {'10': 10, '2': 2}),
    ('10\n2\n', ['10', '2', '1'], 3, {'10': 0, '2': 1}),
    ('n01440764\nn15075141\n', None, 1000, {'n01440764': 0, 'n15075141': 999}),
    (b'caf\xe9\n', ['a', 'caf\udce9'], 2, {'caf\udce9': 1}),
    ('猫\n', ['猫', 'dog'], 2, {'猫': 0}),
]


@pytest.mark.parametrize('content, names, classes, ids', CLASS_LISTS)
def test_lines_of_a_class_list_are_names_of_the_model_or_ids_or_wordnet_ids(tmp_path, content, names, classes, ids):
    assert class_names.read_class_list(class_list(tmp_path, content), names, classes) == ids


BAD_CLASS_LISTS = [
    ('', NAMES, 3, 'lists no classes'),
    ('cat\nwolf\n', NAMES, 3, "line 2: 'wolf'"),
    ('cat\n', None, 3, "line 1: 'cat'"),
    ('0\n3\n', None, 3, "line 2: '3'"),
    ('n01440764\n\nn00000000\n', None, 1000, "line 3: 'n00000000'"),
    ('cat\ndog\ncat\n', NAMES, 3, 'line 3: class 0 is in line 1 already'),
    ('1\n01\n', None, 3, 'line 2: class 1 is in line 1 already'),
]


@pytest.mark.parametrize('content, names, classes, says', BAD_CLASS_LISTS)
def test_the_line_of_a_class_list_that_is_wrong_is_named(tmp_path, content, names, classes, says):
    with pytest.raises(UserError, match='--class_list') as error:
        class_names.read_class_list(class_list(tmp_path, content), names, classes)
    assert says in str(error.value)


@pytest.mark.cross_version
def test_only_the_logits_of_listed_classes_count(evaluate, weights, data, tmp_path):
    shutil.rmtree(data / 'val' / 'dog')
    names = class_list(tmp_path, 'fox\ncat\n')
    tables = ['--per_class', tmp_path / 'classes.csv', '--confusion', tmp_path / 'matrix.csv']
    result, rows = evaluate(data, '--resume', weights(NAMES), '--class_list', names, *tables)
    assert f'--class_list {names}: 2 of 3 classes count' in result.out, result.err
    model = models.build_model('lvvit_nano', img_size=32, num_classes=3)
    model.set_state_dict(random_weights(0, num_classes=3))
    model.eval()
    for name, (label, loss, *top) in rows.items():
        assert label == NAMES.index(name.split('/')[0])
        image = EvalTransform(32, 1.0)(Image.open(data / 'val' / name))
        logits = model(paddle.to_tensor(image[None])).numpy()[0].astype('float64')
        assert top == ([0, 2] if logits[0] > logits[2] else [2, 0])
        scores = np.exp(logits[[0, 2]])
        assert loss == pytest.approx(-np.log(np.exp(logits[int(label)]) / scores.sum()), abs=1e-4)
    assert [row.split(',')[:2] for row in (tmp_path / 'classes.csv').read_text().splitlines()[1:]] == [
        ['0', 'cat'],
        ['2', 'fox'],
    ]
    matrix = [row.split(',') for row in (tmp_path / 'matrix.csv').read_text().splitlines()]
    assert matrix[0] == ['true\\predicted', '0', '2'] and [row[0] for row in matrix[1:]] == ['0', '2']
    assert sum(int(number) for row in matrix[1:] for number in row[1:]) == 4


def test_what_a_class_list_leaves_out_is_refused(evaluate, weights, data, tmp_path):
    flags = ['--resume', weights(NAMES), '--class_list', class_list(tmp_path, 'cat\nfox\n')]
    assert 'the folder dog is none of the 2 classes' in evaluate(data, *flags)[0].err
    assert '--topk 3: --class_list' in evaluate(data, *flags, '--topk', 3)[0].err
    (data / 'val.txt').write_text('val/cat/0.png 0\nval/dog/0.png 1\n')
    lists = ['--cls_label_path_val', data / 'val.txt']
    assert 'val/dog/0.png has class id 1, which is not a class of --class_list' in evaluate(data, *flags, *lists)[0].err


def test_the_folders_of_imagenet_v2_are_class_ids(tmp_path):
    """Sorted as text, 10 comes before 2."""
    for name in ('0', '10', '2'):
        photo(tmp_path / 'val' / name / 'x.png')
    listed = class_names.read_class_list(class_list(tmp_path, '\n'.join(map(str, range(1000)))), None, 1000)
    assert read_validation(str(tmp_path), None, 1000, None, listed).labels.tolist() == [0, 10, 2]


def test_real_labels_count_among_the_listed_classes(run, weights, data, tmp_path):
    shutil.rmtree(data / 'val' / 'dog')
    real = {f'{name}/{k}.png': [1] if k else [0, 1, 2] for name in ('cat', 'fox') for k in range(2)}
    (tmp_path / 'real.json').write_text(json.dumps(real))
    flags = ['--class_list', class_list(tmp_path, 'cat\nfox\n'), '--real_labels', tmp_path / 'real.json']
    result = run(eval_script, *THREE, '--data_path', data, '--num_workers', 0, '--resume', weights(NAMES), *flags)
    assert 'ReaL@1 100.000' in result.out and 'on 2 images (2 without a label do not count)' in result.out, result.err


# ---- they are shown


STRANGE = ['猫', 'caf\udce9', 'two words']  # a folder in Chinese, one in Latin-1
SHOWN = ['猫', 'caf\\udce9', 'two words']


def test_records_and_exports_have_the_names_that_a_label_list_overrides(run, weights, data, tmp_path, monkeypatch):
    path, image = weights(STRANGE), data / 'val' / 'cat' / '0.png'
    (record,) = records(run(predict, *THREE, '--resume', path, '--infer_imgs', image))
    assert record['label_names'] == [SHOWN[i] for i in record['class_ids']]

    def without_network(model, folder, settings, format):
        inference_yml.write_settings(folder, settings, [])

    monkeypatch.setattr(export, 'write_export', without_network)
    assert run(export_model, *THREE, '--resume', path, '--output_dir', tmp_path / 'export').code == 0
    exported = inference_yml.read_settings(str(tmp_path / 'export' / 'inference.yml'))
    assert exported['label_names'] == dict(enumerate(SHOWN))
    (tmp_path / 'names.txt').write_text('0 zero\n1 one\n2 two\n')
    (record,) = records(
        run(predict, *THREE, '--resume', path, '--infer_imgs', image, '--label_list', tmp_path / 'names.txt')
    )
    assert set(record['label_names']) == {'zero', 'one', 'two'}
    drawn = run(visualize, *THREE, '--resume', path, '--input', image, '--output', tmp_path / 'x.png')
    assert drawn.code == 0, drawn.err


def test_fewer_names_than_classes_and_wordnet_ids():
    assert class_names.to_show(None, ['cat', 'dog'], 3) == {0: 'cat', 1: 'dog'}
    assert class_names.to_show(None, ['n01443537', 'cat'], 3) == {0: 'goldfish, Carassius auratus', 1: 'cat'}
    assert class_names.to_show(None, None, 1000)[0] == 'tench, Tinca tinca' and class_names.to_show(None, None, 3) == {}


@pytest.mark.cross_version
@pytest.mark.parametrize('ending', ['pdparams', 'safetensors'])
def test_converted_weights_keep_the_names(run, weights, tmp_path, ending):
    target = tmp_path / f'x.{ending}'
    assert run(convert_weight, weights(STRANGE), target).code == 0
    assert read(str(target))['class_names'] == STRANGE
    again = tmp_path / 'again.pdparams'
    assert run(convert_weight, target, again).code == 0
    state = read(str(again))
    assert state['class_names'] == STRANGE and set(state['model']) == set(random_weights(0))


# ---- label maps


def test_an_annotators_names_give_the_ids_of_class_folders(run, weights, data, tmp_path):
    path = weights(['fox', 'dog', 'ant'])
    flags = ['--model', 'lvvit_nano', '--img_size', 32, '--nb_classes', 3, '--num_workers', 0, '--resume', path]
    result = run(generate_label, data, tmp_path / 'maps', *flags)
    assert result.code == 0, result.err
    assert '1 of the 3 class folders are no classes of the annotator: cat' in result.out
    maps = {name: [np.load(tmp_path / 'maps' / name / f'{k}.npy') for k in range(2)] for name in ('dog', 'fox')}
    means = {name: [mean_scores(array).argmax() for array in arrays] for name, arrays in maps.items()}
    right = sum(guess == ['fox', 'dog'].index(name) for name, guesses in means.items() for guess in guesses)
    assert f'* Acc@1 {100 * right / 4:.3f} of the mean over the cells, on 4 images' in result.out


def test_a_training_refuses_maps_in_which_a_class_has_another_id(run, train, weights, data, tmp_path):
    maps = tmp_path / 'maps'
    flags = ['--model', 'lvvit_nano', '--img_size', 32, '--nb_classes', 3, '--num_workers', 0]
    assert run(generate_label, data, maps, *flags, '--resume', weights(NAMES)).code == 0
    assert json.loads((maps / 'meta.json').read_text())['class_names'] == NAMES
    assert LabelMaps(str(maps), 3).names_for(read_samples(str(data), 'train', None, 3)).tolist()[0] == b'cat/0'
    shutil.rmtree(data / 'train' / 'cat')
    train.scenes = data
    line = train.refused(TRAIN, '--token_label --token_label_data', maps)
    assert 'meta.json' in line and 'class dog has id 1' in line and 'but 0 by the class folders' in line


def mean_scores(array):
    """The mean score of each class, [3], of a map [2, 3, H, H] that holds all three."""
    scores, ids = array.astype('float64')
    return np.array([scores[ids == i].mean() for i in range(3)])
