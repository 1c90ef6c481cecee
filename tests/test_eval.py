"""eval.py: accuracy is a property of weights and images, not of batch sizes or processes; and the chain of scripts."""
import ast
import os
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

import eval as eval_script
import export_model
import infer
import main
import models
import predict
from util import checkpoint
from util.transforms import EvalTransform

pytestmark = pytest.mark.cross_version

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = ['--model', 'lvvit_nano', '--input_size', 32]


def numbers(text):
    """(acc1, acc5, loss, images) of the closing line, as printed."""
    (line,) = re.findall(r'\* Acc@1 (\S+) Acc@5 (\S+) loss (\S+) on (\d+) images', text)
    return line


def save_random(path, num_classes):
    """A checkpoint of lvvit_nano at random, with answers that differ from image to image; returns the model."""
    paddle.seed(3)
    model = models.build_model('lvvit_nano', img_size=32, num_classes=num_classes)
    rng = np.random.default_rng(0)
    for p in (model.head.weight, model.aux_head.weight):
        p.set_value(rng.normal(0, 0.3, p.shape).astype('float32'))
    model.eval()
    checkpoint.save({'model': model.state_dict()}, str(path))
    return model


def counted(model, scenes, crop_pct, classes=10):
    """(acc1, acc5, loss, images) of the validation scenes by a plain loop, one image at a time."""
    transform, hits1, hits5, losses = EvalTransform(32, crop_pct), 0, 0, []
    for line in (scenes / 'val_list.txt').read_text().splitlines():
        path, label = line.split()
        label = int(label) % classes
        x = transform(Image.open(scenes / path))
        logits = model(paddle.to_tensor(x[None])).numpy()[0].astype('float64')
        order = np.argsort(-logits)
        hits1 += order[0] == label
        hits5 += label in order[:5]
        losses.append(np.log(np.exp(logits - logits[label]).sum()))
    n = len(losses)
    return 100 * hits1 / n, 100 * hits5 / n, np.mean(losses), n


@pytest.fixture
def val(scenes):
    return [*MODEL, '--data_path', scenes, '--cls_label_path_val', scenes / 'val_list.txt', '--num_workers', 0]


@pytest.mark.parametrize('batch_size', [1, 3, 7, 64])
def test_accuracy_and_loss_are_those_of_a_plain_loop_whatever_the_batch_size(run, val, scenes, tmp_path, batch_size):
    model = save_random(tmp_path / 'x.pd', 10)
    result = run(eval_script, *val, '--nb_classes', 10, '--resume', tmp_path / 'x.pd', '--batch_size', batch_size,
                 '--crop_pct', 0.9)
    assert result.code == 0 and result.err == ''
    acc1, acc5, loss, n = counted(model, scenes, 0.9)
    assert 0 < acc5 < 100 and n == 20
    assert numbers(result.out)[:2] == (f'{acc1:.3f}', f'{acc5:.3f}') and numbers(result.out)[3] == '20'
    assert float(numbers(result.out)[2]) == pytest.approx(loss, abs=1e-3)


def test_engine_returns_the_unrounded_numbers(val, scenes, tmp_path, capfd):
    from engine import evaluate
    from util.loader import build_eval_loader
    model = save_random(tmp_path / 'x.pd', 10)
    args = eval_script.parser().parse_args([*map(str, val), '--nb_classes', '10', '--batch_size', '7'])
    stats = evaluate(model, build_eval_loader(args, 1.0))
    acc1, acc5, loss, _ = counted(model, scenes, 1.0)
    assert stats == {'acc1': acc1, 'acc5': acc5, 'loss': pytest.approx(loss, rel=1e-6)}


def test_fewer_than_5_classes(run, scenes, tmp_path):
    lines = [line.split() for line in (scenes / 'val_list.txt').read_text().splitlines()]
    (tmp_path / 'list.txt').write_text(''.join(f'{path} {int(i) % 3}\n' for path, i in lines))
    model = save_random(tmp_path / 'x.pd', 3)
    result = run(eval_script, *MODEL, '--data_path', scenes, '--cls_label_path_val', tmp_path / 'list.txt',
                 '--num_workers', 0, '--nb_classes', 3, '--resume', tmp_path / 'x.pd')
    acc1, acc5, _, _ = counted(model, scenes, 1.0, classes=3)
    assert acc5 == 100 and numbers(result.out)[:2] == (f'{acc1:.3f}', '100.000')


def test_folders_and_lists_give_the_same_numbers(run, val, scenes, tmp_path):
    save_random(tmp_path / 'x.pd', 10)
    flags = ['--nb_classes', 10, '--resume', tmp_path / 'x.pd', '--num_workers', 0]
    folders = run(eval_script, *MODEL, '--data_path', scenes, *flags)
    assert numbers(folders.out) == numbers(run(eval_script, *val, *flags).out)


def test_the_models_own_crop_is_used_unless_one_is_given(run, val, tmp_path, refused):
    save_random(tmp_path / 'x.pd', 10)
    flags = [*val, '--nb_classes', 10, '--resume', tmp_path / 'x.pd']
    own = run(eval_script, *flags)
    assert 'crop_pct 1.0, bicubic' in own.out
    assert numbers(run(eval_script, *flags, '--crop_pct', 1).out) == numbers(own.out)
    assert numbers(run(eval_script, *flags, '--crop_pct', 0.5).out) != numbers(own.out)
    assert '--crop_pct 0' in refused(eval_script, *flags, '--crop_pct', 0)


def test_ema_is_evaluated_on_request_and_missing_weights_are_named(run, refused, val, tmp_path):
    model = save_random(tmp_path / 'x.pd', 10)
    other = checkpoint.to_numpy(model.state_dict())
    checkpoint.save({'model': {k: v * 0 for k, v in other.items()}, 'model_ema': other}, str(tmp_path / 'both.pd'))
    flags = [*val, '--nb_classes', 10, '--resume']
    ema = run(eval_script, *flags, tmp_path / 'both.pd', '--ema')
    assert 'averaged weights' in ema.out
    assert numbers(ema.out) == numbers(run(eval_script, *flags, tmp_path / 'x.pd').out)
    assert numbers(run(eval_script, *flags, tmp_path / 'both.pd').out) != numbers(ema.out)
    assert 'no averaged weights' in refused(eval_script, *flags, tmp_path / 'x.pd', '--ema')
    assert '--resume is missing' in refused(eval_script, *flags[:-1])


# ---- two processes

def launch(folder, script, *argv):
    """`python -m paddle.distributed.launch` with two processes; returns (output of the launcher, rank 1's output)."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'PADDLE_', 'FLAGS_'))}
    done = subprocess.run(
        [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2', '--backend', 'gloo',
         '--log_dir', str(folder / 'log'), os.path.join(ROOT, script), *map(str, argv)],
        cwd=folder, env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    logs = sorted((folder / 'log').glob('workerlog.*'))
    text = '\n'.join(path.read_text() for path in logs)
    assert done.returncode == 0, done.stdout[-2000:] + text[-3000:]
    assert [path.name for path in logs] == ['workerlog.0', 'workerlog.1']
    return [path.read_text() for path in logs]


def ours(text):
    """Lines of our own, with their time stamps cut off."""
    return re.findall(r'^\[\d\d:\d\d:\d\d\.\d{6}\] (.*)$', text, re.M)


def test_two_processes_give_the_numbers_of_one(run, val, tmp_path):
    save_random(tmp_path / 'x.pd', 10)
    (tmp_path / 'work').mkdir()
    flags = [*val, '--nb_classes', 10, '--resume', tmp_path / 'x.pd', '--batch_size', 3]
    first, second = launch(tmp_path / 'work', 'eval.py', *flags)
    assert numbers(first) == numbers(run(eval_script, *flags).out) and numbers(first)[3] == '20'
    assert '2 process(es)' in first and ours(second) == [], 'one stream of lines'


SHRUNK = f"""import sys
sys.path.insert(0, {ROOT!r})
import main, models
models.FAMILY['vit'][0].update(embed_dim=24, depth=2, num_heads=2)
main.runtime.run(main.main, main.parser())
"""


def test_two_processes_train_as_one_with_a_batch_of_both(run, scenes, tmp_path, tiny):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'shrunk.py').write_text(SHRUNK)  # main.py with the model of `tiny`
    # vit: no batch norm, whose statistics are each process's own
    flags = ['--model', 'vit', '--input_size', 32, '--nb_classes', 10, '--data_path', scenes, '--epochs', 1,
             '--warmup_epochs', 0, '--cooldown_epochs', 0, '--num_workers', 0, '--opt', 'momentum', '--lr', 0.1,
             '--mixup', 0, '--cutmix', 0, '--dist_eval']
    first, second = launch(tmp_path / 'work', tmp_path / 'shrunk.py', *flags, '--batch_size', 20,
                           '--output_dir', tmp_path / 'two')
    assert sum('Training time' in line for line in ours(first)) == 1 and ours(second) == []
    one = run(main, *flags, '--batch_size', 40, '--output_dir', tmp_path / 'one')
    assert one.code == 0
    states = [checkpoint.load(str(tmp_path / n / 'checkpoint-latest.pd')) for n in ('one', 'two')]
    assert states[0]['step'] == states[1]['step'] == 1
    for key, value in states[0]['model'].items():
        np.testing.assert_allclose(states[1]['model'][key], value, atol=1e-5)
    assert numbers(first)[0] == numbers(one.out)[0]
    assert len((tmp_path / 'two' / 'log.txt').read_text().splitlines()) == 1


# ---- the chain

def test_train_eval_predict_export_infer(run, val, scenes, tmp_path, tiny):
    """The README's commands at a small scale: each script takes what the one before it wrote."""
    flags = [*val, '--nb_classes', 10]
    trained = run(main, *flags, '--cls_label_path_train', scenes / 'train_list.txt', '--token_label',
                  '--token_label_data', scenes / 'label_maps', '--token_label_size', 2, '--mixup', 0, '--cutmix', 0,
                  '--batch_size', 10, '--epochs', 1, '--warmup_epochs', 0, '--cooldown_epochs', 0, '--model_ema',
                  '--model_ema_eval', '--drop_path', 0.1, '--output_dir', tmp_path)
    assert trained.code == 0, trained.err
    best = tmp_path / 'checkpoint-best.pd'
    evaluated = run(eval_script, *flags, '--resume', best)
    assert re.findall(r'\* Acc@1.*', evaluated.out) == re.findall(r'\* Acc@1.*', trained.out)[:1]
    weights = [*MODEL, '--nb_classes', 10, '--resume', best]
    names = ['--label_list', scenes / 'label_list.txt']
    read = lambda result: ast.literal_eval(result.out[result.out.index('[{'):].splitlines()[0])  # noqa: E731
    predicted = read(run(predict, *weights, *names, '--infer_imgs', scenes / 'val'))
    truth = [name.split('digit')[1][0] for name in (r['file_name'] for r in predicted)]
    right = np.mean([str(r['class_ids'][0]) == c for r, c in zip(predicted, truth)])
    assert len(predicted) == 20 and f'{100 * right:.3f}' == numbers(evaluated.out)[0]
    assert run(export_model, *weights, *names, '--output_dir', tmp_path / 'export').code == 0
    inferred = read(run(infer, '--model_file', tmp_path / 'export' / 'model.pdmodel', '--params_file',
                        tmp_path / 'export' / 'model.pdiparams', '--input_file', scenes / 'val', '--use_gpu', 'False'))
    assert [r['file_name'] for r in inferred] == [r['file_name'] for r in predicted]
    np.testing.assert_allclose([r['scores'] for r in inferred], [r['scores'] for r in predicted], atol=1e-4)
