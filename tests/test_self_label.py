"""tools/self_label.py: labeler, maps and student, from a folder of photos."""

import os
import shlex
import shutil
import signal
import sys

import numpy as np
import onnx_files
import pytest

import generate_label
import main
import predict
from conftest import execute, words
from inference_helpers import records
from tools import fit_annotator, self_label
from util import files, logger
from util.errors import UserError

SMALL = (
    '--model lvvit_nano --input_size 32 --batch_size 8 --epochs 1 --warmup_epochs 0 --cooldown_epochs 0 '
    '--num_workers 0 --mixup 0 --cutmix 0 --seed 3'
)


@pytest.fixture
def photos(scenes, tmp_path):
    """Class folders without train/ and val/: 4 photos in each of 10."""
    shutil.copytree(scenes / 'train', tmp_path / 'photos')
    return tmp_path / 'photos'


@pytest.fixture
def steps(monkeypatch):
    """The command lines of the steps, which are not run."""
    lines = []

    def keep(self, title, line, launched=True):
        lines.append(' '.join(line))

    monkeypatch.setattr(self_label.Steps, 'run', keep)
    monkeypatch.setattr(files, 'read_log', lambda path: [{'test_acc1': 50.0, 'best_acc1': 60.0}])
    return lines


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs the steps in this process; a list of the titles of those that --launch would start with the launcher."""
    scripts = {'main.py': main, 'generate_label.py': generate_label, 'tools/fit_annotator.py': fit_annotator}
    titles = []

    def run(self, title, line, launched=True):
        log_file = logger._copy
        assert execute(scripts[line[0]], *line[1:]) == 0, title
        logger._copy = log_file  # a step is a process of its own otherwise
        titles.extend([title] if launched else [])

    monkeypatch.setattr(self_label.Steps, 'run', run)
    return titles


def test_from_photos_to_a_student(run, photos, tmp_path, in_this_process):
    result = run(self_label, photos, tmp_path / 'out', *words(SMALL))
    assert result.code == 0 and '10 classes, 30 training photos, 10 validation photos' in result.out, result.out
    maps = list((tmp_path / 'out/maps').rglob('*.npy'))
    assert result.out.count('Training time') == 2 and len(maps) == 30
    assert np.load(maps[0]).shape == (2, 5, 4, 4), 'at 64 pixels there are 4x4 cells of 16'
    *_, accuracy, command = [line.split('] ')[1] for line in result.out.splitlines()]
    assert accuracy.startswith('student: top-1 ') and 'on 10 validation photos' in accuracy
    script, *flags = shlex.split(command.partition('python ')[2])
    (record,) = records(run(predict, *flags))
    assert script == 'predict.py' and record['label_names'][0].startswith('digit')
    more = run(self_label, photos, tmp_path / 'out', *words(SMALL, '--epochs 2'))
    assert more.code == 1 and f'delete {tmp_path}/out/maps and {tmp_path}/out/student' in more.err
    assert 'labeler: has 1 of 2 epochs' in more.err and more.out == '', 'before the labeler is trained on'


def test_a_batch_larger_than_the_set_becomes_as_large_as_the_set(run, photos, steps, tmp_path):
    (photos / 'unlabelled').mkdir()
    shutil.copy(next((photos / 'digit0').iterdir()), photos / 'unlabelled/0.jpg')
    result = run(self_label, photos, tmp_path / 'out', *words(SMALL, '--batch_size 64'))
    labeler, maps, student = steps
    assert labeler.endswith('--batch_size 30') and student.endswith('--batch_size 31') and '--batch_size' not in maps
    assert 'labeler: --batch_size 30 instead of 64: there are 30 training photos' in result.out
    steps.clear()
    run(self_label, photos, tmp_path / 'out', *words(SMALL, '--batch_size 15 --accum_iter 2'))
    assert '--batch_size 15' in steps[0] and not steps[0].endswith('15'), 'fits'
    run(self_label, photos, tmp_path / 'out', *words(SMALL, '--batch_size 20 --accum_iter 2'))
    assert steps[3].endswith('--batch_size 15')


FAILURES = [
    ('labeler', 1, 'remove the cause'),
    ('maps', 1, 'delete OUT/maps and OUT/student, or give another OUT'),
    ('maps', -9, 'the same command resumes'),
    ('student', 143, 'the same command resumes'),
]


@pytest.mark.parametrize('title, code, says', FAILURES)
def test_the_remedy_of_a_failed_step_is_one_that_works(tmp_path, title, code, says):
    end = 'os.kill(os.getpid(), 9)' if code < 0 else f'os._exit({code})'
    (tmp_path / 'step.py').write_text(f'import os; {end}')
    with pytest.raises(UserError) as error:
        self_label.Steps(str(tmp_path), '').run(title, [str(tmp_path / 'step.py')])
    assert says.replace('OUT/', f'{tmp_path}/') in str(error.value)
    assert ('same command' in says) == ('same command' in str(error.value))


TOLD = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit('saved'))
print('trains', flush=True)
while 'trains' not in open(sys.argv[1]).read():
    time.sleep(0.01)
os.kill(os.getppid(), signal.SIGTERM)
signal.pause()
"""


def test_sigterm_ends_the_step_too_and_the_log_has_its_last_line(tmp_path):
    (tmp_path / 'step.py').write_text(TOLD)
    copy = tmp_path / 'self_label.log'
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(SystemExit):
            self_label.Steps(str(tmp_path), '').run('labeler', [str(tmp_path / 'step.py'), str(copy)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert copy.read_text().splitlines() == ['trains', 'saved']


@pytest.fixture
def few_labels(scenes, tmp_path):
    """Two classes of 14 scenes each, and 12 scenes without a label."""
    paths = sorted((scenes / 'train').rglob('*.JPEG'))
    for name, part in (('low', paths[:14]), ('high', paths[14:28]), ('unlabelled', paths[28:])):
        (tmp_path / 'scenes' / name).mkdir(parents=True)
        for path in part:
            shutil.copy(path, tmp_path / 'scenes' / name)
    return tmp_path / 'scenes'


@pytest.fixture
def backbone(tmp_path):
    """A stand-in for a pretrained network: 16 features of each patch of 16 pixels."""
    says = {'img_size': '32', 'mean': '0.5 0.5 0.5', 'std': '0.5 0.5 0.5'}
    return onnx_files.save(tmp_path / 'backbone.onnx', *onnx_files.patches(classes=16), metadata=says)


def test_few_labels_and_a_backbone_make_a_student_of_all_photos(run, few_labels, backbone, tmp_path, in_this_process):
    command = ['--annotator', backbone, few_labels, tmp_path / 'out', *words(SMALL)]
    result = run(self_label, *command)
    assert result.code == 0, result.err
    maps = list((tmp_path / 'out/maps').rglob('*.npy'))
    assert len(maps) == 38 and np.load(maps[0]).shape == (2, 2, 2, 2), 'all but the two that are held out'
    assert len(list((tmp_path / 'out/maps').rglob('unlabelled/*.npy'))) == 12
    assert in_this_process == ['maps', 'student'], 'one process fits the annotator'
    table = [line.split('] ')[1] for line in result.out.splitlines()[-3:-1]]
    assert table[0].startswith('annotator: top-1 ') and 'on 26 labelled photos' in table[0]
    assert table[1].startswith('student: top-1 ')
    assert table[0] in (tmp_path / 'out/self_label.log').read_text()
    again = run(self_label, *command)
    assert again.code == 0 and 'fitted before' in again.out and '0 maps written' in again.out
    assert again.out.splitlines()[-2].split('] ')[1] == table[1], 'nothing is trained again'


def test_with_an_annotator_the_class_token_learns_the_labels(run, few_labels, backbone, steps, tmp_path, monkeypatch):
    monkeypatch.setattr(self_label, 'log_results', lambda *_: None)
    own = ['--annotator', backbone, '--annotator_flags', '--img_size 48']
    assert run(self_label, *own, few_labels, tmp_path / 'out', *words(SMALL)).code == 0
    fit, maps, student = steps
    assert fit.startswith(f'tools/fit_annotator.py {backbone} {few_labels} {tmp_path}/out/annotator.onnx')
    assert 'labelled_list.txt' in fit and fit.endswith('--img_size 48')
    assert f'--model {tmp_path}/out/annotator.onnx' in maps and 'train_list.txt' in maps and '--img_size' not in maps
    assert '--ground_truth only' in student and 'gumbel' not in student and 'train_list.txt' in student


@pytest.mark.parametrize(
    'flags, word',
    [
        ('--annotator nowhere.onnx', 'nowhere.onnx: no such file'),
        ('--annotator BACKBONE --map_size 64', '--map_size'),
        ('--annotator BACKBONE --labeler_flags "--epochs 2"', '--labeler_flags'),
        ('--annotator_flags "--img_size 64"', '--annotator_flags'),
        ('--annotator BACKBONE --annotator_flags "--img_sise 64"', '--img_sise'),
    ],
)
def test_flags_that_do_not_fit_an_annotator_are_refused(refused, few_labels, backbone, steps, tmp_path, flags, word):
    own = words(flags.replace('BACKBONE', backbone))
    assert word in refused(self_label, *own, few_labels, tmp_path / 'out', *words(SMALL)) and not steps


def test_a_class_with_too_few_labels_is_refused_before_the_first_step(refused, few_labels, backbone, steps, tmp_path):
    for path in sorted((few_labels / 'low').iterdir())[:4]:
        path.rename(few_labels / 'unlabelled' / path.name)
    line = refused(self_label, '--annotator', backbone, few_labels, tmp_path / 'out', *words(SMALL))
    assert 'class low has 9 labelled photos to learn from' in line and not steps, 'one of ten is held out'


def test_photos_without_labels_teach_the_student_alone_and_are_never_held_out(run, photos, steps, tmp_path):
    (photos / 'unlabelled').mkdir()
    for i in range(5):
        shutil.copy(next((photos / 'digit0').iterdir()), photos / f'unlabelled/{i}.jpg')
    assert run(self_label, photos, tmp_path / 'out', *words(SMALL)).code == 0
    labeler, maps, student = steps
    assert 'labelled_list.txt' in labeler and 'train_list.txt' in maps and 'train_list.txt' in student

    def labels(name):
        return [int(line.split()[-1]) for line in (tmp_path / f'out/{name}_list.txt').read_text().splitlines()]

    assert labels('train').count(-1) == 5 and len(labels('train')) == 35 and len(labels('labelled')) == 30
    assert min(labels('labelled') + labels('val')) == 0 and '--nb_classes 10' in student


def test_each_step_gets_its_flags(run, photos, steps, tmp_path):
    own = "--map_size 96 --launch '--nproc_per_node 2' --labeler_flags '--epochs 9' --student_flags '--drop_path 0.2'"
    assert run(self_label, *words(own), photos, tmp_path / 'out', *words(SMALL, '--lr 1e-3')).code == 0
    labeler, maps, student = steps
    for training, name in (labeler, 'labeler'), (student, 'student'):
        assert SMALL in training and '--lr 1e-3' in training and '--nb_classes 10 --resume auto' in training
        assert training.endswith(f'--output_dir {tmp_path}/out/{name}')
    assert '--token_pool_weight 1 --epochs 9' in labeler and '--token_label ' not in labeler
    assert f'--token_label --token_label_data {tmp_path}/out/maps --drop_path 0.2' in student
    assert 'gumbel' not in student, '--student_flags replaces the default'
    assert '--img_size 96' in maps and 'checkpoint-best.pd --relative_scores' in maps


def test_the_defaults_are_those_of_the_paper_and_maps_at_twice_the_input_size(run, photos, steps, tmp_path):
    assert run(self_label, photos, tmp_path / 'out', *words(SMALL)).code == 0
    assert '--img_size 64' in steps[1] and '--ground_truth only --token_label_gumbel' in steps[2]


def test_the_same_share_of_each_class_is_held_out_every_time(photos, tmp_path):
    lists = []
    for out in ('a', 'b'):
        assert self_label.write_lists(str(photos), str(tmp_path / out), 0.5, 0) == 10
        lists.append([(tmp_path / out / f'{split}_list.txt').read_text() for split in ('train', 'val')])
    assert lists[0] == lists[1]
    train, val = (text.splitlines() for text in lists[0])
    assert len(train) == len(val) == 20 and not set(train) & set(val)
    assert sorted(line.split()[1] for line in val) == sorted(str(c) for c in range(10) for _ in range(2))
    assert all((photos / line.split()[0]).exists() for line in train + val)
    assert (tmp_path / 'a/label_list.txt').read_text().startswith('0 digit0\n1 digit1\n')


def test_a_folder_val_is_the_validation_set(scenes, tmp_path):
    self_label.write_lists(str(scenes), str(tmp_path), 0.5, 0)
    for name in ('train_list.txt', 'val_list.txt'):
        lines, expected = ((folder / name).read_text().splitlines() for folder in (tmp_path, scenes))
        assert sorted(lines) == sorted(expected)


@pytest.mark.parametrize('flags', ['--output_dir x', '--val_share 0.5', '--epohcs 3', '--lr much'])
def test_wrong_flags_are_an_error_before_the_first_step(run, photos, steps, tmp_path, flags):
    result = run(self_label, photos, tmp_path / 'out', *words(SMALL, flags))
    assert result.code != 0 and flags.split()[0] in result.err and result.err.count('\n') == 1 and not steps


def test_unusable_photos_are_refused(refused, steps, photos, tmp_path):
    out = tmp_path / 'out'
    assert '/nowhere' in refused(self_label, '/nowhere', out)
    assert '--val_share: must be above 0 and below 1, not 1' in refused(self_label, '--val_share', 1, photos, out)
    for photo in list((photos / 'digit7').iterdir())[1:]:
        photo.unlink()
    assert 'digit7' in refused(self_label, photos, out), 'a single photo cannot be in both lists'
    for folder in list(photos.iterdir()):
        if folder.name != 'digit7':
            shutil.rmtree(folder)
    assert 'one class only (digit7)' in refused(self_label, photos, out) and not steps


def names_in(list_file):
    return {line.rsplit(' ', 1)[0] for line in list_file.read_text().splitlines()}


def test_photos_that_cannot_be_decoded_are_named_once_and_left_out_of_all_steps(run, photos, steps, tmp_path):
    bad = sorted(photos.rglob('*.JPEG'))[:40:5]
    for photo in bad:
        os.truncate(photo, 300)
    result = run(self_label, '--val_share', 0.3, photos, tmp_path / 'out', *words(SMALL))
    assert result.code == 0 and len(steps) == 3 and f'left out {len(bad)} photos' in result.out
    assert [line.split(': ')[1] for line in result.err.splitlines()] == [str(photo) for photo in bad]
    listed = names_in(tmp_path / 'out/train_list.txt') | names_in(tmp_path / 'out/val_list.txt')
    good = set(photos.rglob('*.JPEG')) - set(bad)
    assert {photos / name for name in listed} == good


def test_too_many_photos_that_cannot_be_decoded_are_an_error_before_the_first_step(run, photos, steps, tmp_path):
    for photo in sorted(photos.rglob('*.JPEG'))[:3]:
        os.truncate(photo, 300)
    result = run(self_label, photos, tmp_path / 'out', *words(SMALL, '--max_bad_images 2'))
    assert result.code == 1 and '3 photos' in result.err and '--max_bad_images is 2' in result.err and not steps
    for photo in (photos / 'digit7').iterdir():
        os.truncate(photo, 300)
    result = run(self_label, photos, tmp_path / 'out', *words(SMALL))
    assert result.code == 1 and str(photos / 'digit7') in result.err and not steps


def test_photos_of_one_stem_are_refused_before_the_first_step(refused, photos, steps, tmp_path):
    photo = next((photos / 'digit1').iterdir())
    shutil.copy(photo, photo.with_suffix('.png'))
    line = refused(self_label, photos, tmp_path / 'out', *words(SMALL))
    assert str(photo) in line and str(photo.with_suffix('.png')) in line and not steps


def test_a_step_that_fails_names_the_log(run, photos, tmp_path):
    result = run(self_label, photos, tmp_path / 'out', *words(SMALL, '--accum_iter 1000'))
    assert result.code == 1 and 'labeler: ' in result.err and str(tmp_path / 'out/self_label.log') in result.err
    assert '--accum_iter 1000' in (tmp_path / 'out/self_label.log').read_text()
    assert not (tmp_path / 'out/maps').exists()
