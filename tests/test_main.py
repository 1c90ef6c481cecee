"""main.py: what a run writes and prints, what each flag changes, and that a resumed run is the unbroken one."""

import json
import re

import numpy as np
import paddle
import pytest

import main
import models
from states import same
from util.weights import checkpoint

SMALL = [
    '--model',
    'lvvit_nano',
    '--input_size',
    32,
    '--nb_classes',
    10,
    '--batch_size',
    8,
    '--epochs',
    1,
    '--warmup_epochs',
    0,
    '--cooldown_epochs',
    0,
    '--num_workers',
    0,
]
PLAIN = ['--mixup', 0, '--cutmix', 0, '--aa', '', '--color_jitter', 0, '--reprob', 0, '--smoothing', 0]

pytestmark = pytest.mark.usefixtures('tiny')


@pytest.fixture
def train(run, scenes, tmp_path):
    """train(*flags, out='run') -> Result; the folder is tmp_path/out. `token` flags are in train.token."""

    def call(*flags, out='run'):
        return run(main, *SMALL, '--data_path', scenes, '--output_dir', tmp_path / out, *flags)

    call.token = [
        '--token_label',
        '--token_label_data',
        scenes / 'label_maps',
        '--token_label_size',
        2,
        '--mixup',
        0,
        '--cutmix',
        0,
    ]
    call.folder = tmp_path
    call.log = lambda out='run': [json.loads(line) for line in (tmp_path / out / 'log.txt').read_text().splitlines()]
    call.state = lambda out='run', tag='latest': checkpoint.load(str(tmp_path / out / f'checkpoint-{tag}.pd'))
    return call


def start(train, *flags):
    """The weights that training starts from."""
    train(*flags, '--lr', 0, '--min_lr', 0, '--opt', 'momentum', out='start')
    return train.state('start')['model']


# ---- what a run leaves behind


def test_an_epoch_with_token_labels_writes_checkpoints_and_a_log(train):
    result = train(*train.token)
    assert result.code == 0 and result.err == ''
    files = {p.name for p in (train.folder / 'run').iterdir()}
    assert files == {
        'checkpoint-latest.pd',
        'checkpoint-previous.pd',
        'checkpoint-best.pd',
        'checkpoint-0.pd',
        'log.txt',
    }
    (record,) = train.log()
    assert set(record) == {
        'train_loss',
        'train_lr',
        'test_loss',
        'test_acc1',
        'test_acc5',
        'epoch',
        'n_parameters',
        'best_acc1',
    }
    learned = [v for k, v in train.state()['model'].items() if not k.endswith(('._mean', '._variance'))]
    assert record['n_parameters'] == sum(v.size for v in learned)
    assert record['epoch'] == 0 and record['best_acc1'] == record['test_acc1'] and 0 <= record['test_acc1'] <= 100
    assert record['test_acc5'] >= record['test_acc1']
    # class and token loss: each near log 10 at the start
    assert 0.8 < record['train_loss'] / (2 * np.log(10)) < 1.5


def test_a_checkpoint_holds_what_the_format_says_in_plain_containers(train):
    train(*train.token, '--model_ema')
    state = train.state()
    assert set(state) == {
        'model',
        'model_ema',
        'optimizer',
        'scaler',
        'epoch',
        'step',
        'rng',
        'best_acc1',
        'args',
        'progress',
    }
    assert state['epoch'] == 0 and state['step'] == 5 and type(state['args']) is dict
    assert state['args']['model'] == 'lvvit_nano' and all(type(v) is np.ndarray for v in state['model'].values())
    assert set(state['model_ema']) == set(state['model'])


def test_a_checkpoint_of_its_own_every_20_epochs_and_at_the_end(train, monkeypatch):
    monkeypatch.setattr(main, 'train_one_epoch', lambda *a, **k: {'loss': 1.0, 'lr': 1.0})
    monkeypatch.setattr(main, 'evaluate', lambda *a, **k: {'loss': 1.0, 'acc1': 10.0, 'acc5': 50.0})
    train('--epochs', 41, '--cooldown_epochs', 2)
    names = sorted(p.name for p in (train.folder / 'run').glob('*.pd'))
    assert names == [
        'checkpoint-19.pd',
        'checkpoint-39.pd',
        'checkpoint-42.pd',
        'checkpoint-best.pd',
        'checkpoint-latest.pd',
        'checkpoint-previous.pd',
    ]
    assert [r['epoch'] for r in train.log()] == list(range(43)), 'the cool-down follows the schedule'
    assert train.state(tag='best')['epoch'] == 0, 'an equal accuracy is no better'


def test_console_lines_have_the_form_people_grep_for(train):
    out = train(*train.token, '--print_freq', 2).out
    stamp = r'\[\d\d:\d\d:\d\d\.\d{6}\] '
    for line in out.splitlines():
        assert re.match(stamp, line), line
    steps = re.findall(
        stamp + r'Epoch: \[0\]  \[(\d)/5\]  eta: \d+:\d\d:\d\d  lr: \d\.\d{6}  loss: \d+\.\d{4} '
        r'\(\d+\.\d{4}\)  time: \d+\.\d{4}  data: \d+\.\d{4}\n',
        out,
    )
    assert steps == ['0', '2', '4']
    assert re.search(r'\* Acc@1 \d+\.\d{3} Acc@5 \d+\.\d{3} loss \d+\.\d{3} on 20 images', out)
    assert 'Max accuracy: ' in out and 'Training time 0:00:' in out


def test_log_file_is_a_copy_of_the_console(train):
    out = train('--log_file', train.folder / 'copy.txt').out
    assert (train.folder / 'copy.txt').read_text() == out and 'Epoch: [0]' in out


def test_nothing_is_saved_without_an_output_folder(run, scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(main, *SMALL, '--data_path', scenes).code == 0
    assert list(tmp_path.iterdir()) == []


def test_the_ema_is_evaluated_and_saved_beside_the_weights(train):
    train(*train.token, '--model_ema', '--model_ema_eval', '--model_ema_decay', 0.5)
    assert (train.folder / 'run' / 'checkpoint-best-ema.pd').exists()
    (record,) = train.log()
    assert {'test_acc1_ema', 'test_acc5_ema', 'test_loss_ema', 'best_acc1_ema'} <= set(record)
    state, first = train.state(), start(train, *train.token)
    far = lambda a, b: np.abs(a['head.weight'] - b['head.weight']).mean()  # noqa: E731
    assert 0 < far(state['model_ema'], state['model']) < far(first, state['model']), 'it follows the weights'


# ---- without token labels


@pytest.mark.parametrize('flags', [[], ['--mixup', 0, '--cutmix', 0], ['--mixup_mode', 'elem'], ['--smoothing', 0]])
def test_training_without_token_labels_trains_the_class_output_alone(train, flags):
    result = train(*flags, '--lr', 0.01)
    assert result.code == 0 and 'the class output alone is trained' in result.out
    state = train.state()['model']
    assert not state['aux_head.weight'].any() and not state['aux_head.bias'].any(), 'it adds nothing in evaluation'
    assert not same(state['head.weight'], start(train, *flags)['head.weight'])


def test_label_smoothing_changes_the_targets(train):
    train(*PLAIN, '--lr', 0, '--min_lr', 0, out='hard')
    train(*PLAIN, '--lr', 0, '--min_lr', 0, '--smoothing', 0.1, out='smooth')
    train(*PLAIN, '--lr', 0, '--min_lr', 0, '--smoothing', 1, out='uniform')
    hard, smooth, uniform = (train.log(name)[0]['train_loss'] for name in ('hard', 'smooth', 'uniform'))
    assert hard != uniform and smooth == pytest.approx(0.9 * hard + 0.1 * uniform, rel=1e-6)


@pytest.mark.parametrize('name', models.FAMILY)
def test_every_model_of_the_family_trains(train, name):
    flags = ['--model', name, *train.token, '--batch_size', 20, '--drop', 0.1, '--drop_path', 0.1]
    result = train(*flags, '--lr', 0.01)
    assert result.code == 0, result.err
    state, first = train.state()['model'], start(train, *flags)
    stale = {key for key in state if same(state[key], first[key]) and not key.endswith(('_mean', '_variance'))}
    assert not stale, 'every parameter has learned something'
    assert ('aux_head.weight' in state) == (name not in ('vit', 'lvvit'))


# ---- optimizer flags


def test_momentum_has_one_slot_for_each_parameter_and_adamw_four(train):
    train('--opt', 'momentum', out='momentum')
    train(out='adamw')

    def slots(out):
        return {k.split('/')[1] for k in train.state(out)['optimizer'] if k.startswith('head.weight/')}

    assert len(slots('momentum')) == 1 and 'velocity' in slots('momentum').pop()
    assert {s.rsplit('_', 1)[0] for s in slots('adamw')} == {'moment1', 'moment2', 'beta1_pow_acc', 'beta2_pow_acc'}


def test_two_batches_of_8_accumulate_the_gradient_of_one_of_16(train):
    # vit: no batch norm, whose statistics would differ
    flags = [*PLAIN, '--model', 'vit', '--opt', 'momentum', '--lr', 0.1, '--weight_decay', 0]
    train(*flags, '--batch_size', 16, out='one')
    train(*flags, '--batch_size', 8, '--accum_iter', 2, out='two')
    first, one, two = start(train, *flags), train.state('one')['model'], train.state('two')['model']
    for key in one:
        np.testing.assert_allclose(two[key], one[key], atol=2e-6)
    assert max(np.abs(one[key] - first[key]).max() for key in one) > 1e-3
    assert train.log('two')[0]['train_loss'] == pytest.approx(train.log('one')[0]['train_loss'], abs=1e-4)


def test_clip_grad_bounds_the_step(train):
    flags = [
        *PLAIN,
        '--model',
        'vit',
        '--opt',
        'momentum',
        '--momentum',
        0,
        '--lr',
        1,
        '--weight_decay',
        0,
        '--batch_size',
        40,
        '--t_in_epochs',
    ]
    first = start(train, *flags)

    def moved(*more):
        train(*flags, *more, out='x')
        state = train.state('x')['model']
        return np.sqrt(sum(((state[k] - first[k]) ** 2).sum() for k in first))

    assert moved() > 0.1 and moved('--clip_grad', 0.01) == pytest.approx(0.01, rel=1e-3)


def test_lr_comes_from_blr_and_the_total_batch_unless_given(train):
    out = train('--blr', 0.064, '--batch_size', 8, '--accum_iter', 2, '--t_in_epochs').out
    assert 'lr 2.00e-03, total batch 16' in out and train.log()[0]['train_lr'] == pytest.approx(0.002)
    train('--blr', 0.064, '--lr', 0.5, '--t_in_epochs', out='given')
    assert train.log('given')[0]['train_lr'] == 0.5


def test_amp_says_once_that_it_has_no_effect_on_a_cpu_and_changes_nothing(train):
    if paddle.device.is_compiled_with_cuda():
        pytest.skip('a GPU build of Paddle')
    result = train('--use_amp')
    train(out='without')
    assert result.out.count('--use_amp has no effect on a CPU') == 1
    assert same(train.state()['model'], train.state('without')['model'])


def test_dense_and_class_weights_scale_their_losses(train):
    def loss(*flags):
        train(*train.token, '--no_mix_token', '--lr', 0, '--min_lr', 0, *flags, out=str(flags))
        return train.log(str(flags))[0]['train_loss']

    both, cls = loss(), loss('--dense_weight', 0)
    assert cls < both and loss('--dense_weight', 3) == pytest.approx(cls + 3 * (both - cls), rel=1e-4)
    assert loss('--cls_weight', 2) == pytest.approx(both + cls, rel=1e-4)


# ---- starting from other weights


def test_finetune_says_which_heads_are_new_and_resizes_the_position_embedding(train):
    train(*train.token)
    result = train(
        '--finetune',
        train.folder / 'run' / 'checkpoint-best.pd',
        '--nb_classes',
        12,
        '--input_size',
        64,
        '--lr',
        0,
        '--min_lr',
        0,
        '--opt',
        'momentum',
        '--token_label',
        '--token_label_data',
        train.token[2],
        '--token_label_size',
        4,
        out='tuned',
    )
    assert result.code == 0, result.err
    for note in (
        'head.weight: initialised anew',
        'head.bias: initialised anew',
        'aux_head.weight: initialised anew',
        'aux_head.bias: initialised anew',
        'pos_embed: resized from 4 to 16 tokens',
    ):
        assert f'  {note}\n' in result.out
    old, new = train.state(tag='best')['model'], train.state('tuned')['model']
    assert new['head.weight'].shape == (24, 12) and new['pos_embed'].shape == (1, 17, 24)
    assert same(new['blocks.1.mlp.fc1.weight'], old['blocks.1.mlp.fc1.weight'])
    assert same(new['pos_embed'][:, 0], old['pos_embed'][:, 0]) and train.state('tuned')['epoch'] == 0


def test_finetune_of_the_same_classes_keeps_the_heads_unless_told_otherwise(train):
    train(*train.token, '--lr', 0.01)
    flags = [
        '--finetune',
        train.folder / 'run' / 'checkpoint-best.pd',
        '--lr',
        0,
        '--min_lr',
        0,
        '--opt',
        'momentum',
        *train.token,
    ]
    assert 'initialised anew' not in train(*flags, out='kept').out
    assert 'head.weight: initialised anew' in train(*flags, '--remove_head_from_pretained', out='anew').out
    old, kept, anew = (train.state(name)['model']['head.weight'] for name in ('run', 'kept', 'anew'))
    assert same(old, kept) and not same(old, anew)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize('token', [True, False])
def test_an_interrupted_and_resumed_run_ends_bit_identical_to_an_unbroken_one(train, monkeypatch, token):
    flags = [
        '--epochs',
        4,
        '--warmup_epochs',
        1,
        '--lr',
        0.01,
        '--drop',
        0.1,
        '--drop_path',
        0.2,
        '--model_ema',
        '--model_ema_eval',
        '--model_ema_decay',
        0.9,
        *(train.token if token else []),
    ]
    assert train(*flags, out='whole').code == 0

    real = main.train_one_epoch

    def breaks(model, criterion, loader, optimizer, epoch, *rest):
        result = real(model, criterion, loader, optimizer, epoch, *rest)
        if epoch == 2:  # it has trained, and nothing of it has been saved
            raise Interrupted
        return result

    monkeypatch.setattr(main, 'train_one_epoch', breaks)
    with pytest.raises(Interrupted):
        train(*flags, out='broken')
    monkeypatch.setattr(main, 'train_one_epoch', real)
    assert train.state('broken')['epoch'] == 1

    result = train(*flags, '--resume', train.folder / 'broken' / 'checkpoint-latest.pd', out='broken')
    assert result.code == 0 and re.search(r'Epoch: \[2\]', result.out) and not re.search(r'Epoch: \[[01]\]', result.out)
    whole, broken = train.state('whole'), train.state('broken')
    for part in ('model', 'model_ema', 'optimizer', 'epoch', 'step', 'best_acc1', 'best_acc1_ema'):
        assert same(whole[part], broken[part]), part
    assert train.log('whole') == train.log('broken')


def test_resuming_a_finished_run_trains_no_further(train):
    train()
    before = train.state()
    result = train('--resume', train.folder / 'run' / 'checkpoint-latest.pd')
    assert result.code == 0 and 'Epoch:' not in result.out and len(train.log()) == 1
    assert same(train.state()['model'], before['model'])


def test_resuming_with_another_optimizer_is_refused_in_one_line(train):
    train('--epochs', 2)
    path = train.folder / 'run' / 'checkpoint-latest.pd'
    result = train('--epochs', 3, '--resume', path, '--opt', 'momentum', out='other')
    assert result.code == 1 and result.err.count('\n') == 1, result.err
    assert str(path) in result.err and '--opt' in result.err


def test_resuming_plain_weights_starts_at_the_first_epoch(train):
    train()
    paddle.save({k: paddle.to_tensor(v) for k, v in train.state()['model'].items()}, str(train.folder / 'w.pdparams'))
    result = train('--resume', train.folder / 'w.pdparams', '--lr', 0, '--min_lr', 0, '--opt', 'momentum', out='again')
    assert 'Epoch: [0]' in result.out and 'plain weights of' in result.out
    assert same(train.state('again')['model']['head.weight'], train.state()['model']['head.weight'])


def test_resume_ema_takes_the_average_from_its_own_file(train):
    flags = ['--model_ema', '--model_ema_decay', 0.5]
    train(*flags, '--lr', 0.01)
    train(
        *flags,
        '--resume_ema',
        train.folder / 'run' / 'checkpoint-latest.pd',
        '--lr',
        0,
        '--min_lr',
        0,
        '--model_ema_decay',
        1,
        out='next',
    )
    assert same(train.state('next')['model_ema']['head.weight'], train.state()['model_ema']['head.weight'])


def test_eval_only_evaluates(train):
    trained = train(*train.token)
    path = train.folder / 'run' / 'checkpoint-latest.pd'
    before = path.read_bytes()
    result = train('--eval', '--resume', path, '--cls_label_path_train', '/nowhere')
    line = r'\* Acc@1 .*'
    assert result.code == 0 and re.findall(line, result.out) == re.findall(line, trained.out)
    assert 'Epoch:' not in result.out and path.read_bytes() == before and len(train.log()) == 1


# ---- static graph


@pytest.mark.parametrize('flags', [['--drop_path', 0.2], ['--accum_iter', 2, '--batch_size', 4]])
def test_a_static_graph_trains_as_the_dynamic_one_does_with_a_new_mixtoken_box_in_every_step(train, flags):
    flags = [*train.token, *flags, '--lr', 1e-3, '--epochs', 2]
    assert train(*flags, out='dynamic').code == 0
    assert train(*flags, '--to_static', out='static').code == 0
    for a, b in zip(train.log('dynamic'), train.log('static')):
        assert abs(a['train_loss'] - b['train_loss']) < 1e-4
    for name, value in train.state('dynamic')['model'].items():
        np.testing.assert_allclose(train.state('static')['model'][name], value, rtol=0, atol=2e-3, err_msg=name)


def test_a_static_graph_is_for_models_with_a_token_classifier(train):
    result = train('--model', 'vit', '--to_static')
    assert result.code == 1 and '--to_static' in result.err and result.err.count('\n') == 1


# ---- determinism


def test_weights_do_not_depend_on_the_number_of_loader_processes(train):
    states = []
    for workers in (0, 1, 2):
        assert train('--num_workers', workers, *train.token, '--epochs', 2, out=str(workers)).code == 0
        states.append(train.state(str(workers))['model'])
    assert same(states[0], states[1]) and same(states[0], states[2])


def test_another_seed_is_another_run(train):
    train('--lr', 0, '--min_lr', 0, out='a')
    train('--lr', 0, '--min_lr', 0, '--seed', 1, out='b')
    assert train.log('a')[0]['train_loss'] != train.log('b')[0]['train_loss']
    assert not same(train.state('a')['model']['head.weight'], train.state('b')['model']['head.weight'])


# ---- what goes wrong


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line_and_keeps_what_was_saved(train, refused, scenes):
    train()
    before = train.state()['model']
    line = refused(
        main, *SMALL, '--data_path', scenes, '--output_dir', train.folder / 'run', '--opt', 'momentum', '--lr', 1e30
    )
    assert 'epoch 0, step 1, rank 0: loss is' in line and '.JPEG' in line and '--lr' in line
    assert same(train.state()['model'], before)


def test_resuming_from_another_model_names_the_file_and_the_first_keys(train):
    train()
    result = train('--resume', train.folder / 'run' / 'checkpoint-latest.pd', '--nb_classes', 12, out='other')
    assert result.code == 1 and result.err.count('\n') == 1
    assert 'checkpoint-latest.pd' in result.err and 'head.weight is [24, 10]' in result.err


def test_an_output_folder_that_cannot_be_is_refused_before_training(refused, scenes, tmp_path):
    (tmp_path / 'file').touch()
    line = refused(main, *SMALL, '--data_path', scenes, '--output_dir', tmp_path / 'file' / 'out')
    assert '--output_dir' in line and str(tmp_path / 'file' / 'out') in line
