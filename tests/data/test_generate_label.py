"""generate_label.py and util/data/annotator.py: what a map says, that the set is whole, and what is refused."""

import json
import os
import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from PIL import Image

import generate_label
from models import build_model
from util import dist
from util.data.images import open_rgb
from util.data import annotator, datasets
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
    """generate(*flags, out='maps', data=scenes) -> Result, with a tiny LV-ViT at 32 px for annotator."""

    def call(*flags, out='maps', data=scenes):
        return run(generate_label, data, tmp_path / out, *NANO, '--resume', call.weights, *flags)

    call.weights, call.model = weights('lvvit_nano', img_size=32)
    call.out = tmp_path
    return call


def files(folder):
    """{path below folder: content} of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def image_of(scenes, stem='digit3/train_00013'):
    """The network's input [1, 3, 32, 32] for a scene, and the scene's path."""
    path = str(scenes / 'train' / f'{stem}.JPEG')
    return paddle.to_tensor(EvalTransform(32, 1.0)(open_rgb(path))[None]), path


# ---- what a map says


def test_a_map_per_image_in_the_published_format(generate, scenes):
    result = generate()
    assert result.code == 0 and result.err == ''
    maps = sorted(p.relative_to(generate.out / 'maps') for p in (generate.out / 'maps').rglob('*.npy'))
    images = sorted(p.relative_to(scenes / 'train').with_suffix('.npy') for p in (scenes / 'train').rglob('*.JPEG'))
    assert maps == images and len(maps) == 40
    for path in maps:
        array = np.load(generate.out / 'maps' / path)
        assert array.dtype == np.float16 and array.shape == (2, 5, 2, 2)
        assert (np.diff(array[0], axis=0) <= 0).all(), 'best first'
        assert all(len(set(cell)) == 5 for cell in array[1].reshape(5, -1).T)
        assert set(array[1].ravel()) <= set(range(10))


@pytest.mark.cross_version
@paddle.no_grad()
def test_a_map_is_the_dense_forward_of_the_lvvit_and_our_reader_takes_it(generate, scenes):
    generate()
    image, path = image_of(scenes)
    dense = generate.model.forward_dense(image)[1].numpy()[0].reshape(2, 2, 10)
    scores, ids = LabelMaps(str(generate.out / 'maps'), 10).read(path)
    for row in range(2):
        for column in range(2):
            best = np.argsort(-dense[row, column])[:5]
            assert ids[:, row, column].tolist() == best.tolist()
            np.testing.assert_allclose(scores[:, row, column], dense[row, column, best], rtol=1e-3, atol=1e-4)


@pytest.mark.cross_version
@paddle.no_grad()
def test_a_map_of_resnet_is_its_last_layer_as_a_1x1_convolution(generate, run, scenes, weights, tmp_path):
    path, model = weights('resnet18', classes=12)
    result = run(
        generate_label,
        scenes,
        tmp_path / 'maps',
        '--model',
        'resnet18',
        '--pretrained_weights',
        path,
        '--transfer',
        '--img_size',
        64,
        '--topk',
        12,
        '--num_workers',
        0,
    )
    assert result.code == 0 and result.err == ''
    source = str(scenes / 'train' / 'digit3' / 'train_00013.JPEG')
    image = paddle.to_tensor(EvalTransform(64, 1.0)(open_rgb(source))[None])
    x = image
    for name, layer in model.named_children():  # all that comes before the pool
        if name == 'avgpool':
            break
        x = layer(x)
    expected = F.conv2d(x, model.fc.weight.t().reshape([12, 512, 1, 1]), model.fc.bias).numpy()[0]  # [C, H, W]
    np.testing.assert_allclose(expected.mean(axis=(1, 2)), model(image).numpy()[0], atol=1e-4)
    array = np.load(tmp_path / 'maps' / 'digit3' / 'train_00013.npy')
    assert array.shape == (2, 12, 2, 2)
    np.testing.assert_allclose(array[0], np.take_along_axis(expected, array[1].astype(int), 0), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(array[0], -np.sort(-expected, axis=0), rtol=2e-3, atol=2e-3)


def test_rows_are_y_and_columns_x():
    scores = paddle.zeros([1, 9, 4])
    scores[0, 1 * 3 + 2, 3] = 7.0  # row 1, column 2, class 3
    maps = annotator.top_maps(scores, 2, 'float16')
    assert maps.shape == (1, 2, 2, 3, 3) and maps[0, 0, 0, 1, 2] == 7 and maps[0, 1, 0, 1, 2] == 3
    assert maps[0, 0].sum() == 7


@pytest.mark.parametrize('classes, dtype', [(10, 'float16'), (2048, 'float16'), (2049, 'float32'), (21841, 'float32')])
def test_ids_are_exact_however_many_classes(classes, dtype):
    scores = paddle.zeros([1, 1, classes])
    scores[0, 0, classes - 1] = 1.5
    array = annotator.top_maps(scores, 1, annotator.map_dtype(classes))
    assert array.dtype == dtype and array.ravel().tolist() == [1.5, classes - 1]


def test_many_classes_are_written_as_float32_and_meta_says_so(generate, weights, scenes):
    path, _ = weights('lvvit_nano', classes=3000, img_size=32)
    assert generate('--resume', path, '--nb_classes', 3000).code == 0
    array = np.load(generate.out / 'maps' / 'digit0' / 'train_00000.npy')
    meta = json.loads((generate.out / 'maps' / 'meta.json').read_text())
    assert array.dtype == np.float32 and meta['dtype'] == 'float32' and meta['num_classes'] == 3000
    assert (array[1] == np.round(array[1])).all() and array[1].max() > 2048


def test_no_more_classes_per_cell_than_there_are(generate, weights):
    path, _ = weights('lvvit_nano', classes=3, img_size=32)
    generate('--resume', path, '--nb_classes', 3)
    assert np.load(generate.out / 'maps' / 'digit0' / 'train_00000.npy').shape == (2, 3, 2, 2)


def test_another_image_size_resizes_the_position_embedding(generate):
    result = generate('--img_size', 64)
    assert result.code == 0 and 'pos_embed: resized from 4 to 16 tokens' in result.out
    assert np.load(generate.out / 'maps' / 'digit0' / 'train_00000.npy').shape == (2, 5, 4, 4)


def test_averaged_weights_make_other_maps(generate, weights):
    path, model = weights('lvvit_nano', img_size=32)
    state = model.state_dict()
    average = {k: v.numpy() * 2 for k, v in state.items()}
    checkpoint.save({'model': state, 'model_ema': average}, str(generate.out / 'both.pd'))
    for out, flags in (('a', []), ('b', ['--ema'])):
        assert generate('--resume', generate.out / 'both.pd', *flags, out=out).code == 0
    a, b = files(generate.out / 'a'), files(generate.out / 'b')
    assert a['digit0/train_00000.npy'] != b['digit0/train_00000.npy'] and a['meta.json'] != b['meta.json']


# ---- the set


def test_meta_json_holds_the_settings_and_nothing_that_changes_from_run_to_run(generate):
    generate(out='a')
    generate(out='b')
    assert files(generate.out / 'a') == files(generate.out / 'b')
    meta = json.loads((generate.out / 'a' / 'meta.json').read_text())
    assert re.fullmatch('[0-9a-f]{16}', meta.pop('weights_sha256'))
    assert meta == {
        'annotator': 'lvvit_nano',
        'weights': 'lvvit_nano-10.pdparams',
        'coverage': 'center',
        'size': 32,
        'interpolation': 'bicubic',
        'shape': [2, 5, 2, 2],
        'dtype': 'float16',
        'num_classes': 10,
        'complete': True,
        'maps': 40,
        'undecodable': 0,
    }


def test_an_interrupted_run_continues_to_the_same_bytes_and_leaves_finished_maps_alone(generate, monkeypatch):
    generate(out='whole')
    real, calls = os.replace, []

    def broken(source, target):
        calls.append(target)
        if len(calls) == 22:  # meta.json and 20 maps: in the middle of the second batch, a temporary file is there
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, 'replace', broken)
    assert generate().code == 130
    monkeypatch.setattr(os, 'replace', real)
    out = generate.out / 'maps'
    finished = {p: p.stat().st_mtime_ns for p in out.rglob('*.npy') if not p.name.startswith('.')}
    assert len(finished) == 20 and json.loads((out / 'meta.json').read_text())['complete'] is False
    assert len(files(out)) == 22
    result = generate()
    assert result.code == 0 and '20 of them labelled before' in result.out and '20 maps written' in result.out
    assert all(p.stat().st_mtime_ns == time for p, time in finished.items())
    assert files(out) == files(generate.out / 'whole'), 'and no temporary file is left'


def test_a_map_that_was_cut_short_is_made_again(generate):
    generate()
    before = files(generate.out / 'maps')
    (generate.out / 'maps' / 'digit1' / 'train_00001.npy').write_bytes(b'\x93NUMPY')
    assert '1 maps written' in generate().out and files(generate.out / 'maps') == before


def test_nothing_is_left_to_do_in_a_finished_set(generate):
    generate()
    before = files(generate.out / 'maps')
    result = generate('--num_workers', 1)
    assert result.code == 0 and ' 0 maps written' in result.out and files(generate.out / 'maps') == before


@pytest.mark.parametrize('world', [2, 3])
def test_processes_label_each_image_once_and_as_one_process_would(generate, monkeypatch, world):
    generate('-b', 4, out='one')
    written, real = [], generate_label.write
    with monkeypatch.context() as patch:
        patch.setattr(generate_label, 'write', lambda path, data: (written.append(path), real(path, data)))
        patch.setattr(dist, 'init', lambda: (dist.rank(), world))
        patch.setattr(dist, 'world_size', lambda: world)
        patch.setattr(dist, 'barrier', lambda: None)
        patch.setattr(dist, 'all_sum', list)
        for rank in range(world):
            patch.setattr(dist, 'rank', lambda: rank)
            before = len(written)
            assert generate('-b', 4, out='many').code == 0
            assert len([path for path in written[before:] if path.endswith('.npy')]) in (12, 16, 20), 'its share of 40'
    maps = [path for path in written if path.endswith('.npy')]
    assert len(maps) == len(set(maps)) == 40
    assert ' 0 maps written' in generate('-b', 4, out='many').out
    assert files(generate.out / 'many') == files(generate.out / 'one')


def test_loader_processes_change_nothing(generate):
    generate(out='a')
    generate('--num_workers', 2, out='b')
    assert files(generate.out / 'a') == files(generate.out / 'b')


def test_a_list_and_class_folders_without_train_are_taken_too(generate, scenes):
    generate(out='train')
    generate('--cls_label_path', scenes / 'train_list.txt', out='list')
    generate(data=scenes / 'train', out='folders')
    train = files(generate.out / 'train')
    assert train.pop('meta.json') and len(train) == 40
    for out in ('list', 'folders'):
        assert {k: v for k, v in files(generate.out / out).items() if k != 'meta.json'}.keys() == train.keys()


# ---- top-1


def accuracy(out):
    found = re.search(r'\* Acc@1 ([\d.]+) of the mean over the cells, on (\d+) images', out)
    return found and (float(found[1]), int(found[2]))


@paddle.no_grad()
def test_top1_is_that_of_the_mean_score_of_all_classes(generate, scenes):
    samples = datasets.read_folder(str(scenes / 'train'), 10)
    right = 0
    for path, label in samples:
        image = paddle.to_tensor(EvalTransform(32, 1.0)(open_rgb(path))[None])
        right += int(generate.model.forward_dense(image)[1].mean(axis=1).argmax().item() == label)
    assert accuracy(generate('--topk', 1).out) == (100 * right / 40, 40)


def test_top1_counts_only_classes_the_annotator_has(generate, scenes):
    lines = (scenes / 'train_list.txt').read_text().splitlines()
    moved = [line.rpartition(' ')[0] + f' {int(line.rpartition(" ")[2]) + 5}' for line in lines]
    (generate.out / 'list.txt').write_text('\n'.join(moved))
    assert accuracy(generate('--cls_label_path', generate.out / 'list.txt').out)[1] == 20


def test_top1_is_not_made_up_where_folders_do_not_tell_the_ids(generate, weights):
    path, _ = weights('lvvit_nano', classes=20, img_size=32)
    out = generate('--resume', path, '--nb_classes', 20).out
    assert accuracy(out) is None and '10 class folders, but the annotator has 20 classes' in out


# ---- what goes wrong


@pytest.fixture
def pictures(tmp_path):
    """A folder of 2 classes with 3 images each, one of them no image."""
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
    made = files(generate.out / 'maps')
    assert sorted(made) == ['cat/0.npy', 'cat/1.npy', 'cat/2.npy', 'dog/0.npy', 'dog/2.npy', 'meta.json']
    meta = json.loads(made['meta.json'])
    assert (meta['complete'], meta['maps'], meta['undecodable']) == (True, 5, 1)


def test_once_mended_the_image_gets_its_map_and_the_others_stay(generate, pictures):
    generate(data=pictures)
    before = files(generate.out / 'maps')
    Image.new('RGB', (40, 40)).save(pictures / 'dog' / '1.png')
    assert generate(data=pictures).code == 0
    after = files(generate.out / 'maps')
    assert after.keys() - before.keys() == {'dog/1.npy'} and json.loads(after['meta.json'])['undecodable'] == 0
    assert all(after[k] == v for k, v in before.items() if k != 'meta.json')


def test_a_folder_that_cannot_be_written_to_is_named(generate, refused, scenes):
    (generate.out / 'file').touch()
    for out in ('file', 'file/below'):
        assert str(generate.out / out) in refused(
            generate_label, scenes, generate.out / out, *NANO, '--resume', generate.weights
        )


def test_two_images_that_would_share_a_map_are_refused(generate, refused, pictures):
    Image.new('RGB', (40, 40)).save(pictures / 'cat' / '0.jpg')
    line = refused(generate_label, pictures, generate.out / 'maps', *NANO, '--resume', generate.weights)
    assert '0.jpg' in line and '0.png' in line and not (generate.out / 'maps').exists()


@pytest.mark.parametrize(
    'flags, word',
    [
        (['--img_size', 64], "'size' 32, not 64"),
        (['--topk', 3], "'shape' [2, 5, 2, 2], not [2, 3, 2, 2]"),
        (['--interpolation', 'bilinear'], '\'interpolation\' "bicubic"'),
        (['--other_weights'], "'weights_sha256'"),
    ],
)
def test_other_settings_than_the_set_was_begun_with_are_refused(generate, refused, scenes, flags, word):
    generate()
    before = files(generate.out / 'maps')
    if flags == ['--other_weights']:  # another file of the same name
        state = {k: v.numpy() + 1 for k, v in generate.model.state_dict().items()}
        (generate.out / 'other').mkdir()
        checkpoint.save(state, str(generate.out / 'other' / generate.weights.name))
        flags = ['--resume', generate.out / 'other' / generate.weights.name]
    line = refused(generate_label, scenes, generate.out / 'maps', *NANO, '--resume', generate.weights, *flags)
    assert 'meta.json' in line and word in line and files(generate.out / 'maps') == before


def test_folders_that_are_no_set_of_ours_are_refused(generate, refused, scenes):
    for name, text in (('foreign', None), ('broken', '{'), ('odd', '3')):
        (generate.out / name).mkdir()
        (generate.out / name / ('some.npy' if text is None else 'meta.json')).write_text(text or '')
        line = refused(generate_label, scenes, generate.out / name, *NANO, '--resume', generate.weights)
        assert str(generate.out / name) in line
    assert str(scenes / 'label_maps') in refused(
        generate_label, scenes, scenes / 'label_maps', *NANO, '--resume', generate.weights
    )


@pytest.mark.parametrize(
    'flags, word',
    [
        (['--crop_pct', 0.9], '--crop_pct 0.9'),
        (['--pretrained_weights', 'x'], 'both name the weights'),
        (['--resume', ''], '--resume is missing'),
        (['--nb_classes', 12], '--nb_classes'),
        (['--model', 'lvvit'], 'does not fit'),
        (['--model', 'nothing'], '--model nothing'),
        (['--img_size', 40], 'img_size 40'),
        (['--resume', '/nowhere.pd'], '/nowhere.pd'),
        (['--interpolation', 'best'], '--interpolation best'),
        (['--cls_label_path', '/nowhere.txt'], '/nowhere.txt'),
        (['--batch_size', 0], 'must be at least 1'),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(generate, refused, scenes, flags, word):
    line = refused(generate_label, scenes, generate.out / 'maps', *NANO, '--resume', generate.weights, *flags)
    assert word in line and not (generate.out / 'maps').exists()


def test_tokens_that_were_never_trained_make_no_maps(generate, refused, scenes):
    generate.model.disable_aux_head()
    path = generate.out / 'plain.pdparams'
    checkpoint.save(generate.model.state_dict(), str(path))
    assert 'aux_head is all zeros' in refused(generate_label, scenes, generate.out / 'maps', *NANO, '--resume', path)


def test_scores_that_are_not_finite_are_refused(generate, refused, scenes):
    state = generate.model.state_dict()
    state['norm.bias'] = np.full(state['norm.bias'].shape, np.nan, 'float32')
    path = generate.out / 'nan.pdparams'
    checkpoint.save(state, str(path))
    line = refused(generate_label, scenes, generate.out / 'maps', *NANO, '--resume', path)
    assert 'not finite' in line and '.npy' in line


def test_a_failed_download_says_what_to_give_instead(refused, scenes, tmp_path, monkeypatch):
    def offline(pretrained):
        raise RuntimeError('Download from https://… failed. Retry limit reached')

    monkeypatch.setattr(annotator.zoo, 'resnet18', offline)
    line = refused(generate_label, scenes, tmp_path / 'maps', '--model', 'resnet18')
    assert 'could not be downloaded' in line and '--pretrained_weights' in line
    assert '--nb_classes 10' in refused(
        generate_label, scenes, tmp_path / 'maps', '--model', 'resnet18', '--nb_classes', 10
    )


@pytest.mark.parametrize(
    'name, size, word',
    [
        ('mobilenet_v3_small', 64, 'global average pool and one linear layer'),
        ('squeezenet1_1', 64, 'global average pool and one linear layer'),
        ('alexnet', 96, 'does not take images of 96 pixels'),
        ('resnet18', 100, 'do not tile the image'),
    ],
)
@paddle.no_grad()
def test_models_without_a_linear_head_on_a_global_pool_or_whole_cells_are_refused(name, size, word):
    with pytest.raises(UserError, match=word):
        annotator.PooledHead(getattr(annotator.zoo, name)(num_classes=3), name, size)


@pytest.mark.parametrize('name', ['mobilenet_v1', 'mobilenet_v2', 'shufflenet_v2_x0_25', 'resnet50'])
@paddle.no_grad()
def test_the_mean_over_the_cells_is_the_models_own_output(name):
    paddle.seed(0)
    model = getattr(annotator.zoo, name)(num_classes=3)
    annotate = annotator.PooledHead(model, name, 64)
    image = paddle.randn([2, 3, 64, 64])
    scores = annotate(image)
    assert scores.shape == [2, 4, 3] and (annotate.side, annotate.num_classes) == (2, 3)
    np.testing.assert_allclose(scores.mean(axis=1).numpy(), model(image).numpy(), rtol=1e-4, atol=1e-4)
