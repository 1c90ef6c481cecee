"""eval.py: accuracy does not depend on batch size or processes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

import eval as eval_script
import models
from conftest import ROOT, words
from engine import evaluate
from inference_helpers import MODEL, random_model, random_weights
from util.data.transforms import EvalTransform
from util.weights import checkpoint, settings


CLASSES, IMAGES = 10, 101  # neither the batch sizes nor the numbers of processes below divide the images


def numbers(text):
    """(acc1, acc5, loss, images) of the closing line, as printed."""
    (line,) = re.findall(r'\* Acc@1 (\S+) Acc@5 (\S+) loss (\S+) on (\d+) images', text)
    return line


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A model of CLASSES classes; model.file is its checkpoint."""
    model = random_model()
    model.file = tmp_path_factory.mktemp('weights') / 'x.pd'
    checkpoint.save({'model': model.state_dict()}, str(model.file))
    return model


@pytest.fixture
def val(scenes):
    """Flags of eval.py for the validation scenes."""
    return [*MODEL, '--data_path', scenes, '--cls_label_path_val', scenes / 'val_list.txt', '--num_workers', 0]


# ---- what is evaluated


def test_fewer_than_5_classes(run, val, scenes, tmp_path):
    lines = [line.split() for line in (scenes / 'val_list.txt').read_text().splitlines()]
    (tmp_path / 'list.txt').write_text(''.join(f'{path} {int(i) % 3}\n' for path, i in lines))
    checkpoint.save({'model': random_weights(0, num_classes=3)}, str(tmp_path / 'x.pd'))
    three = ['--cls_label_path_val', tmp_path / 'list.txt', '--nb_classes', 3, '--resume', tmp_path / 'x.pd']
    assert numbers(run(eval_script, *val, *three).out)[1] == '100.000'


def test_the_models_own_crop_is_used_unless_one_is_given_and_folders_count_as_lists(run, val, scenes, model):
    flags = [*val, '--resume', model.file]
    own = run(eval_script, *flags)
    assert own.code == 0 and own.err == ''
    assert '20 images, input 32, crop_pct 1.0 (bicubic, short side to 32)' in own.out
    assert numbers(run(eval_script, *flags, '--crop_pct', 1).out) == numbers(own.out)
    assert numbers(run(eval_script, *flags, '--crop_pct', 0.5).out) != numbers(own.out)
    assert numbers(run(eval_script, *flags, '--cls_label_path_val', '').out) == numbers(own.out)
    assert f'] Accuracy of the network on the 20 test images: {float(numbers(own.out)[0]):.1f}%\n' in own.out


@pytest.mark.cross_version
def test_outputs_that_are_not_finite_are_an_error_that_names_the_first_image(refused, val, tmp_path):
    weights = {**random_weights(0), 'head.weight': np.full([128, 10], 3e38, 'float32')}
    checkpoint.save(weights, str(tmp_path / 'x.pd'))
    flags = ['--resume', tmp_path / 'x.pd', '--per_class', tmp_path / 'classes.csv']
    line = refused(eval_script, *val, *flags)
    assert 'not finite' in line and '20 of 20 images' in line and not (tmp_path / 'classes.csv').exists()
    with open(val[val.index('--cls_label_path_val') + 1]) as f:
        assert f.readline().split()[0] in line


# ---- a folder of checkpoints


@pytest.fixture
def checkpoints(tmp_path, model):
    """A folder with the weights of three seeds, two as checkpoints, one as plain weights, and a log."""
    folder = tmp_path / 'checkpoints'
    folder.mkdir()
    for name, seed in ('checkpoint-9.pd', 0), ('checkpoint-10.pd', 1):
        checkpoint.save({'model': random_weights(seed), 'epoch': 8 + seed}, str(folder / name))
    checkpoint.save(random_weights(2), str(folder / 'x.pdparams'))
    (folder / 'log.txt').write_text('{}')
    return folder


def test_all_checkpoints_of_a_folder_are_evaluated_into_one_table(run, val, checkpoints, tmp_path):
    result = run(eval_script, *val, '--resume', checkpoints, '--results_file', tmp_path / 'results.csv')
    assert result.code == 0, result.err
    with open(tmp_path / 'results.csv', newline='') as f:
        header, *rows = list(csv.reader(f))
    assert header == ['checkpoint', 'epoch', 'images', 'acc1', 'acc5', 'loss']
    names = ['checkpoint-9.pd', 'checkpoint-10.pd', 'x.pdparams']
    assert [row[0] for row in rows] == [str(checkpoints / name) for name in names], 'by number, then by name'
    assert [row[1] for row in rows] == ['8', '9', '']
    alone = run(eval_script, *val, '--resume', rows[1][0], '--results_file', tmp_path / 'one.csv')
    assert numbers(alone.out) == (rows[1][3], rows[1][4], rows[1][5], rows[1][2])
    assert table(tmp_path / 'one.csv') == [rows[1]]
    shown = [line for line in result.out.splitlines() if re.search(r'(\.pd|\.pdparams)  +[89 ]  +20  ', line)]
    assert len(shown) == 3
    accuracies = [float(line.split()[-3]) for line in shown]
    assert accuracies == sorted(accuracies, reverse=True), 'the best first'


def test_checkpoints_with_the_same_content_are_evaluated_once(run, val, checkpoints):
    os.link(checkpoints / 'checkpoint-9.pd', checkpoints / 'checkpoint-best.pd')
    shutil.copy(checkpoints / 'checkpoint-10.pd', checkpoints / 'checkpoint-latest.pd')
    (checkpoints / 'x.pdparams').unlink()
    result = run(eval_script, *val, '--resume', checkpoints)
    assert result.code == 0 and result.out.count('* Acc@1') == 2, result.err
    assert f'{checkpoints}/checkpoint-best.pd: the same as checkpoint-9.pd' in result.out
    assert f'{checkpoints}/checkpoint-latest.pd: the same as checkpoint-10.pd' in result.out


def test_folders_that_cannot_be_evaluated_are_refused(refused, val, checkpoints, tmp_path):
    (tmp_path / 'empty').mkdir()
    assert f'{tmp_path}/empty: no checkpoints' in refused(eval_script, *val, '--resume', tmp_path / 'empty')
    line = refused(eval_script, *val, '--resume', checkpoints, '--per_class', tmp_path / 'c.csv')
    assert '--per_class' in line and '--results_file' in line


# ---- every prediction


@pytest.fixture(scope='module')
def photos(tmp_path_factory, model):
    """101 images named as ImageNet's. On each the model's six best classes are more than 0.01 apart: no ties.

    Returns (folder, flags of eval.py, logits [101, 10] of one image at a time, labels).
    """
    folder = tmp_path_factory.mktemp('photos')
    rng, transform, kept, lines = np.random.default_rng(0), EvalTransform(32, 0.9), [], []
    numbers = iter(rng.permutation(50_000) + 1)
    while len(kept) < IMAGES:
        image = Image.fromarray(rng.integers(0, 256, (2, 3, 3), dtype='uint8')).resize(rng.integers(30, 60, 2).tolist())
        logits = model(paddle.to_tensor(transform(image)[None])).numpy()[0]
        if -np.diff(np.sort(logits)[::-1][:6]).max() > 0.01:
            name = f'ILSVRC2012_val_{next(numbers):08d}.png'
            image.save(folder / name)
            lines.append(f'{name} {rng.choice(np.argsort(-logits)[:8])}\n')
            kept.append(logits)
    (folder / 'list.txt').write_text(''.join(lines))
    (folder / 'two.txt').write_text(''.join(lines[:2]))
    flags = [*MODEL, '--resume', model.file, '--crop_pct', 0.9, '--num_workers', 0]
    flags += ['--data_path', folder, '--cls_label_path_val', folder / 'list.txt']
    return folder, flags, np.array(kept), np.array([int(line.split()[1]) for line in lines])


def table(path):
    with open(path, newline='') as f:
        return list(csv.reader(f))[1:]


def check_predictions(path, logits, labels):
    """A file of --save_predictions has the labels and the five best classes of every image, in order, and its loss."""
    rows = table(path)
    assert [int(row[1]) for row in rows] == labels.tolist()
    assert [[int(i) for i in row[3:]] for row in rows] == np.argsort(-logits)[:, :5].tolist()
    logits = logits.astype('float64')
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    np.testing.assert_allclose([float(row[2]) for row in rows], losses, atol=1e-4)


@pytest.mark.cross_version
def test_predictions_in_batches_are_those_of_one_image_at_a_time(run, photos, tmp_path):
    folder, flags, logits, labels = photos
    result = run(eval_script, *flags, '--batch_size', 7, '--save_predictions', tmp_path / 'x.csv')
    check_predictions(tmp_path / 'x.csv', logits, labels)
    hits, top = logits.argmax(1) == labels, np.argsort(-logits)[:, :5] == labels[:, None]
    acc1, acc5, loss, count = numbers(result.out)
    assert 0 < hits.sum() < top.sum() < IMAGES == int(count)
    assert (acc1, acc5) == (f'{100 * hits.mean():.3f}', f'{100 * top.any(1).mean():.3f}')
    losses = [float(row[2]) for row in table(tmp_path / 'x.csv')]
    assert float(loss) == pytest.approx(np.mean(losses), abs=1e-3)


def test_an_image_that_is_counted_twice_or_not_at_all_is_an_error(photos, model):
    args = eval_script.parser().parse_args([*map(str, photos[1]), '--batch_size', '64'])
    settings.complete(args, models.FAMILY)
    twice = eval_script.new_eval_loader(args)
    twice.sampler.indices = [*twice.sampler.indices, 0]  # as padding does
    for wrong in (twice, eval_script.new_eval_loader(args, 0, 2)):  # half of the set
        with pytest.raises(RuntimeError, match='every image of the set exactly once'):
            evaluate(wrong, model)


def test_protocols_and_tables_of_a_whole_evaluation(run, photos, tmp_path):
    """Every image but one has its label as ReaL label, so that ReaL and ordinary accuracy are nearly the same."""
    folder, flags, logits, labels = photos
    names = [line.split()[0] for line in (folder / 'list.txt').read_text().splitlines()]
    real = {name: [int(label)] for name, label in zip(names, labels)}
    (tmp_path / 'real.json').write_text(json.dumps({**real, names[0]: []}))
    (tmp_path / 'names.txt').write_text(''.join(f'{i} class {i}, or so\n' for i in range(CLASSES)))
    protocols = ['--real_labels', tmp_path / 'real.json', '--label_list', tmp_path / 'names.txt', '--topk', 3, 1]
    tables = ['--per_class', tmp_path / 'classes.csv', '--confusion', tmp_path / 'matrix.csv']
    result = run(eval_script, *flags, *protocols, *tables)
    order = np.argsort(-logits)
    hits = {k: (order[:, :k] == labels[:, None]).any(axis=1) for k in (1, 3)}
    assert f'* Acc@1 {100 * hits[1].mean():.3f} Acc@3 {100 * hits[3].mean():.3f} loss' in result.out
    assert f'* ReaL@1 {100 * hits[1][1:].mean():.3f} ReaL@3 {100 * hits[3][1:].mean():.3f} on 100 images' in result.out
    rows = table(tmp_path / 'classes.csv')
    assert [row[1] for row in rows] == [f'class {i}, or so' for i in range(CLASSES)]
    assert (
        sum(int(row[3]) for row in rows)
        == hits[1].sum()
        == np.trace([[int(n) for n in row[1:]] for row in table(tmp_path / 'matrix.csv')])
    )


def test_flags_that_do_not_fit_are_refused(refused, photos, tmp_path):
    for wrong, says in [
        ('--topk 1 11', '--topk 11: there are only 10 classes'),
        ('--topk 0', '--topk'),
        ('--crop_pct 0', '--crop_pct: must be above 0'),
        ("--resume ''", '--resume is missing'),
        (f'--real_labels {tmp_path}/real.json', 'real.json: no such file'),
        (f'--confusion {tmp_path}', '--confusion'),
        ('--per_class /proc/nowhere/a.csv', '--per_class /proc/nowhere/a.csv'),
        ('--per_class a.csv --confusion ./a.csv', '--per_class and --confusion'),
    ]:
        assert says in refused(eval_script, *photos[1], *words(wrong))


# ---- several processes (of training: tests/test_dist.py)


def launch(folder, script, *argv, processes):
    """Run a script through `python -m paddle.distributed.launch`; returns the output of each process."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'PADDLE_', 'FLAGS_'))}
    launcher = f'-m paddle.distributed.launch --nproc_per_node {processes} --backend gloo --log_dir log'
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    done = subprocess.run(words(sys.executable, launcher, script, *argv), cwd=folder, env=clean, timeout=120, **pipes)
    texts = [path.read_text() for path in sorted((folder / 'log').glob('workerlog.*'))]
    assert done.returncode == 0 and len(texts) == processes, done.stdout[-2000:] + '\n'.join(texts)[-3000:]
    return texts


THREE = f"""import sys
sys.path.insert(0, {str(ROOT)!r})
import eval
for size in ('3', '64', 'two.txt'):
    words = sys.argv[1:] + ['--save_predictions', size + '.csv']
    words += ['--batch_size', size] if size.isdigit() else ['--cls_label_path_val', sys.argv[1] + '/' + size]
    eval.main(eval.parser().parse_args(words[1:]))
"""


def test_predictions_are_the_same_on_three_processes(run, photos, tmp_path):
    """For a set that neither they nor the batch sizes divide, and for two images, so that one process has none."""
    folder, flags, logits, labels = photos
    (tmp_path / 'three.py').write_text(THREE)
    outputs = launch(tmp_path, tmp_path / 'three.py', folder, *flags, '--confusion', 'confusion.csv', processes=3)
    lines = re.findall(r'\* Acc@1.*', outputs[0])
    assert len(lines) == 3
    assert lines[:2] == re.findall(r'\* Acc@1.*', run(eval_script, *flags).out) * 2 and '3 process(es)' in outputs[0]
    assert 'Acc@1' not in outputs[1] + outputs[2], 'one stream of lines'
    for size in (3, 64):
        check_predictions(tmp_path / f'{size}.csv', logits, labels)
    check_predictions(tmp_path / 'two.txt.csv', logits[:2], labels[:2])
    assert sum(int(n) for row in table(tmp_path / 'confusion.csv') for n in row[1:]) == 2
