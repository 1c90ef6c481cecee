"""benchmarks/study.py: which runs there are, what they depend on, and what the table says of them."""

import csv
import json
import re
import sys

import pytest

import main
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))
import study as script


@pytest.fixture
def study(scenes, tmp_path):
    """A study of two epochs whose commands are noted, and do nothing but leave what a run leaves."""

    class Noted(script.Study):
        lines = []
        accuracy = 50.0

        def command(self, folder, words):
            self.lines.append(words)
            if words.startswith('main.py'):
                self.finish(folder, int(re.search(r'--epochs (\d+)', words)[1]))
            elif words.startswith('generate_label.py'):
                (folder / 'maps').mkdir()
                (folder / 'maps/meta.json').write_text(json.dumps({'complete': True}))

        def finish(self, folder, epochs, last=None):
            folder.mkdir(parents=True, exist_ok=True)
            values = [10.0] * (epochs - 1) + [last or self.accuracy]
            (folder / 'log.txt').write_text(''.join(json.dumps({'test_acc1': value}) + '\n' for value in values))

    (tmp_path / 'out').mkdir()
    return Noted(scenes, tmp_path / 'out', 2, scenes / 'label_maps')


def flags_of(line):
    """The values of main.py's flags in a command line, read by its own parser."""
    return main.parser().parse_args([word for word in line.split()[1:]])


def test_every_arm_is_a_command_that_main_py_takes_and_differs_from_the_others_by_its_own_flags_only(study):
    common = None
    for arm in script.ARMS:
        study.run(arm, 1)
        args = vars(flags_of(study.lines[-1]))
        assert args.pop('output_dir') == str(study.folder(arm, 1)) and args.pop('seed') == 1
        assert args.pop('epochs') == (4 if arm == 'labels_twice' else 2)
        own = 'token_label token_label_data ground_truth token_label_gumbel token_label_geometry dense_weight'.split()
        own += ['token_pool_weight']
        if arm.startswith('augmented'):
            own += ['aa', 'train_scale', 'train_interpolation', 'reprob', 'image_backend']
        common = common or args
        assert {key for key in args if args[key] != common[key]} <= set(own), arm
        assert args['token_label'] == (arm not in ('labels', 'labels_twice', 'labeler'))


def test_self_waits_for_the_labeler_of_its_seed_and_learns_from_its_maps(study):
    study.run('self', 3)
    labeler, maps, student = study.lines
    assert flags_of(labeler).token_pool_weight == 1 and flags_of(labeler).seed == flags_of(student).seed == 3
    assert f'--resume {study.folder("labeler", 3)}/checkpoint-latest.pd --relative_scores' in maps
    assert flags_of(student).token_label_data == f'{study.folder("labeler", 3)}/maps'
    assert flags_of(student).token_label_gumbel and flags_of(student).ground_truth == 'only'
    study.run('self_soft', 3)
    assert len(study.lines) == 4, 'the labeler and its maps are there'
    study.run('self', 3)
    assert len(study.lines) == 4, 'so is the student'


def test_a_run_that_was_stopped_goes_on(study):
    study.finish(study.folder('labels', 0), epochs=1)
    assert study.accuracies('labels', 0) == []
    study.run('labels', 0)
    assert '--resume auto' in study.lines[0] and len(study.accuracies('labels', 0)) == 2


def test_a_fifth_of_the_photos_trains_for_as_many_steps(study, scenes):
    study.run('maps/5', 0)
    args = flags_of(study.lines[0])
    assert args.epochs == 10
    fifth = open(args.cls_label_path_train).read().splitlines()
    everything = (scenes / 'train_list.txt').read_text().splitlines()
    assert set(fifth) < set(everything) and sorted({line.split()[1] for line in fifth}) == [str(i) for i in range(10)]


def test_the_table_has_means_deviations_and_differences_by_seed(study):
    found = {'labels': (70, 72, 74), 'self': (73, 75, 80), 'maps/5': (60,), 'labels/5': (50,)}
    for arm, values in found.items():
        for seed, value in enumerate(values):
            study.finish(study.folder(arm, seed), study.arm_epochs(arm), last=float(value))
    study.finish(study.folder('maps', 0), 1)  # not done
    rows = script.report(study, [*found, 'maps'], [0, 1, 2]).splitlines()[2:]
    assert len(rows) == 4
    assert rows[0] == '| `labels` | 3 | 72.0 ± 2.0 | 70.0, 72.0, 74.0 |  |  |'
    # differences 3, 3, 6: mean 4, deviation √3, t(0.975, 2) = 4.303: half an interval of 4.303
    assert rows[1] == '| `self` | 3 | 76.0 ± 3.6 | 73.0, 75.0, 80.0 | +3.0, +3.0, +6.0 | +4.0 [-0.3, +8.3] |'
    assert rows[2] == '| `maps/5` | 1 | 60.0 | 60.0 | +10.0 | +10.0 |', 'against labels/5'
    with open(study.out / 'study.csv') as f:
        lines = list(csv.DictReader(f))
    assert len(lines) == 8 and lines[3] == dict(
        arm='self', seed='0', epochs='2', top1_last='73.00', top1_each_epoch='10.00 73.00'
    )


def test_what_is_done_is_in_the_table_though_a_later_run_fails(study, scenes, monkeypatch):
    def command(self, folder, words):
        if '--token_label ' in words:
            raise script.UserError('console.log: a run failed')
        self.finish(folder, 2)

    monkeypatch.setattr(type(study), 'command', command)
    monkeypatch.setattr(script, 'Study', type(study))
    args = script.parser().parse_args(f'{scenes} {study.out} --epochs 2 --jobs 1 --seeds 0 --arms labels maps'.split())
    with pytest.raises(script.UserError, match='a run failed'):
        script.main(args)
    assert (study.out / 'study.md').read_text().splitlines()[2:] == ['| `labels` | 1 | 50.0 | 50.0 |  |  |']


def test_what_cannot_be_studied_is_refused(refused, scenes, tmp_path):
    assert '--arms magic: unknown; use labels,' in refused(script, scenes, tmp_path / 'out', '--arms', 'magic')
    assert 'train_list.txt: missing' in refused(script, tmp_path, tmp_path / 'out')
