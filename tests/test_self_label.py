"""tools/self_label.py: from photos to a model trained with token labels of its own making, in three steps."""

import re
import shutil
import sys

import numpy as np
import pytest

from conftest import ROOT, words

sys.path.insert(0, str(ROOT / 'tools'))
import self_label

SMALL = (
    '--model lvvit_nano --input_size 32 --batch_size 8 --epochs 1 --warmup_epochs 0 --cooldown_epochs 0 '
    '--num_workers 0 --mixup 0 --cutmix 0 --seed 3'
)


@pytest.fixture
def photos(scenes, tmp_path):
    """Class folders alone, as somebody has them: 4 photos in each of 10."""
    shutil.copytree(scenes / 'train', tmp_path / 'photos')
    return tmp_path / 'photos'


@pytest.fixture
def steps(monkeypatch):
    """The command lines of the steps, which are not run."""
    lines = []
    monkeypatch.setattr(self_label.Steps, 'run', lambda self, title, line: lines.append(line))
    monkeypatch.setattr(self_label, 'accuracy', lambda folder: (50.0, 60.0))
    return lines


def test_from_photos_to_a_student_and_again(run, photos, tmp_path):
    command = [self_label, photos, tmp_path / 'out', *words(SMALL)]
    result = run(*command)
    assert result.code == 0, result.out
    assert '10 classes, 30 photos to learn from, 10 to judge by' in result.out
    log = (tmp_path / 'out/self_label.log').read_text()
    assert log.count('Training time') == 2 and '30 maps written' in log and 'Acc@1' in log
    assert len(list((tmp_path / 'out/maps').rglob('*.npy'))) == 30
    some = next((tmp_path / 'out/maps').rglob('*.npy'))
    assert np.load(some).shape == (2, 5, 4, 4), 'seen at 64 pixels, so in 4x4 cells of 16'
    labeler, student = (re.search(rf'{name}: top-1 ([\d.]+) % after', result.out) for name in ('labeler', 'student'))
    assert labeler and student
    again = run(*command)
    assert again.code == 0 and again.out.count('Epoch: [0]') == 0, 'both trainings are done'
    assert '30 of them labelled before' in again.out and student[0] in again.out


def test_each_step_gets_its_flags(run, photos, steps, tmp_path):
    own = "--map_size 96 --launch '--nproc_per_node 2' --labeler_flags '--epochs 9' --student_flags '--drop_path 0.2'"
    assert run(self_label, *words(own), photos, tmp_path / 'out', *words(SMALL, '--lr 1e-3')).code == 0
    labeler, maps, student = (' '.join(line) for line in steps)
    for training, name in (labeler, 'labeler'), (student, 'student'):
        assert SMALL in training and '--lr 1e-3' in training and '--nb_classes 10 --resume auto' in training
        assert training.endswith(f'--output_dir {tmp_path}/out/{name}')
    assert '--token_pool_weight 1 --epochs 9' in labeler and '--token_label ' not in labeler
    assert (
        f'--token_label --token_label_data {tmp_path}/out/maps --drop_path 0.2' in student and 'gumbel' not in student
    )
    assert '--img_size 96' in maps and 'checkpoint-best.pd --relative_scores' in maps and '--model lvvit_nano' in maps


def test_the_student_learns_as_the_paper_says_unless_told_otherwise(run, photos, steps, tmp_path):
    assert run(self_label, photos, tmp_path / 'out', *words(SMALL)).code == 0
    assert '--ground_truth only --token_label_gumbel' in ' '.join(steps[2])
    assert '--img_size 64' in ' '.join(steps[1]), "twice the model's input"


def test_of_each_class_the_same_share_is_held_out_every_time(photos, tmp_path):
    lists = []
    for out in ('a', 'b'):
        assert self_label.write_lists(str(photos), str(tmp_path / out), 0.5) == 10
        lists.append([(tmp_path / out / f'{split}_list.txt').read_text() for split in ('train', 'val')])
    assert lists[0] == lists[1]
    train, val = (text.splitlines() for text in lists[0])
    assert len(train) == len(val) == 20 and not set(train) & set(val)
    assert sorted(line.split()[1] for line in val) == sorted(str(c) for c in range(10) for _ in range(2))
    assert all((photos / line.split()[0]).exists() for line in train + val)
    assert (tmp_path / 'a/label_list.txt').read_text().startswith('0 digit0\n1 digit1\n')


def test_a_folder_val_is_what_is_judged_by(scenes, tmp_path):
    self_label.write_lists(str(scenes), str(tmp_path), 0.5)
    for name in ('train_list.txt', 'val_list.txt'):
        lines, expected = ((folder / name).read_text().splitlines() for folder in (tmp_path, scenes))
        assert sorted(lines) == sorted(expected)


WRONG = [
    ('--output_dir x', '--output_dir: this tool sets it itself'),
    ('--val_share 0.5', '--val_share: must stand before PHOTOS'),
    ('--epohcs 3', 'unrecognized arguments'),
    ('--lr much', '--lr'),
]


@pytest.mark.parametrize('flags, says', WRONG)
def test_flags_that_cannot_be_are_refused_before_the_first_step(run, photos, steps, tmp_path, flags, says):
    result = run(self_label, photos, tmp_path / 'out', *words(SMALL, flags))
    assert result.code != 0 and says in result.err and result.err.count('\n') == 1 and not steps


def test_photos_that_cannot_be_used_are_refused(refused, steps, photos, tmp_path):
    out = tmp_path / 'out'
    assert '/nowhere: no such folder' in refused(self_label, '/nowhere', out)
    (tmp_path / 'empty').mkdir()
    assert 'no images in its class folders' in refused(self_label, tmp_path / 'empty', out)
    assert '--val_share 1.0' in refused(self_label, '--val_share', 1, photos, out)
    for photo in list((photos / 'digit7').iterdir())[1:]:
        photo.unlink()
    assert 'digit7' in refused(self_label, photos, out)
    for folder in list(photos.iterdir()):
        if folder.name != 'digit7':
            shutil.rmtree(folder)
    assert 'one class only (digit7)' in refused(self_label, photos, out) and not steps


def test_a_step_that_fails_ends_it_with_the_place_of_the_log(run, photos, tmp_path):
    result = run(self_label, photos, tmp_path / 'out', *words(SMALL, '--batch_size 1000'))
    assert result.code == 1 and 'labeler: stopped with exit code 1' in result.err
    assert str(tmp_path / 'out/self_label.log') in result.err and not (tmp_path / 'out/maps').exists()
