"""The tiny training task of the fault suite."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UPDATES, EPOCHS, IMAGES = 12, 3, 96  # optimizer steps of an epoch, epochs, training images
STEPS = UPDATES * EPOCHS
SAVE_EVERY = 5
TASK = (  # everything that has a state
    '--model lvvit_nano --input_size 32 --nb_classes 10 --token_label --token_label_size 2 --mixup 0 --cutmix 0 '
    f'--drop 0.1 --drop_path 0.1 --model_ema --model_ema_eval --model_ema_decay 0.9 --batch_size {IMAGES // UPDATES} '
    f'--epochs {EPOCHS - 1} --warmup_epochs 1 --cooldown_epochs 1 --lr 1e-3 --print_freq 1 '
    f'--save_freq_steps {SAVE_EVERY} --resume auto'
)


def make_scenes(folder, train, val=40):
    sizes = f'--train {train} --val {val} --size 32'.split()
    subprocess.run([sys.executable, ROOT / 'demo/digits.py', folder, *sizes], check=True, stdout=subprocess.DEVNULL)


def flags(data, *more, workers=1):
    """Flags of main.py for the task; those in `more` override."""
    lists = ['--cls_label_path_train', data / 'train_list.txt', '--cls_label_path_val', data / 'val_list.txt']
    places = ['--data_path', data, *lists, '--token_label_data', data / 'label_maps', '--num_workers', workers]
    return [*TASK.split(), *places, *more]
