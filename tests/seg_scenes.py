"""The data and the config of the tests of seg/: scenes of the demo with masks."""

import sys

import yaml

from conftest import ROOT, words

CONFIG = ROOT / 'seg' / 'configs' / 'upernet_lvvit_nano_digits_48x48.yml'
CLASSES = 11


def make(tmp_path_factory):
    """A folder of 20 training and 10 validation scenes of 32 px with masks."""
    sys.path.insert(0, str(ROOT / 'demo'))
    import digits

    out = tmp_path_factory.mktemp('masked') / 'set'
    digits.main([str(out), *words('--train 20 --val 10 --size 32 --masks')])
    return out


def written_config(folder, masked, **model):
    """A config file for these scenes, the model small; model: changes to that part."""
    config = yaml.safe_load(CONFIG.read_text())
    for split in ('train', 'val'):
        part = config[f'{split}_dataset']
        part.update(dataset_root=str(masked), **{f'{split}_path': str(masked / f'masks_{split}.txt')})
    config.update(batch_size=4, iters=2)
    config['model'].update(channels=8, **model)
    config['model']['backbone'].update(img_size=32, out_channels=16)
    path = folder / 'config.yml'
    path.write_text(yaml.safe_dump(config))
    return path


def pairs(masked, split='val'):
    lines = (masked / f'masks_{split}.txt').read_text().splitlines()
    return [[masked / name for name in line.split()] for line in lines]
