"""Nothing that a file asks for is executed, in any format and through any script; a foreign, damaged or cut file is
refused in one line that names it.

HOSTILE_CHANGES=2000 python -m pytest tests/test_hostile_files.py tries more damage than the usual 60 changes a kind.
"""

import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / 'hostile'))
sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

import eval as eval_script
import export_model
import fuzz
import generate_label
import infer
import kinds
import main
import pack_token_label
import payloads
import predict
import visualize
import watch
from util.data import images
from util.errors import UserError

pytestmark = pytest.mark.cross_version

CHANGES = int(os.environ.get('HOSTILE_CHANGES', 60))
CANARY = 'canary'  # the file that an attack would make in the working folder


def outcome(kind, path, content):
    """'loaded', or the message with which a file with this content is refused."""
    with open(path, 'wb') as f:
        f.write(content)
    with watch.watched() as happened:
        try:
            kinds.READERS[kind](path)
            message = 'loaded'
        except UserError as error:
            message = str(error)
        except images.BadImage as error:
            message = str(error)
    assert happened == [] and not os.path.exists(CANARY)
    return message


def assert_one_line(message, path):
    assert '\n' not in message and message.isprintable() and len(message) < 1500, message
    assert path in message or os.path.dirname(path) in message, message


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    """{kind: (path, content)} of a good file of each kind; each has been read once, with all that this imports."""
    result = {}
    Image.init()
    for kind, read in kinds.READERS.items():
        path = kinds.make(kind, str(tmp_path_factory.mktemp(kind)))
        content = Path(path).read_bytes()
        for text in (
            b'',
            b'\x80\x02',
            b'PK\x05\x06' + bytes(18),
            b'\xff\xd8\xff\xe0' + bytes(99),
            b'{',
            b'0 a',
            content,
        ):
            Path(path).write_bytes(text)
            try:
                read(path)
            except Exception:
                pass
        result[kind] = path, content
    return result


@pytest.mark.parametrize('kind', kinds.READERS)
def test_a_good_file_is_loaded_and_nothing_happens(good, kind):
    assert outcome(kind, *good[kind]) == 'loaded'


@pytest.mark.parametrize('kind', kinds.READERS)
def test_what_would_execute_something_is_refused_by_name_and_does_nothing(good, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attacks = payloads.attacks(kind, CANARY)
    for name, content in attacks.items():
        message = outcome(kind, good[kind][0], content)
        assert message != 'loaded', name
        assert_one_line(message, good[kind][0])
    assert attacks


@pytest.mark.parametrize('kind', kinds.READERS)
def test_cut_and_damaged_files_are_refused_by_name_or_plain(good, kind):
    path, content = good[kind]
    refused = 0
    for damage in (fuzz.cuts(content), fuzz.changes(content, CHANGES, zlib.crc32(kind.encode()))):
        for _, data in damage:
            message = outcome(kind, path, data)
            if message != 'loaded':
                assert_one_line(message, path)
                refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    'action, says',
    [
        (lambda: os.system('true'), 'os.system'),
        (lambda: exec('1'), 'exec'),
        (lambda: __import__('this_module_does_not_exist'), 'import'),
        (lambda: open('x', 'w').close(), 'open'),
        (lambda: os.unlink('y'), 'os.remove'),
    ],
)
def test_what_must_not_happen_would_be_noticed(tmp_path, monkeypatch, action, says):
    monkeypatch.chdir(tmp_path)
    with watch.watched() as happened:
        try:
            action()
        except (ImportError, OSError):
            pass
    assert any(event.startswith(says) for event in happened)


# ---- through the scripts

MODEL = ['--model', 'lvvit_nano', '--input_size', 32, '--nb_classes', 10]
TRAIN = [
    *MODEL,
    *'--batch_size 1 --epochs 1 --num_workers 0 --mixup 0 --cutmix 0 --output_dir out --data_path .'.split(),
]
IMAGE = 'val/n01/x.png'
SCRIPTS = {
    'main --resume': (main, [*TRAIN, '--resume']),
    'main --resume_ema': (main, [*TRAIN, '--model_ema', '--resume_ema']),
    'main --finetune': (main, [*TRAIN, '--finetune']),
    'eval': (eval_script, [*MODEL, '--data_path', '.', '--resume']),
    'predict': (predict, [*MODEL, '--infer_imgs', IMAGE, '--resume']),
    'export_model': (export_model, [*MODEL, '--output_dir', 'out', '--resume']),
    'generate_label': (generate_label, ['.', 'out', *MODEL[:2], '--img_size', 32, '--num_workers', 0, '--resume']),
    'generate_label, an annotator': (generate_label, ['.', 'out', '--model', 'resnet18', '--resume']),
    'visualize': (visualize, ['--input', IMAGE, '--output', 'out.png', *MODEL, '--resume']),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: a data set of one image in each split."""
    for split in ('train', 'val'):
        (tmp_path / split / 'n01').mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), 'u1')).save(tmp_path / split / 'n01' / 'x.png')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoints():
    """{name: content} of one attack on each format of weights, and a cut file of each."""
    names = {
        'pd': 'os.system, protocol 4',
        'pth': 'posix system',
        'legacy.pth': 'posix system',
        'safetensors': 'objects',
    }
    return {kind: payloads.attacks(kind, CANARY)[name] for kind, name in names.items()}


@pytest.mark.parametrize('name', SCRIPTS)
def test_every_script_turns_hostile_weights_down_in_one_line(refused, folder, good, name):
    script, words = SCRIPTS[name]
    for kind, attack in checkpoints().items():
        for content in (attack, good[kind][1][:-50]):
            (folder / 'weights').write_bytes(content)
            assert 'weights' in refused(script, *words, 'weights'), kind
            assert not (folder / CANARY).exists()


def test_convert_weight_turns_hostile_weights_down_and_writes_nothing(refused, folder):
    import convert_weight

    for kind, content in checkpoints().items():
        (folder / 'weights').write_bytes(content)
        assert 'weights' in refused(convert_weight, 'weights', 'out.pdparams'), kind
        assert not (folder / CANARY).exists() and not (folder / 'out.pdparams').exists()


@pytest.mark.parametrize('kind', ['map.npy', 'map.pt'])
def test_training_and_packing_turn_hostile_label_maps_down_in_one_line(refused, folder, kind):
    (folder / 'maps' / 'n01').mkdir(parents=True)
    path = folder / 'maps' / kinds.NAMES[kind]
    names = {'map.npy': ['a pickle of objects', 'code in the shape'], 'map.pt': ['posix system', 'tensor, beyond']}[
        kind
    ]
    for name in names:
        path.write_bytes(payloads.attacks(kind, CANARY)[name])
        words = ['--token_label', '--token_label_data', 'maps', '--token_label_size', 2]
        assert str(Path('maps') / kinds.NAMES[kind]) in refused(main, *TRAIN, *words)
        assert kinds.NAMES[kind] in refused(pack_token_label, 'maps', 'packed')
        assert not (folder / CANARY).exists()


def test_infer_turns_a_hostile_inference_yml_down_in_one_line(refused, folder):
    for name in ('model.pdmodel', 'model.pdiparams'):
        (folder / name).write_bytes(b'x')
    words = ['--model_file', 'model.pdmodel', '--params_file', 'model.pdiparams', '--input_file', IMAGE]
    for tag, text in payloads.yaml_tags(CANARY).items():
        (folder / 'inference.yml').write_text(text)
        assert 'inference.yml' in refused(infer, *words, '--use_gpu', 'False'), tag
        assert not (folder / CANARY).exists()
