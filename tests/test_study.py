"""benchmarks/study.py: the commands of its arms, what they depend on, and the table."""

import json
import sys

import pytest

import generate_label
import main
from conftest import ROOT, execute

sys.path.insert(0, str(ROOT / 'benchmarks'))
import study as script


@pytest.fixture
def study(scenes, tmp_path):
    """A study of two epochs that records its commands and writes a log.txt in place of running them."""

    class Recorded(script.Study):
        commands = []

        def command(self, folder, words):
            self.commands.append(words.split())
            if words.startswith('main.py'):
                write_log(folder, [10.0] * int(words.split('--epochs ')[1].split()[0]))
            else:
                (folder / 'maps').mkdir()
                (folder / 'maps/meta.json').write_text(json.dumps({'complete': True}))

    return Recorded(scenes, tmp_path, 2)


def write_log(folder, accuracies):
    folder.mkdir(exist_ok=True)
    (folder / 'log.txt').write_text(''.join(json.dumps({'test_acc1': value}) + '\n' for value in accuracies))


def test_a_tiny_study_runs(scenes, tmp_path, monkeypatch, capsys):
    scripts = {'main.py': main, 'generate_label.py': generate_label}

    def in_this_process(self, folder, words):
        name, *flags = words.split()
        assert execute(scripts[name], *flags, '--batch_size', '20') == 0  # of the 40 images

    monkeypatch.setattr(script.Study, 'command', in_this_process)
    study = script.Study(scenes, tmp_path, 1)
    study.run('labels', 3)
    study.run('self', 3)
    args = script.parser().parse_args(f'{scenes} {tmp_path} --arms labels self --seeds 3 --epochs 1'.split())
    script.main(args)  # reads what is finished
    labels, students = capsys.readouterr().out.splitlines()[-2:]
    assert labels.startswith('| `labels` | 1 |') and students.startswith('| `self` | 1 |')
    assert (tmp_path / 'labeler-seed3/maps/meta.json').exists()
    assert (tmp_path / 'study.csv').read_text().splitlines()[2].startswith('self,3,1,')


def test_every_arm_is_a_command_of_main_py_and_has_only_its_own_flags(study):
    own = 'token_label token_label_data ground_truth token_label_gumbel token_label_geometry dense_weight'.split()
    own += ['token_pool_weight']
    common = None
    for arm in script.ARMS:
        study.run(arm, 1)
        args = vars(main.parser().parse_args(study.commands[-1][1:]))
        assert args.pop('output_dir') == str(study.folder(arm, 1)) and args.pop('seed') == 1
        assert args.pop('epochs') == (4 if arm == 'labels_twice' else 2)
        if arm.startswith('augmented'):
            own += ['aa', 'train_scale', 'train_interpolation', 'reprob', 'image_backend']
        common = common or args
        assert {key for key in args if args[key] != common[key]} <= set(own), arm
        assert args['token_label'] == (arm not in ('labels', 'labels_twice', 'labeler'))


def test_self_learns_from_the_maps_of_the_labeler_of_its_seed(study):
    study.run('self', 3)
    labeler, maps, student = study.commands
    assert main.parser().parse_args(labeler[1:]).token_pool_weight == 1
    assert f'{study.folder("labeler", 3)}/checkpoint-latest.pd' in maps
    args = main.parser().parse_args(student[1:])
    assert args.token_label_data == f'{study.folder("labeler", 3)}/maps' and args.seed == 3
    study.run('self_soft', 3)
    assert len(study.commands) == 4, 'the labeler and its maps exist'
    study.run('self', 3)
    assert len(study.commands) == 4, 'the student exists'


def test_the_table_has_means_deviations_and_differences_by_seed(study):
    for arm, values in {'labels': (70, 72, 74), 'self': (73, 75, 80), 'maps': ()}.items():
        for seed, value in enumerate(values):
            write_log(study.folder(arm, seed), [10.0, float(value)])
    rows = script.report(study, ['labels', 'self', 'maps'], [0, 1, 2]).splitlines()[2:]
    assert rows[0] == '| `labels` | 3 | 72.0 ± 2.0 | 70.0, 72.0, 74.0 |  |  |'
    # differences 3, 3, 6: mean 4, deviation √3, t(0.975, 2) = 4.303: half an interval of 4.303
    assert rows[1] == '| `self` | 3 | 76.0 ± 3.6 | 73.0, 75.0, 80.0 | +3.0, +3.0, +6.0 | +4.0 [-0.3, +8.3] |'
    assert len(rows) == 2 and (study.out / 'study.csv').read_text().splitlines()[4] == 'self,0,2,73.00,10.00 73.00'


def test_missing_data_and_failed_runs_are_named(refused, scenes, tmp_path):
    assert 'train_list.txt: missing' in refused(script, tmp_path, tmp_path / 'out')
    (tmp_path / 'label_maps').mkdir()
    for name in ('train_list.txt', 'val_list.txt'):
        (tmp_path / name).write_text('no/image.JPEG 0\n')
    flags = '--arms labels --seeds 0 --epochs 1'.split()
    assert 'labels-seed0/console.log' in refused(script, tmp_path, tmp_path / 'out', *flags)
