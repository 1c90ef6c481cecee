"""util/args.py: the flags that users' commands rely on: names, defaults, types, contradictions, -c FILE."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

import eval as eval_script
import export_model
import generate_label
import infer
import main
import models
import predict
from conftest import ROOT, TINY_RUN, words
from states import same
from util.args import boolean
from util.ranges import Range
from util.weights import settings

MODEL = 'model=lvvit_t input_size=None nb_classes=1000'
OF_WEIGHTS = 'model=None input_size=None nb_classes=None crop_pct=None interpolation=None mean=None std=None'
WEIGHTS = 'resume= pretrained=False ema=False'
TRANSFORM = 'crop_pct=None interpolation=bicubic mean=[0.485,0.456,0.406] std=[0.229,0.224,0.225]'
DATA = 'data_path=/datasets/imagenet/ cls_label_path_val=None num_workers=10 prefetch_factor=2 image_backend=pil'
AMP = 'use_amp=False amp_dtype=float16 amp_level=O1'
RECORDS = 'topk=5 label_list=None save_json= save_csv= skip_bad=False'
TRAIN = """
    cls_label_path_train=None label_list=None persistent_workers=False batch_size=64 epochs=300 accum_iter=1 drop=0.0
    drop_path=None model_ema=False model_ema_decay=0.9999 model_ema_eval=False seed=0 max_bad_images=100 finetune=
    remove_head_from_pretained=False resume_ema= start_epoch=0 sync_bn=False recompute=False to_static=False
    eval=False dist_eval=False debug=False opt=adamw opt_eps=1e-08 opt_betas=None momentum=0.9 clip_grad=None
    weight_decay=0.05 layer_decay=None blr=0.0008 lr=None lr_total_batch=None warmup_lr=1e-06 min_lr=1e-05
    warmup_epochs=5 cooldown_epochs=10 t_in_epochs=False cosine_over_warmup=False
    color_jitter=0.4 aa=rand-m9-mstd0.5-inc1 train_interpolation=bicubic train_scale=[0.08,1.0] hflip=0.5 reprob=0.25
    remode=pixel recount=1 smoothing=0.1 mixup=0.8 cutmix=1.0 cutmix_minmax=None mixup_prob=1.0 mixup_switch_prob=0.5
    mixup_mode=batch mixup_off_epoch=0 token_label_data= token_label_coverage=center token_label_geometry=exact
    token_label=False token_label_size=None allow_missing_token_label=False dense_weight=1.0 cls_weight=1.0
    ground_truth=False token_label_gumbel=False token_label_confidence=0.0 token_pool_weight=0.0 mix_token=None
    output_dir= save_freq_steps=0 keep_checkpoints=None log_file= print_freq=20 log_visualdl= log_wandb=False
    wandb_entity=None wandb_project=None
"""
PROTOCOLS = 'topk=None results_file= real_labels= per_class= confusion= save_predictions= label_list=None class_list='
PREDICT = f'batch_size=16 config=None infer_imgs=[{ROOT}/demo/chelsea.png]'
EXPORT = 'output_dir= format=pdmodel fuse_softmax=False precision=fp32 label_list=None'
INFER = """
    input_size=None crop_pct=None interpolation=None mean=None std=None batch_size=1 use_gpu=True gpu_mem=8000
    use_tensorrt=False engine=auto enable_mkldnn=None cpu_threads=None precision=fp32 ir_optim=True
    enable_benchmark=False
"""
INFER_NEEDED = '--model_file m --params_file p --input_file i'
LABEL = """
    nb_classes=None transfer=False class_map= cls_label_path=None img_size=None mean=None std=None interpolation=None
    num_workers=10 topk=5 relative_scores=False batch_size=32
"""
DEFAULTS = [
    (main, '', [MODEL, WEIGHTS, TRANSFORM, DATA, AMP, TRAIN, 'config=None']),
    (eval_script, '', [OF_WEIGHTS, WEIGHTS, DATA, AMP, PROTOCOLS, 'batch_size=64 dist_eval=False config=None']),
    (predict, '', [OF_WEIGHTS, WEIGHTS, RECORDS, PREDICT]),
    (export_model, '', [OF_WEIGHTS, WEIGHTS, EXPORT, 'config=None']),
    (infer, INFER_NEEDED, [RECORDS, INFER, 'model_file=m params_file=p input_file=[i] config=None']),
    (generate_label, 'a b', [WEIGHTS, LABEL, 'data=a out=b model=None']),
]


@pytest.mark.parametrize('script, needed, expected', DEFAULTS)
def test_every_flag_keeps_its_name_and_default(script, needed, expected):
    args = vars(script.parser().parse_args(needed.split()))
    found = {name: str(value).replace(' ', '').replace("'", '') for name, value in args.items()}
    assert found == dict(word.split('=', 1) for word in ' '.join(expected).split())


WHOLE_NUMBERS = """
    input_size nb_classes num_workers prefetch_factor batch_size epochs accum_iter seed lr_total_batch max_bad_images
    start_epoch warmup_epochs cooldown_epochs recount mixup_off_epoch token_label_size save_freq_steps keep_checkpoints
    print_freq
"""
NUMBERS = """
    crop_pct drop drop_path model_ema_decay opt_eps momentum clip_grad weight_decay layer_decay blr lr warmup_lr min_lr
    color_jitter hflip reprob smoothing mixup cutmix mixup_prob mixup_switch_prob dense_weight cls_weight
    token_label_confidence token_pool_weight
"""
LISTS = [('mean', [0.25, 0.5, 1]), ('std', [1, 2.5, 3]), ('opt_betas', [0.9, 0.95]), ('train_scale', [0.5, 1])]
LISTS += [('cutmix_minmax', [0.2, 0.8])]


def main_flags(*flags):
    return main.parser().parse_args(words(*flags))


def test_values_are_read_as_the_right_type(capsys):
    for name in WHOLE_NUMBERS.split():
        value = vars(main_flags(f'--{name} 7'))[name]
        assert value == 7 and type(value) is int, name
        with pytest.raises(SystemExit):
            main_flags(f'--{name} 1.5')
    for name in NUMBERS.split():
        assert vars(main_flags(f'--{name} 2.5e-3'))[name] == 0.0025, name
    for name, values in LISTS:
        assert vars(main_flags(f'--{name}', *values))[name] == values
    for word, value in ('True', True), ('t', True), ('1', True), ('yes', True), ('False', False), ('0', False):
        assert infer.parser().parse_args(words(INFER_NEEDED, '--use_gpu', word)).use_gpu is value


SWITCHES = (
    'model_ema model_ema_eval use_amp t_in_epochs remove_head_from_pretained sync_bn persistent_workers mix_token'
)


def test_switches_have_a_no_form_and_the_last_one_wins():
    for flag in SWITCHES.split():
        for last, value in (f'--{flag}', True), (f'--no_{flag}', False):
            assert vars(main_flags(f'--no_{flag} --{flag}', last))[flag] is value


def test_flags_with_two_names():
    assert export_model.parser().parse_args(['--output', 'DIR']).output_dir == 'DIR'
    for script in (eval_script, predict):
        assert script.parser().parse_args(['--train_interpolation', 'bilinear']).interpolation == 'bilinear'
    args = infer.parser().parse_args('--model_file m --params_file p --infer_imgs i -b 3'.split())
    assert args.input_file == ['i'] and args.batch_size == 3
    args = infer.parser().parse_args(words(INFER_NEEDED, '-c x.yml --train_interpolation random'))
    assert (args.config, args.interpolation) == ('x.yml', 'random')


PUBLISHED = (
    '--model lvvit_t --drop_path 0.1 --use_amp --batch_size 128 --warmup_epochs 5 --cooldown_epochs 10 --lr 1.6e-3 '
    '--warmup_lr 1e-6 --min_lr 1e-5 --t_in_epochs --mixup 0 --cutmix 0 --train_interpolation random --token_label '
    '--token_label_data DIR --token_label_size 14 --data_path IMAGENET --cls_label_path_train train_list.txt '
    '--cls_label_path_val val_list.txt --output_dir output/lvvit_t/ --crop_pct 0.9 --dist_eval'
)


def test_help_on_sizes_and_crops_is_that_of_the_family():
    text = ' '.join(main.parser().format_help().split())
    assert '(default: 64 for lvvit_nano_patch8, 448 for lvvit_l, else 224)' in text
    assert '(default: 1.0 for lvvit_nano, lvvit_nano_patch8, lvvit_m, lvvit_l, else 0.9)' in text


# ---- completing what a command leaves out


def test_size_and_crop_are_those_of_the_model_unless_given():
    for name, entry in models.FAMILY.items():
        args = main_flags('--model', name)
        settings.complete(args, models.FAMILY)
        assert (args.input_size, args.crop_pct) == (entry.input_size, entry.crop_pct)
    args = main_flags('--model lvvit_l --input_size 96 --crop_pct 0.5')
    settings.complete(args, models.FAMILY)
    assert (args.input_size, args.crop_pct) == (96, 0.5)


def completed(*flags):
    args = main_flags(*flags)
    main.complete(args)
    return args


def test_lr_follows_from_the_total_batch_unless_given(monkeypatch):
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', '5')
    assert completed('--blr 1e-3 --batch_size 24 --accum_iter 3').lr == 1e-3 * 360 / 512
    assert completed('--blr 1e-3 --batch_size 24 --lr 0.5').lr == 0.5


def test_token_label_size_is_the_models_and_without_maps_there_are_no_token_labels():
    for flags, grid in ('', 14), ('--input_size 384', 24), ('--model lvvit_nano_patch8', 8), ('--model lvvit_l', 28):
        assert completed(flags).token_label_size == grid
    assert completed('--token_label --token_label_data DIR').token_label is True
    assert completed('--token_label --dense_weight 0').token_label is False


MIX_TOKEN = [
    (PUBLISHED, True),
    ('--token_label --mixup 0', False),
    ('--token_label --cutmix 0', False),
    ('--token_label --mixup 0 --cutmix 0 --cutmix_minmax 0.2 0.8', False),
    ('--token_label --mix_token', True),
    ('--token_label --mixup 0 --cutmix 0 --no_mix_token', False),
    ('--mixup 0 --cutmix 0', False),
]


@pytest.mark.parametrize('flags, used', MIX_TOKEN)
def test_mix_token_is_on_with_token_labels_when_nothing_else_mixes(flags, used):
    assert completed(flags, '--token_label_data DIR').mix_token is used


# ---- refusals: flags of a script; what the one line contains

REFUSED = """
--token_label                                                       --token_label_data
--token_label --token_label_data DIR --token_label_size 3           --token_label_size 3: lvvit_nano has 2 tokens a side
--pretrained --finetune FILE                                        --pretrained and --finetune
--token_pool_weight 1 --model lvvit                                 --token_pool_weight
--recompute --to_static                                             --recompute and --to_static
--ground_truth always                                               --ground_truth
--token_label_geometry round                                        --token_label_geometry
--train_scale 0.7 0.2                                                --train_scale 0.7 0.2: the smaller number
--cutmix_minmax 0.8 0.2                                              --cutmix_minmax 0.8 0.2: the smaller number
--model lvvit_xxl                                                   'lvvit_xxl'
--input_size 40                                                     img_size 40 must be a multiple of patch_size 16
--batch 16                                                          --batch 16
--sync_bn                                                           --sync_bn needs GPUs
"""


@pytest.mark.parametrize('flags, says', [re.split(' {2,}', line) for line in REFUSED.strip().splitlines()])
def test_flags_that_contradict_each_other_or_have_bad_values_are_refused(refused, scenes, tiny, flags, says):
    assert says in refused(main, *words(TINY_RUN, '--data_path', scenes, flags))


# ---- ranges: words that are refused, and what the message says after "argument --flag: "

OUTSIDE = """
--drop 1                        must be at least 0 and below 1, not 1
--drop_path 1.5                 must be at least 0 and below 1, not 1.5
--model_ema_decay 1.5           must be at least 0 and at most 1, not 1.5
--smoothing 2                   must be at least 0 and at most 1, not 2
--lr -1                         must be at least 0, not -1
--min_lr -1e-5                  must be at least 0, not -1e-5
--reprob 2                      must be at least 0 and at most 1, not 2
--hflip -0.1                    must be at least 0 and at most 1, not -0.1
--epochs 0                      must be at least 1, not 0
--warmup_epochs -1              must be at least 0, not -1
--train_scale 2 3               must be above 0 and at most 1, not 2
--train_scale 0 1               must be above 0 and at most 1, not 0
--crop_pct 1.5                  must be above 0 and at most 1, not 1.5
--opt_betas 1.5 2               must be at least 0 and below 1, not 1.5
--opt_eps 0                     must be above 0, not 0
--momentum 1                    must be at least 0 and below 1, not 1
--recount 0                     must be at least 1, not 0
--color_jitter -1               must be at least 0, not -1
--cutmix_minmax 0.2 1.1         must be at least 0 and at most 1, not 1.1
--clip_grad -1                  must be at least 0, not -1
--layer_decay 0                 must be above 0 and at most 1, not 0
--mean 123.675 116.28 103.53    must be at least 0 and at most 1, not 123.675
--std 0 1 1                     must be above 0, not 0
--print_freq 0                  must be at least 1, not 0
--nb_classes 0                  must be at least 1, not 0
--num_workers -1                must be at least 0, not -1
--token_label_confidence 1.1    must be at least 0 and at most 1, not 1.1
--batch_size 1.5                must be a whole number, not 1.5
--mixup nan                     must be a finite number, not nan
--cutmix -inf                   must be a finite number, not -inf
--weight_decay 1e999            must be a finite number, not 1e999
"""


@pytest.mark.parametrize('flags, says', [re.split(' {2,}', line) for line in OUTSIDE.strip().splitlines()])
def test_a_number_outside_its_range_is_refused_by_flag_and_range(refused, flags, says):
    line = refused(main, *words(flags))
    assert line == f'main.py: error: argument {flags.split()[0]}: {says} (see main.py --help)'


LIMITS = """
    drop=0 drop_path=0 model_ema_decay=0 model_ema_decay=1 smoothing=0 lr=0 blr=0 min_lr=0 warmup_lr=0 weight_decay=0
    momentum=0 clip_grad=0 layer_decay=1 reprob=0 reprob=1 hflip=1 mixup=0 cutmix=0 mixup_prob=1 mixup_switch_prob=0
    color_jitter=0 crop_pct=1 dense_weight=0 cls_weight=0 token_pool_weight=0 token_label_confidence=1 epochs=1
    warmup_epochs=0 cooldown_epochs=0 recount=1 num_workers=0 max_bad_images=0 start_epoch=0 seed=0 seed=1700000000000
"""


@pytest.mark.parametrize('flag', LIMITS.split())
def test_the_limits_of_a_range_belong_to_it(flag):
    name, value = flag.split('=')
    assert vars(main_flags(f'--{flag}'))[name] == float(value)


def has_parser(path):
    return re.search(r'Parser\(|def parser\(', path.read_text(encoding='utf-8'))


FOLDERS = [ROOT, *(ROOT / name for name in 'benchmarks demo docs seg test_tipc tests/faults tools'.split())]
SCRIPTS = [
    str(path.relative_to(ROOT)) for folder in FOLDERS for path in sorted(folder.glob('*.py')) if has_parser(path)
]


@pytest.fixture(params=SCRIPTS, scope='module')
def script(request):
    """A script as a module. script.path: below the root of the project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str((ROOT / request.param).parent))
        spec = importlib.util.spec_from_file_location(f'{request.param} of test_args', ROOT / request.param)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.path = request.param
        yield module


def test_every_number_of_every_script_has_a_range(script):
    for action in script.parser()._actions:
        defaults = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        if isinstance(action.type, Range):
            assert action.type.bounds, f'{action.option_strings}: a range without a limit'
            for value in defaults:
                assert value is None or action.type(str(value)) == value, action.option_strings
        else:
            assert action.type in (None, Path, boolean), f'{action.option_strings}: see util/ranges.py'
            assert not {int, float} & set(map(type, defaults)), f'{action.option_strings}: see util/ranges.py'


def test_the_help_of_every_script_has_its_path_and_its_docstring_line_by_line(script):
    parser = script.parser()
    assert parser.prog == script.path and f'\n{script.__doc__.strip()}\n' in parser.format_help()


def test_no_script_takes_abbreviated_flags(script):
    assert not script.parser().allow_abbrev


# ---- -c FILE and args.yaml


def test_a_run_writes_its_flags_and_repeats_itself_from_them(train, tiny):
    flags = [*train.token, '--lr 0.01 --opt_betas 0.9 0.95 --cutmix_minmax 0.2 0.8 --ground_truth --no_mix_token']
    train(*flags)
    path = train.folder / 'run' / 'args.yaml'
    assert yaml.safe_load(path.read_text())['opt_betas'] == [0.9, 0.95]
    assert train.run(main, '-c', path, '--output_dir', train.folder / 'again').code == 0
    assert same(train.state()['model'], train.state('again')['model'])
    written = [yaml.safe_load((train.folder / out / 'args.yaml').read_text()) for out in ('run', 'again')]
    assert {key for key in written[0] if written[0][key] != written[1][key]} == {'output_dir'}
    assert 'config' not in written[1]


def from_file(tmp_path, text, *flags):
    (tmp_path / 'flags.yaml').write_text(text)
    return main_flags('-c', tmp_path / 'flags.yaml', *flags)


def test_flags_of_the_command_line_win_over_those_of_the_file(tmp_path):
    text = "lr: 1e-3\nbatch-size: 7\naa: ''\nopt_betas: [0.5, 0.6]\nuse_amp: true\nmix_token: false\nclip_grad: null\n"
    args = from_file(tmp_path, text)
    assert (args.lr, args.batch_size, args.aa, args.opt_betas) == (1e-3, 7, '', [0.5, 0.6])
    assert (args.use_amp, args.mix_token, args.clip_grad, args.epochs) == (True, False, None, 300)
    args = from_file(tmp_path, text, '--batch_size 8 --no_use_amp --mix_token --opt_betas 0.1 0.2')
    assert (args.lr, args.batch_size, args.use_amp, args.mix_token) == (1e-3, 8, False, True)
    assert args.opt_betas == [0.1, 0.2]
    for text, value in ('only', 'only'), ('true', 'blend'), ('false', False):
        assert from_file(tmp_path, f'ground_truth: {text}').ground_truth == value
    assert from_file(tmp_path, 'no_model_ema: true').model_ema is False


REFUSED_IN_FILE = [
    ('learning_rate: 1', 'learning_rate is not a flag of main.py'),
    ('batch: 8', 'batch is not a flag of main.py'),  # an abbreviation
    ('batch_size: 0', '--batch_size: must be at least 1'),
    ('drop_path: .nan', '--drop_path: must be a finite number, not nan'),
    ('lr: -0.001', '--lr: must be at least 0, not -0.001'),
    ('opt_betas: [-.inf, 0.9]', '--opt_betas: must be a finite number, not -inf'),
    ('mixup: true', '--mixup'),
    ('use_amp: 1', '--use_amp'),
    ('amp_level: O3', "--amp_level: invalid choice: 'O3'"),
    ('lr: [1, 2]', 'unrecognized arguments: 2'),
    ('opt_betas: [1]', '--opt_betas: expected 2 arguments'),
    ('- lr', 'must hold lines such as'),
    ('lr: [', 'not readable YAML'),
    ('config: other.yaml', 'config is not a flag'),
    ('help: true', 'help is not a flag'),
]


@pytest.mark.parametrize('text, says', REFUSED_IN_FILE)
def test_a_file_of_flags_is_refused_by_file_and_flag(refused, tmp_path, text, says):
    (tmp_path / 'flags.yaml').write_text(text)
    line = refused(main, '-c', tmp_path / 'flags.yaml')
    assert f'{tmp_path}/flags.yaml: ' in line and says in line


def test_a_file_of_flags_that_is_missing_is_one_line(refused):
    assert '/nowhere.yaml' in refused(main, '-c', '/nowhere.yaml')
