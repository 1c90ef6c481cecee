"""train_state.py, interrupt.py: a run that was stopped anywhere and resumed ends as if it never had been."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

import main
from states import same
from util.data.loader import TrainSampler
from util.train import interrupt, train_state
from util.train.train_state import TrainState
from util.weights import checkpoint

FLAGS = [
    '--model',
    'lvvit_nano',
    '--input_size',
    32,
    '--nb_classes',
    10,
    '--batch_size',
    8,
    '--epochs',
    3,
    '--warmup_epochs',
    1,
    '--cooldown_epochs',
    0,
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
    '--num_workers',
    0,
]  # 40 images: 5 steps an epoch

pytestmark = pytest.mark.usefixtures('tiny')


class Killed(BaseException):
    """As sudden as kill -9, as far as a process can do this to itself."""


@pytest.fixture
def train(run, scenes, tmp_path):
    """train(*flags, out='run') -> Result, always with --resume auto."""

    def call(*flags, out='run'):
        return run(
            main, *FLAGS, *call.token, '--data_path', scenes, '--output_dir', tmp_path / out, '--resume', 'auto', *flags
        )

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
    call.state = lambda out='run', tag='latest': checkpoint.load(str(tmp_path / out / f'checkpoint-{tag}.pd'))
    call.log = lambda out='run': (tmp_path / out / 'log.txt').read_text()
    return call


@pytest.fixture
def kill_after(monkeypatch):
    """kill_after(n): the run dies right after its n-th optimizer step, before anything of it is saved."""
    real = TrainState.after_update

    def call(steps):
        count = iter(range(1, steps))

        def counted(self, done):
            if next(count, None) is None:
                raise Killed
            real(self, done)

        monkeypatch.setattr(TrainState, 'after_update', counted)

    call.never = lambda: monkeypatch.setattr(TrainState, 'after_update', real)
    return call


def assert_same_end(train, out, whole='whole'):
    a, b = train.state(whole), train.state(out)
    for part in ('model', 'model_ema', 'optimizer', 'scaler', 'epoch', 'step', 'best_acc1', 'best_acc1_ema'):
        assert same(a[part], b[part]), part
    assert train.log(whole) == train.log(out)


@pytest.mark.parametrize(
    'flags, first, second',
    [
        (['--save_freq_steps', 1], 2, 4),
        (['--save_freq_steps', 2], 4, 3),
        (['--save_freq_steps', 3], 8, 6),
        ([], 7, 2),
        (['--save_freq_steps', 1, '--accum_iter', 2, '--batch_size', 4], 2, 5),
        (['--save_freq_steps', 2, '--num_workers', 2], 4, 3),
        (['--save_freq_steps', 2, '--opt', 'momentum', '--clip_grad', 1], 4, 3),
    ],
)
def test_a_run_killed_twice_within_its_epochs_ends_bit_identical(train, kill_after, flags, first, second):
    assert train(*flags, out='whole').code == 0
    for steps in (first, second):
        kill_after(steps)
        with pytest.raises(Killed):
            train(*flags)
    kill_after.never()
    result = train(*flags)
    assert result.code == 0 and 'resuming from' in result.out
    assert_same_end(train, 'run')


def test_without_token_labels_too(train, kill_after):
    train.token = []
    train('--save_freq_steps', 2, out='whole')
    kill_after(8)
    with pytest.raises(Killed):
        train('--save_freq_steps', 2)
    kill_after.never()
    train('--save_freq_steps', 2)
    assert_same_end(train, 'run')


def test_the_number_of_loader_processes_may_change_on_the_way(train, kill_after):
    train('--save_freq_steps', 2, out='whole')
    kill_after(8)
    with pytest.raises(Killed):
        train('--save_freq_steps', 2, '--num_workers', 2)
    kill_after.never()
    assert train('--save_freq_steps', 2, '--num_workers', 1).code == 0
    assert_same_end(train, 'run')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_exits_0_with_one_line(train, monkeypatch, number):
    train(out='whole')
    real = main.train_one_epoch

    def signalled(model, criterion, loader, *rest):
        if not (train.folder / 'run' / 'checkpoint-latest.pd').exists():
            real_iter, loader_type = type(loader).__iter__, type(loader)

            def batches(self):
                for i, batch in enumerate(real_iter(self)):
                    if i == 2:
                        os.kill(os.getpid(), number)
                    yield batch

            with monkeypatch.context() as patch:
                patch.setattr(loader_type, '__iter__', batches)
                return real(model, criterion, loader, *rest)
        return real(model, criterion, loader, *rest)

    monkeypatch.setattr(main, 'train_one_epoch', signalled)
    result = train()
    assert result.code == 0 and result.err == ''
    (line,) = [line for line in result.out.splitlines() if 'stopped' in line]
    assert f'stopped by {number.name} in epoch 0 after 3 of 5 steps; --resume auto continues from' in line
    assert train.state()['progress']['done'] == 3 and train.state()['step'] == 3
    assert train().code == 0
    assert_same_end(train, 'run')


def test_a_signal_during_evaluation_stops_at_once_and_only_the_evaluation_is_done_again(train, monkeypatch):
    train(out='whole')
    real = main.evaluate

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError('the signal comes first')

    monkeypatch.setattr(main, 'evaluate', signalled)
    result = train()
    assert result.code == 0 and 'stopped by SIGTERM in epoch 0 after 5 of 5 steps' in result.out
    monkeypatch.setattr(main, 'evaluate', real)
    result = train()
    assert 'Epoch: [0]  [' not in result.out and 'Epoch: [1]  [' in result.out
    assert_same_end(train, 'run')


def test_a_signal_without_an_output_folder_says_that_nothing_is_saved(run, scenes, monkeypatch):
    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(main, 'evaluate', signalled)
    result = run(main, *FLAGS, '--data_path', scenes)
    assert result.code == 143 and 'nothing saved for want of --output_dir' in result.err
    assert result.err.count('\n') == 1


def test_a_second_ctrl_c_ends_the_program(monkeypatch):
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(interrupt.time, 'monotonic', lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), interrupt.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested() == 'SIGINT'
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupt.requested() is None


# ---- which checkpoint


def test_auto_without_a_checkpoint_is_a_new_run_and_says_so(train):
    result = train('--epochs', 1)
    assert result.code == 0 and 'no checkpoint in' in result.out and 'a new run' in result.out


def test_auto_needs_an_output_folder(refused, scenes):
    assert '--output_dir' in refused(main, *FLAGS, '--data_path', scenes, '--resume', 'auto')


def test_auto_prefers_the_checkpoint_to_finetune(train, kill_after):
    train('--epochs', 1, out='other')
    flags = ['--finetune', train.folder / 'other' / 'checkpoint-latest.pd', '--save_freq_steps', 1]
    result = train(*flags, '--epochs', 1, out='whole')
    assert 'fine-tuning from' in result.out
    kill_after(3)
    with pytest.raises(Killed):
        train(*flags, '--epochs', 1)
    kill_after.never()
    result = train(*flags, '--epochs', 1)
    assert 'fine-tuning from' not in result.out and 'resuming from' in result.out
    assert_same_end(train, 'run')


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)  # a new file: the hard links keep theirs


DAMAGE = {
    'a flipped bit': flip,
    'cut short': lambda p: p.write_bytes(p.read_bytes()[:-5000]),
    'empty': lambda p: p.write_bytes(b''),
    'gone': lambda p: None,
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_latest_falls_back_to_the_one_before_and_the_run_ends_the_same(train, kill_after, damage):
    train('--save_freq_steps', 2, out='whole')
    kill_after(9)
    with pytest.raises(Killed):
        train('--save_freq_steps', 2)
    kill_after.never()
    path = train.folder / 'run' / 'checkpoint-latest.pd'
    assert train.state()['step'] == 8 and train.state(tag='previous')['step'] == 6
    data = path.read_bytes()
    path.unlink()
    if damage != 'gone':
        path.write_bytes(data)
        DAMAGE[damage](path)
    result = train('--save_freq_steps', 2)
    assert result.code == 0 and 'checkpoint-previous.pd' in result.out
    if damage != 'gone':
        assert f'warning: {path}' in result.out and (train.folder / 'run' / 'checkpoint-damaged.pd').exists()
    assert_same_end(train, 'run')


def test_only_damaged_checkpoints_are_an_error_and_not_a_new_run(train):
    train('--epochs', 1)
    for path in (train.folder / 'run').glob('*.pd'):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[:1000])
    result = train('--epochs', 2)
    assert result.code == 1 and 'every checkpoint in' in result.err and result.err.count('\n') == 1


def test_there_is_a_good_checkpoint_at_every_moment_of_a_save(train, monkeypatch):
    """Looks at the folder before and after every change that a save makes to it."""
    folder, seen = train.folder / 'run', []

    def watched(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            look()
            result = real(*args, **kwargs)
            look()
            return result

        monkeypatch.setattr(os, name, call)

    def look():
        if any(folder.glob('checkpoint-*.pd')):
            state, _ = checkpoint.load_newest(str(folder), pytest.fail)
            seen.append(state['step'])

    for name in ('link', 'replace', 'unlink'):
        watched(name)
    train('--epochs', 2, '--save_freq_steps', 2)
    assert len(seen) > 50 and seen == sorted(seen) and seen[-1] == 10


def test_one_file_under_several_names_is_written_once(train):
    train('--epochs', 1)
    folder = train.folder / 'run'
    assert (folder / 'checkpoint-latest.pd').samefile(folder / 'checkpoint-0.pd')
    assert (folder / 'checkpoint-latest.pd').samefile(folder / 'checkpoint-best.pd')


def test_keep_checkpoints_keeps_the_newest_numbered_ones(train, monkeypatch):
    monkeypatch.setattr(main, 'train_one_epoch', lambda *a, **k: {'loss': 1.0, 'lr': 1.0})
    monkeypatch.setattr(main, 'evaluate', lambda *a, **k: {'loss': 1.0, 'acc1': 10.0, 'acc5': 50.0})
    train('--epochs', 81, '--keep_checkpoints', 2)
    names = sorted(p.name for p in (train.folder / 'run').glob('*.pd'))
    assert names == [
        'checkpoint-79.pd',
        'checkpoint-80.pd',
        'checkpoint-best-ema.pd',
        'checkpoint-best.pd',
        'checkpoint-latest.pd',
        'checkpoint-previous.pd',
    ]


def test_what_a_killed_save_left_behind_is_removed(train):
    (train.folder / 'run').mkdir()
    (train.folder / 'run' / '.checkpoint-latest.pd.abc123.tmp').write_bytes(b'half')
    (train.folder / 'run' / 'notes.tmp').write_bytes(b'mine')
    train('--epochs', 1)
    names = {p.name for p in (train.folder / 'run').iterdir()}
    assert 'notes.tmp' in names and not any(name.startswith('.') for name in names)


def test_an_epoch_that_is_done_again_has_one_line_in_the_log(train, monkeypatch):
    train(out='whole')
    real = TrainState.save

    def dies(self, *tags):
        if self.epoch == 2 and not self.done:  # epoch 1 has its line in log.txt, and now should be saved
            with open(train.folder / 'run' / 'log.txt', 'a') as f:
                f.write('{"epoch": 1, "torn')
            raise Killed
        real(self, *tags)

    monkeypatch.setattr(TrainState, 'save', dies)
    with pytest.raises(Killed):
        train()
    monkeypatch.setattr(TrainState, 'save', real)
    assert train.log().count('"epoch": 1') == 2
    train()
    assert [json.loads(line)['epoch'] for line in train.log().splitlines()] == [0, 1, 2]
    assert_same_end(train, 'run')


# ---- another shape of the run


def images_of_updates(length, batch, world, accum, epoch=3):
    samplers = [TrainSampler(length, batch, rank, world, seed=5, accum_iter=accum) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    parts = [list(sampler) for sampler in samplers]
    return [
        sorted(i for part in parts for step in part[k : k + accum] for i in step)
        for k in range(0, len(parts[0]), accum)
    ]


def test_the_images_of_an_update_depend_on_the_total_batch_alone():
    shapes = [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1), (1, 1, 8)]
    updates = [images_of_updates(50, *shape) for shape in shapes]
    assert all(u == updates[0] for u in updates) and len(updates[0]) == 6 and len(updates[0][0]) == 8
    assert len({i for u in updates[0] for i in u}) == 48


def test_a_sampler_begins_where_it_is_told():
    sampler = TrainSampler(50, 4, 1, 2, seed=5, accum_iter=2)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, 4)
    assert list(sampler) == whole[4:] and len(sampler) == len(whole)


def test_within_an_epoch_another_split_of_the_same_total_batch_goes_on(train, kill_after):
    kill_after(8)
    with pytest.raises(Killed):
        train('--save_freq_steps', 2)
    kill_after.never()
    result = train('--batch_size', 4, '--accum_iter', 2)
    assert result.code == 0 and len(train.log().splitlines()) == 3 and train.state()['step'] == 15


def test_within_an_epoch_another_total_batch_is_refused_with_the_remedy(train, kill_after):
    kill_after(8)
    with pytest.raises(Killed):
        train('--save_freq_steps', 2)
    kill_after.never()
    result = train('--batch_size', 4)
    assert result.code == 1 and result.err.count('\n') == 1
    assert '5 steps of 8 images' in result.err and '10 of 4' in result.err and '--batch_size' in result.err


def test_flags_that_changed_are_named(train):
    train('--epochs', 1)
    result = train('--epochs', 2, '--seed', 7)
    (line,) = [line for line in result.out.splitlines() if 'flags that differ' in line]
    assert 'seed 0 -> 7' in line and 'epochs 1 -> 2' in line and 'num_workers' not in line and 'train_scale' not in line


def test_bad_images_are_counted_once_over_a_resume(train, scenes, kill_after, tmp_path, run):
    data = tmp_path / 'data'
    shutil.copytree(scenes, data)
    broken = sorted((data / 'train').rglob('*.JPEG'))[::15]
    for path in broken:
        path.write_bytes(b'no image')
    flags = ['--data_path', data, '--save_freq_steps', 1]
    assert train(*flags, out='whole').code == 0
    kill_after(7)
    with pytest.raises(Killed):
        train(*flags)
    kill_after.never()
    assert train(*flags).code == 0
    assert_same_end(train, 'run')
    assert json.loads(train.log().splitlines()[-1])['bad_images'] == len(broken)


def test_wandb_goes_on_with_the_same_run(train, monkeypatch):
    import sys
    import types

    asked = []
    wandb = types.SimpleNamespace(
        init=lambda **kwargs: asked.append(kwargs['id']) or types.SimpleNamespace(id='abc'),
        log=lambda *a, **k: None,
        finish=lambda: None,
    )
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    train('--epochs', 1, '--log_wandb')
    train('--epochs', 2, '--log_wandb')
    assert asked == [None, 'abc']


def test_weights_that_are_not_finite_are_not_saved(train, monkeypatch):
    train('--epochs', 1)
    before = (train.folder / 'run' / 'checkpoint-latest.pd').read_bytes()
    real = train_state.TrainState.after_update

    def poison(self, done):
        self.model.head.bias.set_value(np.full([10], np.nan, 'float32'))
        real(self, done)

    monkeypatch.setattr(train_state.TrainState, 'after_update', poison)
    result = train('--epochs', 2, '--save_freq_steps', 1)
    assert result.code == 1 and 'not finite' in result.err and 'head.bias' in result.err and result.err.count('\n') == 1
    assert (train.folder / 'run' / 'checkpoint-latest.pd').read_bytes() == before
