"""util/weights/checkpoint.py: a file is written completely or not at all, damage is found, and the
files of other programs are read. (No call in a file is executed: test_unpickle.py.)"""

import argparse
import collections
import os
import pickle

import numpy as np
import paddle
import pytest

from lv_vit import LV_ViT
from states import differences
from util.errors import UserError
from util.train import optim
from util.train.optim import build_optimizer
from util.weights import checkpoint

pytestmark = pytest.mark.cross_version


def small(seed=0, **kwargs):
    paddle.seed(seed)
    return LV_ViT(**{**dict(img_size=32, num_classes=5, embed_dim=8, depth=1, num_heads=2), **kwargs})


def refusal(call, *args):
    with pytest.raises(UserError) as error:
        call(*args)
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
    },
    'epoch': 7,
    'number': np.float64(0.1),
    'nothing': None,
    'args': {'model': 'lvvit_t', 'opt_betas': [0.9, 0.999], 'scale': (0.08, 1.0), 'name': 'µ', 'yes': True},
}


def test_a_saved_state_is_loaded_bit_for_bit_and_its_arrays_can_be_written_to(path):
    checkpoint.save(STATE, path)
    state = checkpoint.load(path)
    assert_same(state, STATE)
    state['model']['w'][0] = 1


def test_tensors_become_arrays_at_any_depth(path):
    t = paddle.arange(4, dtype='float32')
    checkpoint.save({'a': t, 'b': {'c': [t, (t, 1)]}, 'half': t.astype('bfloat16')}, path)
    a = t.numpy()
    assert_same(checkpoint.load(path), {'a': a, 'b': {'c': [a, (a, 1)]}, 'half': a})


def test_pickle_and_paddle_read_the_file_too(path):
    checkpoint.save({'model': {'w': np.arange(3.0)}}, path)
    with open(path, 'rb') as f:
        assert_same(pickle.load(f), {'model': {'w': np.arange(3.0)}})
    np.testing.assert_array_equal(paddle.load(path)['model']['w'], np.arange(3.0))


# ---- files of other programs


@pytest.mark.parametrize('protocol', [2, 4])
def test_what_paddle_save_writes(path, protocol):
    state, t = small().state_dict(), paddle.arange(4, dtype='float32')
    paddle.save(state, path, protocol=protocol)
    assert_same(checkpoint.load(path), {key: value.numpy() for key, value in state.items()})
    paddle.save({'model': {'w': t}, 'list': [t], 'epoch': 3, 'text': ('a', 'b')}, path, protocol=protocol)
    assert_same(checkpoint.load(path), {'model': {'w': t.numpy()}, 'list': [t.numpy()], 'epoch': 3, 'text': ('a', 'b')})
    assert checkpoint.automatic_names(path) == {t.name: 'w'}


def test_a_file_whose_args_are_a_namespace(path):
    with open(path, 'wb') as f:
        pickle.dump({'model': collections.OrderedDict(w=np.ones(2)), 'args': argparse.Namespace(lr=0.1, model='x')}, f)
    state = checkpoint.load(path)
    assert state['args'] == {'lr': 0.1, 'model': 'x'} and type(state['args']) is dict
    assert_same(dict(state['model']), {'w': np.ones(2)})
    assert checkpoint.automatic_names(path) == {}


# ---- damage


def test_every_flipped_bit_is_found(path):
    checkpoint.save({'model': {'w': np.zeros(100, 'float32')}, 'epoch': 3}, path)
    good = open(path, 'rb').read()
    for position in range(0, len(good), 5):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        open(path, 'wb').write(data)
        if len(good) - checkpoint.TAIL <= position < len(good) - 32:
            checkpoint.load(path)  # the mark is damaged, so that the file is like one of another program
        else:
            assert path in refusal(checkpoint.load, path), position


def test_a_file_of_another_kind_is_named(path):
    for content in (b'just text\n', b'\x89PNG\r\n\x1a\n', b'{"model": 1}', b'\x80\x04N.', b'\x80\xff.'):
        with open(path, 'wb') as f:
            f.write(content)
        assert refusal(checkpoint.load, path).startswith(f'{path}: not a')


# ---- writing


def test_one_save_writes_several_names_and_keeps_the_previous_file(tmp_path):
    latest, best, previous = (str(tmp_path / 'new' / name) for name in ('latest.pd', 'best.pd', 'previous.pd'))
    checkpoint.save({'epoch': 1}, latest, previous=previous)
    checkpoint.save({'epoch': 2}, latest, best, previous=previous)
    assert [checkpoint.load(path)['epoch'] for path in (latest, best, previous)] == [2, 2, 1]


# ---- in a folder


def test_the_newest_readable_checkpoint_of_a_folder(tmp_path):
    damaged = []
    assert checkpoint.load_newest(str(tmp_path / 'missing'), damaged.append) is None
    assert checkpoint.load_newest(str(tmp_path), damaged.append) is None
    names = ['checkpoint-latest.pd', 'checkpoint-previous.pd', 'checkpoint-10.pd', 'checkpoint-9.pd']
    for epoch, name in enumerate(names):
        checkpoint.save({'epoch': epoch}, str(tmp_path / name))
    for epoch, name in enumerate(names):
        damaged.clear()
        assert checkpoint.load_newest(str(tmp_path), damaged.append) == ({'epoch': epoch}, str(tmp_path / name))
        assert [old in line for old, line in zip(names, damaged)] == [True] * epoch
        os.truncate(tmp_path / name, 10)
    assert 'move them away' in refusal(checkpoint.load_newest, str(tmp_path), damaged.append)


def test_files_of_a_folder_are_sorted_by_their_numbers(tmp_path):
    assert '--resume' in refusal(checkpoint.of_folder, str(tmp_path))
    names = ['checkpoint-9.pd', 'checkpoint-10.pd', 'other.safetensors']
    for name in [*names, 'log.txt', '.checkpoint-9.pd.tmp']:
        (tmp_path / name).write_text(name)
    assert checkpoint.of_folder(str(tmp_path)) == [str(tmp_path / name) for name in names]


def test_tidying_deletes_temporary_files_and_old_numbered_checkpoints(tmp_path):
    kept = ['checkpoint-latest.pd', 'checkpoint-best.pd', 'checkpoint-100.pd', 'checkpoint-20.pd', 'log.txt', '.x.tmp']
    deleted = ['checkpoint-3.pd', '.checkpoint-latest.pd.ab.tmp', '.log.txt.ab.tmp', '.args.yaml.ab.tmp']
    for name in kept + deleted:
        (tmp_path / name).touch()
    checkpoint.tidy(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, 'checkpoint-3.pd'])
    checkpoint.tidy(str(tmp_path), keep=2)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


# ---- optimizer state


def test_the_state_of_another_optimizer_is_refused():
    for wrote, reads in ('adamw', 'momentum'), ('momentum', 'adamw'):
        model = small()
        optimizer = build_optimizer(model, wrote)
        cls, aux, _ = model(paddle.zeros([2, 3, 32, 32]), (0, 0, 0, 0))
        (cls.sum() + aux.sum()).backward()
        optimizer.step()
        state = checkpoint.to_numpy(optim.state_by_name(optimizer, model))
        message = refusal(optim.restore_by_name, build_optimizer(model, reads), model, state, 'x.pd')
        assert message.startswith('x.pd: ') and '--opt' in message
