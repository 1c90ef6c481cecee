"""configs/: every recipe is complete and trains a step; what is wrong with a file of -c is named."""

import glob
import os
import re

import pytest

import main
from conftest import ROOT, words
from util.args import read_config
from util.training_args import scale_learning_rates

CONFIGS = sorted(os.path.basename(path) for path in glob.glob(str(ROOT / 'configs' / '*.yaml')))
RECIPES = [name for name in CONFIGS if name != 'recipe.yaml']
COMPLETE = """
    model input_size token_label drop_path batch_size lr_total_batch epochs cooldown_epochs lr min_lr warmup_lr
    warmup_epochs t_in_epochs cosine_over_warmup opt weight_decay aa train_interpolation train_scale hflip reprob remode
    recount smoothing mixup cutmix model_ema use_amp
""".split()
SMALL = (
    '--input_size 32 --token_label_size 2 --nb_classes 10 --batch_size 40 --epochs 1 --warmup_epochs 0 '
    '--cooldown_epochs 0 --num_workers 0'
)


def recipe(name, *flags):
    return main.parser().parse_args(['-c', str(ROOT / 'configs' / name), *words(*flags)])


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_is_complete_and_trains_a_step(run, scenes, tiny, tmp_path, name):
    path = ROOT / 'configs' / name
    content = read_config(main.parser(), str(path))
    of_any_model = name == 'own_photos.yaml'
    missing = [key for key in COMPLETE if key not in content]
    assert missing == (['model', 'input_size'] if of_any_model else [])
    args = recipe(name)
    args.data_path = '.'
    args.token_label_data = 'maps'
    main.complete(args)
    assert args.token_label_size == args.input_size // 16
    comment = re.findall('^#.*', path.read_text(), re.MULTILINE)
    assert len(comment) == 3
    data = ['--data_path', scenes, '--token_label_data', scenes / 'label_maps', '--output_dir', tmp_path]
    result = run(main, '-c', path, *words(SMALL), *data)
    assert result.code == 0 and 'epoch": 0' in (tmp_path / 'log.txt').read_text()
    assert '40 images a step' in result.out and f'are for {args.lr_total_batch}' in result.out


def test_recipes_differ_as_their_models_do():
    rates = {name: recipe(name).lr for name in RECIPES}
    assert rates['lvvit_s.yaml'] == rates['lvvit_m_384.yaml'] == 1.6e-3 and rates['lvvit_l.yaml'] == 1e-3
    assert rates['finetune_s_384.yaml'] == rates['finetune_l_512.yaml'] == 5e-6
    drop_path = {name: recipe(name).drop_path for name in RECIPES}
    assert [drop_path[f'lvvit_{model}.yaml'] for model in 'tsml'] == [0.1, 0.1, 0.2, 0.3]
    assert recipe('lvvit_l.yaml').aa == 'rand-n3-m9-mstd0.5-inc1' and recipe('transfer.yaml').dense_weight == 0
    assert recipe('replay_s.yaml').token_label_geometry == 'reference' and not recipe('lvvit_t.yaml').model_ema
    assert recipe('lvvit_s.yaml', '--drop_path 0.5').drop_path == 0.5, 'the command line wins'


def test_another_total_batch_scales_all_learning_rates():
    args = recipe('finetune_s_384.yaml')
    assert scale_learning_rates(args, 512) == '' and args.lr == 5e-6
    assert '512' in scale_learning_rates(args, 128)
    assert (args.lr, args.min_lr, args.warmup_lr) == pytest.approx((5e-6 / 4, 5e-6 / 4, 1e-6 / 4))


BAD = [
    ('learning_rate: 1', '', ('bad.yaml', 'learning_rate')),
    ('lr: much', '', ('bad.yaml', '--lr')),
    ('_base_: none.yaml', '', ('none.yaml',)),
    ('model: lvvit_s', '--model lvvit_m', ('bad.yaml', 'lvvit_s', '--model')),
    (
        '{token_label: true, token_label_size: 14}',
        '--input_size 384 --token_label_data m',
        ('bad.yaml', '_label_size 14'),
    ),
]


@pytest.mark.parametrize('text, flags, says', BAD)
def test_what_is_wrong_with_a_file_is_named(refused, tmp_path, text, flags, says):
    (tmp_path / 'bad.yaml').write_text(text)
    message = refused(main, '-c', tmp_path / 'bad.yaml', *words(flags))
    assert all(word in message for word in says), message
