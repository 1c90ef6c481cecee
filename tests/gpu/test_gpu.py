"""What only a GPU can show: mixed precision, exact resume, fused attention, two cards, TensorRT.

On a machine with a GPU (this project has none; please report the table that is printed at the end):

    bash tools/venv.sh .venv-gpu -r requirements-gpu.txt -r tests/requirements.txt
    .venv-gpu/bin/python -m pytest -m gpu tests/gpu            about ten minutes on one card

On a CPU the same tests run with a tiny model, as far as they can: they try the tests, not the GPU.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import paddle
import pytest
from paddle import inference

import lv_vit
from conftest import ROOT
from states import differences
from util.weights import checkpoint

pytest.importorskip('sklearn')  # the data
pytestmark = pytest.mark.gpu

CARDS = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
MODEL, SIZE, BATCH, STEPS = ('lvvit_s', 224, 32, 20) if CARDS else ('lvvit_nano', 48, 8, 10)  # STEPS: of an epoch
EPOCHS, PRINT_FREQ, SCENES = 2, 4, 10
OF_MODEL = ['--model', MODEL, '--input_size', SIZE, '--nb_classes', 10]
ROUNDOFF = {'float32': 2.0**-24, 'float16': 2.0**-11, 'bfloat16': 2.0**-8}  # relative error of one rounding
FIRST = 5  # steps whose losses must agree
NO_TF32 = {'NVIDIA_TF32_OVERRIDE': '0'}  # its kernels depend on the batch
needs_gpu = pytest.mark.skipif(CARDS == 0, reason='needs a GPU')


def run(*command, env=None):
    """Run Python with this command from the repository's folder; returns what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith('PADDLE_')}
    pipes = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200)
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env={**clean, **(env or {})}, **pipes)
    assert done.returncode == 0, f'{command}: exit code {done.returncode}: …{done.stdout[-2000:]}'
    return done.stdout


class Training:
    """A training of `steps` steps an epoch: its output folder, console, and the notes of each process (probe.py).

    losses: of each step, the mean over the processes, which have equal shares of the batch.
    """

    def __init__(self, folder, name, *flags, cards=1, own=(), env=None):
        data, self.out, notes = folder / 'scenes', folder / name, folder / f'{name}.notes'
        for old in folder.glob(f'{name}.notes.*'):
            old.unlink()
        gpus = ['--gpus', ','.join(map(str, range(cards)))]
        logs = folder / f'{name}.launch'
        launcher = [] if cards == 1 else ['-m', 'paddle.distributed.launch', *gpus, '--log_dir', logs]
        lists = ['--cls_label_path_train', folder / 'train_list.txt', '--cls_label_path_val', data / 'val_list.txt']
        maps = ['--token_label', '--token_label_data', data / 'label_maps', '--data_path', data, *lists]
        recipe = f'--batch_size {BATCH} --epochs {EPOCHS} --warmup_epochs 1 --cooldown_epochs 0 --lr 1e-3 --mixup 0 '
        recipe += (
            '--cutmix 0 --hflip 0 --reprob 0 --train_scale 1 1 --smoothing 0 --no_mix_token --aa= --num_workers 2 '
        )
        recipe += f'--print_freq {PRINT_FREQ} --resume auto --output_dir'
        probe = [*launcher, Path(__file__).with_name('probe.py'), notes, *own]
        self.console = run(*probe, *OF_MODEL, *maps, *recipe.split(), self.out, *flags, env=env)
        if cards > 1:
            self.console += ''.join(path.read_text(errors='replace') for path in sorted(logs.glob('workerlog.*')))
        self.notes = [json.loads(path.read_text()) for path in sorted(folder.glob(f'{name}.notes.rank*.json'))]
        assert len(self.notes) == cards
        self.losses = [sum(values) / cards for values in zip(*(note['losses'] for note in self.notes))]

    def log(self):
        """The records of log.txt."""
        return [json.loads(line) for line in (self.out / 'log.txt').read_text().splitlines()]

    def state(self):
        """Its last checkpoint without the flags."""
        content = checkpoint.load(str(self.out / 'checkpoint-latest.pd'))
        del content['args']
        return content

    def stopped(self):
        """(epoch, steps done, steps of an epoch) of the console line that says where it stopped."""
        found = re.search(r'stopped by .+ in epoch (\d+) after (\d+) of (\d+) steps', self.console)
        return tuple(map(int, found.groups()))

    def finished(self):
        return re.search(r'Training time \d', self.console) is not None

    def speed(self):
        """'812 images/s, 4.1 GB': measured between moments at which the host waited for the device."""
        late = [flush for flush in self.notes[0]['flushes'] if flush[1] > STEPS // 2]
        (begin, first), (end, last) = late[0], late[-1]
        memory = self.notes[0]['mb']
        return f'{BATCH * (last - first) / (end - begin):.0f} images/s' + (f', {memory / 1e3:.1f} GB' if memory else '')

    def delete_checkpoints(self):
        """They take a gigabyte on a GPU."""
        shutil.rmtree(self.out)


def apart(losses, reference):
    """Largest relative difference of the first losses."""
    assert min(len(losses), len(reference)) >= FIRST
    return max(abs(a - b) / abs(b) for a, b in zip(losses[:FIRST], reference[:FIRST]))


def fall(losses):
    """(mean of the first quarter, mean of the last), which must be a tenth less."""
    quarter = len(losses) // 4
    first, last = sum(losses[:quarter]) / quarter, sum(losses[-quarter:]) / quarter
    assert last < 0.9 * first, f'the loss does not fall: {first:.4f}, then {last:.4f}'
    return first, last


def amp_flags(dtype, level):
    return [] if dtype == 'float32' else ['--use_amp', '--amp_dtype', dtype, '--amp_level', level]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A few scenes, and a list that names each of them often, so that they are learned fast."""
    folder = tmp_path_factory.mktemp('gpu')
    run('demo/digits.py', folder / 'scenes', '--train', SCENES, '--val', 40, '--size', SIZE)
    lines = (folder / 'scenes' / 'train_list.txt').read_text().splitlines(keepends=True)
    (folder / 'train_list.txt').write_text(''.join(lines) * (STEPS * BATCH // SCENES))
    return folder


@pytest.fixture(scope='module')
def float32(folder):
    """The training that the others are compared with."""
    return Training(folder, 'float32')


# ---- one card


def test_training_in_float32(float32, measured):
    first, last = fall(float32.losses)
    assert float32.finished() and len(float32.losses) == STEPS * EPOCHS
    measured(f'loss {first:.3f}, at the end {last:.3f}; {float32.speed()}')


MIXED = [('float16', 'O1'), ('float16', 'O2'), ('bfloat16', 'O1'), ('bfloat16', 'O2')]


@pytest.mark.parametrize('dtype, level', MIXED if CARDS else MIXED[:1])
def test_mixed_precision(folder, float32, dtype, level, measured):
    """It is on, its first losses are float32's within ten roundings, the loss falls, its checkpoint evaluates alike."""
    training = Training(folder, f'{dtype}-{level}', *amp_flags(dtype, level))
    assert training.notes[0]['dtypes'] == [dtype if CARDS else 'float32']
    worst = apart(training.losses, float32.losses)
    assert worst <= 10 * ROUNDOFF[dtype]
    first, last = fall(training.losses)
    data = ['--data_path', folder / 'scenes', '--cls_label_path_val', folder / 'scenes' / 'val_list.txt']
    weights = ['--resume', training.out / 'checkpoint-latest.pd', *amp_flags(dtype, level)]
    evaluated = float(run('eval.py', *OF_MODEL, *data, *weights).rpartition(' loss ')[2].split()[0])
    logged = training.log()[-1]['test_loss']
    assert abs(evaluated - logged) <= 10 * ROUNDOFF[dtype] * logged + 5e-4, 'it is printed with 3 decimals'
    training.delete_checkpoints()
    scale = training.notes[0]['scale']
    measured(
        f'first losses {worst:.1e} from float32; loss {first:.3f}, then {last:.3f}, scale {scale}; {training.speed()}'
    )


RESUMED = [('float32', 'O1'), ('float16', 'O1'), ('bfloat16', 'O2')]


@pytest.mark.parametrize('dtype, level', RESUMED if CARDS else RESUMED[1:2])
def test_a_stopped_run_that_is_resumed_ends_with_the_same_bits(folder, dtype, level, measured):
    flags = '--debug --mix_token --drop_path 0.1 --model_ema --model_ema_decay 0.9'.split() + amp_flags(dtype, level)
    flags += ['--cls_label_path_train', folder / 'train_list.txt']
    whole = Training(folder, f'whole-{dtype}', *flags)
    twin = Training(folder, f'twin-{dtype}', *flags) if CARDS else whole
    stop = STEPS + STEPS // 2 + 1  # in the second epoch, after a step that is not logged
    stopped = Training(folder, f'stopped-{dtype}', *flags, own=['--stop_after', stop])
    assert stopped.stopped()[:2] == divmod(stop, STEPS)
    resumed = Training(folder, f'stopped-{dtype}', *flags)
    assert resumed.finished()
    assert differences(whole.state(), twin.state()) == [], 'two undisturbed runs differ: by kernels, not by resuming'
    assert differences(whole.state(), resumed.state()) == []
    for training in {whole, twin, resumed}:
        training.delete_checkpoints()
    measured(f'stopped after step {stop} of {EPOCHS * STEPS}, resumed: all bits the same')


# ---- attention


def attention_step(fused, dtype, width, tokens):
    """Of a forward and backward pass: output and gradient of the input, float32; seconds; MB after the forward pass."""
    paddle.seed(0)
    attention = lv_vit.Attention(6 * width, num_heads=6)
    attention.to(dtype=dtype)
    x = paddle.randn([8, tokens, 6 * width]).astype(dtype)
    x.stop_gradient = False
    with mock.patch.object(lv_vit, 'uses_fused_attention', lambda q: fused):
        for _ in range(5):  # the first steps choose kernels
            attention.clear_gradients()
            x.clear_gradient()
            if CARDS:
                paddle.device.synchronize()
            start = time.monotonic()
            out = attention(x)
            memory = paddle.device.cuda.memory_allocated() / 1e6 if CARDS else 0.0
            out.astype('float32').square().sum().backward()
            gradient = x.grad.astype('float32').numpy()  # waits for the device
            seconds = time.monotonic() - start
    return out.astype('float32').numpy(), gradient, seconds, memory


WIDTHS = [(64, 197), (64, 1025), (60, 197)]  # lvvit_s at 224 px and lvvit_l at 512 px have width 64; lvvit_t has 60


@pytest.mark.parametrize('width, tokens', WIDTHS if CARDS else WIDTHS[::2])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'] if CARDS else ['float32'])
def test_fused_attention_agrees_with_the_written_out_form(dtype, width, tokens, measured):
    written_out, fused = (attention_step(which, dtype, width, tokens) for which in (False, True))
    worst = max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(written_out[:2], fused[:2]))
    assert worst <= 10 * ROUNDOFF[dtype]
    times = [f'{1e3 * seconds:.1f} ms, {memory:.0f} MB' for *_, seconds, memory in (written_out, fused)]
    measured(f'{worst:.1e} apart; written out {times[0]}; fused {times[1]}')


# ---- two cards


@pytest.mark.skipif(CARDS < 2, reason='needs two cards; Paddle has no SyncBN for CPUs')
def test_two_cards_with_sync_bn_train_as_one_on_the_joined_batch(folder, measured):
    one = Training(folder, 'one-card', '--batch_size', 2 * BATCH, env=NO_TF32)
    two = Training(folder, 'two-cards', '--sync_bn', cards=2, env=NO_TF32)
    worst = apart(two.losses, one.losses)
    assert worst <= 1e-4, 'the same sums in another order'
    assert two.notes[0]['weights'] == two.notes[1]['weights']
    fall(two.losses)
    alone = Training(folder, 'two-cards-alone', cards=2, env=NO_TF32)
    control = apart(alone.losses, one.losses)
    assert control > worst, 'statistics of their own make a difference that the comparison sees'
    measured(f'first losses {worst:.1e} from one card ({control:.1e} without SyncBN), the same weights on both')


# ---- export and inference


def predictions(path):
    """{file name: {class: score}} of a file of --save_json with all classes."""
    records = json.loads(path.read_text())
    assert records and all(len(record['class_ids']) == 10 for record in records)
    return {record['file_name']: dict(zip(record['class_ids'], record['scores'])) for record in records}


TENSORRT = ['--use_tensorrt', 'True', '--precision']
ENGINES = {  # name: (flags of export_model.py, flags of infer.py, the engine that its console must name)
    'fp32': ([], [] if CARDS else ['--use_gpu', 'False', '--engine', 'paddle'], 'gpu' if CARDS else 'paddle'),
    'fp16': ([], ['--precision', 'fp16'], 'gpu'),
    'exported fp16': (['--precision', 'fp16'], ['--precision', 'fp16'], 'gpu'),
    'TensorRT fp32': ([], [*TENSORRT, 'fp32'], 'tensorrt'),
    'TensorRT fp16': ([], [*TENSORRT, 'fp16'], 'tensorrt'),
}


@pytest.mark.parametrize('name', [pytest.param(n, marks=[] if n == 'fp32' else needs_gpu) for n in ENGINES])
def test_infer_agrees_with_predict(folder, float32, tmp_path, name, measured):
    export_flags, infer_flags, engine = ENGINES[name]
    if engine == 'tensorrt' and not any(inference.get_trt_compile_version()):
        pytest.skip('this wheel of Paddle was built without TensorRT')
    weights = [*OF_MODEL, '--resume', float32.out / 'checkpoint-latest.pd']
    images = folder / 'scenes' / 'val'
    run('predict.py', *weights, '--infer_imgs', images, '--topk', 10, '--save_json', tmp_path / 'predicted.json')
    run('export_model.py', *weights, '--output_dir', tmp_path / 'export', *export_flags)
    export = ['--model_file', tmp_path / 'export/model.pdmodel', '--params_file', tmp_path / 'export/model.pdiparams']
    output = ['--input_file', images, '--batch_size', 8, '--topk', 10, '--save_json', tmp_path / 'inferred.json']
    assert f', {engine} (' in run('infer.py', *export, *output, *infer_flags)
    ours, theirs = predictions(tmp_path / 'inferred.json'), predictions(tmp_path / 'predicted.json')
    assert ours.keys() == theirs.keys()
    worst = max(abs(score - theirs[file][i]) for file, scores in ours.items() for i, score in scores.items())
    assert worst <= (10 * ROUNDOFF['float16'] if CARDS else 1e-4)  # TensorFloat-32 has as many bits as float16
    measured(f'scores {worst:.1e} from predict.py')
