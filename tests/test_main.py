"""main.py: what a run writes and prints, and what its flags change. (Resuming: tests/train/test_resume.py.)"""

import re
import time

import numpy as np
import paddle
import pytest

import engine
import main
from conftest import STILL, TINY_RUN, words
from states import same
from util.train.lr_sched import lr_at

PLAIN = "--mixup 0 --cutmix 0 --aa '' --color_jitter 0 --reprob 0 --smoothing 0"

pytestmark = pytest.mark.usefixtures('tiny')


def start(train, *flags):
    """The weights that training starts from."""
    train(*flags, STILL, out='start')
    return train.state('start')['model']


# ---- what a run writes and prints


def test_an_epoch_with_token_labels_writes_checkpoints_in_plain_containers_and_a_log(train):
    result = train(*train.token, '--model_ema')
    assert result.code == 0 and result.err == ''
    files = {p.name for p in (train.folder / 'run').iterdir()}
    checkpoints = {f'checkpoint-{tag}.pd' for tag in ('latest', 'previous', 'best', '0')}
    assert files == checkpoints | {'log.txt', 'train.log', 'args.yaml', 'label_list.txt'}
    (record,), state = train.log(), train.state()
    names = 'train_loss train_lr test_loss test_acc1 test_acc5 epoch n_parameters best_acc1'
    assert set(record) == set(f'{names} seconds images_per_second train_images test_images'.split())
    assert (record['train_images'], record['test_images']) == (40, 20)
    assert 0 < 40 / record['images_per_second'] < record['seconds'], (
        'evaluation is part of the time, but not of images/s'
    )
    learned = [v for k, v in state['model'].items() if not k.endswith(('._mean', '._variance'))]
    assert record['n_parameters'] == sum(v.size for v in learned)
    assert record['epoch'] == 0 and 0 <= record['best_acc1'] == record['test_acc1'] <= record['test_acc5'] <= 100
    # class and token loss: each near log 10 at the start
    assert 0.8 < record['train_loss'] / (2 * np.log(10)) < 1.5
    assert set(state) == set(
        'model model_ema optimizer scaler epoch step rng best_acc1 args progress class_names'.split()
    )
    assert state['epoch'] == 0 and state['step'] == 5 and type(state['args']) is dict
    assert state['args']['model'] == 'lvvit_nano' and all(type(v) is np.ndarray for v in state['model'].values())
    assert set(state['model_ema']) == set(state['model'])


KEPT = [('--epochs 41 --cooldown_epochs 2', '19 39 42'), ('--epochs 43 --keep_checkpoints 2', '39 42')]


@pytest.mark.parametrize('flags, numbers', KEPT)
def test_a_checkpoint_of_its_own_every_20_epochs_and_at_the_end(train, monkeypatch, flags, numbers):
    monkeypatch.setattr(main, 'train_one_epoch', lambda *a, **k: {'loss': 1.0, 'lr': 1.0})  # they take no time
    monkeypatch.setattr(main, 'evaluate', lambda *a, **k: {'loss': 1.0, 'acc1': 10.0, 'acc5': 50.0})
    train(flags)
    names = {p.stem.split('-')[1] for p in (train.folder / 'run').glob('*.pd')}
    assert names == {*numbers.split(), 'best', 'latest', 'previous'}
    assert [r['epoch'] for r in train.log()] == list(range(43)), 'the cool-down follows the schedule'
    assert train.state(tag='best')['epoch'] == 0, 'an equal accuracy is no better'


def test_the_console_has_the_lines_of_the_port(train):
    flags = '--epochs 2 --cooldown_epochs 1 --model_ema --model_ema_eval --print_freq 3'
    out = train(*train.token, flags).out
    form = r'] Epoch: \[1\]  \[(\d)/5\]  eta: \d:\d\d:\d\d  lr: \d\.\d{6}  loss: \d+\.\d{4} \(\d+\.\d{4}\)  time: '
    assert re.findall(form, out) == ['0', '3', '4']
    lines, records = [line[18:] for line in out.splitlines()], train.log()
    assert re.findall(r'\[4/5\].* loss: \S+ \((\S+)\)', out) == [f'{r["train_loss"]:.4f}' for r in records]
    assert f'number of params (M): {records[0]["n_parameters"] / 1e6:.2f}' in lines
    assert lines.count('Start training for 3 epochs') == 1
    for whose, suffix, images in ('network', '', 'the 20'), ('model EMA', '_ema', '20'):
        accuracies = [f'{r[f"test_acc1{suffix}"]:.1f}%' for r in records]
        begin = f'Accuracy of the {whose} on {images} test images: '
        assert [line.removeprefix(begin) for line in lines if line.startswith(begin)] == accuracies
        begin = 'Max accuracy of the model EMA: ' if suffix else 'Max accuracy: '
        best = [f'{r[f"best_acc1{suffix}"]:.2f}%' for r in records]
        assert [line.removeprefix(begin) for line in lines if line.startswith(begin)] == best
    evaluated = train('--eval --resume', train.path()).out
    assert f'Accuracy of the network on the 20 test images: {records[-1]["test_acc1"]:.1f}%' in evaluated
    assert f'* Acc@1 {records[-1]["test_acc1"]:.3f} Acc@5 ' in evaluated, 'as eval.py'


def test_the_console_says_each_fact_of_an_epoch_once(train):
    lines = [line[18:] for line in train('--batch_size 40 --model_ema --model_ema_eval').out.splitlines()]
    (record,) = train.log()
    begin = [i for i, line in enumerate(lines) if line.startswith('Epoch: [0]  [0/1]')][0]
    seconds = time.strftime('%-H:%M:%S', time.gmtime(record['seconds']))
    expected = []
    for header, whose, s in ('Test', 'network on the', ''), ('Test_ema', 'model EMA on', '_ema'):
        expected += [f'{header}:  [0/1]  eta:', f'{header}: Total time: ']
        expected.append(f'* Acc@5 {record[f"test_acc5{s}"]:.3f} loss {record[f"test_loss{s}"]:.3f}')
        expected.append(f'Accuracy of the {whose} 20 test images: {record[f"test_acc1{s}"]:.1f}%')
        expected.append(f'Max accuracy{" of the model EMA" if s else ""}: {record[f"best_acc1{s}"]:.2f}%')
    expected.append(f'Epoch: [0] Total time: {seconds}, {record["images_per_second"]} images/s')
    expected.append('Training time')
    assert [line[: len(begin)] for line, begin in zip(lines[begin + 1 :], expected)] == expected
    assert len(lines[begin + 1 :]) == len(expected)


def test_the_console_names_the_flags_that_differ_from_their_defaults(train, scenes):
    out = train(*train.token, '--no_mix_token --train_scale 0.5 1').out
    (line,) = re.findall(r'flags other than the defaults: (.*)', out)
    tiny = '--model=lvvit_nano --input_size=32 --nb_classes=10 --num_workers=0 --batch_size=8 --epochs=1 '
    tiny += '--warmup_epochs=0 --cooldown_epochs=0 --token_label --mixup=0.0 --cutmix=0.0 --no_mix_token '
    tiny += f'--train_scale 0.5 1.0 --data_path={scenes} --output_dir={train.folder}/run '
    assert sorted(words(line)) == sorted(words(tiny, f'--token_label_data={scenes}/label_maps'))
    assert vars(main.parser().parse_args(words(line)))['train_scale'] == [0.5, 1.0], 'main.py takes it'


def test_the_console_goes_to_train_log_or_to_the_log_file(train):
    copy, usual = train.folder / 'run' / 'copy.txt', train.folder / 'run' / 'train.log'
    out = train('--log_file', copy).out  # in a folder that the run makes
    assert copy.read_text() == out and not usual.exists()
    out = train('--epochs 1').out
    assert usual.read_text() == out
    train('--eval --resume', train.path())
    assert usual.read_text() == out, 'the log of the training'
    usual.unlink()
    usual.mkdir()
    assert f'{usual}: cannot be written to' in train.refused()


def test_nothing_is_saved_without_an_output_folder(run, scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(main, *words(TINY_RUN, '--data_path', scenes)).code == 0
    assert list(tmp_path.iterdir()) == []


def test_the_ema_is_evaluated_and_saved_beside_the_weights(train):
    train(*train.token, '--model_ema --model_ema_eval --model_ema_decay 0.5')
    assert train.path(tag='best-ema').exists()
    assert {'test_acc1_ema', 'test_acc5_ema', 'test_loss_ema', 'best_acc1_ema'} <= set(train.log()[0])

    def distance(a, b):
        return np.abs(a['head.weight'] - b['head.weight']).mean()

    state, first = train.state(), start(train, *train.token)
    assert 0 < distance(state['model_ema'], state['model']) < distance(first, state['model']), 'it follows the weights'


# ---- without token labels


@pytest.mark.parametrize('flags', ['', '--mixup 0 --cutmix 0'])
def test_training_without_token_labels_trains_the_class_output_alone(train, flags):
    result = train(flags, '--lr 0.01')
    assert result.code == 0 and 'the class output alone is trained' in result.out
    state = train.state()['model']
    assert not state['aux_head.weight'].any() and not state['aux_head.bias'].any(), 'it adds nothing in evaluation'
    assert not same(state['head.weight'], start(train, flags)['head.weight'])


def test_label_smoothing_changes_the_targets(train):
    losses = []
    for smoothing in (0, 0.1, 1):
        train(PLAIN, STILL, f'--smoothing {smoothing}', out=str(smoothing))
        losses.append(train.log(str(smoothing))[0]['train_loss'])
    hard, smooth, uniform = losses
    assert hard != uniform and smooth == pytest.approx(0.9 * hard + 0.1 * uniform, rel=1e-6)


@pytest.mark.parametrize('name', ['lvvit_t', 'lvvit_l', 'lvvit_nano_patch8', 'vit'])
def test_every_stem_trains(train, name):
    flags = [f'--model {name} --drop 0.1 --drop_path 0.1', *train.token, '--batch_size 20']
    result = train(*flags, '--lr 0.01')
    assert result.code == 0, result.err
    state, first = train.state()['model'], start(train, *flags)
    stale = {key for key in state if same(state[key], first[key]) and not key.endswith(('_mean', '_variance'))}
    assert not stale, 'every parameter has changed'
    assert ('aux_head.weight' in state) == (name != 'vit')


# ---- optimizer flags


def test_clip_grad_bounds_the_step(train):
    flags = [PLAIN, '--model vit --opt momentum --momentum 0 --lr 1 --weight_decay 0 --t_in_epochs --clip_grad 0.01']
    first = start(train, *flags, '--batch_size 40')
    train(*flags, '--batch_size 40')
    moved = [((value - first[name]) ** 2).sum() for name, value in train.state()['model'].items()]
    assert np.sqrt(sum(moved)) == pytest.approx(0.01, rel=1e-3)


def test_the_learning_rate_of_each_step_follows_the_schedule(train):
    schedule = dict(lr=0.01, min_lr=1e-3, warmup_lr=1e-4, warmup_epochs=2, epochs=3)
    flags = ' '.join(f'--{name} {value}' for name, value in schedule.items())
    out = train(flags, '--cooldown_epochs 1 --print_freq 1 --model vit').out
    expected = [lr_at(step / 5, **schedule) for step in range(20)]
    assert re.findall(r'lr: (\S+)', out) == [f'{lr:.6f}' for lr in expected]
    assert [record['train_lr'] for record in train.log()] == expected[4::5], 'that of the last step of the epoch'
    train(flags, '--cooldown_epochs 1 --t_in_epochs --model vit', out='held')
    assert [record['train_lr'] for record in train.log('held')] == [lr_at(epoch, **schedule) for epoch in range(4)]


def test_dense_and_class_weights_scale_their_losses(train):
    def loss(flags=''):
        train(*train.token, '--no_mix_token', STILL, flags)
        return train.log()[-1]['train_loss']

    both, cls = loss(), loss('--dense_weight 0')
    assert cls < both and loss('--dense_weight 3') == pytest.approx(cls + 3 * (both - cls), rel=1e-4)
    assert loss('--cls_weight 2') == pytest.approx(both + cls, rel=1e-4)


# ---- starting from other weights


def test_finetune_of_the_same_classes_keeps_the_heads_unless_told_otherwise(train):
    train(*train.token, '--lr 0.01')
    flags = [*train.token, STILL, '--finetune', train.path(tag='best')]
    assert 'initialised anew' not in train(*flags, out='kept').out
    assert 'head.weight: initialised anew' in train(*flags, '--remove_head_from_pretained', out='anew').out
    old, kept, anew = (train.state(name)['model']['head.weight'] for name in ('run', 'kept', 'anew'))
    assert same(old, kept) and not same(old, anew)


def test_a_finished_run_is_trained_no_further_but_can_be_evaluated(train):
    out, before = train(*train.token).out, train.path().read_bytes()
    assert 'Epoch:' not in train(*train.token, '--resume', train.path()).out
    evaluated = train('--eval --cls_label_path_train /nowhere --resume', train.path()).out
    assert 'Epoch:' not in evaluated and train.path().read_bytes() == before and len(train.log()) == 1
    line = r'Acc@5 \S+ loss \S+'
    assert re.findall(line, evaluated) == re.findall(line, out) != []


def test_a_checkpoint_that_does_not_fit_is_refused_with_file_and_reason(train):
    train('--epochs 2')
    for flags, says in ('--opt momentum', '--opt'), ('--nb_classes 12', 'it fits --model lvvit_nano'):
        line = train.refused('--epochs 3', flags, '--resume', train.path(), out='other')
        assert str(train.path()) in line and says in line


# ---- static graph


def test_a_static_graph_trains_as_the_dynamic_one_does_with_a_new_mixtoken_box_in_every_step(train):
    flags = [*train.token, '--drop_path 0.2 --accum_iter 2 --batch_size 4 --lr 1e-3 --epochs 2']
    assert train(*flags, out='dynamic').code == 0
    assert train(*flags, '--to_static', out='static').code == 0
    for a, b in zip(train.log('dynamic'), train.log('static')):
        assert abs(a['train_loss'] - b['train_loss']) < 1e-4
    static = train.state('static')['model']
    for name, value in train.state('dynamic')['model'].items():
        np.testing.assert_allclose(static[name], value, rtol=0, atol=2e-3, err_msg=name)


# ---- determinism


def test_every_step_of_every_epoch_and_seed_draws_its_own_numbers():
    """Those of numpy, for MixToken and Mixup, and of Paddle, for dropout and drop path."""

    def draws(*where):
        return engine.step_rng(*where).random(), paddle.rand([1]).item()

    drawn = [draws(seed, epoch, batch) for seed in (0, 1) for epoch in (0, 1) for batch in (0, 2)]
    assert all(len(set(numbers)) == 8 for numbers in zip(*drawn)) and draws(1, 1, 2) == drawn[-1]


def test_another_seed_is_another_run(train):
    train(STILL, out='a')
    train(STILL, '--seed 1', out='b')
    assert train.log('a')[0]['train_loss'] != train.log('b')[0]['train_loss']
    assert not same(train.state('a')['model']['head.weight'], train.state('b')['model']['head.weight'])


# ---- refusals


def test_flags_that_do_not_fit_are_refused_before_training(train):
    assert '--to_static' in train.refused('--model vit --to_static')
    (train.folder / 'file').touch()
    assert f'--output_dir {train.folder}/file/out' in train.refused(out='file/out')
