"""A run that was stopped anywhere and resumed ends bit for bit as a run that was never stopped."""

import itertools
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import paddle
import pytest
from PIL import ImageFile

import engine
import main
from conftest import TINY_RUN, words
from states import differences, untimed
from util import files, paddle_fixes
from util.data.datasets import TrainDataset
from util.data.transforms import TrainTransform
from util.train import interrupt
from util.train.loss import TokenLabelLoss
from util.train.train_state import TrainState

FLAGS = (
    '--epochs 3 --warmup_epochs 1 --lr 0.01 --drop 0.1 --drop_path 0.2 --model_ema --model_ema_eval '
    '--model_ema_decay 0.9 --resume auto'
)

pytestmark = pytest.mark.usefixtures('tiny')


class Killed(BaseException):
    """Ends a run as suddenly as kill -9, as far as this is possible within a process."""


@pytest.fixture
def train(train):
    """train(*flags, out='run') -> Result, always with --resume auto."""
    train.always = words(FLAGS, *train.token)
    return train


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    return tmp_path_factory.mktemp('unbroken') / 'run'


@pytest.fixture
def whole(train, unbroken):
    """The folder 'whole' holds a run that was not stopped; it is trained once for all tests."""
    if not unbroken.exists():
        assert train(out='whole').code == 0
        shutil.copytree(train.folder / 'whole', unbroken)
    else:
        shutil.copytree(unbroken, train.folder / 'whole')


@pytest.fixture
def at_step(monkeypatch):
    """at_step(number, act): act(train state) is called after that optimizer step, before it is saved."""
    real = TrainState.after_step

    def call(number, act):
        count = itertools.count(1)

        def after_step(self, *rest):
            if next(count) == number:
                act(self)
            real(self, *rest)

        monkeypatch.setattr(TrainState, 'after_step', after_step)

    return call


@pytest.fixture
def killed(train, at_step):
    """killed(steps, *flags): train, and die after so many optimizer steps."""

    def die(_):
        raise Killed

    def call(steps, *flags):
        at_step(steps, die)
        with pytest.raises(Killed):
            train(*flags)
        at_step(None, die)

    return call


def assert_same_end(train, out='run', whole='whole'):
    a, b = train.state(whole), train.state(out)
    for part in ('model', 'model_ema', 'optimizer', 'scaler', 'epoch', 'step', 'best_acc1', 'best_acc1_ema'):
        assert differences(a[part], b[part], part) == []
    logs = [(train.folder / name / 'log.txt').read_bytes() for name in (whole, out)]
    assert untimed(logs[0]) == untimed(logs[1])


@pytest.mark.parametrize(
    'flags, first, second', [('--save_freq_steps 3', 8, 6), ('', 7, 2), ('--save_freq_steps 2 --num_workers 2', 4, 3)]
)
def test_a_run_killed_twice_within_its_epochs_ends_bit_identical(train, whole, killed, flags, first, second):
    killed(first, flags)
    killed(second, flags)
    result = train(flags)
    assert result.code == 0 and 'resuming from' in result.out
    assert_same_end(train)


@pytest.mark.parametrize(
    'flags', ['--accum_iter 2 --batch_size 4', '--opt momentum --clip_grad 1 --layer_decay 0.7 --dense_weight 0']
)
def test_other_runs_too_even_with_more_loader_processes_or_recomputed_blocks(train, killed, flags):
    train.always += words(flags, '--save_freq_steps 2')
    assert train(out='whole').code == 0
    killed(8)
    assert train('--num_workers 2 --persistent_workers --recompute').code == 0
    assert_same_end(train)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_exits_0_with_one_line(train, whole, at_step, number):
    at_step(3, lambda _: os.kill(os.getpid(), number))
    result = train()
    assert result.code == 0 and result.err == ''
    (line,) = [line for line in result.out.splitlines() if 'stopped' in line]
    assert f'stopped by {number.name} in epoch 0 after 3 of 5 steps; --resume auto continues from' in line
    assert train.state()['progress']['done'] == 3 and train.state()['step'] == 3
    assert train().code == 0
    assert_same_end(train)


def test_a_signal_during_evaluation_stops_at_once_and_only_the_evaluation_is_repeated(train, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(main, 'evaluate', lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM) or pytest.fail('goes on'))
        result = train()
    assert result.code == 0 and 'stopped by SIGTERM in epoch 0 after 5 of 5 steps' in result.out
    result = train()
    assert 'Epoch: [0]  [' not in result.out and 'Epoch: [1]  [' in result.out
    assert_same_end(train)


def hang_after(steps, number, monkeypatch):
    """After so many steps of 8 images the loader sends the run this signal, and delivers no batch."""
    main_process, trained, loads = os.getpid(), multiprocessing.Event(), []
    load, set_epoch, after_step = TrainTransform.load, TrainDataset.set_epoch, TrainState.after_step

    def begin(dataset, epoch):
        loads.clear()  # a loader with processes has loaded some images to estimate their size
        set_epoch(dataset, epoch)

    def count(state):
        after_step(state)
        if state.steps_done == steps:
            trained.set()

    def hang(*args):
        loads.append(args)
        if len(loads) > 8 * steps:
            trained.wait()
            os.kill(main_process, number)
            time.sleep(600)
        return load(*args)

    monkeypatch.setattr(TrainDataset, 'set_epoch', begin)
    monkeypatch.setattr(TrainState, 'after_step', count)
    monkeypatch.setattr(TrainTransform, 'load', hang)
    monkeypatch.setattr(interrupt, 'BATCH_SECONDS', 0.1)
    monkeypatch.setattr(paddle_fixes, 'SHUTDOWN_SECONDS', 0.1)


@pytest.mark.cross_version
@pytest.mark.parametrize(
    'number, flags', [(signal.SIGTERM, '--num_workers 0'), (signal.SIGINT, '--num_workers 1 --persistent_workers')]
)
def test_a_signal_stops_a_run_whose_loader_hangs_and_no_step_is_lost(train, whole, monkeypatch, number, flags):
    with monkeypatch.context() as patch:
        hang_after(2, number, patch)
        result = train(flags)
    assert result.code == 0 and result.err == ''
    assert f'stopped by {number.name} in epoch 0 after 2 of 5 steps; --resume auto continues from' in result.out
    assert train(flags).code == 0
    assert_same_end(train)


def test_within_an_accumulated_step_a_hanging_loader_ends_the_run_with_an_error(train, monkeypatch):
    hang_after(1, signal.SIGTERM, monkeypatch)
    line = train.refused('--num_workers 0 --batch_size 4 --accum_iter 2')
    assert 'SIGTERM' in line and '--data_path' in line and not train.path().exists()


def test_a_signal_while_an_image_is_decoded_is_not_taken_for_a_bad_image(train, monkeypatch):
    def evaluate(*args, **kwargs):
        monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda _: os.kill(os.getpid(), signal.SIGTERM))
        return engine.evaluate(*args, **kwargs)

    monkeypatch.setattr(main, 'evaluate', evaluate)
    result = train('--num_workers 0')
    assert result.code == 0 and result.err == '' and 'stopped by SIGTERM in epoch 0 after 5 of 5 steps' in result.out


def test_a_signal_without_an_output_folder_ends_the_run_with_an_error(run, scenes, monkeypatch):
    monkeypatch.setattr(main, 'evaluate', lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
    result = run(main, *words(TINY_RUN, '--data_path', scenes))
    assert result.code == 143 and 'nothing is saved without --output_dir' in result.err


def test_a_second_ctrl_c_ends_the_program(monkeypatch):
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(interrupt.time, 'monotonic', lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), interrupt.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested() == 'SIGINT'
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupt.requested() is None


# ---- which checkpoint


def test_auto_needs_an_output_folder_and_starts_a_new_run_if_it_has_no_checkpoint(train, refused, scenes):
    assert '--output_dir' in refused(main, *words(TINY_RUN, '--resume auto --data_path', scenes))
    result = train('--epochs 1')
    assert result.code == 0 and 'no checkpoint in' in result.out and 'a new run' in result.out


def test_a_damaged_latest_falls_back_to_the_one_before_and_the_run_ends_the_same(train, whole, killed):
    killed(9, '--save_freq_steps 2')
    path = train.path()
    assert train.state()['step'] == 8 and train.state(tag='previous')['step'] == 6
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # a new file: the hard links keep theirs
    path.write_bytes(data)
    result = train('--save_freq_steps 2')
    assert result.code == 0 and 'checkpoint-previous.pd' in result.out
    assert f'warning: {path}' in result.out and train.path(tag='damaged').exists()
    assert_same_end(train)


def test_a_save_writes_one_file_under_several_names_and_removes_what_a_killed_save_left(train):
    folder = train.folder / 'run'
    folder.mkdir()
    (folder / '.checkpoint-latest.pd.abc123.tmp').write_bytes(b'half')
    train('--epochs 1')
    assert train.path().samefile(train.path(tag='0')) and train.path().samefile(train.path(tag='best'))
    assert not any(path.name.startswith('.') for path in folder.iterdir())


def test_an_epoch_that_is_repeated_has_one_line_in_log_txt(train, whole, monkeypatch):
    real, log = TrainState.save, train.folder / 'run' / 'log.txt'

    def dies(self, *tags):
        if self.epoch == 2 and not self.steps_done:  # epoch 1 has its line in log.txt, and now should be saved
            with open(log, 'a') as f:
                f.write('{"epoch": 1, "torn')
            raise Killed
        real(self, *tags)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainState, 'save', dies)
        train()
    assert log.read_text().count('"epoch": 1') == 2
    train()
    assert [record['epoch'] for record in train.log()] == [0, 1, 2]
    assert_same_end(train)


def test_the_time_of_a_resumed_epoch_is_that_of_all_its_parts(train, killed):
    killed(3, '--save_freq_steps 2')
    state = train.state()
    assert state['progress']['seconds'] > 0
    state['progress']['seconds'] += 1000
    paddle.save(state, str(train.path()))
    train()
    first, second, _ = train.log()
    assert first['seconds'] > 1000 > second['seconds']
    assert first['images_per_second'] == 0.0 < second['images_per_second'], '40 images in 1000 seconds'


def test_a_resumed_run_appends_to_train_log_which_keeps_what_others_wrote(train, killed):
    log = train.folder / 'run' / 'train.log'
    log.parent.mkdir()
    log.write_text('notes\n')
    killed(7)
    before = log.read_text()
    assert before.startswith('notes\n[') and 'Max accuracy' in before
    out = train().out
    assert log.read_text() == before + out and 'resuming from' in out


# ---- what a run reads in its own folder

FOREIGN = [b'Epoch: [0] by tee', b'', b'[1, 2]', b'{"epoch": "x"}', b'{"lr": 1}', b'caf\xe9 {', b'[' * 2000, b'null']


def test_lines_of_log_txt_that_are_no_records_stay_where_they_are(train, whole, killed):
    killed(9)
    log = train.folder / 'run' / 'log.txt'
    record = log.read_bytes()
    assert record.count(b'\n') == 1
    log.write_bytes(b'\n'.join(FOREIGN) + b'\n' + record + b'{"epoch": 1, "train_loss": 9}\nwritten by an editor')
    result = train()
    assert result.code == 0 and f'{log}: 8 line(s) are no records of an epoch; they stay' in result.out
    before, _, after = log.read_bytes().partition(record + b'written by an editor\n')
    assert before == b'\n'.join(FOREIGN) + b'\n'
    assert untimed(record + after) == untimed((train.folder / 'whole' / 'log.txt').read_bytes())
    assert [epoch['epoch'] for epoch in files.read_log(log)] == [0, 1, 2]


def test_a_finished_run_says_so_and_changes_nothing(train):
    train('--epochs 1')
    before = {path.name: path.read_bytes() for path in (train.folder / 'run').iterdir()}
    result = train('--epochs 1')
    assert result.code == 0 and result.out.endswith('] all 1 epochs are done\n') and result.err == ''
    before['train.log'] += result.out.encode()
    assert {path.name: path.read_bytes() for path in (train.folder / 'run').iterdir()} == before


def test_a_checkpoint_that_is_a_dangling_link_starts_no_new_run(train):
    train('--epochs 1')
    for path in (train.folder / 'run').glob('checkpoint-*.pd'):
        path.unlink()
    train.path().symlink_to('/nowhere/checkpoint.pd')
    line = train('--epochs 2').err
    assert '--resume auto' in line and str(train.folder / 'run') in line and train.path().is_symlink()


def test_bad_images_are_counted_anew_when_the_images_have_changed(train, scenes, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(scenes, data)
    *_, last = sorted((data / 'train').rglob('*.JPEG'))
    last.write_bytes(b'no image')
    assert train('--epochs 1 --data_path', data).code == 0 and train.log()[0]['bad_images'] == 1
    last.unlink()
    assert train('--epochs 2 --batch_size 4 --data_path', data).code == 0
    assert 'bad_images' not in train.log()[1]


# ---- another shape of the run


def test_within_an_epoch_another_total_batch_is_refused_with_the_remedy_and_another_split_goes_on(train, killed):
    killed(8, '--save_freq_steps 2')
    line = train.refused('--batch_size 4')
    assert '5 steps of 8 images' in line and '10 of 4' in line and '--batch_size' in line
    result = train('--batch_size 4 --accum_iter 2')
    assert result.code == 0 and len(train.log()) == 3 and train.state()['step'] == 15


def test_flags_that_changed_are_named(train):
    train('--epochs 1')
    result = train('--epochs 2 --seed 7 --num_workers 1')
    (line,) = [line for line in result.out.splitlines() if 'flags that differ' in line]
    assert 'seed 0 -> 7' in line and 'epochs 1 -> 2' in line and 'num_workers' not in line and 'train_scale' not in line


def test_bad_images_are_counted_once_over_a_resume(train, scenes, killed, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(scenes, data)
    broken = sorted((data / 'train').rglob('*.JPEG'))[::15]
    for path in broken:
        path.write_bytes(b'no image')
    flags = ['--save_freq_steps 1 --data_path', data]
    assert train(*flags, out='whole').code == 0
    killed(7, *flags)
    assert train(*flags).code == 0
    assert_same_end(train)
    assert train.log()[-1]['bad_images'] == len(broken)


def test_weights_of_which_one_is_not_finite_are_not_saved(train, at_step):
    train('--epochs 1')
    before = train.path().read_bytes()
    at_step(1, lambda state: state.model.head.bias.set_value(np.array([0] * 9 + [np.inf], 'float32')))
    line = train.refused('--epochs 2 --save_freq_steps 1')
    assert 'not finite' in line and 'head.bias' in line and train.path().read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run_with_epoch_step_and_rank(train, monkeypatch):
    losses, forward = [], TokenLabelLoss.forward

    def spoiled(self, outputs, targets):
        losses.append(forward(self, outputs, targets))
        return losses[-1] * (float('nan') if len(losses) == 9 else 1.0)

    monkeypatch.setattr(TokenLabelLoss, 'forward', spoiled)
    line = train.refused('--save_freq_steps 1')
    assert 'epoch 1, step 3: loss is nan on rank 0' in line and '--lr' in line
    assert train.state()['step'] == 8 and all(np.isfinite(v).all() for v in train.state()['model'].values())


def test_signals_to_loader_processes_are_ignored_until_the_main_process_stops(train, monkeypatch):
    parent, getitem = os.getpid(), TrainDataset.__getitem__

    def signalled(self, index):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return getitem(self, index)

    monkeypatch.setattr(TrainDataset, '__getitem__', signalled)
    result = train('--num_workers 2 --epochs 1')
    assert result.code == 0 and result.err == ''
