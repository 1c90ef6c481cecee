"""benchmarks/study.py: its runs, their commands and lists; study_tokens.py; the tables of study_report.py."""

import json

import numpy as np
import paddle
import pytest
from conftest import ROOT, execute

import generate_label
import main
from benchmarks import study as script
from benchmarks import study_model, study_report, study_tokens
from benchmarks.study_plan import ARMS, Run, read_rows
from lv_vit import LV_ViT
from models import FAMILY
from tools import fit_annotator
from util.data import listing

SCRIPTS = {
    'main.py': main,
    'generate_label.py': generate_label,
    'tools/fit_annotator.py': fit_annotator,
    'benchmarks/study_tokens.py': study_tokens,
}


@pytest.fixture
def study(scenes, tmp_path, monkeypatch):
    """study() -> a Study of 40 steps on the 40 scenes, which records its commands in place of running them."""

    class Recorded(script.Study):
        def command(self, folder, words):
            folder.mkdir(parents=True, exist_ok=True)
            name, *flags = words.split()
            self.commands.append((name, SCRIPTS[name].parser().parse_args(flags)))
            if name == 'main.py':
                records = [{'epoch': epoch, 'test_acc1': 10.0 + epoch} for epoch in range(script.EPOCHS)]
                (folder / 'log.txt').write_text(''.join(json.dumps(record) + '\n' for record in records))
            if name == 'benchmarks/study_tokens.py':
                (folder / 'agreement.json').write_text('{"tokens": 58.25, "image": 60.0, "label": 61.0}')

        def scripts(self):
            return [name for name, _ in self.commands]

        def trainings(self):
            return [args for name, args in self.commands if name == 'main.py']

    def call(backbone='features.onnx'):
        made = Recorded(scenes, tmp_path / 'out', tmp_path / 'study.csv', backbone, 40)
        made.commands = []
        return made

    monkeypatch.setitem(FAMILY, study_model.NAME, study_model.CONFIG)
    (tmp_path / 'out').mkdir()
    return call


def test_a_tiny_study_runs(scenes, tmp_path, monkeypatch):
    def in_this_process(self, folder, words):
        name, *flags = words.split()
        assert execute(SCRIPTS[name], *flags) == 0

    monkeypatch.setattr(script.Study, 'command', in_this_process)
    small = dict(study_model.CONFIG.architecture, embed_dim=24, depth=1, num_heads=1)
    monkeypatch.setitem(FAMILY, study_model.NAME, study_model.CONFIG._replace(architecture=small))
    script.Study(scenes, tmp_path, tmp_path / 'a.csv', '', 10).finish(Run('labeler_few', 2, 3))
    rows = read_rows(tmp_path / 'a.csv')
    (row,) = rows.values()
    assert list(rows) == [Run('labeler_few', 2, 3)] and len(row['curve'].split()) == 10
    assert '`labeler_few` | 2 | 1 |' in study_report.arms_table(rows)


def test_arms_differ_only_in_photos_and_in_flags_of_the_targets(study):
    own = 'output_dir cls_label_path_train token_label token_label_data ground_truth token_label_gumbel dense_weight '
    own += 'token_pool_weight'
    made = study()
    for name in ARMS:
        made.finish(Run(name, 1, 7))
    trainings = {args.output_dir: vars(args) for args in made.trainings()}
    common = trainings[f'{made.out}/labels_few-1-seed7']
    for name, arm in ARMS.items():
        args = trainings[f'{made.out}/{name}-1-seed7']
        assert {key for key in args if args[key] != common[key]} <= set(own.split()), name
        assert args['token_label'] == bool(arm.maps) and args['seed'] == 7
        samples = listing.read_list(args['data_path'], args['cls_label_path_train'], 10)
        labelled = 10 if arm.photos == 'few' else 40
        assert len(samples) == 40 * 50 // script.EPOCHS, 'so many steps in every arm'
        assert len(set(samples.paths)) == labelled
        assert len({path for path, label in samples if label >= 0}) == (40 if arm.photos == 'all' else 10)


def test_the_annotator_learns_the_labels_of_the_arm_and_annotates_all_photos_once(study):
    made = study()
    made.finish(Run('maps_rest', 2, 0))
    fit, train = made.commands[0][1], made.commands[2][1]
    assert made.scripts()[:3] == ['tools/fit_annotator.py', 'generate_label.py', 'main.py']
    photos = listing.read_list(str(fit.photos), fit.cls_label_path, 10)
    assert np.bincount(photos.labels).tolist() == [2] * 10
    annotated = listing.read_list(str(fit.photos), made.commands[1][1].cls_label_path, 10)
    assert len(annotated) == len(set(annotated.paths)) == 40
    assert train.token_label_data == made.commands[1][1].out


def test_self_learns_from_the_maps_of_the_labeler_of_its_seed(study):
    made = study(backbone='')
    made.finish(Run('self_few', 2, 3))
    (_, labeler), (_, maps), (_, student) = made.commands
    assert labeler.token_pool_weight == 1 and maps.resume == f'{labeler.output_dir}/checkpoint-latest.pd'
    assert student.token_label_data == maps.out and student.seed == labeler.seed == 3


def test_finished_runs_are_skipped_and_agreement_is_added_when_there_is_a_backbone(study):
    study(backbone='').finish(Run('labels_few', 2, 0))
    again = study(backbone='')
    again.finish(Run('labels_few', 2, 0))
    assert again.commands == []
    (row,) = read_rows(again.table).values()
    assert (row['top1'], row['image_agrees'], row['steps']) == ('19.00', '', '40')
    study().finish(Run('labels_few', 2, 0))
    (row,) = read_rows(again.table).values()
    assert (row['top1'], row['tokens_agree']) == ('19.00', '58.25')


def test_tokens_are_compared_with_the_best_class_of_their_cells(scenes, tmp_path):
    """A map of 2x2 cells for 8x8 tokens, and a student that says class 3 everywhere."""
    ids = np.array([[3, 1], [2, 0]])
    half = np.repeat(np.repeat(ids, 4, axis=0), 4, axis=1)
    cells = study_tokens.cell_classes(np.ones((1, 2, 2), 'float32'), ids[None], 10, 8)
    assert (cells.reshape(8, 8) == half).all()

    names = {line.split()[0] for line in (scenes / 'val_list.txt').read_text().splitlines()}
    for name in names:
        path = tmp_path / 'maps' / name.split('/', 1)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix('.npy'), np.stack([np.ones((1, 2, 2)), ids[None]]).astype('float16'))
    paddle.seed(0)
    bias = np.where(np.arange(10) == 3, 99, 0).astype('float32')
    model = LV_ViT(img_size=32, num_classes=10, **study_model.CONFIG.architecture)
    model.head.bias.set_value(bias)
    for trained, tokens in ((0.0, None), (1.0, 25.0)):
        model.aux_head.weight.set_value(paddle.full_like(model.aux_head.weight, trained / 1e6))
        model.aux_head.bias.set_value(bias * trained)
        paddle.save(model.state_dict(), str(tmp_path / 'student.pdparams'))
        flags = [tmp_path / 'student.pdparams', scenes, tmp_path / 'maps', tmp_path / 'result.json']
        assert execute(study_tokens, *flags) == 0
        result = json.loads((tmp_path / 'result.json').read_text())
        assert (result['tokens'], result['image']) == (tokens, 25.0)


# ---- the report


def rows(**top1):
    """{Run: row} with these accuracies for seeds 0, 1, …; arms with all labels have 4 a class, others 1."""
    made = {}
    for arm, values in top1.items():
        for seed, value in enumerate(values):
            run = Run(arm, 4 if ARMS[arm].photos == 'all' else 1, seed)
            row = {'top1': str(value), 'tokens_agree': '', 'image_agrees': '60', 'steps': '40', 'curve': f'10 {value}'}
            made[run] = row
    return made


def test_the_tables_have_means_deviations_and_differences_by_seed(tmp_path):
    made = rows(labels_few=(70, 72, 74), maps_rest=(73, 75, 80), labels_all=(77, 78))
    arms = study_report.arms_table(made).splitlines()
    assert arms[2] == '| `labels_few` | 1 | 3 | 72.0 ± 2.0 | 70.0, 72.0, 74.0 |  | 60.0 ± 0.0 |'
    assert [line.split(' |')[0] for line in arms[3:]] == ['| `maps_rest`', '| `labels_all`']
    pairs = study_report.pairs_table(made).splitlines()[2:]
    # differences 3, 3, 6: mean 4, deviation √3, t(0.975, 2) = 4.303: half an interval of 4.303
    assert pairs[0] == '| `maps_rest` − `labels_few` | 1 | 3 | +3.0, +3.0, +6.0 | +4.0 [-0.3, +8.3] |'
    assert pairs[1].startswith('| `maps_rest` − `labels_all` | 1 | 2 | -4.0, -3.0 | -3.5 [')
    assert len(pairs) == 2


def test_the_page_has_the_tables_of_its_csv():
    rows = read_rows(ROOT / 'docs/results/own_photos.csv')
    page = (ROOT / 'docs/results/own_photos.md').read_text(encoding='utf-8')
    assert study_report.arms_table(rows) in page and study_report.pairs_table(rows) in page
