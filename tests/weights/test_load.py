"""util/weights/load.py: which weights of a file are taken, that a file that does not fit is named, and fine-tuning."""

import decimal
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import paddle
import pytest
import safetensors.numpy

import torch_files
from lv_vit import LV_ViT
from states import same
from util.errors import UserError
from util.weights import checkpoint, fit, load, torch_file

pytestmark = pytest.mark.cross_version


def small(seed=0, **kwargs):
    paddle.seed(seed)
    return LV_ViT(**{**dict(img_size=32, num_classes=5, embed_dim=8, depth=1, num_heads=2), **kwargs})


def values(model):
    return {key: value.numpy() for key, value in model.state_dict().items()}


def torch_weights(model):
    """A model's weights as the original's state dict."""
    return {key: np.array(value, order='C') for key, value in torch_file.to_torch(values(model)).items()}


def refusal(call, *args, **kwargs):
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    return str(error.value)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, value in b.items():
        assert same(a[key], value), key


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'checkpoint.pd')


def archive(open_archive, write):
    """The bytes of an archive with one member, x.txt."""
    file = io.BytesIO()
    with open_archive(file) as f:
        write(f)
    return file.getvalue()


OTHERS = [
    (b'', 'an empty file'),
    (b'\n<!DOCTYPE html>\n<html><body>Sign in</body></html>', 'a web page'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n', '`git lfs pull`'),
    (b'{"error":{"message":"Entry not found"}}', 'Entry not found'),
    (b'{"data":{"message":"Entry not found"}}', 'Entry not found'),  # as in safetensors, { is the ninth byte
    (b'404: Not Found', "'404: Not Found', perhaps the answer of a server"),
    (archive(lambda f: tarfile.open(fileobj=f, mode='w'), lambda f: f.addfile(tarfile.TarInfo('x.txt'))), '`tar xf`'),
    (archive(lambda f: gzip.open(f, 'wb'), lambda f: f.write(b'x')), 'gunzip'),
    (archive(lambda f: zipfile.ZipFile(f, 'w'), lambda f: f.writestr('x.txt', '')), 'unpack it'),
]


# ---- which weights


def test_the_trained_weights_are_loaded_or_with_ema_the_averaged_ones(path, capfd):
    trained, averaged, model = small(0), small(1), small(2)
    checkpoint.save({'model': trained.state_dict(), 'model_ema': averaged.state_dict(), 'epoch': 3}, path)
    content = load.load(model, path)
    assert content['epoch'] == 3 and load.has_average(content)
    assert_same(values(model), values(trained))
    out = capfd.readouterr().out
    assert f'using trained weights (model) of {path}' in out and '--ema' in out
    load.load(model, path, ema=True)
    assert_same(values(model), values(averaged))
    assert f'using averaged weights (model_ema) of {path}' in capfd.readouterr().out


def test_averaged_weights_that_are_missing_or_alone_name_the_flag(path):
    checkpoint.save({'model': values(small())}, path)
    assert '--ema' not in load.choose(load.read(path), path)[1]
    assert path in refusal(load.load, small(), path, ema=True)
    checkpoint.save({'model_ema': values(small())}, path)
    assert 'add --ema' in refusal(load.load, small(), path)


def save_safetensors(weights, path, label='pt'):
    safetensors.numpy.save_file(weights, path, label and {'format': label})


def save_paddle(weights, path):
    paddle.save({key: paddle.to_tensor(value) for key, value in torch_file.to_paddle(weights).items()}, path)


@pytest.mark.parametrize('write', [torch_files.save, save_safetensors, save_paddle])
def test_a_file_is_recognised_by_its_content_whatever_its_name(tmp_path, capfd, write):
    path, model, other = str(tmp_path / 'no ending'), small(0), small(1)
    write(torch_weights(model), path)
    load.load(other, path)
    assert_same(values(other), values(model))
    assert f'using plain weights of {path}' in capfd.readouterr().out


@pytest.mark.parametrize('label', ['pt', 'pd', None])
@pytest.mark.parametrize('make', [torch_weights, values])
def test_safetensors_are_in_the_layout_that_they_say_or_that_their_names_tell(path, label, make):
    model, other = small(0), small(1)
    save_safetensors(make(model), path, label)
    if (label, make) in (('pt', values), ('pd', torch_weights)):
        assert 'does not fit' in refusal(load.load, other, path)
    else:
        load.load(other, path)
        assert_same(values(other), values(model))


def test_safetensors_of_every_type_and_bfloat16_as_float32(path, capfd):
    dtypes = ['f8', 'f4', 'f2', 'b1', 'i8', 'i4', 'i2', 'i1', 'u8', 'u4', 'u2', 'u1']
    arrays = {dtype: np.array([[1, 0, 1]], dtype) for dtype in dtypes}
    arrays.update({'number': np.array(3.5), 'empty': np.zeros([0, 3], 'f4')})
    save_safetensors(arrays, path)
    assert_same(load.read(path), arrays)
    halves = np.array([1.0, -2.5, 3e38], 'f4').view('u2')[1::2].tobytes()
    header = json.dumps({'w': {'dtype': 'BF16', 'shape': [3], 'data_offsets': [0, 6]}}).encode()
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(header)) + header + halves)
    capfd.readouterr()
    assert load.read(path)['w'].dtype == np.float32
    assert f'{path}: bfloat16 weights, read as float32' in capfd.readouterr().out
    np.testing.assert_array_equal(load.read(path)['w'][:2], [1, -2.5])


def test_of_a_pytorch_checkpoint_the_weights_alone_are_read(path, capfd):
    weights = torch_weights(small(0))
    averaged = {key: np.asarray(value + 1) for key, value in weights.items()}
    torch_files.save({'epoch': 3, 'state_dict': weights, 'state_dict_ema': averaged, 'optimizer': {'lr': 0.1}}, path)
    state = load.read(path)
    assert list(state) == ['state_dict', 'state_dict_ema'] and load.has_average(state)
    assert 'not epoch, optimizer' in capfd.readouterr().out
    assert_same(load.choose(state, path)[0], values(small(0)))
    assert_same(load.choose(state, path, ema=True)[0], {k: v + np.float32(1) for k, v in values(small(0)).items()})


def test_weights_under_another_name_are_found_if_they_are_the_only_ones(path):
    torch_files.save({'net': torch_weights(small()), 'epoch': 3}, path)
    weights, source = load.choose(load.read(path), path)
    assert_same(weights, values(small()))
    assert '(net)' in source
    torch_files.save({'net': torch_weights(small()), 'critic': {'w': np.ones(2)}}, path)
    assert 'several sets of weights (net, critic)' in refusal(load.load, small(), path)


def test_weights_are_set_in_the_dtype_of_the_model(path):
    model = small(1)
    torch_files.save({k: v.astype('float16') for k, v in torch_weights(small(0)).items() if 'tracked' not in k}, path)
    load.load(model, path)
    assert_same(values(model), {key: v.astype('float16').astype('float32') for key, v in values(small(0)).items()})


@pytest.mark.parametrize('prefix', ['module.', 'backbone.', 'module._orig_mod.model.'])
def test_a_prefix_of_all_names_is_taken_off_and_said(path, capfd, prefix):
    model = small(1)
    torch_files.save({prefix + key: value for key, value in torch_weights(small(0)).items()}, path)
    load.load(model, path)
    assert_same(values(model), values(small(0)))
    assert f"{path}: the prefix '{prefix}' of all names is taken off" in capfd.readouterr().out


class Whole(paddle.nn.Layer):
    """A network that has a model of its own, as the networks of seg/ have a backbone."""

    def __init__(self, seed):
        super().__init__()
        self.model = small(seed)


def test_names_of_the_model_itself_are_no_prefix(path, capfd):
    model = Whole(1)
    for prefix, lines in ('', 0), ('model.', 1):
        checkpoint.save({prefix + key: value for key, value in Whole(0).state_dict().items()}, path)
        load.load(model, path)
        assert_same(values(model), values(Whole(0)))
        assert capfd.readouterr().out.count("the prefix 'model.'") == lines


def test_an_object_in_place_of_weights_is_named(path):
    for content in {'model': decimal.Decimal(1)}, {'state_dict': 1, 'x': decimal.Decimal(1)}:
        with open(path, 'wb') as f:
            pickle.dump(content, f)
        message = refusal(load.load, small(), path)
        assert message.startswith(path) and 'is a decimal.Decimal' in message and 'state_dict()' in message
    with open(path, 'wb') as f:
        pickle.dump({**values(small()), 'norm.bias': decimal.Decimal(1)}, f)
    assert 'norm.bias is a decimal.Decimal in the file' in refusal(load.load, small(), path)


def bfloat16_weights(seed):
    """Weights that bfloat16 holds exactly: (as tensors of bfloat16, as arrays of float32)."""
    tensors = {key: value.astype('bfloat16') for key, value in small(seed).state_dict().items()}
    return tensors, {key: value.astype('float32').numpy() for key, value in tensors.items()}


@pytest.mark.parametrize('nest', [lambda weights: weights, lambda weights: {'model': weights, 'epoch': 3}])
def test_bfloat16_of_paddle_save_becomes_float32(path, capfd, nest):
    tensors, expected = bfloat16_weights(0)
    paddle.save(nest(tensors), path)
    model = small(1)
    load.load(model, path)
    assert_same(values(model), expected)
    assert f'{path}: bfloat16 weights, read as float32' in capfd.readouterr().out
    load.load(small(3, img_size=48), path, resize=True)


# ---- files that are something else


@pytest.mark.parametrize('content, says', OTHERS, ids=[says for _, says in OTHERS])
def test_a_file_that_is_something_else_is_called_that(path, content, says):
    with open(path, 'wb') as f:
        f.write(content)
    message = refusal(load.load, small(), path)
    assert message.startswith(f'{path}: ') and says in message


def test_files_without_weights_are_named(path, tmp_path):
    for content in ([1], np.ones(2)):
        torch_files.save(content, path)
        assert refusal(load.read, path).startswith(f'{path}: no state dict')
    assert f'{tmp_path}: cannot be read' in refusal(load.read, str(tmp_path))
    assert 'missing: cannot be read' in refusal(load.read, str(tmp_path / 'missing'))


# ---- weights that do not fit


def test_weights_of_another_model_name_the_first_differences_and_set_nothing(path):
    model, before = small(), values(small())
    checkpoint.save({'model': small(1, num_classes=6, embed_dim=12, depth=2).state_dict()}, path)
    message = refusal(load.load, model, path)
    assert message.startswith(path) and 'unexpected blocks.1.norm1.weight' in message
    assert 'and 29 more' in message and '--model' in message
    checkpoint.save({'model': small(1, num_classes=6).state_dict()}, path)
    assert 'head.weight is [8, 6] in the file and [8, 5] in the model' in refusal(load.load, model, path)
    checkpoint.save({'model': small(1, img_size=48).state_dict()}, path)
    assert 'pos_embed is [1, 10, 8] in the file and [1, 5, 8] in the model' in refusal(load.load, model, path)
    checkpoint.save({'model': {k: v for k, v in before.items() if k != 'norm.bias'}}, path)
    assert 'missing norm.bias' in refusal(load.load, model, path)
    assert_same(values(model), before)


def test_a_value_that_is_no_array_of_fractions_is_named(path):
    checkpoint.save({**values(small()), 'pos_embed': [1.0]}, path)
    assert 'pos_embed is a list in the file' in refusal(load.load, small(), path, new_heads=True, resize=True)
    checkpoint.save({**values(small()), 'norm.bias': np.ones(8, 'int16')}, path)
    assert 'norm.bias is int16' in refusal(load.load, small(), path)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 1e300])
def test_weights_that_are_not_finite_are_named_and_nothing_is_set(path, value):
    model, before = small(1), values(small(1))
    broken = {**values(small(0)), 'norm.bias': np.array([value, *[0.0] * 7])}
    checkpoint.save({'model': values(small(0)), 'model_ema': broken}, path)
    message = refusal(load.load, model, path, ema=True)
    assert message.startswith(path) and 'not finite' in message and 'norm.bias' in message
    assert_same(values(model), before)
    load.load(model, path)


def test_heads_that_are_not_finite_may_be_initialised_anew(path):
    checkpoint.save({**values(small(0)), 'head.bias': np.full(5, np.nan, 'float32')}, path)
    assert 'head.bias' in refusal(load.load, small(1), path, new_heads=True)
    load.load(small(1), path, new_heads='all')


# ---- fine-tuning


def bicubic(row, count):
    """A row of numbers resampled to `count` by Keys' cubic kernel with a = -0.75, edges repeated, in float64."""

    def kernel(x):
        x, a = abs(x), -0.75
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return near if x <= 1 else far if x < 2 else 0.0

    result = np.zeros([count, *row.shape[1:]])
    for i in range(count):
        center = (i + 0.5) * len(row) / count - 0.5
        for j in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            result[i] += kernel(center - j) * row[min(max(j, 0), len(row) - 1)]
    return result


@pytest.mark.parametrize('old, new', [(3, 4), (14, 14), (9, 5)])
def test_a_position_embedding_is_resized_by_the_bicubic_formula_and_the_class_token_kept(old, new):
    array = np.random.default_rng(0).normal(size=(1, old**2 + 1, 6)).astype('float32')
    square = array[0, 1:].astype('float64').reshape(old, old, 6)
    expected = bicubic(bicubic(square, new).transpose(1, 0, 2), new).transpose(1, 0, 2).reshape(new * new, 6)
    resized = fit.resize_pos_embed(array, new)
    assert resized.shape == (1, new**2 + 1, 6) and resized.dtype == np.float32
    np.testing.assert_allclose(resized[0, 1:], expected, atol=1e-5)
    np.testing.assert_array_equal(resized[0, 0], array[0, 0])


@pytest.mark.parametrize('shape', [(1, 8, 8), (1, 5), (1, 1, 8)])
def test_a_position_embedding_of_no_square_grid_is_refused(path, shape):
    checkpoint.save({**values(small()), 'pos_embed': np.zeros(shape, 'float32')}, path)
    assert f'pos_embed is {list(shape)} in the file' in refusal(load.load, small(img_size=64), path, resize=True)


def test_another_size_and_class_count(path, capfd):
    source, model = small(0), small(1, num_classes=7, img_size=48)
    fresh, weights = values(model), values(source)
    checkpoint.save(weights, path)
    assert 'head.weight' in refusal(load.load, model, path, resize=True)
    assert 'pos_embed' in refusal(load.load, model, path, new_heads=True)
    assert_same(values(model), fresh)
    load.load(model, path, new_heads=True, resize=True)
    out = capfd.readouterr().out
    for note in [f'{key}: initialised anew' for key in fit.HEADS] + ['pos_embed: resized from 4 to 9 tokens']:
        assert note in out
    for key, value in values(model).items():
        expected = fresh if 'head' in key else weights
        if key == 'pos_embed':
            expected = {key: fit.resize_pos_embed(weights[key], 3)}
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_heads_that_fit_are_kept_unless_all_are_to_be_new(path):
    weights, fresh = values(small(0)), values(small(1))
    checkpoint.save(weights, path)
    model = small(1)
    load.load(model, path, new_heads=True, resize=True)
    assert_same(values(model), weights)
    model = small(1)
    load.load(model, path, new_heads='all')
    assert_same(values(model), {key: fresh[key] if 'head' in key else weights[key] for key in weights})


def test_fine_tuning_between_models_with_and_without_a_token_classifier(path, capfd):
    checkpoint.save(small(0).state_dict(), path)
    model = small(1, return_dense=False)
    load.load(model, path, new_heads=True)
    np.testing.assert_array_equal(model.head.weight.numpy(), small(0).head.weight.numpy())
    assert 'aux_head.weight: not used' in capfd.readouterr().out
    checkpoint.save(model.state_dict(), path)
    load.load(small(1), path, new_heads=True)
    out = capfd.readouterr().out
    assert 'aux_head.bias: initialised anew' in out and ' head.bias: initialised anew' not in out
