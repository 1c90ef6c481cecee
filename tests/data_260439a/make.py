"""Makes the files beside it. tests/test_old_files.py checks that the present code goes on from them.

    git worktree add /tmp/old 260439a && cd /tmp/old && PYTHON /path/to/make.py OUT

run by a Python with Paddle 3.3.1, in a checkout of commit 260439a, whose code writes them. Flags and models are those
of test_old_files.py, which imports them from here.

    stopped/      output folder of a run that was stopped within its second epoch: latest, previous, log.txt
    ended/        checkpoint-2.pd and log.txt of the same run when it is not stopped
    momentum/     epoch-0.pd, the checkpoint at the end of the first of two epochs, and checkpoint-1.pd, of the last
    port.pd       a checkpoint like the port's: written by paddle.save, `args` an argparse.Namespace
    weights.*     the final weights as tools/convert_weight.py writes them
    export/       both formats; inference-older.yml is without output, precision, paddle and files
    *.json        what predict.py and infer.py said of the validation images
    maps/         label maps in class folders, .npy and .pt; maps_packed/ the same, packed
    begun/        label maps by generate_label.py, of which a part was made; complete/ all of them, packed
"""

import argparse
import glob
import importlib
import os
import shutil
import signal
import sys
import tempfile

TINY = dict(stem='naive', embed_dim=8, depth=2, num_heads=2)  # architecture of 'lvvit_nano' in all of this
DIGITS = ['digits', '--train', '20', '--val', '10', '--size', '32', '--label_size', '4']
MODEL = ['--model', 'lvvit_nano', '--input_size', '32', '--nb_classes', '10']
DATA = ['--data_path', 'digits', '--cls_label_path_val', 'digits/val_list.txt']
TRAIN = [*MODEL, *DATA, '--cls_label_path_train', 'digits/train_list.txt', '--batch_size', '4', '--num_workers', '0']
TRAIN += ['--warmup_epochs', '1', '--drop', '0.1', '--drop_path', '0.2']
TOKEN_LABEL = ['--token_label', '--token_label_data', 'digits/label_maps', '--token_label_size', '2', '--mixup', '0']
TOKEN_LABEL += ['--cutmix', '0', '--epochs', '2', '--cooldown_epochs', '1', '--lr', '0.01', '--save_freq_steps', '2']
TOKEN_LABEL += ['--model_ema', '--model_ema_eval', '--model_ema_decay', '0.9']
TOKEN_LABEL += ['--opt_eps', '1e-3']  # so large that gradients of no size other than rounding do not move a weight
MOMENTUM = ['--opt', 'momentum', '--clip_grad', '1', '--epochs', '2', '--cooldown_epochs', '0', '--lr', '0.1']
ANNOTATOR = ['--model', 'lvvit_nano', '--resume', 'weights.pdparams', '--nb_classes', '10', '--img_size', '64']
ANNOTATOR += ['--batch_size', '4', '--num_workers', '0']
KEPT = ['stopped/log.txt', 'stopped/checkpoint-latest.pd', 'stopped/checkpoint-previous.pd', 'ended/log.txt']
KEPT += ['ended/checkpoint-2.pd', 'momentum/epoch-0.pd', 'momentum/checkpoint-1.pd', 'port.pd', 'weights.*', '*.json']
KEPT += ['export/*', 'maps/*.*', 'maps/*/*.*', 'maps_packed/*', 'begun/*.*', 'begun/*/*.*', 'complete/*']
STOP = 8  # optimizer steps until the stop, of 15


def scripts():
    """The scripts of the checkout in the working folder, as modules, with a tiny lvvit_nano."""
    sys.path[:0] = [os.getcwd(), os.path.join(os.getcwd(), 'tools'), os.path.join(os.getcwd(), 'demo')]
    names = ['main', 'predict', 'export_model', 'infer', 'generate_label']  # main sets Paddle up
    names += ['convert_weight', 'pack_token_label', 'digits', 'models']
    old = argparse.Namespace(**{name: importlib.import_module(name) for name in names})
    old.models.FAMILY['lvvit_nano'] = (TINY, 1.0)
    return old


def run(script, *flags):
    from util import runtime

    runtime.run(script.main, script.parser(), list(flags))


def train(old):
    """stopped/, ended/ and momentum/."""
    from util import train_state

    after_update, end_epoch = train_state.TrainState.after_update, train_state.TrainState.end_epoch

    def stop(state, done):
        if state.epoch * state.updates + done == STOP:
            os.kill(os.getpid(), signal.SIGTERM)
        after_update(state, done)

    def keep_first(state, stats, tags):
        end_epoch(state, stats, tags)
        if state.epoch == 1:
            shutil.copy('momentum/checkpoint-latest.pd', 'momentum/epoch-0.pd')

    train_state.TrainState.after_update = stop
    run(old.main, *TRAIN, *TOKEN_LABEL, '--output_dir', 'stopped')
    train_state.TrainState.after_update = after_update
    run(old.main, *TRAIN, *TOKEN_LABEL, '--output_dir', 'ended')
    train_state.TrainState.end_epoch = keep_first
    run(old.main, *TRAIN, *MOMENTUM, '--output_dir', 'momentum')


def save_like_the_port():
    import paddle

    from util import checkpoint

    state = checkpoint.load('ended/checkpoint-2.pd')
    tensors = {
        name: {key: paddle.to_tensor(value) for key, value in state[name].items()} for name in ('model', 'model_ema')
    }
    paddle.save({**tensors, 'epoch': 2, 'args': argparse.Namespace(model='lvvit_t', lr=1e-3, betas=None)}, 'port.pd')


def export(old):
    """export/ and the records."""
    import paddle
    import yaml

    # a .pdmodel remembers where in the sources each operator came from, with paths of the machine; here it shall not
    paddle.base.framework.traceback.extract_stack = lambda: []
    weights = [*MODEL, '--resume', 'weights.pdparams']
    names = ['--label_list', 'digits/label_list.txt']
    run(old.export_model, *weights, *names, '--output_dir', 'export', '--format', 'both')
    with open('export/inference.yml') as f:
        settings = yaml.safe_load(f)
    for key in ('output', 'precision', 'paddle', 'files'):
        del settings[key]
    with open('export/inference-older.yml', 'w') as f:
        yaml.safe_dump(settings, f, sort_keys=False)
    run(old.predict, *weights, *names, '--infer_imgs', 'digits/val', '--save_json', 'predict.json')
    for kind in ('pdmodel', 'json'):
        files = ['--model_file', f'export/model.{kind}', '--params_file', 'export/model.pdiparams']
        files += ['--engine', 'paddle', '--input_file', 'digits/val', '--save_json', f'infer-{kind}.json']
        run(old.infer, *files)


def label_maps(old):
    """maps/, maps_packed/, begun/ and complete/."""
    import numpy as np

    from util import torch_file

    shutil.copytree('digits/label_maps', 'maps')
    for number in range(0, 20, 2):
        path = f'maps/digit{number % 10}/train_{number:05d}'
        torch_file.save(np.load(f'{path}.npy'), f'{path}.pt')
        os.unlink(f'{path}.npy')
    run(old.pack_token_label, 'maps', 'maps_packed')

    write = old.generate_label.write

    def stop_after_nine(path, data):
        if sum(len(names) for _, _, names in os.walk('begun')) > 9:
            raise KeyboardInterrupt
        write(path, data)

    run(old.generate_label, 'digits', 'all', *ANNOTATOR)
    run(old.pack_token_label, 'all', 'complete')
    old.generate_label.write = stop_after_nine
    try:
        run(old.generate_label, 'digits', 'begun', *ANNOTATOR)
    except SystemExit:
        pass


def make(out):
    out, old = os.path.abspath(out), scripts()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        old.digits.main(DIGITS)
        train(old)
        save_like_the_port()
        for ending in ('pth', 'safetensors', 'pdparams'):
            run(old.convert_weight, 'ended/checkpoint-2.pd', f'weights.{ending}')
        export(old)
        label_maps(old)
        for path in KEPT:
            for file in glob.glob(path):
                os.makedirs(os.path.dirname(os.path.join(out, file)), exist_ok=True)
                shutil.copy(file, os.path.join(out, file))


if __name__ == '__main__':
    make(sys.argv[1])
