"""util/weights/checkpoint.py: a crash loses nothing, a stranger's file executes nothing."""

import argparse
import collections
import contextlib
import errno
import os
import pickle
import resource

import numpy as np
import paddle
import pytest

from models import LV_ViT
from states import differences
from util.errors import UserError
from util.train import optim
from util.train.optim import build_optimizer
from util.weights import checkpoint, load

pytestmark = pytest.mark.cross_version


def small(seed=0, **kwargs):
    paddle.seed(seed)
    return LV_ViT(**{**dict(img_size=32, num_classes=5, embed_dim=8, depth=1, num_heads=2), **kwargs})


def said(call, *args, **kwargs):
    """The message with which a call turns its input down."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    return str(error.value)


def assert_same(a, b):
    assert differences(a, b) == []


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'checkpoint.pd')


# ---- round trip

STATE = {
    'model': {
        'w': np.arange(6, dtype='float32').reshape(2, 3),
        'transposed': np.arange(6.0).reshape(2, 3).T,
        'half': np.ones([2], 'float16'),
        'empty': np.zeros([0, 4], 'float32'),
        'scalar': np.array(3.5),
        'ids': np.array([-1, 2**40]),
        'mask': np.array([True, False]),
        'big': np.arange(3, dtype='>f4'),
    },
    'epoch': 7,
    'best_acc1': 81.25,
    'number': np.float64(0.1),
    'nothing': None,
    'yes': True,
    'args': {'model': 'lvvit_t', 'opt_betas': [0.9, 0.999], 'scale': (0.08, 1.0), 'name': 'µ'},
}


def test_what_is_saved_is_loaded_bit_for_bit(path):
    checkpoint.save(STATE, path)
    assert_same(checkpoint.load(path), STATE)


@pytest.mark.parametrize('protocol', range(2, 6))
def test_any_pickle_protocol_loads(path, protocol):
    with open(path, 'wb') as f:
        pickle.dump(STATE, f, protocol)
    assert_same(checkpoint.load(path), STATE)


def test_loaded_arrays_can_be_written_to(path):
    checkpoint.save({'w': np.zeros(3)}, path)
    checkpoint.load(path)['w'][0] = 1


def test_tensors_become_arrays_at_any_depth(path):
    t = paddle.arange(4, dtype='float32')
    checkpoint.save({'a': t, 'b': {'c': [t, (t, 1)]}, 'half': t.astype('bfloat16')}, path)
    a = t.numpy()
    assert_same(checkpoint.load(path), {'a': a, 'b': {'c': [a, (a, 1)]}, 'half': a})


# ---- other writers' files


def test_a_state_dict_of_paddle_save(path):
    model = small()
    file = path.replace('.pd', '.pdparams')
    paddle.save(model.state_dict(), file)
    assert_same(checkpoint.load(file), {k: v.numpy() for k, v in model.state_dict().items()})


@pytest.mark.parametrize('protocol', [2, 3, 4])
def test_a_nested_dict_of_paddle_save(path, protocol):
    t = paddle.arange(4, dtype='float32')
    paddle.save({'model': {'w': t}, 'list': [t], 'epoch': 3, 'text': ('a', 'b')}, path, protocol=protocol)
    assert_same(checkpoint.load(path), {'model': {'w': t.numpy()}, 'list': [t.numpy()], 'epoch': 3, 'text': ('a', 'b')})


def test_old_files_whose_args_are_a_namespace(path):
    with open(path, 'wb') as f:
        pickle.dump({'model': collections.OrderedDict(w=np.ones(2)), 'args': argparse.Namespace(lr=0.1, model='x')}, f)
    state = checkpoint.load(path)
    assert state['args'] == {'lr': 0.1, 'model': 'x'} and type(state['args']) is dict
    assert_same(dict(state['model']), {'w': np.ones(2)})


# ---- the seal


def test_every_flipped_bit_of_a_file_of_ours_is_found(path):
    checkpoint.save({'model': {'w': np.zeros(100, 'float32')}, 'epoch': 3}, path)
    good = open(path, 'rb').read()
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        with open(path, 'wb') as f:
            f.write(data)
        if position >= len(good) - checkpoint.SEAL_SIZE and position < len(good) - 32:
            checkpoint.load(path)  # no seal, as in files of others; nothing of the content is touched
        else:
            assert path in said(checkpoint.load, path), position


def test_pickle_and_paddle_read_a_sealed_file(path):
    checkpoint.save({'model': {'w': np.arange(3.0)}}, path)
    with open(path, 'rb') as f:
        assert_same(pickle.load(f), {'model': {'w': np.arange(3.0)}})
    np.testing.assert_array_equal(paddle.load(path)['model']['w'], np.arange(3.0))


# ---- nothing is executed (test_unpickle.py tries more ways)


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def write(path, thing, protocol=2):
    with open(path, 'wb') as f:
        pickle.dump({'model': thing}, f, protocol)


@pytest.mark.parametrize('function, asked', [(os.system, f'{os.name}.system'), (np.load, 'numpy.load')])
def test_a_call_is_refused_by_name_and_not_made(path, tmp_path, function, asked):
    victim = tmp_path / 'victim'
    write(path, Calls(function, f'touch {victim}'))
    message = said(checkpoint.load, path)
    assert asked in message and message.startswith(f'{path}: ') and not victim.exists()


@pytest.mark.parametrize('thing, asked', [(paddle.nn.Linear, 'paddle.nn.layer.common.Linear'), (object, '.object')])
def test_a_class_a_checkpoint_has_no_use_for_is_refused_by_name(path, thing, asked):
    write(path, thing)
    assert asked in said(checkpoint.load, path)


# ---- damaged files


@pytest.mark.parametrize('share', [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(path, share):
    checkpoint.save({'model': {k: v.numpy() for k, v in small().state_dict().items()}}, path)
    size = os.path.getsize(path)
    os.truncate(path, int(size * share))
    message = said(checkpoint.load, path)
    assert message.startswith(f'{path}: not a readable checkpoint, or cut short')


@pytest.mark.parametrize(
    'content',
    [
        b'just text\n',
        b'\x89PNG\r\n\x1a\n',
        b'PK\x03\x04',
        b'{"model": 1}',
        b'\x80\x04N.',
        b'\x80\x04]\x94.',
        b'\x80\xff.',
    ],
)
def test_what_is_no_checkpoint_is_named(path, content):
    with open(path, 'wb') as f:
        f.write(content)
    assert said(checkpoint.load, path).startswith(f'{path}: not a')


def test_a_missing_file_and_a_folder_are_named(path, tmp_path):
    assert 'No such file' in said(checkpoint.load, path) and path in said(checkpoint.load, path)
    assert str(tmp_path) in said(checkpoint.load, str(tmp_path))


# ---- writing


@contextlib.contextmanager
def disk_with(size):
    """Files of this process can grow to `size` bytes only, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('room', [0, 100, 70_000])
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(path, room):
    checkpoint.save({'epoch': 1}, path)
    with disk_with(room):
        message = said(checkpoint.save, {'epoch': 2, 'w': np.zeros(20_000)}, path)
    assert message.startswith(f'{path}: could not be written (File too large)')
    assert checkpoint.load(path) == {'epoch': 1}
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_no_space_is_said_in_plain_words(path, monkeypatch):
    checkpoint.save({'epoch': 1}, path)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, 'fsync', full)
    assert 'No space left on device' in said(checkpoint.save, {'epoch': 2}, path)
    monkeypatch.undo()
    assert checkpoint.load(path) == {'epoch': 1} and len(os.listdir(os.path.dirname(path))) == 1


def test_a_crash_while_writing_leaves_the_old_checkpoint_and_nothing_else(path, monkeypatch):
    checkpoint.save({'epoch': 1}, path)

    def interrupted(self, data):
        if self.file.tell() > 1000:
            raise KeyboardInterrupt
        return self.file.write(data)

    monkeypatch.setattr(checkpoint.HashedFile, 'write', interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({'epoch': 2, 'model': [np.zeros(100_000), np.zeros(100_000)]}, path)
    monkeypatch.undo()
    assert checkpoint.load(path) == {'epoch': 1} and len(os.listdir(os.path.dirname(path))) == 1


def test_a_checkpoint_is_written_beside_its_place_and_synced_before_it_takes_it(path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(checkpoint.os, 'fsync', lambda handle: (events.append('sync'), fsync(handle)))
    monkeypatch.setattr(checkpoint.os, 'replace', lambda a, b: (events.append((os.path.dirname(a), b)), replace(a, b)))
    checkpoint.save({'epoch': 1}, path)
    assert events[:2] == ['sync', (os.path.dirname(path), path)]


def test_the_folder_is_made(tmp_path):
    checkpoint.save({'epoch': 1}, str(tmp_path / 'a' / 'b' / 'c.pd'))
    assert checkpoint.load(str(tmp_path / 'a' / 'b' / 'c.pd')) == {'epoch': 1}


def test_an_impossible_folder_is_named(tmp_path):
    (tmp_path / 'file').touch()
    assert str(tmp_path / 'file' / 'x.pd') in said(checkpoint.save, {}, str(tmp_path / 'file' / 'x.pd'))


# ---- optimizer state


def step(model, optimizer):
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype('float32'))
    cls, aux, _ = model(x, (0, 0, 0, 0))
    (cls.square().mean() + aux.square().mean()).backward()
    optimizer.step()
    optimizer.clear_grad()


def trained(opt, **kwargs):
    model = small(**kwargs)
    optimizer = build_optimizer(model, opt, lr=0.01)
    step(model, optimizer)
    return model, optimizer


@pytest.mark.parametrize('opt', ['adamw', 'momentum'])
def test_optimizer_state_survives_its_file_and_other_models_built_first(path, opt):
    model, optimizer = trained(opt)
    checkpoint.save({'model': model.state_dict(), 'optimizer': optim.state_by_name(optimizer, model)}, path)
    small(), small()  # shift the automatic names
    again = small(5)
    state = checkpoint.load(path)
    load.set_weights(again, state['model'], path)
    other = build_optimizer(again, opt, lr=0.01)
    optim.restore_by_name(other, again, state['optimizer'], path)
    for _ in range(2):
        step(model, optimizer)
        step(again, other)
    assert_same(checkpoint.to_numpy(again.state_dict()), checkpoint.to_numpy(model.state_dict()))
    assert_same(
        checkpoint.to_numpy(optim.state_by_name(other, again)),
        checkpoint.to_numpy(optim.state_by_name(optimizer, model)),
    )


@pytest.mark.parametrize('wrote, reads', [('adamw', 'momentum'), ('momentum', 'adamw')])
def test_state_of_another_optimizer_is_refused(wrote, reads):
    model, optimizer = trained(wrote)
    state = checkpoint.to_numpy(optim.state_by_name(optimizer, model))
    message = said(optim.restore_by_name, build_optimizer(model, reads), model, state, 'x.pd')
    assert message.startswith('x.pd: ') and '--opt' in message


def test_state_without_the_aux_head_is_refused_where_it_is_trained():
    model = small()
    model.disable_aux_head()
    optimizer = build_optimizer(model)
    model(paddle.zeros([2, 3, 32, 32]), (0, 0, 0, 0))[0].sum().backward()
    optimizer.step()
    state = checkpoint.to_numpy(optim.state_by_name(optimizer, model))
    other = small()
    assert 'aux_head.weight' in said(optim.restore_by_name, build_optimizer(other), other, state, 'x.pd')
