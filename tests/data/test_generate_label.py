"""generate_label.py, label_writer.py, annotator.py: what a map holds, that the set is complete, and what is refused."""

import json
import os
import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from map_files import contents
from PIL import Image

import generate_label
from models import build_model
from util import dist, files
from util.data import annotator, listing
from util.data.images import open_rgb
from util.data.label_maps import LabelMaps
from util.data.transforms import EvalTransform
from util.errors import UserError
from util.weights import checkpoint

pytestmark = pytest.mark.usefixtures('tiny')

NANO = ['--model', 'lvvit_nano', '--img_size', 32, '--nb_classes', 10, '--num_workers', 0, '-b', 16]


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """weights(name, **kwargs) -> (file, model): a model in evaluation mode with random weights, and its file."""

    def call(name, classes=10, **kwargs):
        paddle.seed(0)
        if name in annotator.CLASSIFIERS:
            model = getattr(annotator.zoo, name)(num_classes=classes)
        else:
            model = build_model(name, num_classes=classes, **kwargs)
        model.eval()
        path = folder / f'{name}-{classes}.pdparams'
        checkpoint.save(model.state_dict(), str(path))
        return path, model

    folder = tmp_path_factory.mktemp('weights')
    return call


@pytest.fixture
def generate(run, scenes, weights, tmp_path):
    """generate(*flags, out='maps', data=scenes) -> Result, with a tiny LV-ViT at 32 px as annotator."""

    def call(*flags, out='maps', data=scenes):
        return run(generate_label, data, tmp_path / out, *NANO, '--resume', call.weights, *flags)

    call.weights, call.model = weights('lvvit_nano', img_size=32)
    call.out = tmp_path
    return call


@pytest.fixture
def refuse(refused, generate, scenes):
    """refuse(*flags, out='maps', data=scenes) -> the one line with which the same command is refused."""

    def call(*flags, out='maps', data=scenes):
        return refused(generate_label, data, generate.out / out, *NANO, '--resume', generate.weights, *flags)

    return call


def inputs(path, size=32):
    """The network's input [1, 3, size, size] for an image file."""
    return paddle.to_tensor(EvalTransform(size, 1.0)(open_rgb(path))[None])


def one_map(folder, name='digit0/train_00000'):
    return np.load(folder / f'{name}.npy')


# ---- what a map holds


def test_a_map_per_image_in_the_published_format_and_meta_json(generate, scenes):
    result = generate()
    assert result.code == 0
    maps = sorted(p.relative_to(generate.out / 'maps') for p in (generate.out / 'maps').rglob('*.npy'))
    images = sorted(p.relative_to(scenes / 'train').with_suffix('.npy') for p in (scenes / 'train').rglob('*.JPEG'))
    assert maps == images and len(maps) == 40
    for path in maps:
        array = np.load(generate.out / 'maps' / path)
        assert array.dtype == np.float16 and array.shape == (2, 5, 2, 2)
    meta = json.loads((generate.out / 'maps' / 'meta.json').read_text())
    assert re.fullmatch('[0-9a-f]{16}', meta.pop('weights_sha256'))
    expected = dict(annotator='lvvit_nano', weights='lvvit_nano-10.pdparams', coverage='center', size=32)
    expected.update(interpolation='bicubic', shape=[2, 5, 2, 2], dtype='float16', num_classes=10)
    assert meta == dict(expected, complete=True, maps=40, undecodable=0)


@pytest.mark.cross_version
@paddle.no_grad()
def test_a_map_is_the_dense_forward_of_the_lvvit_at_any_image_size(generate, scenes):
    path = str(scenes / 'train/digit3/train_00013.JPEG')
    generate()
    dense = generate.model.forward_dense(inputs(path))[1].numpy()[0].reshape(2, 2, 10)
    scores, ids = LabelMaps(str(generate.out / 'maps'), 10).read('digit3/train_00013')
    for row in range(2):
        for column in range(2):
            best = np.argsort(-dense[row, column])[:5]
            assert ids[:, row, column].tolist() == best.tolist()
            np.testing.assert_allclose(scores[:, row, column], dense[row, column, best], rtol=1e-3, atol=1e-4)
    result = generate('--img_size', 64, out='large')
    assert result.code == 0 and 'pos_embed: resized from 4 to 16 tokens' in result.out
    assert one_map(generate.out / 'large').shape == (2, 5, 4, 4)


@pytest.mark.cross_version
@paddle.no_grad()
def test_a_map_of_resnet_is_its_last_layer_as_a_1x1_convolution(run, scenes, weights, tmp_path):
    path, model = weights('resnet18', classes=12)
    checkpoint.save({f'module.{key}': value for key, value in model.state_dict().items()}, str(path))
    flags = ['--model', 'resnet18', '--resume', path, '--transfer', '--img_size', 64, '--topk', 12]
    result = run(generate_label, scenes, tmp_path / 'maps', *flags, '--num_workers', 0)
    assert result.code == 0 and result.err == ''
    image = x = inputs(str(scenes / 'train/digit3/train_00013.JPEG'), 64)
    for name, layer in model.named_children():  # all that comes before the pool
        if name == 'avgpool':
            break
        x = layer(x)
    expected = F.conv2d(x, model.fc.weight.t().reshape([12, 512, 1, 1]), model.fc.bias).numpy()[0]  # [C, H, W]
    np.testing.assert_allclose(expected.mean(axis=(1, 2)), model(image).numpy()[0], atol=1e-4)
    array = one_map(tmp_path / 'maps', 'digit3/train_00013')
    assert array.shape == (2, 12, 2, 2)
    np.testing.assert_allclose(array[0], np.take_along_axis(expected, array[1].astype(int), 0), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(array[0], -np.sort(-expected, axis=0), rtol=2e-3, atol=2e-3)


def test_many_classes_are_written_as_float32_and_of_three_classes_all(generate, weights):
    for classes, dtype, k in ((3000, 'float32', 5), (3, 'float16', 3)):
        path, _ = weights('lvvit_nano', classes=classes, img_size=32)
        assert generate('--resume', path, '--nb_classes', classes, out=str(classes)).code == 0
        array, meta = one_map(generate.out / str(classes)), (generate.out / str(classes) / 'meta.json').read_text()
        assert array.dtype == dtype and array.shape == (2, k, 2, 2)
        assert json.loads(meta)['dtype'] == dtype and json.loads(meta)['num_classes'] == classes


def test_averaged_weights_make_other_maps(generate):
    state = generate.model.state_dict()
    average = {k: v.numpy() * 2 for k, v in state.items()}
    checkpoint.save({'model': state, 'model_ema': average}, str(generate.out / 'both.pd'))
    for out, flags in (('a', []), ('b', ['--ema'])):
        assert generate('--resume', generate.out / 'both.pd', *flags, out=out).code == 0
    a, b = contents(generate.out / 'a'), contents(generate.out / 'b')
    assert a['digit0/train_00000.npy'] != b['digit0/train_00000.npy'] and a['meta.json'] != b['meta.json']


# ---- the set


def test_an_interrupted_run_continues_to_the_same_bytes_and_leaves_finished_maps_alone(generate, monkeypatch):
    generate(out='whole')
    replace, calls, out = os.replace, [], generate.out / 'maps'

    def broken(source, target):
        calls.append(target)
        if len(calls) == 22:  # after meta.json and 20 maps: in the middle of the second batch
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', broken)
        assert generate().code == 130
    finished = {p: p.stat().st_mtime_ns for p in out.rglob('*.npy')}
    assert len(finished) == 20 and json.loads((out / 'meta.json').read_text())['complete'] is False
    assert len(contents(out)) == 21, 'no temporary file is left'
    result = generate()
    assert result.code == 0 and '20 of them labelled before' in result.out and '20 maps written' in result.out
    assert all(p.stat().st_mtime_ns == time for p, time in finished.items())
    assert contents(out) == contents(generate.out / 'whole')
    (out / 'digit1' / 'train_00001.npy').write_bytes(b'\x93NUMPY')  # cut short by a crash
    assert '1 maps written' in generate('--num_workers', 1).out and contents(out) == contents(generate.out / 'whole')


def test_three_processes_label_each_image_once_and_like_one_process(generate, monkeypatch):
    generate('-b', 4, out='one')
    written, replacing = [], files.replacing

    def noted(path, **kwargs):
        written.append(path)
        return replacing(path, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(files, 'replacing', noted)
        patch.setattr(dist, 'init', lambda: (dist.rank(), 3))
        patch.setattr(dist, 'world_size', lambda: 3)
        patch.setattr(dist, 'barrier', lambda: None)
        patch.setattr(dist, 'all_sum', list)
        for rank in range(3):
            patch.setattr(dist, 'rank', lambda: rank)
            before = len(written)
            assert generate('-b', 4, out='many').code == 0
            assert len([path for path in written[before:] if path.endswith('.npy')]) in (12, 16), 'its share of 40'
    maps = [path for path in written if path.endswith('.npy')]
    assert len(maps) == len(set(maps)) == 40
    assert ' 0 maps written' in generate('-b', 4, out='many').out
    assert contents(generate.out / 'many') == contents(generate.out / 'one')


# ---- top-1


def accuracy(out):
    found = re.search(r'\* Acc@1 ([\d.]+) of the mean over the cells, on (\d+) images', out)
    return found and (float(found[1]), int(found[2]))


@paddle.no_grad()
def test_top1_is_that_of_the_mean_score_and_a_bad_one_is_a_warning(generate, scenes):
    samples = listing.read_folder(str(scenes / 'train'), 10)
    guesses = {path: generate.model.forward_dense(inputs(path))[1].mean(axis=1).argmax().item() for path, _ in samples}
    right = sum(guesses[path] == label for path, label in samples)
    result = generate('--topk', 1)
    assert accuracy(result.out) == (100 * right / 40, 40)
    assert f'warning: top-1 {100 * right / 40:.1f} % on 40 images' in result.err and 'up to 19.5 %' in result.err

    names = [line.split()[0] for line in (scenes / 'train_list.txt').read_text().splitlines()]
    labels = [guesses[str(scenes / name)] + (i >= 12) for i, name in enumerate(names)]  # 12 of 40 are right
    (generate.out / 'list.txt').write_text(''.join(f'{name} {label % 10}\n' for name, label in zip(names, labels)))
    result = generate('--cls_label_path', generate.out / 'list.txt', out='list')
    assert accuracy(result.out) == (30, 40) and result.err == ''


def test_top1_counts_only_classes_that_the_annotator_has(generate, scenes, weights):
    lines = [line.split() for line in (scenes / 'train_list.txt').read_text().splitlines()]
    (generate.out / 'list.txt').write_text(''.join(f'{path} {int(label) + 5}\n' for path, label in lines))
    assert accuracy(generate('--cls_label_path', generate.out / 'list.txt').out)[1] == 20
    path, _ = weights('lvvit_nano', classes=20, img_size=32)
    result = generate('--resume', path, '--nb_classes', 20, out='20')
    assert accuracy(result.out) is None and result.err == ''
    assert '10 class folders, but the annotator has 20 classes' in result.out


def test_images_without_a_label_get_maps_and_top1_leaves_them_out(generate, pictures):
    """dog/1.png is no image, and its label is -1 too: it is counted as undecodable."""
    lines = ['cat/0.png -1', 'cat/1.png 3', 'dog/1.png -1', 'dog/2.png -1']
    (generate.out / 'list.txt').write_text('\n'.join(lines))
    result = generate('--cls_label_path', generate.out / 'list.txt', data=pictures)
    assert accuracy(result.out)[1] == 1 and '1 of 4 images could not be read or decoded' in result.err
    (pictures / 'dog/1.png').unlink()
    (pictures / 'dog').rename(pictures / 'unlabelled')
    result = generate(data=pictures, out='folders', *['--nb_classes', 10])
    assert '1 class folders' in result.out and 'unlabelled/0.npy' in contents(generate.out / 'folders')
    (generate.out / 'list.txt').write_text('cat/0.png -1')
    result = generate('--cls_label_path', generate.out / 'list.txt', data=pictures, out='none')
    assert 'top-1 not known: no image has a label' in result.out


# ---- what goes wrong


@pytest.fixture
def pictures(tmp_path):
    """A folder of 2 classes with 3 images each; dog/1.png is no image."""
    rng = np.random.default_rng(0)
    for name in ('cat', 'dog'):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype='uint8')
            Image.fromarray(pixels).save(tmp_path / 'data' / name / f'{i}.png')
    (tmp_path / 'data' / 'dog' / '1.png').write_bytes(b'no image')
    return tmp_path / 'data'


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_cannot_be_decoded_is_named_counted_and_skipped(generate, pictures, workers):
    result = generate('--num_workers', workers, data=pictures)
    warning, error = result.err.splitlines()
    assert result.code == 1 and str(pictures / 'dog' / '1.png') in warning and '1 of 6 images' in error
    before = contents(generate.out / 'maps')
    assert sorted(before) == ['cat/0.npy', 'cat/1.npy', 'cat/2.npy', 'dog/0.npy', 'dog/2.npy', 'meta.json']
    meta = json.loads(before.pop('meta.json'))
    assert (meta['complete'], meta['maps'], meta['undecodable']) == (True, 5, 1)
    Image.new('RGB', (40, 40)).save(pictures / 'dog' / '1.png')
    assert generate(data=pictures).code == 0
    after = contents(generate.out / 'maps')
    assert json.loads(after.pop('meta.json'))['undecodable'] == 0 and after.pop('dog/1.npy') and after == before


def test_folders_that_hold_something_else_are_named_and_left_alone(generate, refuse, scenes):
    for name, content in (('foreign/some.npy', ''), ('broken/meta.json', '{'), ('odd/meta.json', '3')):
        (generate.out / name).parent.mkdir()
        (generate.out / name).write_text(content)
    for out in ('foreign', 'broken', 'odd', scenes / 'label_maps'):
        assert str(generate.out / out) in refuse(out=out)


def test_images_that_would_share_a_map_are_refused(generate, refuse, pictures):
    Image.new('RGB', (40, 40)).save(pictures / 'cat' / '0.jpg')
    line = refuse(data=pictures)
    assert '0.jpg' in line and '0.png' in line and not (generate.out / 'maps').exists()


def test_maps_have_the_path_below_the_data_folder_from_folders_and_from_lists(generate, pictures):
    (pictures / 'dog/1.png').unlink()
    os.renames(pictures / 'dog', pictures / 'cat/old/dogs')
    names = ['cat/0', 'cat/1', 'cat/2', 'cat/old/dogs/0', 'cat/old/dogs/2']
    (pictures / 'list.txt').write_text(''.join(f'train/{name}.png 0\n' for name in names))
    os.renames(pictures / 'cat', pictures / 'train/cat')
    for flags in ([], ['--cls_label_path', pictures / 'list.txt']):
        assert generate(*flags, data=pictures).code == 0  # the second run continues the set of the first
    assert sorted(contents(generate.out / 'maps')) == sorted(f'{name}.npy' for name in names) + ['meta.json']


def test_other_settings_than_the_set_was_begun_with_are_refused(generate, refuse):
    generate()
    before = contents(generate.out / 'maps')
    other = generate.out / 'other' / generate.weights.name  # other weights in a file of the same name
    other.parent.mkdir()
    checkpoint.save({k: v.numpy() + 1 for k, v in generate.model.state_dict().items()}, str(other))
    for flags, words in (
        (['--img_size', 64], "'size' 32, not 64"),
        (['--topk', 3], "'shape' [2, 5, 2, 2], not [2, 3, 2, 2]"),
        (['--interpolation', 'bilinear'], '\'interpolation\' "bicubic"'),
        (['--resume', other], "'weights_sha256'"),
        (['--relative_scores'], '\'scores\' null, not "relative"'),
        (['--std', 1, 1, 1], "'mean' null"),
    ):
        line = refuse(*flags)
        assert 'meta.json' in line and words in line and contents(generate.out / 'maps') == before


def test_flags_and_weights_that_do_not_fit_are_refused_before_anything_is_written(generate, refuse):
    untrained, infinite, nan = (generate.out / f'{name}.pdparams' for name in ('untrained', 'infinite', 'nan'))
    state = {key: value.numpy() for key, value in generate.model.state_dict().items()}
    checkpoint.save({**state, 'norm.bias': np.full_like(state['norm.bias'], np.nan)}, str(nan))
    checkpoint.save({**state, 'norm.bias': np.full_like(state['norm.bias'], 3e38)}, str(infinite))
    generate.model.disable_aux_head()
    checkpoint.save(generate.model.state_dict(), str(untrained))
    for flags, words in (
        (['--pretrained'], '--pretrained and --resume'),
        (['--resume', ''], '--resume is missing'),
        (['--model', 'nothing'], '--model nothing'),
        (['--resume', untrained], '--token_pool_weight 1'),
        (['--resume', nan], f'{nan}: '),
    ):
        assert words in refuse(*flags) and not (generate.out / 'maps').exists()
    line = refuse('--resume', infinite)
    assert 'not finite' in line and 'digit' in line and '.JPEG' in line, 'the image'


def test_a_failed_download_says_what_to_give_instead(refused, scenes, tmp_path, monkeypatch):
    def offline(pretrained):
        raise RuntimeError('Download from https://… failed. Retry limit reached')

    monkeypatch.setattr(annotator.zoo, 'resnet18', offline)
    resnet = [generate_label, scenes, tmp_path / 'maps', '--model', 'resnet18']
    line = refused(*resnet)
    assert 'could not be downloaded' in line and '--resume' in line
    assert '--nb_classes 10' in refused(*resnet, '--nb_classes', 10)


NO_HEAD = 'global average pool and one linear layer'
REFUSED = [('mobilenet_v3_small', 64, NO_HEAD), ('squeezenet1_1', 64, NO_HEAD)]
REFUSED += [('alexnet', 96, 'does not take images of 96 pixels'), ('resnet18', 100, 'do not tile the image')]


@pytest.mark.parametrize('name, size, words', REFUSED)
@paddle.no_grad()
def test_models_without_a_linear_head_on_a_global_pool_or_whole_cells_are_refused(name, size, words):
    with pytest.raises(UserError, match=words):
        annotator.PooledHead(getattr(annotator.zoo, name)(num_classes=3), name, size)


@paddle.no_grad()
def test_a_network_whose_outputs_are_not_finite_is_refused():
    model = annotator.zoo.resnet18(num_classes=3)
    model.fc.weight.set_value(paddle.full([512, 3], 3e38))
    with pytest.raises(UserError, match='resnet18: its outputs are not finite'):
        annotator.PooledHead(model, 'resnet18', 64)
